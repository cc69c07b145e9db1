"""What Redis answers instead of an answer is taken for what it is, and for nothing that would do harm."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from footfall_collector.event_log import EventLog, LogRejectedError, LogUnavailableError
from footfall_eventlog.partitions import PartitionedRedis, is_forbidden
from footfall_eventlog.stream import stream_info
from footfall_history.event_log import TRANSIENT_LOG_ERRORS
from footfall_history.event_log import EventLog as HistoryLog
from footfall_identity.partitions import Partitions
from footfall_identity.visitor_store import VisitorStore
from footfall_servicekit.background import RefusalError
from footfall_servicekit.errors import RequestError
from redis.asyncio import Redis
from redis.exceptions import ClusterDownError, NoPermissionError, ResponseError

from tests.tools.process import running_service
from tests.tools.scripted_redis import scripted_redis
from tests.tools.stores import running_nodes

MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def lost_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A node of a cluster in which no node holds a slot."""
    with running_nodes(tmp_path_factory.mktemp("node"), 1) as [url]:
        yield url


async def test_a_stream_that_is_not_there_is_none_and_any_error_is_that_error(redis: Any, lost_node: str) -> None:
    assert await stream_info(redis, "nothing") is None
    await redis.set("text", "no stream")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await stream_info(redis, "text")
    async with Redis.from_url(lost_node) as lost:
        with pytest.raises(ClusterDownError):
            await stream_info(lost, "nothing")


async def test_a_cluster_that_is_down_is_no_empty_stream_of_changes(lost_node: str) -> None:
    partitions = Partitions(lost_node, 1, timeout_ms=5_000)
    store = VisitorStore(
        partitions,
        retention_ms=MINUTE_MS,
        idle_ms=MINUTE_MS,
        short_retention_ms=MINUTE_MS,
        changelog_max_entries=100,
        max_transitions=9,
        max_pages=32,
        leave_ms=5_000,
        erasure_secret="",
    )
    with pytest.raises(RequestError) as refused:
        await store.change_bounds(0)
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    await partitions.redis.aclose()


async def test_an_error_of_a_command_of_identity_is_not_reported_as_unavailable(
    redis: Any, redis_database_url: str
) -> None:
    partitions = Partitions(redis_database_url, 1, timeout_ms=5_000)
    store = VisitorStore(
        partitions,
        retention_ms=MINUTE_MS,
        idle_ms=MINUTE_MS,
        short_retention_ms=MINUTE_MS,
        changelog_max_entries=100,
        max_transitions=9,
        max_pages=32,
        leave_ms=5_000,
        erasure_secret="",
    )
    await redis.set(partitions.keys[0].changes, "no stream")
    for call in (store.change_bounds(0), store.changes(0, "0-0", 1)):
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            await call
    await partitions.redis.aclose()


async def test_a_cluster_that_is_down_is_no_empty_log(lost_node: str) -> None:
    log = HistoryLog(lost_node, 1, 5_000)
    with pytest.raises(TRANSIENT_LOG_ERRORS):
        await log.last_position(0)
    await log.close()


async def test_a_server_that_cannot_tell_its_settings_now_gets_nothing_to_keep() -> None:
    async with scripted_redis(CONFIG=b"-BUSY Redis is busy running a script\r\n") as redis:
        log = EventLog(redis.url, 1, max_bytes=1024, timeout_ms=5_000, max_concurrent_appends=1)
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


@pytest.mark.parametrize(
    "answer",
    ["MISCONF Errors writing to the AOF file: No space", "BUSY Redis is busy running a script", "OOM no memory"],
)
async def test_what_will_be_otherwise_soon_is_a_store_that_is_away(answer: str) -> None:
    async with scripted_redis(XINFO=f"-{answer}\r\n".encode()) as redis:
        log = HistoryLog(redis.url, 1, 5_000)
        with pytest.raises(TRANSIENT_LOG_ERRORS):
            await log.last_position(0)
        await log.close()


async def test_a_command_that_is_wrong_is_no_store_that_is_away() -> None:
    async with scripted_redis(XINFO=b"-ERR syntax error\r\n") as redis:
        log = HistoryLog(redis.url, 1, 5_000)
        with pytest.raises(ResponseError, match="syntax error") as raised:
            await log.last_position(0)
        assert not isinstance(raised.value, TRANSIENT_LOG_ERRORS)
        await log.close()


@pytest.mark.parametrize(
    ("user", "database", "rule"),
    [
        ("", "/100000", "does not have the database of this number"),
        ("nobody:wrong@", "", "does not accept its user and password"),
    ],
)
async def test_a_url_that_redis_will_never_serve_is_not_waited_for(
    redis_url: str, user: str, database: str, rule: str
) -> None:
    redis = PartitionedRedis(redis_url.replace("://", f"://{user}") + database, 1, timeout_ms=5_000)
    with pytest.raises(RefusalError, match=rule):
        await asyncio.wait_for(redis.check(), 10)
    await redis.aclose()


async def test_a_service_that_is_given_one_ends_and_says_so(redis_url: str, tmp_path: Path) -> None:
    async with running_service("collector", tmp_path, REDIS_URL=f"{redis_url}/100000") as running:
        assert await asyncio.to_thread(running.process.wait, 20) == 2
        assert '"problem": "REDIS_URL: Redis does not have the database of this number"' in running.output()
        assert "stack" not in running.output(), running.output()


async def test_what_redis_says_of_an_event_is_not_logged() -> None:
    answers = {"CONFIG": b"*0\r\n", "XADD": b"-ERR no place for ada@example.com\r\n", "MEMORY": b":0\r\n"}
    async with scripted_redis(**answers) as redis:
        log = EventLog(
            redis.url, 1, max_bytes=1024, timeout_ms=5_000, max_concurrent_appends=1, allows_non_durable=True
        )
        await log.check()
        with structlog.testing.capture_logs() as lines, pytest.raises(LogRejectedError):
            await log.append({0: b"x"})
        await log.close()
    [line] = lines
    assert (line["log_level"], line["error"]) == ("warning", "ResponseError")
    assert "ada" not in str(lines)


async def test_replicas_that_are_demanded_and_not_there_are_told_at_the_start(redis_database_url: str) -> None:
    log = EventLog(redis_database_url, 1, max_bytes=1024, timeout_ms=5_000, max_concurrent_appends=1, ack_replicas=3)
    with structlog.testing.capture_logs() as lines:
        await log.check()
    await log.close()
    [line] = [line for line in lines if "LOG_ACK_REPLICAS" in line["event"]]
    assert (line["log_level"], line["required"], line["connected"]) == ("warning", 3, 0)
