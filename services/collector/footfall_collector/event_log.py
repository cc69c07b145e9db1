"""The event log: one Redis stream per partition, to which each batch is appended durably."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import structlog
from footfall_eventlog.log import GROUPS, RELAY_GROUP, stream_key
from footfall_eventlog.partitions import (
    TRANSIENT_ERRORS,
    Address,
    Node,
    NodeNotReadyError,
    PartitionedRedis,
    hash_tag,
    is_forbidden,
)
from footfall_eventlog.sites import DEFAULT_SITE
from footfall_eventlog.store_reports import redis_report
from footfall_eventlog.stream import PAYLOAD_FIELD, trim
from footfall_servicekit.background import NotReadyError, RefusalError
from footfall_servicekit.failure_log import FailureLog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from footfall_collector import metrics
from footfall_collector.append_outcomes import AppendOutcomes
from footfall_collector.site_shares import SiteShares

_DURABLE_CONFIG: Final = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}
"""Redis configuration that the log needs: without it, a crash or full memory loses confirmed entries silently."""

_MEASURE_INTERVAL_S: Final = 1.0
# Redis extrapolates a stream's size from its oldest nodes (each 4 KiB, or one entry). With the default of 5, a few
# unusual entries would distort the result. A sample of 1,000 takes Redis about 0.1 ms.
_SAMPLED_NODES: Final = 1_000
# Upper estimate of Redis memory per byte of an entry; up to 1.4 was measured.
_MEMORY_PER_BYTE: Final = 1.5
_ONE_SITE: Final[Mapping[str, int]] = {DEFAULT_SITE: 1}
_OTHER_CONNECTIONS: Final = 2  # for the checks at startup and of readiness
_PROBE_S: Final = 0.9  # without the wait for replicas; together they are within the limit of the kit
_PROBE_REPLICAS_MS: Final = 1_000

_log = structlog.get_logger()


class LogFullError(Exception):
    """The log has reached its maximum size. Nothing was stored."""


class LogUnavailableError(Exception):
    """Redis did not confirm the append and may do so later. The entry may be stored; appending it again is safe."""


class LogRejectedError(Exception):
    """Redis rejects the append itself, for instance with WRONGTYPE. Trying again does not help."""


class LogMisconfiguredError(RefusalError):
    """Redis may lose confirmed entries with its configuration. The text says what to change."""


_TRANSIENT_ERRORS: Final = (*TRANSIENT_ERRORS, LogUnavailableError, LogMisconfiguredError)


def _estimated_memory(entry: bytes) -> int:
    return int(len(entry) * _MEMORY_PER_BYTE)


class EventLog:
    """Appends entries. Appends may run concurrently; each waits for its own confirmation."""

    def __init__(
        self,
        url: str,
        partitions: int,
        *,
        max_bytes: int,
        site_share: float = 1.0,
        timeout_ms: int,
        max_concurrent_appends: int,
        ack_replicas: int = 0,
        allows_non_durable: bool = False,
    ) -> None:
        """Create the log without connecting to Redis.

        Args:
            url: Redis, or any node of a Redis Cluster.
            partitions: the number of streams.
            max_bytes: memory of the log on each node; above it, appends raise LogFullError.
            site_share: part of the memory, 0 to 1, that one site may take while other sites have events in the log.
            timeout_ms: the longest wait for an answer of Redis.
            max_concurrent_appends: further concurrent appends fail.
            ack_replicas: replicas that must have an entry on disk, besides the primary.
            allows_non_durable: accept a Redis that may lose confirmed entries.

        """
        self._redis = PartitionedRedis(
            url, partitions, timeout_ms=timeout_ms, max_connections=max_concurrent_appends + _OTHER_CONNECTIONS
        )
        self._max_bytes = max_bytes
        self._shares = SiteShares(site_share)
        self._ack_replicas = ack_replicas
        # Redis waits for replicas for half of the timeout, so that its answer still arrives in time.
        self._ack_timeout_ms = timeout_ms // 2
        self._allows_non_durable = allows_non_durable
        self._durable_nodes: set[Address] = set()
        self._bytes = dict.fromkeys(range(partitions), 0)
        self._measure_at: dict[Address, float] = {}
        self._outcomes = AppendOutcomes()
        self._failed = FailureLog("Redis does not confirm appends to the event log; events are unavailable", "store")
        self._rejected = FailureLog(
            "Redis rejects appends to the event log; check the type and user of its keys", "store"
        )
        self._over_share = FailureLog("sites exceed their share of the event log; their events are refused", "store")
        metrics.LOG_BOUND_BYTES.set(max_bytes)

    async def check(self) -> None:
        """Wait until Redis answers, then check its version, number of partitions, durability and replicas.

        Until then, appends fail. Raises RefusalError.
        """
        await self._redis.check(needs_waitaof=bool(self._ack_replicas))
        for node in self._redis.nodes():
            try:
                await self._check_durability(node)
                await self._check_replicas(node)
            except RedisError as error:  # durability is checked again before the first append to this node
                _log.warning("cannot check a node of Redis", host=node.address.host, error=type(error).__name__)

    async def report(self) -> str:
        """Check all that `check` does, without writing. Returns a line. Raises RefusalError and NotReadyError."""
        line = await redis_report(self._redis, needs_waitaof=bool(self._ack_replicas))
        await self.check()
        return line

    async def _check_durability(self, node: Node) -> None:
        if node.address in self._durable_nodes:
            return
        try:
            config = await node.client.config_get(*_DURABLE_CONFIG)
        except ResponseError as error:
            if not is_forbidden(error):
                raise
            # Managed servers often forbid CONFIG and are configured elsewhere.
            _log.warning("Redis forbids CONFIG GET; make sure that it has these settings", required=_DURABLE_CONFIG)
            config = _DURABLE_CONFIG
        wrong = {name: config.get(name) for name, value in _DURABLE_CONFIG.items() if config.get(name) != value}
        if wrong and not self._allows_non_durable:
            raise LogMisconfiguredError(
                f"Redis may lose confirmed events: it has {wrong}, the log needs {_DURABLE_CONFIG}. Change the "
                "configuration of Redis, or set COLLECTOR_ALLOW_NON_DURABLE_REDIS=true if losing events is acceptable."
            )
        if wrong:
            _log.warning("Redis may lose confirmed events; COLLECTOR_ALLOW_NON_DURABLE_REDIS is set", settings=wrong)
        self._durable_nodes.add(node.address)

    async def _check_replicas(self, node: Node) -> None:
        if not self._ack_replicas:
            return
        replicas = (await node.client.info("replication"))["connected_slaves"]
        if replicas < self._ack_replicas:  # no reason to stop: they may come back
            counts = {"required": self._ack_replicas, "connected": replicas, "host": node.address.host}
            _log.warning("fewer replicas than LOG_ACK_REPLICAS are connected; no event can be stored", **counts)

    async def is_ready(self) -> bool:
        """Whether at least one node confirms appends. Raises NotReadyError with the reason.

        The appends of the last half second show it. Without any, each node is asked to confirm a write like one: a
        node that answers may still be a read-only replica, or be full.
        """
        if not self._redis.is_checked:
            raise NotReadyError("Redis does not answer")
        reason = self._outcomes.recent()
        if reason is None:
            reason = min(await asyncio.gather(*map(self._probe, self._redis.nodes())))  # empty: one is enough
            self._outcomes.note_probe(reason)
        if reason:
            raise NotReadyError(reason)
        return True

    async def _probe(self, node: Node) -> str:
        """Why a node does not confirm appends now; empty if it does."""
        ack_timeout_ms = min(self._ack_timeout_ms, _PROBE_REPLICAS_MS) if self._ack_replicas else 0
        try:
            async with asyncio.timeout(_PROBE_S + ack_timeout_ms / 1000):
                await self._check_durability(node)
                if await self._is_full(node):
                    return _reason_of(LogFullError())
                command = ("SET", f"log:probe:{hash_tag(node.numbers[0])}", b"")
                [answer] = await self._write(node, [command], ack_timeout_ms)
        except (RedisError, TimeoutError, LogUnavailableError, LogMisconfiguredError) as error:
            return _reason_of(error)
        return _reason_of(answer) if isinstance(answer, Exception) else ""

    async def sites_over_share(self, sites: Iterable[str]) -> set[str]:
        """Return those of the sites that exceed their share of the log; they must not append now."""
        over_share = self._shares.over_share(sites, self._fullness())
        if not over_share:
            self._over_share.worked("event log")
            return over_share
        try:  # measured here too: while these sites may not append, perhaps no append measures the log
            for node in self._redis.nodes():
                await self._measured_partitions(node)
        except RedisError:
            return set()  # the append will meet the same error and report it
        over_share = self._shares.over_share(over_share, self._fullness())
        if over_share:
            self._over_share.failed("event log", details={"sites": sorted(over_share)})
        return over_share

    async def append(self, entries: Mapping[int, bytes], site_bytes: Mapping[str, int] = _ONE_SITE) -> dict[int, str]:
        """Append one serialized EventBatch to each partition; return the ids of the stored entries by partition.

        The stored entries are on disk, also on `ack_replicas` replicas. A partition missing in the result did not store
        its entry. `site_bytes` gives the proportions of the sites in the entries (default: a single site).

        Raises, when no partition stored its entry: LogFullError, LogUnavailableError or LogRejectedError.
        """
        started = time.perf_counter()
        if not self._redis.is_checked:
            raise LogUnavailableError
        parts = await asyncio.gather(*(self._append_to(node, entries) for node in self._redis.nodes(entries)))
        metrics.APPEND_SECONDS.observe(time.perf_counter() - started)
        appended = self._stored({number: answer for part in parts for number, answer in part.items()})
        memory_per_byte = sum(_estimated_memory(entries[number]) for number in appended) / sum(site_bytes.values())
        for site, size in site_bytes.items():
            self._shares.add(site, size * memory_per_byte)
        return appended

    async def _append_to(self, node: Node, entries: Mapping[int, bytes]) -> dict[int, Any]:
        """Return the entry id or the error of each partition on a node. After an error, the entry may be stored."""
        try:
            await self._check_durability(node)
            if await self._is_full(node):
                return dict.fromkeys(node.numbers, LogFullError())
            for number in node.numbers:
                self._bytes[number] += _estimated_memory(entries[number])
            commands = [("XADD", stream_key(number), "*", PAYLOAD_FIELD, entries[number]) for number in node.numbers]
            return dict(zip(node.numbers, await self._write(node, commands, self._ack_timeout_ms), strict=True))
        except (RedisError, LogUnavailableError, LogMisconfiguredError) as error:
            return dict.fromkeys(node.numbers, error)

    async def _write(self, node: Node, commands: Iterable[tuple[Any, ...]], ack_timeout_ms: int) -> list[Any]:
        """Write in one round trip. WAITAOF covers the writes of its own connection, so it is in the same pipeline."""
        pipeline = node.client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        if not self._ack_replicas:
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers
        pipeline.execute_command("WAITAOF", 1, self._ack_replicas, ack_timeout_ms)
        *answers, confirmed = await pipeline.execute(raise_on_error=False)
        if isinstance(confirmed, Exception):
            raise confirmed
        if confirmed[1] < self._ack_replicas:
            raise LogUnavailableError(f"{confirmed[1]} of {self._ack_replicas} replicas have confirmed")
        return answers

    def _stored(self, answers: Mapping[int, Any]) -> dict[int, str]:
        errors = {number: answer for number, answer in answers.items() if isinstance(answer, Exception)}
        full = {number for number, error in errors.items() if isinstance(error, LogFullError | OutOfMemoryError)}
        failed = {number for number in errors.keys() - full if isinstance(errors[number], _TRANSIENT_ERRORS)}
        for log, numbers in ((self._failed, failed), (self._rejected, errors.keys() - full - failed)):
            if not numbers:
                log.worked("Redis")
            for error in [errors[number] for number in sorted(numbers)[:1]]:
                problem = None if isinstance(error, RedisError) else str(error)  # an error of Redis may quote an event
                details = {"problem": problem, "partitions": sorted(numbers)}
                log.failed("Redis", error=type(error).__name__, details=details)
        all_failed = len(errors) == len(answers)
        self._outcomes.note_append(_reason_of(errors[min(errors)]) if all_failed else "")
        if all_failed:
            if full == errors.keys():  # only then nothing was stored, as LogFullError promises
                raise LogFullError
            raise LogUnavailableError if full or failed else LogRejectedError
        return {number: entry_id.decode() for number, entry_id in answers.items() if number not in errors}

    async def _is_full(self, node: Node) -> bool:
        """Whether a node's part of the log has reached its maximum, by the last measurement and the appends since."""
        return sum(self._bytes[number] for number in await self._measured_partitions(node)) >= self._max_bytes

    async def _measured_partitions(self, node: Node) -> list[int]:
        """Measure a node's part of the log, at most once a second; return the partitions on that node.

        A full log is trimmed first: entries that all groups have read, and that are kept for a while, make room. If
        that does not suffice, so do entries that wait for the relay.
        """
        numbers = [number for each in self._redis.nodes() if each.address == node.address for number in each.numbers]
        now = time.monotonic()
        if now >= self._measure_at.get(node.address, 0.0):
            # Set before the first await, so that concurrent appends do not measure too.
            self._measure_at[node.address] = now + _MEASURE_INTERVAL_S
            used = await self._measure(node, numbers)
            if used >= self._max_bytes or self._shares.is_any_over_share(self._fullness()):
                for number in numbers:
                    await trim(node.client, stream_key(number), GROUPS, keep_ms=0, waits_for=RELAY_GROUP)
                if await self._measure(node, numbers) >= self._max_bytes:
                    for number in numbers:
                        await trim(node.client, stream_key(number), GROUPS, keep_ms=0)
                    await self._measure(node, numbers)
            metrics.LOG_BYTES.set(sum(self._bytes.values()))
            self._shares.scale_to(sum(self._bytes.values()))
        return numbers

    def _fullness(self) -> float:
        """The measured size of the log on all nodes, divided by its maximum size."""
        return sum(self._bytes.values()) / (self._max_bytes * len(self._redis.nodes()))

    async def _measure(self, node: Node, numbers: list[int]) -> int:
        pipeline = node.client.pipeline(transaction=False)
        for number in numbers:
            pipeline.memory_usage(stream_key(number), samples=_SAMPLED_NODES)
        self._bytes |= {n: used or 0 for n, used in zip(numbers, await pipeline.execute(), strict=True)}
        return sum(self._bytes[number] for number in numbers)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


def _reason_of(error: Exception) -> str:
    """Why an append failed, for operators. Without the text of Redis, which may quote an event."""
    match error:
        case LogFullError():
            return "the event log is full"
        case LogUnavailableError():
            return str(error)
        case LogMisconfiguredError():
            return "Redis may lose confirmed events: its configuration must be changed"
        case ReadOnlyError():
            return "Redis is a read-only replica"
        case OutOfMemoryError():
            return "Redis is at maxmemory"
        case NodeNotReadyError():
            return f"Redis refuses writes ({str(error).split()[0]})"
        case TimeoutError() | RedisTimeoutError() | RedisConnectionError():
            return "Redis does not answer"
        case _:
            return f"Redis rejects appends ({type(error).__name__})"
