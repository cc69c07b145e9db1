"""The end of background work."""

import asyncio
from contextlib import suppress

import pytest
from footfall_servicekit import background
from footfall_servicekit.background import Background


async def test_work_that_loses_a_cancellation_ends_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_CANCEL_AGAIN_S", 0.01)

    async def work() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    stopping = asyncio.Event()
    running = Background(stopping)
    task = running.start(work)
    await asyncio.sleep(0)
    stopping.set()
    async with asyncio.timeout(5):
        await running.end()
    assert task.done()
    assert running.exit_code == 0
