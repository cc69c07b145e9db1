"""The partitions of a deployment in Redis: keys, scripts and logs. The only module that imports redis."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Any, Final

import structlog
from footfall_eventlog.log import EntriesHandler, stream_key, traced
from footfall_eventlog.partitions import TRANSIENT_ERRORS, Node, PartitionedRedis, hash_tag
from footfall_eventlog.stream import PAYLOAD_FIELD, StreamReader
from footfall_servicekit.channel import time_left
from footfall_servicekit.errors import RequestError
from footfall_servicekit.failure_log import FailureLog
from footfall_timeline import LaterVersionError, partition
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

_WAIT_FOR_REPLICAS_MS: Final = 1_000
_RETRY_MS: Final = 1_000

_log = structlog.get_logger()
_unavailable = FailureLog("Redis does not answer", "store")


Script = Callable[[int, Sequence[str], Sequence[str | int | bytes]], Awaitable[Any]]
"""Runs a Lua script with the number of a partition, keys of it, and arguments."""


class PartitionKeys:
    """The names of a partition's keys. They share a hash tag, so they are in one slot of a Redis Cluster."""

    def __init__(self, number: int) -> None:
        tag = hash_tag(number)
        self.visit = f"visit:{tag}:"
        self.naming_visits = f"person:{tag}:"
        self.live_anonymous = f"live:{tag}:anonymous"
        self.live_known = f"live:{tag}:known"
        self.by_start = f"live:{tag}:by-start"
        self.by_site = f"live:{tag}:by-site"
        self.by_device = f"live:{tag}:by-device"
        self.lists = (self.by_start, self.by_site, self.by_device)
        self.leaving = f"leaving:{tag}"
        self.changes = f"changes:{tag}"
        self.reported = f"changes:{tag}:reported"
        self.contacts_due = f"changes:{tag}:contacts"
        self.pages_watched = f"changes:{tag}:pages"
        self.tombstones = f"tombstones:{tag}"
        self.code = f"code:{tag}:"
        self.codes = f"codes:{tag}"
        self.minutes = f"minutes:{tag}:"
        self.code_tries = f"code-tries:{tag}:"
        self.log = stream_key(number)


class Partitions:
    """The clients, keys and scripts of all partitions."""

    def __init__(self, url: str, count: int, *, timeout_ms: int) -> None:
        """Create the clients without connecting."""
        self.redis = PartitionedRedis(url, count, timeout_ms=timeout_ms)
        self.keys = [PartitionKeys(number) for number in range(count)]

    @property
    def numbers(self) -> range:
        """The numbers of the partitions."""
        return self.redis.numbers

    def number_of(self, visit_id: str) -> int:
        """Return the number of the partition of a visit."""
        return partition(visit_id, len(self.keys))

    def script(self, file_name: str) -> Script:
        """Load a Lua script of this package."""
        script = self.redis[0].register_script(files(__package__).joinpath(file_name).read_text())

        async def run(number: int, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> Any:
            return await script(keys, arguments, client=self.redis[number])

        return run

    async def execute(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Execute commands, each preceded by its partition number, and return the answers in order.

        It takes one round trip per node. Raises RequestError (UNAVAILABLE) for transient errors.
        """
        answers: list[Any] = [None] * len(commands)

        async def execute_on(node: Node) -> None:
            pipeline = node.client.pipeline(transaction=False)
            positions = [at for at, (number, *_) in enumerate(commands) if number in node.numbers]
            for at in positions:
                pipeline.execute_command(*commands[at][1:])
            for at, answer in zip(positions, await pipeline.execute(), strict=True):
                answers[at] = answer

        async with translating_errors():
            await asyncio.gather(*map(execute_on, self.redis.nodes({number for number, *_ in commands})))
        return answers

    def log_readers(self, group: str, handle: EntriesHandler, *, entries: int, gather_ms: int) -> list[StreamReader]:
        """Return a reader for the log of each partition; `handle` gets its number and at most `entries` entries."""
        return [
            StreamReader(
                self.redis[number],
                keys.log,
                group,
                partial(traced(group, handle), number),
                batch=entries,
                gather_ms=gather_ms,
            )
            for number, keys in enumerate(self.keys)
        ]

    async def append_to_logs(self, payload: bytes, ack_replicas: int) -> None:
        """Append an entry to the log of every partition, on disk there and on `ack_replicas` replicas.

        Raises RequestError (UNAVAILABLE); some partitions may have the entry then.
        """
        for number, keys in enumerate(self.keys):
            pipeline = self.redis[number].pipeline(transaction=False)
            pipeline.xadd(keys.log, {PAYLOAD_FIELD: payload})
            if ack_replicas:
                pipeline.execute_command("WAITAOF", 1, ack_replicas, _WAIT_FOR_REPLICAS_MS)
            async with translating_errors():
                answers = await pipeline.execute()
            if ack_replicas and answers[1][1] < ack_replicas:
                raise RequestError.unavailable(
                    "too few replicas have confirmed the entry of the event log; try again", _RETRY_MS
                )


@asynccontextmanager
async def translating_errors() -> AsyncIterator[None]:
    """Convert transient errors of Redis in the block into RequestError (UNAVAILABLE); other errors pass unchanged.

    In a call the block ends in time for an answer before the caller's deadline. Data of a later version is a transient
    error too: during an upgrade, a process of that version will answer the next call.
    """
    try:
        async with asyncio.timeout(time_left()):
            yield
    except (*TRANSIENT_ERRORS, TimeoutError) as error:
        _unavailable.failed("Redis", error=type(error).__name__)
        has_waited = isinstance(error, TimeoutError | RedisTimeoutError)
        raise RequestError.unavailable(
            "Redis, the store of live state, is not available; try again", _RETRY_MS, repeats=not has_waited
        ) from None
    except LaterVersionError:
        raise _later_version() from None
    except ResponseError as error:
        if str(error).startswith("LATERVERSION"):
            raise _later_version() from None
        raise
    else:
        _unavailable.worked("Redis")


def _later_version() -> RequestError:
    _log.warning("a later version has written a visit that this version cannot read")
    return RequestError.unavailable("a later version has written the visit; try again", _RETRY_MS, "LATER_VERSION")
