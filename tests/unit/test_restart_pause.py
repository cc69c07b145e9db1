"""The pause of supervisord before it starts a program again that has failed at its start."""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from supervisor import events
from supervisor.process import Subprocess
from supervisor.states import ProcessStates

from deploy.restart_pause import limit


@pytest.fixture(autouse=True)
def no_subscriptions() -> Iterator[None]:
    yield
    events.clear()


def pause_s(failures: int) -> float:
    """The pause after so many failed starts."""
    program = Subprocess(SimpleNamespace(name="valkey"))
    program.backoff = failures - 1
    program.change_state(ProcessStates.BACKOFF)
    paused_s: float = program.delay - time.time()
    return paused_s


def test_the_pause_does_not_grow_beyond_the_limit() -> None:
    assert pause_s(failures=9) == pytest.approx(9, abs=0.2), "supervisord itself"
    limit(None, max_pause_s="2.5")
    assert [pause_s(failures) for failures in (1, 2, 3, 100)] == pytest.approx([1, 2, 2.5, 2.5], abs=0.2)
