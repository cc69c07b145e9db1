"""Turns batches into entries of the event log: a Redis Stream for each partition, on disk before an append returns."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import structlog
from footfall_servicekit.background import RefusalError
from footfall_servicekit.partitions import (
    OLDEST,
    OLDEST_WITH_WAITAOF,
    Address,
    Node,
    PartitionedRedis,
    hash_tag,
    is_forbidden,
)
from footfall_servicekit.stream import PAYLOAD_FIELD, trim
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from footfall_collector import metrics
from footfall_collector.shares import Shares
from footfall_collector.throttled_warning import ThrottledWarning

READERS: Final = ("identity", "identity-live", "history")
"""The consumer groups that every entry is for."""

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
# What a byte of an entry takes in Redis at most: measured, up to 1.4.
_MEMORY_A_BYTE: Final = 1.5
_ONE_SITE: Final[Mapping[str, int]] = {"default": 1}
_OTHER_CONNECTIONS: Final = 2  # for the checks at the start and of readiness

_log = structlog.get_logger()


class LogFullError(Exception):
    """The log has reached its bound. Nothing was stored."""


class LogUnavailableError(Exception):
    """The log did not confirm the append. It may or may not be there; appending it again is safe."""


class LogMisconfiguredError(RefusalError):
    """Appending to the log with these settings would do harm. The text says what to do."""


def stream_key(partition: int) -> str:
    """The stream of a partition."""
    return f"log:{hash_tag(partition)}"


def _memory(entry: bytes) -> int:
    return int(len(entry) * _MEMORY_A_BYTE)


class EventLog:
    """The log of one deployment. Appends may run side by side; each waits for its own confirmation."""

    def __init__(
        self,
        url: str,
        partitions: int,
        *,
        bound_bytes: int,
        site_share: float = 1.0,
        timeout_ms: int,
        max_appends: int,
        ack_replicas: int = 0,
        is_volatile_allowed: bool = False,
    ) -> None:
        """Take the log at a Redis URL, without connecting yet. Beyond `max_appends` side by side, appends fail."""
        self._redis = PartitionedRedis(
            url, partitions, timeout_ms=timeout_ms, max_connections=max_appends + _OTHER_CONNECTIONS
        )
        self._bound_bytes = bound_bytes
        self._shares = Shares(site_share)
        self._ack_replicas = ack_replicas
        # Redis gives up waiting for replicas after half of the time, so that its answer still arrives.
        self._ack_timeout_ms = timeout_ms // 2
        self._is_volatile_allowed = is_volatile_allowed
        self._durable: set[Address] = set()
        self._bytes = dict.fromkeys(range(partitions), 0)
        self._sample_at: dict[Address, float] = {}
        self._failed = ThrottledWarning("the log does not confirm appends")
        self._held_back = ThrottledWarning(
            "a site has its share of the log; its events are refused until it is drained"
        )
        metrics.LOG_BOUND_BYTES.set(bound_bytes)

    async def check(self) -> None:
        """Wait until Redis answers, then make sure that it holds this log and keeps what it confirms.

        Until then appends fail. Raises WrongPartitionsError, OldRedisError and LogMisconfiguredError.
        """
        await self._redis.check(OLDEST_WITH_WAITAOF if self._ack_replicas else OLDEST)
        for node in self._redis.nodes():
            try:
                await self._check_durability(node)
                await self._check_replicas(node)
            except RedisError as error:  # checked again before anything is appended there
                self._failed.warn(error=type(error).__name__)

    async def _check_durability(self, node: Node) -> None:
        if node.address in self._durable:
            return
        try:
            answer = await node.client.config_get(*_DURABLE)
        except ResponseError as error:
            if not is_forbidden(error):
                raise
            # Managed servers often forbid CONFIG. They are set up elsewhere.
            _log.warning("cannot see how durable Redis is: it does not allow CONFIG GET", demanded=_DURABLE)
            answer = _DURABLE
        wrong = {name: answer.get(name) for name, value in _DURABLE.items() if answer.get(name) != value}
        if wrong and not self._is_volatile_allowed:
            raise LogMisconfiguredError(
                f"Redis may lose events it has confirmed: it has {wrong}, the log needs {_DURABLE}. Change Redis's "
                "configuration, or set COLLECTOR_ALLOW_NON_DURABLE_REDIS=true if losing events is acceptable."
            )
        if wrong:
            _log.warning("Redis may lose events it has confirmed, and that is allowed here", settings=wrong)
        self._durable.add(node.address)

    async def _check_replicas(self, node: Node) -> None:
        if not self._ack_replicas:
            return
        replicas = (await node.client.info("replication"))["connected_slaves"]
        if replicas < self._ack_replicas:  # they may come back: no reason not to start
            about = {"demanded": self._ack_replicas, "connected": replicas, "host": node.address.host}
            _log.warning("fewer replicas than LOG_ACK_REPLICAS are connected: nothing can be stored", **about)

    async def is_ready(self) -> bool:
        """Whether appends can succeed now."""
        return await self._redis.is_ready()

    async def held_back(self, sites: Iterable[str]) -> set[str]:
        """Those of these sites that have their share of the log and must leave the rest of it to others."""
        held_back = self._shares.too_large(sites, self._fullness())
        if not held_back:
            return held_back
        try:  # they append nothing, so nobody else may look whether it has been drained
            for node in self._redis.nodes():
                await self._look(node)
        except RedisError:
            return set()  # appending will tell
        held_back = self._shares.too_large(held_back, self._fullness())
        if held_back:
            self._held_back.warn(sites=sorted(held_back))
        return held_back

    async def append(self, entries: Mapping[int, bytes], weights: Mapping[str, int] = _ONE_SITE) -> dict[int, str]:
        """Append one entry to each of these partitions, and return the ids of the entries by partition.

        `weights` says in what proportions they are made of events of which sites; by default it is one.
        They are on disk, here and on as many replicas as demanded; a partition that is missing did not take its entry.
        Raises LogFullError and LogUnavailableError when no partition took its entry.
        """
        started = time.perf_counter()
        if not self._redis.is_checked:
            raise LogUnavailableError
        parts = await asyncio.gather(*(self._append_to(node, entries) for node in self._redis.nodes(entries)))
        metrics.APPEND_SECONDS.observe(time.perf_counter() - started)
        appended = self._appended({number: answer for part in parts for number, answer in part.items()})
        a_weight = sum(_memory(entries[number]) for number in appended) / sum(weights.values())
        for site, weight in weights.items():
            self._shares.add(site, weight * a_weight)
        return appended

    async def _append_to(self, node: Node, entries: Mapping[int, bytes]) -> dict[int, Any]:
        """By partition, what a node answers; what is an Exception was not stored, or nobody can say."""
        try:
            await self._check_durability(node)
            if await self._is_full(node):
                return dict.fromkeys(node.numbers, LogFullError())
            for number in node.numbers:
                self._bytes[number] += _memory(entries[number])
            return dict(zip(node.numbers, await self._write(node, entries), strict=True))
        except (RedisError, LogUnavailableError, LogMisconfiguredError) as error:
            return dict.fromkeys(node.numbers, error)

    async def _write(self, node: Node, entries: Mapping[int, bytes]) -> list[Any]:
        """One round trip. WAITAOF speaks of the writes of its own connection, so it must go with them."""
        pipeline = node.client.pipeline(transaction=False)
        for number in node.numbers:
            pipeline.execute_command("XADD", stream_key(number), "*", PAYLOAD_FIELD, entries[number])
        if not self._ack_replicas:
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers
        pipeline.execute_command("WAITAOF", 1, self._ack_replicas, self._ack_timeout_ms)
        *answers, confirmed = await pipeline.execute(raise_on_error=False)
        if isinstance(confirmed, Exception):
            raise confirmed
        if confirmed[1] < self._ack_replicas:
            raise LogUnavailableError(f"only {confirmed[1]} of {self._ack_replicas} replicas have confirmed")
        return answers

    def _appended(self, answers: Mapping[int, Any]) -> dict[int, str]:
        errors = {number: answer for number, answer in answers.items() if isinstance(answer, Exception)}
        full = {number for number, error in errors.items() if isinstance(error, LogFullError | OutOfMemoryError)}
        for error in [error for number, error in errors.items() if number not in full][:1]:
            # The text of an error of Redis may quote what somebody sent.
            reason = None if isinstance(error, RedisError) else str(error)
            self._failed.warn(error=type(error).__name__, reason=reason, partitions=sorted(errors.keys() - full))
        if len(errors) == len(answers):
            # Only where all are full nothing was stored, which LogFullError says.
            raise LogFullError if full == errors.keys() else LogUnavailableError
        return {number: entry_id.decode() for number, entry_id in answers.items() if number not in errors}

    async def _is_full(self, node: Node) -> bool:
        """Whether a node's part of the log takes all it may: by a sample of this second, and what was added."""
        return sum(self._bytes[number] for number in await self._look(node)) >= self._bound_bytes

    async def _look(self, node: Node) -> list[int]:
        """See how much a node holds, once a second at most, and return the partitions that it has.

        Readers keep entries for a while after reading them; that is worth less than new events.
        """
        held = [number for each in self._redis.nodes() if each.address == node.address for number in each.numbers]
        now = time.monotonic()
        if now >= self._sample_at.get(node.address, 0.0):
            # Noted before waiting, so that appends side by side do not sample too.
            self._sample_at[node.address] = now + _SAMPLE_EVERY_S
            used = await self._sample(node, held)
            if used >= self._bound_bytes or self._shares.is_any_too_large(self._fullness()):
                for number in held:
                    await trim(node.client, stream_key(number), READERS, keep_ms=0)
                await self._sample(node, held)
            metrics.LOG_BYTES.set(sum(self._bytes.values()))
            self._shares.fit(sum(self._bytes.values()))
        return held

    def _fullness(self) -> float:
        """The part of what all nodes may hold that is taken."""
        return sum(self._bytes.values()) / (self._bound_bytes * len(self._redis.nodes()))

    async def _sample(self, node: Node, held: list[int]) -> int:
        pipeline = node.client.pipeline(transaction=False)
        for number in held:
            pipeline.memory_usage(stream_key(number), samples=_SAMPLED_NODES)
        self._bytes |= {n: used or 0 for n, used in zip(held, await pipeline.execute(), strict=True)}
        return sum(self._bytes[number] for number in held)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
