"""The response of a live stream whose sources refuse."""

import asyncio
from collections.abc import AsyncGenerator
from unittest.mock import AsyncMock

import pytest
from footfall_gateway.http.sse import Source, Stream
from footfall_gateway.problem import Problem


async def refusing(status: int, after_s: float) -> AsyncGenerator[None, None]:
    """A source that refuses after a while."""
    await asyncio.sleep(after_s)
    raise Problem(status, "refused")
    yield


async def refusal(*sources: AsyncGenerator[None, None], limit_s: float = 10) -> int:
    """The status of the response to a client of these sources."""
    stream = Stream(
        [Source(source, lambda _: b"") for source in sources],
        is_allowed=AsyncMock(return_value=True),
        stopping=asyncio.Event(),
        heartbeat_s=10,
    )
    try:
        with pytest.raises(Problem) as refused:
            await stream.start(limit_s)
    finally:
        await stream.close()
    return refused.value.status


@pytest.mark.parametrize(
    ("statuses", "answered"),
    [
        pytest.param({400, 409}, 400, id="an id of which one half is none was never given, so it is not too old"),
        pytest.param({409, 503}, 409, id="coming again would not help"),
        pytest.param({503, 504}, 503, id="a service is unavailable"),
    ],
)
@pytest.mark.parametrize("is_lower_first", [True, False])
async def test_of_several_refusals_the_lowest_status_is_answered(
    statuses: set[int], answered: int, is_lower_first: bool
) -> None:
    first, second = sorted(statuses, reverse=not is_lower_first)
    assert await refusal(refusing(first, 0), refusing(second, 0.01)) == answered
    assert await refusal(refusing(second, 0.01), refusing(first, 0)) == answered


async def test_a_refusal_comes_before_a_timeout() -> None:
    assert await refusal(refusing(409, 0), refusing(503, 10), limit_s=0.01) == 409
    assert await refusal(refusing(503, 10), refusing(503, 10), limit_s=0.01) == 504
