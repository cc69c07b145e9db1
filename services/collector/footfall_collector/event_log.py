"""Turns batches into entries of the event log: a Redis Stream for each partition, on disk before an append returns."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import structlog
from footfall_servicekit.stream import PAYLOAD_FIELD
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from footfall_collector import metrics
from footfall_collector.rare_line import RareLine

PARTITIONS_KEY: Final = "log:partitions"

_DURABLE: Final = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}
"""What a confirmed append rests on: without these a crash, or full memory, loses entries silently."""

_SAMPLE_EVERY_S: Final = 1.0
# Redis extrapolates a stream's size from its oldest nodes (4 KiB, or one entry, each). The default of 5 would let a few
# odd entries decide; this many take it about 0.1 ms.
_SAMPLED_NODES: Final = 1_000
_OTHER_CONNECTIONS: Final = 2  # for the checks at the start and of readiness
_START_RETRY_S: Final = 0.5

_log = structlog.get_logger()


class LogFullError(Exception):
    """The log has reached its bound. Nothing was stored."""


class LogUnavailableError(Exception):
    """The log did not confirm the append. It may or may not be there; appending it again is safe."""


class LogMisconfiguredError(Exception):
    """Appending to the log with these settings would do harm. The text says what to do."""


def stream_key(partition: int) -> str:
    """The stream of a partition. All keys of a partition share one Redis Cluster slot."""
    return f"log:{{p{partition:02d}}}"


class EventLog:
    """The log of one deployment. Appends may run side by side; each waits for its own confirmation."""

    def __init__(
        self,
        url: str,
        partitions: int,
        *,
        bound_bytes: int,
        timeout_ms: int,
        max_appends: int,
        ack_replicas: int = 0,
        is_volatile_allowed: bool = False,
    ) -> None:
        """Take the log at a Redis URL, without connecting yet. Beyond `max_appends` side by side, appends fail."""
        self._redis = Redis.from_url(
            url,
            max_connections=max_appends + _OTHER_CONNECTIONS,
            socket_timeout=timeout_ms / 1000,
            socket_connect_timeout=timeout_ms / 1000,
            # Once more and at once: a connection that has died while idle shows only when it is used. After a timeout
            # never again: the caller has waited long enough.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
        self._streams = [stream_key(number) for number in range(partitions)]
        self._bound_bytes = bound_bytes
        self._ack_replicas = ack_replicas
        # Redis gives up waiting for replicas after half of the time, so that its answer still arrives.
        self._ack_timeout_ms = timeout_ms // 2
        self._is_volatile_allowed = is_volatile_allowed
        self._is_checked = False
        self._is_full = False
        self._sample_at = 0.0
        self._failed = RareLine("the log does not confirm appends")
        metrics.LOG_BOUND_BYTES.set(bound_bytes)

    async def check(self) -> None:
        """Wait until Redis answers, then make sure that it holds this log and keeps what it confirms.

        Until then appends fail. Raises LogMisconfiguredError.
        """
        while not self._is_checked:
            try:
                await self._check_partitions()
                await self._check_durability()
                self._is_checked = True
            except RedisError as error:
                self._failed.warn(error=type(error).__name__)
                await asyncio.sleep(_START_RETRY_S)
            except LogMisconfiguredError as error:
                _log.error("refusing to start", problem=str(error))
                raise

    async def _check_partitions(self) -> None:
        mine = len(self._streams)
        await self._redis.set(PARTITIONS_KEY, mine, nx=True)
        kept = int(await self._redis.get(PARTITIONS_KEY) or mine)
        if kept != mine:
            raise LogMisconfiguredError(
                f"PARTITIONS is {mine}, but the data in this Redis was made with {kept}, and visits keep their "
                f"partition. Set PARTITIONS={kept} for every service, or start with an empty Redis."
            )

    async def _check_durability(self) -> None:
        try:
            answer = await self._redis.config_get(*_DURABLE)
        except ResponseError:
            # Managed servers often forbid CONFIG. They are set up elsewhere.
            _log.warning("cannot see how durable Redis is: it does not allow CONFIG GET", demanded=_DURABLE)
            return
        wrong = {name: answer.get(name) for name, value in _DURABLE.items() if answer.get(name) != value}
        if not wrong:
            return
        if self._is_volatile_allowed:
            _log.warning("Redis may lose events it has confirmed, and that is allowed here", settings=wrong)
            return
        raise LogMisconfiguredError(
            f"Redis may lose events it has confirmed: it has {wrong}, the log needs {_DURABLE}. Change Redis's "
            "configuration, or set COLLECTOR_ALLOW_VOLATILE_LOG=true if losing events is acceptable."
        )

    async def is_ready(self) -> bool:
        """Whether appends can succeed now. Raises RedisError when Redis does not answer."""
        return self._is_checked and bool(await self._redis.ping())

    async def append(self, entries: Mapping[int, bytes]) -> dict[int, str]:
        """Append one entry to each of these partitions, and return the ids of the entries by partition.

        They are on disk, here and on as many replicas as demanded; a partition that is missing did not take its entry.
        Raises LogFullError and LogUnavailableError; the latter also when no partition took its entry.
        """
        started = time.perf_counter()
        try:
            if not self._is_checked:
                raise LogUnavailableError
            if await self._has_reached_bound():
                raise LogFullError
            answers = await self._write(entries)
        except RedisError as error:
            self._failed.warn(error=type(error).__name__)
            raise LogUnavailableError from error
        metrics.APPEND_SECONDS.observe(time.perf_counter() - started)
        return self._appended(entries, answers)

    async def _write(self, entries: Mapping[int, bytes]) -> list[Any]:
        """One round trip. WAITAOF speaks of the writes of its own connection, so it must go with them."""
        pipeline = self._redis.pipeline(transaction=False)
        for partition, entry in entries.items():
            pipeline.execute_command("XADD", self._streams[partition], "*", PAYLOAD_FIELD, entry)
        if not self._ack_replicas:
            return await pipeline.execute(raise_on_error=False)
        pipeline.execute_command("WAITAOF", 1, self._ack_replicas, self._ack_timeout_ms)
        *answers, confirmed = await pipeline.execute(raise_on_error=False)
        if isinstance(confirmed, Exception):
            raise confirmed
        if confirmed[1] < self._ack_replicas:
            self._failed.warn(error="too few replicas", confirmed=confirmed[1], demanded=self._ack_replicas)
            raise LogUnavailableError
        return answers

    def _appended(self, entries: Mapping[int, bytes], answers: list[Any]) -> dict[int, str]:
        errors = {
            partition: answer
            for partition, answer in zip(entries, answers, strict=True)
            if isinstance(answer, Exception)
        }
        if errors:
            if any(isinstance(error, OutOfMemoryError) for error in errors.values()) and len(errors) == len(entries):
                raise LogFullError
            self._failed.warn(error=type(next(iter(errors.values()))).__name__, partitions=sorted(errors))
            if len(errors) == len(entries):
                raise LogUnavailableError
        return {
            partition: entry_id.decode()
            for partition, entry_id in zip(entries, answers, strict=True)
            if partition not in errors
        }

    async def _has_reached_bound(self) -> bool:
        """Whether the log was above its bound when last sampled, which is at most a second ago."""
        now = time.monotonic()
        if now >= self._sample_at:
            self._sample_at = now + _SAMPLE_EVERY_S  # before waiting, so that appends side by side do not sample too
            pipeline = self._redis.pipeline(transaction=False)
            for stream in self._streams:
                pipeline.memory_usage(stream, samples=_SAMPLED_NODES)
            size = sum(used or 0 for used in await pipeline.execute())
            metrics.LOG_BYTES.set(size)
            self._is_full = size >= self._bound_bytes
        return self._is_full

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
