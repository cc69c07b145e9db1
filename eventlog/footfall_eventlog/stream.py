"""A reader of a Redis stream in a consumer group, and the trimming of a stream. It knows bytes, not messages.

Delivery is at least once: an entry is acknowledged after the handler has returned. After a failure, a crash or a
takeover the same entries are delivered again, so a handler must be idempotent.
"""

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, NamedTuple

import structlog
from footfall_servicekit.failure_log import FailureLog
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from footfall_eventlog import metrics
from footfall_eventlog.partitions import TRANSIENT_ERRORS

PAYLOAD_FIELD = b"b"
"""The one field of every entry."""

_log = structlog.get_logger()
_reading = FailureLog("reading failed", "group")  # of all streams: the partitions of a log fail together

_FIRST_PAUSE_S = 0.1
_LAST_PAUSE_S = 1.0  # after an outage of any length a group reads again within this time
_FINISH_S = 3.0
_REMOVED_AFTER_IDLE_MS = 3_600_000
# An entry may have 1 MiB. The least are read while their size is unknown, the most if they are expected to be small.
_MIN_ENTRIES_PER_READ = 8
_MAX_ENTRIES_PER_READ = 32
_LOAD_SHARE = 1 / 16  # of a complete batch: with so much in one, more is worth waiting for

# In one script, so that no consumer gets an entry between the check and its removal: its entries would be lost.
_REMOVE_IDLE_CONSUMERS = """
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local about = {}
  for i = 1, #consumer, 2 do about[consumer[i]] = consumer[i + 1] end
  if about.pending == 0 and about.idle >= tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], about.name)
  end
end
"""

# KEYS  stream, marks of the groups.  ARGV  id up to which entries may be removed, a group that need not exist, id up to
# which entries are not kept for it, groups.  Returns how many it removed.
# In one script, because a group that is set back to an earlier position must find everything that it has to read. What
# follows its confirmed checkpoint stays: it reads that again when MongoDB is another process than before.
_TRIM = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local function order(id) return tonumber(id:match('^%d+')), tonumber(id:match('%d+$')) end
local bound = ARGV[1]
local function keep_from(id)
  local ms, sequence = order(id)
  local bound_ms, bound_sequence = order(bound)
  if ms < bound_ms or (ms == bound_ms and sequence < bound_sequence) then bound = id end
end
local delivered = {}
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local about = {}
  for i = 1, #group, 2 do about[group[i]] = group[i + 1] end
  delivered[about.name] = about['last-delivered-id']
end
local waits = delivered[ARGV[2]]
if waits then
  local ms, sequence = order(waits)
  local floor_ms, floor_sequence = order(ARGV[3])
  local is_later = ms > floor_ms or (ms == floor_ms and sequence > floor_sequence)
  keep_from(is_later and waits or ARGV[3])
end
for i = 4, #ARGV do
  if not delivered[ARGV[i]] then return 0 end
  keep_from(delivered[ARGV[i]])
  local oldest = redis.call('XPENDING', KEYS[1], ARGV[i])[2]
  if oldest then keep_from(oldest) end
  local confirmed = redis.call('HGET', KEYS[i - 2], 'confirmed')
  if confirmed then keep_from(confirmed:match('^[^/]+')) end
end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', bound)
"""

# Returns for each group: name, entries that are read and not acknowledged, entries that are not read (-1: not known,
# after entries were removed from the middle), and the age in milliseconds of the oldest of both.
_MEASURE_GROUPS = """
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local found = {}
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local about = {}
  for i = 1, #group, 2 do about[group[i]] = group[i + 1] end
  local oldest = about.pending > 0 and redis.call('XPENDING', KEYS[1], about.name)[2]
  if not oldest then
    local unread = redis.call('XRANGE', KEYS[1], '(' .. about['last-delivered-id'], '+', 'COUNT', 1)[1]
    oldest = unread and unread[1]
  end
  local age_ms = oldest and math.max(0, now_ms - tonumber(oldest:match('^%d+'))) or 0
  found[#found + 1] = {about.name, about.pending, about.lag or -1, age_ms}
end
return found
"""


class Entry(NamedTuple):
    """One entry of a stream: its id (`<ms>-<seq>`, the order of the stream) and its payload."""

    id: str
    payload: bytes


Handler = Callable[[list[Entry]], Awaitable[None]]


class StreamReader:
    """The consumer of one process for one stream in one group.

    Batches are handled one after the other, in the order of the stream as long as nothing fails. When the handler
    raises, its entries stay pending and are delivered again after a pause. The handler must skip an entry that can
    never be handled. Batches that are not full begin at most every `gather_ms`, because a large batch costs a store
    much less than several small ones; after a longer pause the first entry is handled immediately. After a batch that
    reaches a sixteenth of a complete one, the next begins `load_gather_ms` later.

    Entries that another consumer has held for `min_idle_ms` are taken over, so a batch must take less time. A batch is
    complete with `batch` entries, or when it has reached `batch_bytes`. The client's socket timeout must be longer than
    `block_ms`.
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
        load_gather_ms: int = 0,
        block_ms: int = 1_000,
        min_idle_ms: int = 10_000,
    ) -> None:
        self._redis: Any = redis  # its commands have types that mix sync and async
        self._stream = stream
        self._group = group
        self._handler = handler
        self._batch = batch
        self._batch_bytes = batch_bytes
        self._gather_s = gather_ms / 1000
        self._load_gather_s = max(gather_ms, load_gather_ms) / 1000
        self._largest = batch_bytes  # entry of the last read, in bytes
        self._block_ms = block_ms
        self._min_idle_ms = min_idle_ms
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self._has_group = False
        self._reads_pending = True
        self._maintenance_due = 0.0
        self._handled = metrics.STREAM_HANDLED.labels(stream, group)
        self._failures = metrics.STREAM_FAILURES.labels(stream, group)
        self._reclaimed = metrics.STREAM_RECLAIMED.labels(stream, group)
        self._lost = metrics.STREAM_LOST.labels(stream, group)

    async def run(self) -> None:
        """Read until cancelled; failures of Redis and of the handler are retried. The current batch may end (3 s)."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._step()
                pause_s = _FIRST_PAUSE_S
                _reading.worked(self._group)
            except Exception as error:  # the handler's or the store's; the entries are safe in the group
                self._has_group = False
                is_transient = isinstance(error, TRANSIENT_ERRORS)  # a stack would add nothing
                _reading.failed(
                    self._group,
                    reason=type(error).__qualname__,
                    details={"stream": self._stream, "pause_s": pause_s},
                    exc_info=None if is_transient else error,
                )
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311  # jitter is no secret
                pause_s = min(pause_s * 2, _LAST_PAUSE_S)

    async def _step(self) -> None:
        if not self._has_group:  # at the start, and after a failure: Redis may have lost its data
            await self._create_group()
            self._has_group = self._reads_pending = True
        if time.monotonic() >= self._maintenance_due:
            await self._maintain()
        if entries := await self._read():
            read_at = time.monotonic()
            await _finish(self._handle(entries))
            if not self._has_more:
                await asyncio.sleep(max(0.0, read_at + self._gather_after(entries) - time.monotonic()))

    def _gather_after(self, entries: list[Entry]) -> float:
        """Seconds from reading this batch to the next one."""
        share = max(len(entries) / self._batch, sum(len(entry.payload) for entry in entries) / self._batch_bytes)
        return self._load_gather_s if share >= _LOAD_SHARE else self._gather_s

    async def _create_group(self) -> None:
        try:
            await self._redis.xgroup_create(self._stream, self._group, id="0", mkstream=True)
        except redis_errors.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):  # it exists already
                raise

    async def _read(self) -> list[Entry]:
        """Return the pending entries of this consumer, oldest first; when there are none, wait for new ones.

        Their size is not known before, so each read asks for as many as fit if they are like those of the read before.
        """
        start, block = ("0", None) if self._reads_pending else (">", self._block_ms)
        entries: list[Entry] = []
        size, self._has_more = 0, True
        while self._has_more and len(entries) < self._batch and size < self._batch_bytes:
            fitting = max(_MIN_ENTRIES_PER_READ, (self._batch_bytes - size) // self._largest)
            count = min(fitting, _MAX_ENTRIES_PER_READ, self._batch - len(entries))
            answer = await self._redis.xreadgroup(
                self._group, self.consumer, {self._stream: start}, count=count, block=block
            )
            raw = answer[0][1] if answer else []
            self._reads_pending = bool(raw) if start == "0" else self._reads_pending
            if gone := [entry_id for entry_id, fields in raw if PAYLOAD_FIELD not in fields]:
                await self._acknowledge_lost(gone)
            read = [Entry(each.decode(), fields[PAYLOAD_FIELD]) for each, fields in raw if PAYLOAD_FIELD in fields]
            sizes = [len(entry.payload) for entry in read]
            entries += read
            size += sum(sizes)
            self._largest = max(sizes, default=self._largest) or 1
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

    async def _maintain(self) -> None:
        self._maintenance_due = time.monotonic() + self._min_idle_ms / 2_000
        cursor = b"0-0"
        while True:
            cursor, claimed, removed = await self._redis.xautoclaim(
                self._stream, self._group, self.consumer, self._min_idle_ms, cursor, count=self._batch
            )
            self._reads_pending = self._reads_pending or bool(claimed)
            self._reclaimed.inc(len(claimed))
            if removed:  # already out of the group
                self._count_lost(len(removed))
            if cursor == b"0-0":
                break
        for name, pending, lag, age_ms in await self._redis.eval(_MEASURE_GROUPS, 1, self._stream):
            labels = self._stream, name.decode()
            metrics.STREAM_PENDING.labels(*labels).set(pending)
            metrics.STREAM_LAG_SECONDS.labels(*labels).set(age_ms / 1000)
            if lag >= 0:
                metrics.STREAM_LAG.labels(*labels).set(lag)
        await self._redis.eval(_REMOVE_IDLE_CONSUMERS, 1, self._stream, self._group, _REMOVED_AFTER_IDLE_MS)

    async def _acknowledge_lost(self, ids: list[bytes]) -> None:
        await self._redis.xack(self._stream, self._group, *ids)
        self._count_lost(len(ids))

    def _count_lost(self, count: int) -> None:
        self._lost.inc(count)
        _log.error("entries were removed before they were handled", stream=self._stream, group=self._group, count=count)


async def _finish(step: Coroutine[Any, Any, None]) -> None:
    """Run a step; a cancellation waits until it has ended, but not longer than _FINISH_S."""
    task = asyncio.create_task(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_FINISH_S)
        task.cancel()
        raise


async def stream_info(redis: "Redis", stream: str) -> dict[str, Any] | None:
    """The answer of XINFO STREAM; None when there is no such stream. Raises RedisError."""
    client: Any = redis
    try:
        about: dict[str, Any] = await client.xinfo_stream(stream)
    except redis_errors.ResponseError as error:
        if str(error) != "no such key":
            raise
        return None
    return about


def mark_key(stream: str, group: str) -> str:
    """The hash with the marks that a group keeps beside a stream, see `checkpoint_marks`."""
    return f"checkpoint:{stream.partition(':')[2] or stream}:{group}"


async def trim(
    redis: "Redis",
    stream: str,
    groups: Iterable[str],
    keep_ms: int,
    *,
    waits_for: str = "",
    waits_ms: int | None = None,
) -> int:
    """Remove entries older than `keep_ms` that all `groups` have acknowledged; return how many.

    Of a group that keeps checkpoints, what follows the last one stays. So does what `waits_for`, a group that need not
    exist, has not reached, unless it is older than `waits_ms`.

    Removes nothing when one of the groups does not exist: it has yet to read everything. Raises RedisError.
    """
    client: Any = redis
    now_ms = int(time.time() * 1000)
    floor_ms = 0 if waits_ms is None else now_ms - waits_ms
    names = [*groups]
    keys = [stream, *(mark_key(stream, name) for name in names)]
    bounds = f"{now_ms - keep_ms}-0", waits_for, f"{floor_ms}-0"
    removed: int = await client.eval(_TRIM, len(keys), *keys, *bounds, *names)
    metrics.STREAM_TRIMMED.labels(stream).inc(removed)
    return removed
