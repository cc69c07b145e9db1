"""Checkpoints of a consumer group, in MongoDB and in Redis: they show that one of the two stores has lost data.

A store that is restored from a backup, or a replica that was behind and is promoted, is in an earlier state. So the
position up to which a group has stored everything is written three times, always in this order:

1. `intended`, in Redis
2. the checkpoint, in the MongoDB database that holds what the group has stored
3. `confirmed`, in Redis

So confirmed <= checkpoint <= intended, unless a store has gone back:

- The checkpoint is behind `confirmed`: MongoDB has gone back. The group reads again what follows the checkpoint. What
  the log no longer holds is a gap, which is stored and reported.
- The checkpoint is ahead of `intended`: Redis has gone back. Earlier positions mean nothing in that state, so it
  gets an `epoch` of its own, and what only Redis held has to be built again.
- Redis is another process (another `run_id`) than at the checkpoint: it may have gone back by less than the time
  between two checkpoints, as a replica that is promoted.
- MongoDB is another process (another `server`) than at the checkpoint: it may have gone back by less than the time
  between two checkpoints as well. The group reads again what follows the last position that is confirmed.

Every write names the value that it replaces, so a process that is slow changes nothing. Several processes may do all
of this at the same time.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Final

import structlog
from footfall_servicekit.background import attempt
from footfall_servicekit.mongo_errors import is_transient

from footfall_eventlog import metrics
from footfall_eventlog.checkpoint_marks import Mark, Marks
from footfall_eventlog.checkpoint_store import (
    Checkpoint,
    CheckpointStore,
    Gap,
    Position,
    checkpoint_key,
    order_of,
)
from footfall_eventlog.log import stream_key
from footfall_eventlog.partitions import TRANSIENT_ERRORS, PartitionedRedis

_EVERY_S: Final = 1.0
# With more partitions each is looked at less often, so that an idle process has the same cost.
_LOOKS_PER_S: Final = 16
# Several processes look; together they write not much more often than one of them.
_WRITTEN_LATELY_MS: Final = 800
_COUNT_GAPS_EVERY_S: Final = 10.0
_EPOCH_DIGITS: Final = 9

_log = structlog.get_logger()


async def _always(_number: int) -> bool:
    return True


async def _nothing(_number: int) -> None:
    pass


class Checkpoints:
    """Writes the checkpoints of a group about once a second, and looks whether a store has gone back.

    - `transient`: what `store` raises while MongoDB is unavailable.
    - `is_settled`: whether everything that the group has acknowledged in a partition is in MongoDB by now.
    - `rebuild`: builds again what only Redis held of a partition. Called again after a failure or a crash, and also
      when nothing is missing.
    """

    def __init__(
        self,
        redis: PartitionedRedis,
        group: str,
        store: CheckpointStore,
        transient: tuple[type[Exception], ...],
        *,
        is_settled: Callable[[int], Awaitable[bool]] = _always,
        rebuild: Callable[[int], Awaitable[None]] = _nothing,
    ) -> None:
        self._redis = redis
        self._group = group
        self._marks = Marks(redis, group)
        self.read_again_until = self._marks.read_again_until
        self._store = store
        self._transient = (*TRANSIENT_ERRORS, *transient)
        self._is_settled = is_settled
        self._rebuild = rebuild
        self._noted: dict[int, tuple[tuple[str, str], Position | None]] = {}
        self._went_back = {  # from the start, so that an alert sees the first increase
            (number, name): metrics.STREAM_STORE_WENT_BACK.labels(stream_key(number), group, name)
            for number in redis.numbers
            for name in ("redis", "mongodb")
        }

    async def run(self) -> None:
        """Look at all partitions until cancelled."""
        every_s = max(_EVERY_S, len(self._redis.numbers) / _LOOKS_PER_S)
        async with asyncio.TaskGroup() as tasks:
            for number in self._redis.numbers:
                tasks.create_task(self._repeat(every_s, self.look, number))
            tasks.create_task(self._repeat(_COUNT_GAPS_EVERY_S, self._count_gaps))

    async def _repeat(self, every_s: float, do: Callable[..., Awaitable[bool]], *arguments: Any) -> None:
        """Like `repeat`, but without a pause while `do` returns True.

        It writes no line for a store that does not answer: the readers of the log write it.
        """

        @wraps(do)  # its name is that of the work in the log
        async def unless_unavailable() -> None:
            try:
                while await do(*arguments):
                    pass
            except Exception as error:
                if not (isinstance(error, self._transient) or is_transient(error)):
                    raise

        while True:
            await attempt((), unless_unavailable)
            await asyncio.sleep(every_s)

    async def _count_gaps(self) -> bool:
        unconfirmed = [gap for gap in await self._store.gaps() if not gap.is_confirmed]
        metrics.STREAM_GAPS.labels(self._group).set(len(unconfirmed))
        return False

    async def look(self, number: int) -> bool:
        """Compare the checkpoint of a partition in both stores, and move it. Raises what the stores raise.

        Returns whether an epoch has begun. Then the next look is due immediately: it builds again what Redis has lost.
        """
        known = await self._store.read(self._key(number))
        mark = await self._marks.look(number)
        server = await self._store.server()  # after both, so that nothing in them is of a later process
        of_epoch = known if known and known.epoch == mark.epoch else None
        if of_epoch and not _is_behind(of_epoch, mark) and _is_ahead(of_epoch, mark):
            return await self._renew(number, of_epoch, mark)
        if of_epoch and not _is_behind(of_epoch, mark) and of_epoch.server == server:
            await self._advance(number, of_epoch, mark)
        elif known and known.epoch > mark.epoch:
            return await self._renew(number, known, mark)
        elif await self._store.read(self._key(number)) != known:
            return False  # another process has written it in between; the next look begins again
        elif of_epoch or mark.confirmed:
            await self._set_back(number, known, mark, server)
        elif mark.epoch:
            if known:
                await self._rebuild(number)
            await self._write(number, known, mark, mark.first_position, server)
        else:
            return await self._renew(number, None, mark)
        return False

    def _key(self, number: int) -> str:
        return checkpoint_key(number, len(self._redis.numbers))

    async def _renew(self, number: int, known: Checkpoint | None, mark: Mark) -> bool:
        """Give this state of Redis an epoch of its own; return False if another process has changed the mark."""
        last = max(mark.epoch, known.epoch if known else "")
        epoch = f"{int(last[:_EPOCH_DIGITS] or 0) + 1:0{_EPOCH_DIGITS}d}-{os.urandom(8).hex()}"
        is_renewed = await self._marks.renew(number, mark, epoch)
        if is_renewed and known:
            await self._redis.keep_count()
            self._report("Redis has gone back to an earlier state", number, "redis", since=_time_text(known.id))
        return is_renewed

    async def _set_back(self, number: int, known: Checkpoint | None, mark: Mark, server: str) -> None:
        """Let the group read again what follows the checkpoint, and store the gap if the log no longer holds it all.

        A checkpoint that is not confirmed does not count: it may have been written after MongoDB had gone back, by a
        process that had not noticed it. The gap is stored first, so that a crash in between cannot hide it.
        """
        position, from_id = mark.first_position, known.id if known else "0-0"
        is_loss = True
        if known and known.epoch == mark.epoch:
            is_loss = _is_behind(known, mark)
            position = known.position if is_loss else mark.confirmed or position
            from_id = position.id
            mark = mark._replace(node=known.node)  # so that the next look finds another process of Redis
        gap = Gap(
            id=f"{mark.epoch}-{number}-{position.ordinal}",
            partition=number,
            from_ms=order_of(from_id)[0],
            until_ms=order_of(mark.oldest)[0],
            entries=mark.removed - position.ordinal,
            found_ms=_now_ms(),
        )
        if gap.entries > 0:
            await self._store.put_gap(gap)
        if not await self._marks.set_back(number, mark, position):
            return  # something has changed in between: the next look begins again
        await self._write(number, known, mark, position, server)
        if is_loss:
            self._report(
                "MongoDB has gone back to an earlier state; the event log is read again",
                number,
                "mongodb",
                since=_time_text(from_id),
            )
        else:
            about = {"stream": stream_key(number), "group": self._group, "since": _time_text(from_id)}
            _log.warning("MongoDB is another process or primary; the last entries are read again", **about)
        if gap.entries > 0:
            times = {"since": _time_text(from_id), "until": _time_text(mark.oldest)}
            _log.error("the event log no longer holds what MongoDB lost", gap=gap.id, entries=gap.entries, **times)

    def _report(self, text: str, number: int, store: str, *, since: str) -> None:
        self._went_back[number, store].inc()
        _log.error(text, stream=stream_key(number), group=self._group, since=since)

    async def _write(
        self, number: int, known: Checkpoint | None, mark: Mark, position: Position, server: str | None
    ) -> None:
        """Write a checkpoint, and confirm it if `server` is still the process of MongoDB: then it was written there."""
        new = Checkpoint(mark.epoch, position.id, position.ordinal, mark.node, _now_ms(), server)
        if await self._store.replace(self._key(number), known, new) and await self._store.server() == server:
            await self._marks.confirm(number, mark.epoch, position)

    async def _advance(self, number: int, known: Checkpoint, mark: Mark) -> None:
        """Move the checkpoint to the last position that is certainly stored."""
        if mark.confirmed != known.position:  # its writer has ended before that
            await self._marks.confirm(number, mark.epoch, known.position)
        if known.node and mark.node and known.node != mark.node:
            await self._rebuild(number)
            position = known.position
        else:
            position = self._handled_position(number, mark) or known.position
            if position.ordinal <= known.ordinal or 0 <= _now_ms() - known.written_ms < _WRITTEN_LATELY_MS:
                return
            if not await self._is_settled(number):
                return
        if await self._marks.intend(number, mark, position):
            await self._write(number, known, mark, position, known.server)

    def _handled_position(self, number: int, mark: Mark) -> Position | None:
        """A position up to which everything is acknowledged, if one is known.

        Redis knows the ordinal only of the group's position. So that position is noted, and returned at a later look
        when everything up to it is acknowledged.
        """
        state, current = (mark.epoch, mark.node), mark.position
        noted_state, noted = self._noted.pop(number, (state, None))
        if current and mark.is_handled(current):
            return current
        if noted_state != state or noted is None:
            self._noted[number] = state, current
            return None
        if not mark.is_handled(noted):
            self._noted[number] = state, noted
            return None
        self._noted[number] = state, current
        return noted


def _is_behind(known: Checkpoint, mark: Mark) -> bool:
    return mark.confirmed is not None and known.ordinal < mark.confirmed.ordinal


def _is_ahead(known: Checkpoint, mark: Mark) -> bool:
    return mark.intended is None or known.ordinal > min(mark.intended.ordinal, mark.added)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _time_text(entry_id: str) -> str:
    at_ms, _ = order_of(entry_id)
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds") if at_ms else "unknown"
