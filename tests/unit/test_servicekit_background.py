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


async def test_a_cancellation_that_comes_with_a_result_is_not_lost() -> None:
    answer = asyncio.get_running_loop().create_future()

    async def work() -> None:
        await asyncio.wait_for(answer, 3600)
        await asyncio.sleep(3600)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    answer.set_result(None)
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
