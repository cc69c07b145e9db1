"""Turns the streams of changes into messages for any number of watchers, each with a queue of its own."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import structlog
from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_servicekit.errors import RequestError

from footfall_identity import messages, metrics
from footfall_identity.changes import Change, steps
from footfall_identity.link_store import LinkStore
from footfall_identity.visitor_store import VisitorStore

_POLL_S: Final = 0.1
_CHANGES_A_READ: Final = 1_000
_RETRY_MS: Final = 100

_TOKEN = re.compile(r"\d{1,20}-\d{1,20}(\.\d{1,20}-\d{1,20})*")

_log = structlog.get_logger()

Message = pb.WatchVisitorsResponse


class Watcher:
    """One watcher's queue. Bounded: what does not fit ends it, after it has been given what did."""

    def __init__(self, site: str, most_waiting: int) -> None:
        self._site = site
        self._most_waiting = most_waiting
        self._queue: asyncio.Queue[Message | RequestError] = asyncio.Queue()
        self._has_ended = False

    def give(self, message: Message) -> None:
        """Queue a message, unless it is of another site or the queue is full or closed."""
        if self._has_ended or not self.wants(message):
            return
        if self._queue.qsize() >= self._most_waiting:
            metrics.WATCHERS_TOO_SLOW.inc()
            self.end(RequestError.exhausted("the watcher reads too slowly; resume", _RETRY_MS, "WATCHER_TOO_SLOW"))
        else:
            self._queue.put_nowait(message)

    def wants(self, message: Message) -> bool:
        """Whether it is of the site that is watched."""
        return not self._site or message.visitor.site == self._site

    def end(self, reason: RequestError) -> None:
        """Let the watcher have what is queued, and then the reason."""
        self._has_ended = True
        self._queue.put_nowait(reason)

    async def messages(self) -> AsyncIterator[Message]:
        """What comes, until it ends by a RequestError."""
        while True:
            item = await self._queue.get()
            if isinstance(item, RequestError):
                raise item
            yield item


class ChangeFeed:
    """One reader of all changes for all watchers of this process."""

    def __init__(
        self, visitors: VisitorStore, links: LinkStore, numbers: range, *, most_waiting: int, stopping: asyncio.Event
    ) -> None:
        self._visitors = visitors
        self._links = links
        self._numbers = numbers
        self._most_waiting = most_waiting
        self._stopping = stopping
        self._positions: list[str] = []
        self._watchers: set[Watcher] = set()
        self._has_begun = asyncio.Event()

    async def run(self) -> None:
        """Read until cancelled; end the watchers when the process stops."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._end_watchers())
            while True:
                try:
                    await self._read()
                except RequestError as error:
                    _log.warning("cannot read changes", reason=error.reason)
                await asyncio.sleep(_POLL_S)

    async def _end_watchers(self) -> None:
        await self._stopping.wait()
        for watcher in self._watchers:
            watcher.end(_stopping())

    async def _read(self) -> None:
        if not self._has_begun.is_set():
            self._positions = [(await self._visitors.bounds_of_changes(number))[1] for number in self._numbers]
            self._has_begun.set()
        for number in self._numbers:
            positions = list(self._positions)
            # All waiting is done before the first message: a watcher who comes gets all of them or, from then on, none.
            async for message in self._messages(number, positions, until=None):
                for watcher in self._watchers:
                    watcher.give(message)
            self._positions = positions

    async def _messages(self, number: int, positions: list[str], until: str | None) -> AsyncIterator[Message]:
        """The changes of a partition after its position, up to another if given. Moves the position along."""
        changes = await self._changes(number, positions[number])
        records = await self._visitors.get({change.visit_id: None for change in changes})
        # Of these visits the records may have more changes already, which must be known to be taken back.
        last = changes[-1].position if changes else positions[number]
        later = (
            [change for change in await self._changes(number, last) if change.visit_id in records] if changes else []
        )
        seen = {visit_id: record.timeline for visit_id, record in records.items()}
        identities = {record.fold.stamp.identity for record in records.values()}
        contact_ids = await self._links.contact_ids(identities)
        for step in steps([*changes, *later], seen):
            position = step.change.position
            if _order(position) > _order(until or last):
                return
            positions[number] = position
            record = records.get(step.change.visit_id)
            if record is None:
                continue  # forgotten meanwhile
            before, after = replace(record, timeline=step.before), replace(record, timeline=step.after)
            yield Message(
                visitor=messages.visitor(after, contact_ids),
                previous_state=messages.state(before.fold.stamp.state),
                previous_identity_id=before.fold.stamp.identity,
                change_time=messages.timestamp(step.change.time_ms),
                resume_token=".".join(positions),
            )

    async def _changes(self, number: int, after: str) -> list[Change]:
        changes: list[Change] = []
        while True:
            part = await self._visitors.changes(number, after, _CHANGES_A_READ)
            changes += (Change.read(position, fields) for position, fields in part)
            if len(part) < _CHANGES_A_READ:
                return changes
            after = part[-1][0]

    async def watch(self, site: str, resume_token: str) -> AsyncIterator[Message]:
        """Changes as they happen, after those that came since `resume_token` when it is given.

        Raises RequestError: INVALID_ARGUMENT for a token that is none of ours, FAILED_PRECONDITION when changes after
        it are no longer there, RESOURCE_EXHAUSTED when the watcher is too slow, UNAVAILABLE when the process stops.
        """
        positions = await self._resumed(resume_token) if resume_token else None
        await self._has_begun.wait()
        with self._watcher(site) as watcher:
            now = list(self._positions)
            if positions is not None:
                for number in self._numbers:
                    async for message in self._messages(number, positions, until=now[number]):
                        if watcher.wants(message):
                            yield message
            async for message in watcher.messages():
                yield message

    @contextmanager
    def _watcher(self, site: str) -> Iterator[Watcher]:
        watcher = Watcher(site, self._most_waiting)
        if self._stopping.is_set():
            watcher.end(_stopping())
        self._watchers.add(watcher)
        metrics.WATCHERS.inc()
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            metrics.WATCHERS.dec()

    async def _resumed(self, token: str) -> list[str]:
        positions = token.split(".")
        if not _TOKEN.fullmatch(token) or len(positions) != len(self._numbers):
            raise RequestError.invalid("resume_token", "must be one that this method returned")
        for number, position in zip(self._numbers, positions, strict=True):
            first, _ = await self._visitors.bounds_of_changes(number)
            if _order(position) < _order(first):
                message = "changes after resume_token are no longer kept: list the visitors and watch from now on"
                raise RequestError.failed_precondition("RESUME_TOKEN_EXPIRED", message)
        return positions


def _stopping() -> RequestError:
    return RequestError.unavailable("the server stops; resume", _RETRY_MS, "STOPPING")


def _order(position: str) -> tuple[int, int]:
    milliseconds, _, sequence = position.partition("-")
    return int(milliseconds), int(sequence)
