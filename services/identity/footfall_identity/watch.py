"""Turns the streams of changes into messages, once for all watchers of this process."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_servicekit.background import attempt
from footfall_servicekit.errors import RequestError

from footfall_identity import messages, metrics
from footfall_identity.changes import Change, steps
from footfall_identity.link_store import LinkStore
from footfall_identity.live import is_of
from footfall_identity.visitor_store import VisitorStore

_POLL_S: Final = 0.1
_AFTER_FAILURE_S: Final = 1.0  # one that nobody thought of: its stack is logged each time
_CHANGES_A_READ: Final = 1_000
_CHANGES_A_TURN: Final = 200  # of the event loop: calls wait meanwhile
_RETRY_MS: Final = 100

_TOKEN = re.compile(r"\d{1,20}-\d{1,20}(\.\d{1,20}-\d{1,20})*")

Message = pb.WatchVisitorsResponse


class ChangeFeed:
    """Reads all changes and keeps the newest messages; each watcher goes through them at its own pace.

    So a watcher costs no memory of its own. One that is slower than the messages are dropped is ended.
    """

    def __init__(
        self, visitors: VisitorStore, links: LinkStore, numbers: range, *, kept: int, stopping: asyncio.Event
    ) -> None:
        self._visitors = visitors
        self._links = links
        self._numbers = numbers
        self._most_kept = kept
        self._stopping = stopping
        self._positions: list[str] = []  # what has been read of each partition
        self._kept: dict[int, Message] = {}
        self._next = 0
        self._has_begun = asyncio.Event()
        self._has_more = asyncio.Event()

    async def run(self) -> None:
        """Read until the process stops, and let the watchers know."""
        while not self._has_begun.is_set() and not self._stopping.is_set():
            await attempt((), self._begin)
            await asyncio.sleep(_POLL_S)
        async with asyncio.TaskGroup() as following:
            for number in self._numbers:
                following.create_task(self._follow(number))
        self._wake()

    async def _begin(self) -> None:
        with suppress(RequestError):  # logged where it was raised, here and below
            self._positions = [(await self._visitors.bounds_of_changes(number))[1] for number in self._numbers]
            self._has_begun.set()

    async def _follow(self, number: int) -> None:
        """Read one partition; one that does not answer does not hold up the others."""
        while not self._stopping.is_set():
            is_well = await attempt((), self._read, number)
            await asyncio.sleep(_POLL_S if is_well else _AFTER_FAILURE_S)

    def _wake(self) -> None:
        self._has_more.set()
        self._has_more = asyncio.Event()

    async def _read(self, number: int) -> None:
        before = self._positions[number]
        try:
            # Nothing is waited for between a position and its message: what is kept and what was read go together.
            async for message in self._messages(number, self._positions, until=None):
                self._kept[self._next] = message
                self._kept.pop(self._next - self._most_kept, None)
                self._next += 1
        except RequestError:
            pass
        finally:
            if self._positions[number] != before:
                self._wake()

    async def _messages(self, number: int, positions: list[str], until: str | None) -> AsyncIterator[Message]:
        """The changes of a partition after its position, up to another if given. Moves the position along."""
        changes = await self._changes(number, positions[number])
        if not changes:
            return
        records = await self._visitors.get({change.visit_id: None for change in changes})
        # These may have had more changes by then, which must be known to be taken back.
        later = await self._changes(number, changes[-1].position)
        last = until or changes[-1].position
        contact_ids = await self._links.contact_ids({record.fold.stamp.identity for record in records.values()})
        for count, (change, before, after) in enumerate(steps([*changes, *later], records)):
            if count % _CHANGES_A_TURN == _CHANGES_A_TURN - 1:
                await asyncio.sleep(0)
            if _order(change.position) > _order(last):
                break
            positions[number] = change.position
            yield Message(
                visitor=messages.visitor(records[change.visit_id], contact_ids, after),
                previous_state=messages.state(before.state),
                previous_identity_id=before.identity,
                change_time=messages.timestamp(change.time_ms),
                resume_token=".".join(positions),
            )
        positions[number] = last  # the last ones may be of visits forgotten meanwhile

    async def _changes(self, number: int, after: str) -> list[Change]:
        changes: list[Change] = []
        while True:
            part = await self._visitors.changes(number, after, _CHANGES_A_READ)
            changes += part
            if len(part) < _CHANGES_A_READ:
                return changes
            after = part[-1].position

    async def watch(self, request: pb.WatchVisitorsRequest) -> AsyncIterator[Message]:
        """Changes as they happen, after those that came since its `resume_token` when it is given.

        Raises RequestError: INVALID_ARGUMENT for a token that is none of ours, FAILED_PRECONDITION when changes after
        it are not here (any more), RESOURCE_EXHAUSTED when the watcher is too slow, UNAVAILABLE when the process stops.
        """
        positions = await self._resumed(request.resume_token) if request.resume_token else None
        await self._has_begun.wait()
        with metrics.WATCH_STREAMS.track_inprogress():
            at, now = self._next, list(self._positions)
            if request.announce_progress:
                yield Message(resume_token=".".join(positions or now))
            if positions is not None:
                for number in self._numbers:
                    async for message in self._messages(number, positions, until=now[number]):
                        if is_of(message.visitor.site, request.site, request.sites):
                            yield message
            async for message in self._kept_from(at, request):
                yield message

    async def _kept_from(self, at: int, request: pb.WatchVisitorsRequest) -> AsyncIterator[Message]:
        while True:
            has_more = self._has_more
            passed_over = ""  # the token of the last one, if it was not asked for
            while at < self._next:
                message = self._kept.get(at)
                if message is None:
                    metrics.WATCHERS_TOO_SLOW.inc()
                    raise RequestError.exhausted("the watcher reads too slowly; resume", _RETRY_MS, "WATCHER_TOO_SLOW")
                is_wanted = is_of(message.visitor.site, request.site, request.sites)
                passed_over = "" if is_wanted else message.resume_token
                if is_wanted:
                    yield message
                at += 1
            if passed_over and request.announce_progress:
                yield Message(resume_token=passed_over)
            if self._stopping.is_set():
                raise RequestError.unavailable("the server stops; resume", _RETRY_MS, "STOPPING")
            await has_more.wait()

    async def _resumed(self, token: str) -> list[str]:
        positions = token.split(".")
        if not _TOKEN.fullmatch(token) or len(positions) != len(self._numbers):
            raise RequestError.invalid("resume_token", "must be one that this method returned")
        for number, position in zip(self._numbers, positions, strict=True):
            first, last = await self._visitors.bounds_of_changes(number)
            if not _order(first) <= _order(position) <= _order(last):
                message = "changes after resume_token are not kept here: list the visitors and watch from now on"
                raise RequestError.failed_precondition("RESUME_TOKEN_EXPIRED", message)
        return positions


def _order(position: str) -> tuple[int, int]:
    milliseconds, _, sequence = position.partition("-")
    return int(milliseconds), int(sequence)
