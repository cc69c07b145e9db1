"""What Redis answers instead of an answer is taken for what it is, and for nothing that would do harm."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from footfall_collector.event_log import EventLog, LogUnavailableError
from footfall_history.log import Log, Unavailable
from footfall_identity.partitions import Partitions
from footfall_identity.visitor_store import VisitorStore
from footfall_servicekit.errors import RequestError
from footfall_servicekit.partitions import is_forbidden
from footfall_servicekit.stream import about_stream
from redis.asyncio import Redis
from redis.exceptions import ClusterDownError, NoPermissionError, ResponseError

from tests.tools.scripted_redis import scripted_redis
from tests.tools.stores import running_nodes

MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def lost_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A node of a cluster in which nobody holds any slot."""
    with running_nodes(tmp_path_factory.mktemp("node"), 1) as [url]:
        yield url


async def test_a_stream_that_is_not_there_is_none_and_any_error_is_that_error(redis: Any, lost_node: str) -> None:
    assert await about_stream(redis, "nothing") is None
    await redis.set("text", "no stream")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await about_stream(redis, "text")
    async with Redis.from_url(lost_node) as lost:
        with pytest.raises(ClusterDownError):
            await about_stream(lost, "nothing")


async def test_a_cluster_that_is_down_is_no_empty_stream_of_changes(lost_node: str) -> None:
    partitions = Partitions(lost_node, 1, timeout_ms=5_000)
    store = VisitorStore(
        partitions, keep_ms=MINUTE_MS, idle_ms=MINUTE_MS, changes_kept=100, transitions_kept=9, erasure_secret=""
    )
    with pytest.raises(RequestError) as refused:
        await store.bounds_of_changes(0)
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    await partitions.redis.aclose()


async def test_a_cluster_that_is_down_is_no_empty_log(lost_node: str) -> None:
    log = Log(lost_node, 1, 5_000)
    with pytest.raises(Unavailable):
        await log.end(0)
    await log.close()


async def test_a_server_that_cannot_tell_its_settings_now_gets_nothing_to_keep() -> None:
    async with scripted_redis(CONFIG=b"-BUSY Redis is busy running a script\r\n") as redis:
        log = EventLog(redis.url, 1, bound_bytes=1024, timeout_ms=5_000, max_appends=1)
        await log.check()
        with pytest.raises(LogUnavailableError):
            await log.append({0: b"x"})
        assert "XADD" not in redis.asked
        await log.close()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NoPermissionError("User managed has no permissions to run the 'config|get' command"), True),
        (ResponseError("unknown command 'CONFIG', with args beginning with: 'GET' 'appendonly'"), True),
        (ResponseError("BUSY Redis is busy running a script"), False),
        (ClusterDownError("The cluster is down"), False),
    ],
)
def test_what_says_that_a_command_is_forbidden(error: ResponseError, *, expected: bool) -> None:
    assert is_forbidden(error) is expected
