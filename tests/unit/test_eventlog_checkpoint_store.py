"""What all clients of MongoDB get with the store of checkpoints."""

import asyncio

import footfall_eventlog.checkpoint_store  # noqa: F401 - its `wait_for` is tested


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
