"""When identity reads live visits from history to rebuild partitions."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from footfall_identity.rebuilding import Rebuilder


class History:
    """Records when which partitions were read; each reading takes `takes_s`."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s
        self.read: list[list[int]] = []

    async def live_visits(self, partitions: Iterable[int]) -> AsyncIterator[list[Any]]:
        self.read.append([*partitions])
        await asyncio.sleep(self.takes_s)
        yield []


class Parts:
    """The parts of identity that have nothing to do without visits. Counts how often records were written."""

    written = 0

    async def restore(self) -> None:
        pass

    async def merge(self, updates: list[Any]) -> None:
        assert updates == []

    async def write_again(self, visit_ids: Iterable[str]) -> None:
        assert [*visit_ids] == []
        self.written += 1


@pytest.mark.parametrize(
    ("takes_s", "read"),
    [
        (0.0, [[0], [0, 1], [0, 1], [0, 1], [1], [1], [1], [1]]),
        (0.5, [[0], [0, 1], [1], [1]]),
    ],
)
async def test_a_partition_is_read_soon_again_and_last_when_history_has_stored_all(
    monkeypatch: pytest.MonkeyPatch, takes_s: float, read: list[list[int]]
) -> None:
    monkeypatch.setattr("footfall_identity.rebuilding._SOON_AGAIN_S", (0.2, 0.4))
    monkeypatch.setattr("footfall_identity.rebuilding._LAST_AGAIN_S", 0.6)
    history, parts = History(takes_s), Parts()
    stand_ins: Any = history, parts, parts, parts
    rebuilder = Rebuilder(*stand_ins)
    async with asyncio.TaskGroup() as tasks:
        for number in (0, 1):  # as partitions are looked at, one after the other
            tasks.create_task(rebuilder.rebuild(number))
            await asyncio.sleep(0.01)
    assert history.read == read
    assert parts.written == len(read) - 2, "not by the first reading of a turn: live state comes first"
