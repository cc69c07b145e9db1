"""What the tests of several services share: a real Valkey cluster."""

from collections.abc import Iterator

import pytest

from tests.tools.stores import running_cluster


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The URLs of the three nodes of a Valkey cluster that may be harmed."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as urls:
        yield urls
