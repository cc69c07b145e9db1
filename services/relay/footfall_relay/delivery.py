"""Delivers one partition of the event log to one outlet, entry by entry, from its position on."""

import asyncio
import time
from collections.abc import Sequence
from itertools import groupby
from typing import Final

import structlog
from footfall_eventlog.partitions import TRANSIENT_ERRORS
from footfall_eventlog.stream import Entry
from footfall_servicekit.failure_log import FailureLog

from footfall_relay import metrics
from footfall_relay.messages import ERASURE, EVENT, Message, Reference, sequence_of
from footfall_relay.outlets import Sink, open_sink
from footfall_relay.outlets_file import Outlet
from footfall_relay.positions import DeadLetter, LeaseLostError, Positions, Reported
from footfall_relay.stamping import HistoryUnavailableError, Key, NotStoredError, Stamped, Stamper

_ENTRIES_PER_READ: Final = 32
_BYTES_PER_READ: Final = 1024 * 1024
_IDLE_S: Final = 0.25
_RETRY_S: Final = 1.0
_NOT_STORED: Final = "NotStored"

_log = structlog.get_logger()
_waiting = FailureLog("an outlet waits for a service or a store", "outlet")


class Delivery:
    """The work of one outlet and partition."""

    def __init__(
        self, outlet: Outlet, number: int, positions: Positions, stamper: Stamper, *, missing_wait_s: float
    ) -> None:
        self._outlet = outlet
        self._number = number
        self._positions = positions
        self._stamper = stamper
        self._missing_wait_s = missing_wait_s

    async def run(self) -> None:
        """Deliver until cancelled, or until another process has the partition."""
        while True:
            sink = open_sink(self._outlet, self._number)
            try:
                await self._deliver(sink)
            except LeaseLostError:
                return
            except (*TRANSIENT_ERRORS, HistoryUnavailableError) as error:
                _waiting.failed(self._outlet.name, error=type(error).__name__)
                await asyncio.sleep(_RETRY_S)
            finally:
                await sink.close()

    async def _deliver(self, sink: Sink) -> None:
        name, number = self._outlet.name, self._number
        position = taken = await self._positions.of(name, number)
        reported: dict[str, Reported] = {}
        while True:
            found = await self._positions.read(number, position, count=_ENTRIES_PER_READ, max_bytes=_BYTES_PER_READ)
            _waiting.worked(name)
            if found.lost:
                metrics.LOST.labels(name).inc(found.lost)
                about = {"outlet": name, "partition": number, "entries": found.lost}
                _log.error("the event log no longer holds what an outlet had to take", **about)
            position = found.position
            if found.entries:
                stamped = await self._stamp(found.entries, reported)
                # An erasure waits for what comes before it, and what follows waits for the erasure.
                for _, part in groupby(stamped.messages, lambda message: message.kind == ERASURE):
                    await self._put(sink, [*part])
                reported |= stamped.reported
            if not sink.holds and position != taken:
                await sink.flush()
                await self._positions.move(name, number, position, reported)
                taken, reported = position, {}
            if not found.entries:
                await asyncio.sleep(_IDLE_S)

    async def _stamp(self, entries: Sequence[Entry], held: dict[str, Reported]) -> Stamped:
        """The messages of entries. Events that history does not have for too long become dead letters."""
        visit_ids = self._stamper.visits_of(self._outlet, entries)
        unknown = [visit_id for visit_id in visit_ids if visit_id not in held]
        reported = await self._positions.reported(self._outlet.name, self._number, unknown) | held
        give_up_at = time.monotonic() + self._missing_wait_s
        skipped: list[Key] = []
        while True:
            try:
                return await self._stamper.stamp(self._outlet, entries, reported, skipped=skipped)
            except NotStoredError as error:
                _waiting.failed(self._outlet.name, error=_NOT_STORED)
                if time.monotonic() < give_up_at:
                    await asyncio.sleep(_RETRY_S)
                    continue
                skipped += error.keys
                sequence = sequence_of(entries[-1].id, 0)
                await self._put_dead([(Reference(EVENT, sequence, *key), _NOT_STORED) for key in error.keys])

    async def _put(self, sink: Sink, messages: Sequence[Message]) -> None:
        with metrics.DELIVERY_SECONDS.labels(self._outlet.name).time():
            refused = await sink.put(messages)
        if refused:
            await self._put_dead([(one.message.reference, one.reason) for one in refused])
        given_up = {one.message.reference for one in refused}
        for message in messages:
            if message.reference not in given_up:
                metrics.DELIVERED.labels(self._outlet.name, message.kind).inc()

    async def _put_dead(self, letters: Sequence[tuple[Reference, str]]) -> None:
        name, now_ms = self._outlet.name, time.time_ns() // 1_000_000
        dropped = await self._positions.put_dead(name, [DeadLetter(*letter, now_ms) for letter in letters])
        metrics.DROPPED.labels(name).inc(dropped)
        reasons = sorted({reason for _, reason in letters})
        _log.error("messages became dead letters of an outlet", outlet=name, count=len(letters), reasons=reasons)
