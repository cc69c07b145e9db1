"""Cases of a parametrized test that repeat others with another variant: they are left to `make test-long`."""

from typing import Any

import pytest


def further(*values: Any) -> Any:
    """A case that `make test` leaves out."""
    return pytest.param(*values, marks=pytest.mark.long)
