"""Turns a Redis stream into batches for a handler, each entry handed over until it is acknowledged.

It knows bytes, not messages. Delivery is at least once: an entry is acknowledged when the handler has returned, and
after a failure, a crash or a takeover the same entries come again, so a handler must not mind repeats.
"""

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, NamedTuple

import structlog
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from footfall_eventlog import metrics
from footfall_eventlog.partitions import TRANSIENT_ERRORS

PAYLOAD_FIELD = b"b"
"""The one field of every entry."""

_log = structlog.get_logger()

_FIRST_PAUSE_S = 0.1
_LAST_PAUSE_S = 5.0
_FINISH_S = 3.0
_FORGOTTEN_AFTER_MS = 3_600_000
_ENTRIES_A_READ = 8

# In one script, so that no entry can be given to a consumer between the look and the removal: removing one that holds
# entries would lose them.
_REMOVE_IDLE_CONSUMERS = """
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local about = {}
  for i = 1, #consumer, 2 do about[consumer[i]] = consumer[i + 1] end
  if about.pending == 0 and about.idle >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], about.name)
  end
end
"""


class Entry(NamedTuple):
    """One entry of a stream: its id (`<ms>-<seq>`, the order of the stream) and its payload."""

    id: str
    payload: bytes


Handler = Callable[[list[Entry]], Awaitable[None]]


class StreamReader:
    """One process's consumer of one stream in one group; run one a stream.

    Batches follow one another, in the order of the stream as long as nothing fails. When the handler raises, its
    entries stay pending and come again after a pause; skipping one that can never work is the handler's business.
    While batches are not full they begin at most every `gather_ms`: a large batch costs a store much less than several
    small ones. What comes after a pause as long is handled at once.
    Entries that another consumer has held for `min_idle_ms` are taken over, so that must be longer than a batch takes.
    A batch has at most `batch` entries, and no more once it has `batch_bytes`: a long one would be taken over.
    The client's socket timeout must be longer than `block_ms`.
    """

    def __init__(
        self,
        redis: "Redis",
        stream: str,
        group: str,
        handler: Handler,
        *,
        batch: int = 128,
        batch_bytes: int = 1024 * 1024,
        gather_ms: int = 250,
        block_ms: int = 1_000,
        min_idle_ms: int = 10_000,
    ) -> None:
        self._redis: Any = redis  # its commands are typed as sync or async at once
        self._stream = stream
        self._group = group
        self._handler = handler
        self._batch = batch
        self._batch_bytes = batch_bytes
        self._gather_s = gather_ms / 1000
        self._block_ms = block_ms
        self._min_idle_ms = min_idle_ms
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self._certain = False
        self._own_first = True
        self._housekeeping_due = 0.0
        self._handled = metrics.STREAM_HANDLED.labels(stream, group)
        self._failures = metrics.STREAM_FAILURES.labels(stream, group)
        self._reclaimed = metrics.STREAM_RECLAIMED.labels(stream, group)
        self._lost = metrics.STREAM_LOST.labels(stream, group)
        self._lag = metrics.STREAM_LAG.labels(stream, group)
        self._pending = metrics.STREAM_PENDING.labels(stream, group)

    async def run(self) -> None:
        """Read until cancelled, whatever happens to Redis or in the handler; the batch in hand may then end (3 s)."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._step()
                pause_s = _FIRST_PAUSE_S
            except Exception as error:  # the handler's or the store's; the entries are safe in the group
                self._certain = False
                about = {"stream": self._stream, "group": self._group, "reason": type(error).__qualname__}
                is_away = isinstance(error, TRANSIENT_ERRORS)  # a stack would say nothing more
                _log.warning("reading failed", **about, pause_s=pause_s, exc_info=None if is_away else error)
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # jitter is no secret
                pause_s = min(pause_s * 2, _LAST_PAUSE_S)

    async def _step(self) -> None:
        if not self._certain:  # at the start, and after a failure that may have been a Redis that lost everything
            await self._create_group()
            self._certain = self._own_first = True
        if time.monotonic() >= self._housekeeping_due:
            await self._keep_house()
        if entries := await self._read():
            read_at = time.monotonic()
            await _finish(self._handle(entries))
            if not self._has_more:
                await asyncio.sleep(max(0.0, read_at + self._gather_s - time.monotonic()))

    async def _create_group(self) -> None:
        try:
            await self._redis.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except redis_errors.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):  # it is there already
                raise

    async def _read(self) -> list[Entry]:
        """Return what this consumer holds unacknowledged, oldest first; when that is nothing, wait for what is new.

        A few entries at a time, as one does not see how large they are before.
        """
        start, block = ("0", None) if self._own_first else (">", self._block_ms)
        entries: list[Entry] = []
        size, self._has_more = 0, True
        while self._has_more and len(entries) < self._batch and size < self._batch_bytes:
            count = min(_ENTRIES_A_READ, self._batch - len(entries))
            answer = await self._redis.xreadgroup(
                self._group, self.consumer, {self._stream: start}, count=count, block=block
            )
            raw = answer[0][1] if answer else []
            self._own_first = bool(raw) if start == "0" else self._own_first
            if gone := [entry_id for entry_id, fields in raw if PAYLOAD_FIELD not in fields]:
                await self._give_up(gone)
            entries += (Entry(each.decode(), fields[PAYLOAD_FIELD]) for each, fields in raw if PAYLOAD_FIELD in fields)
            size = sum(len(entry.payload) for entry in entries)
            self._has_more = len(raw) == count
            start, block = (raw[-1][0] if raw and start != ">" else ">"), None
        return entries

    async def _handle(self, entries: list[Entry]) -> None:
        try:
            await self._handler(entries)
        except Exception:
            self._failures.inc()
            raise
        await self._redis.xack(self._stream, self._group, *(entry.id for entry in entries))
        self._handled.inc(len(entries))

    async def _keep_house(self) -> None:
        self._housekeeping_due = time.monotonic() + self._min_idle_ms / 2_000
        cursor = b"0-0"
        while True:
            cursor, claimed, removed = await self._redis.xautoclaim(
                self._stream, self._group, self.consumer, self._min_idle_ms, cursor, count=self._batch
            )
            self._own_first = self._own_first or bool(claimed)
            self._reclaimed.inc(len(claimed))
            if removed:  # already out of the group
                self._count_lost(len(removed))
            if cursor == b"0-0":
                break
        [about] = [
            group for group in await self._redis.xinfo_groups(self._stream) if group["name"].decode() == self._group
        ]
        self._pending.set(about["pending"])
        if about["lag"] is not None:  # unknown after entries were removed from the middle
            self._lag.set(about["lag"])
        await self._redis.eval(_REMOVE_IDLE_CONSUMERS, 1, self._stream, self._group, _FORGOTTEN_AFTER_MS)

    async def _give_up(self, ids: list[bytes]) -> None:
        await self._redis.xack(self._stream, self._group, *ids)
        self._count_lost(len(ids))

    def _count_lost(self, count: int) -> None:
        self._lost.inc(count)
        _log.error("entries were removed before they were handled", stream=self._stream, group=self._group, count=count)


async def _finish(step: Coroutine[Any, Any, None]) -> None:
    """Run a step that, once begun, is worth ending: a cancellation waits for it, but not for ever."""
    task = asyncio.create_task(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_FINISH_S)
        task.cancel()
        raise


async def stream_info(redis: "Redis", stream: str) -> dict[str, Any] | None:
    """What Redis knows of a stream, as XINFO STREAM names it; None when there is no such stream. Raises RedisError."""
    client: Any = redis
    try:
        about: dict[str, Any] = await client.xinfo_stream(stream)
    except redis_errors.ResponseError as error:
        if str(error) != "no such key":
            raise
        return None
    return about


async def trim(redis: "Redis", stream: str, groups: Iterable[str], keep_ms: int) -> int:
    """Remove what every one of `groups` has acknowledged and is older than `keep_ms`; return how many entries.

    Removes nothing when one of the groups does not exist: it has yet to read everything. (MAXLEN would not ask.)
    Raises RedisError.
    """
    client: Any = redis
    if not await client.exists(stream):
        return 0
    delivered = {about["name"].decode(): about["last-delivered-id"] for about in await client.xinfo_groups(stream)}
    bounds = [(int(time.time() * 1000) - keep_ms, 0)]
    for group in groups:
        if group not in delivered:
            return 0
        # Asked after the last delivered id: what was given out in between is above that id, so it stays either way.
        oldest = (await client.xpending(stream, group))["min"]
        bounds.append(_position(oldest or delivered[group]))
    milliseconds, sequence = min(bounds)
    removed: int = await client.xtrim(stream, minid=f"{milliseconds}-{sequence}", approximate=False)
    metrics.STREAM_TRIMMED.labels(stream).inc(removed)
    return removed


def _position(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)
