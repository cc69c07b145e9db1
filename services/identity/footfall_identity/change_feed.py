"""The messages of WatchVisitors: one reader of the changes per process, shared by all calls."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_servicekit.background import attempt
from footfall_servicekit.errors import RequestError

from footfall_identity import messages, metrics
from footfall_identity.changes import Kind, TimelineChange, VisitorChange, visitor_changes
from footfall_identity.known_contact import NO_CONTACT, ContactStatus, KnownContact
from footfall_identity.link_store import LinkStore
from footfall_identity.visit_record import VisitRecord
from footfall_identity.visitor_notices import VisitorNotices
from footfall_identity.visitor_store import VisitorStore
from footfall_identity.watch_filter import Message, WatchFilter

_WAIT_MS: Final = 1_000  # less than the least REDIS_TIMEOUT_MS
_GATHER_S: Final = 0.075  # changes that come so soon after others are read together; all reach watchers within 100 ms
_AFTER_FAILURE_S: Final = 1.0  # after an unexpected error, whose stack is logged each time
_CHANGES_PER_READ: Final = 1_000
_CHANGES_PER_TURN: Final = 200  # before other tasks of the event loop run
_RETRY_MS: Final = 100

_TOKEN = re.compile(r"\d{1,20}-\d{1,20}(\.\d{1,20}-\d{1,20})*")

_NOTICE_EVERY_S: Final = 1.0
_KEEP_PAGES_S: Final = 15.0
_NO_IDENTITY: Final = "-"  # looked up to see whether MongoDB answers

_CHANGES: Final = {
    Kind.ARRIVED: pb.VISITOR_CHANGE_ARRIVED,
    Kind.PAGE: pb.VISITOR_CHANGE_PAGE,
    Kind.LEFT: pb.VISITOR_CHANGE_LEFT,
    Kind.RETURNED: pb.VISITOR_CHANGE_RETURNED,
    Kind.ENDED: pb.VISITOR_CHANGE_ENDED,
    Kind.STAFF: pb.VISITOR_CHANGE_STAFF,
}
"""The changes that a kind always is."""


class ChangeFeed:
    """Reads all changes and buffers the newest messages, which every call of WatchVisitors reads at its own pace.

    So the memory does not depend on the number of calls. A call that falls behind the buffer ends with an error.
    """

    def __init__(
        self,
        visitors: VisitorStore,
        links: LinkStore,
        notices: VisitorNotices,
        numbers: range,
        *,
        buffer_messages: int,
        stopping: asyncio.Event,
    ) -> None:
        self._visitors = visitors
        self._links = links
        self._notices = notices
        self._numbers = numbers
        self._buffer_messages = buffer_messages
        self._stopping = stopping
        self._positions = ["0-0" for _ in numbers]  # last position read, by partition; valid while there is a call
        self._buffer: dict[int, Message] = {}
        self._next = 0
        self._lost_before = 0  # calls that have read the buffer only up to here miss changes
        self._has_more = asyncio.Event()
        self._watchers = 0
        self._page_watchers = 0
        self._is_watched = asyncio.Event()
        self._are_contacts_unknown = False

    async def run(self) -> None:
        """Read changes until the process stops, then wake all calls, so that they end."""
        async with asyncio.TaskGroup() as following:
            works = [self._keep_pages(), *map(self._follow, self._numbers), *map(self._notice, self._numbers)]
            tasks = [following.create_task(work) for work in works]
            await self._stopping.wait()
            self._wake()
            for task in tasks:
                task.cancel()

    async def _follow(self, number: int) -> None:
        """Read one partition. A partition that does not answer does not delay the others."""
        while True:
            await self._is_watched.wait()
            has_read = await attempt((), self._read, number)
            await asyncio.sleep(_GATHER_S if has_read else _AFTER_FAILURE_S)

    async def _notice(self, number: int) -> None:
        """Record what happens in a partition without an event."""
        while True:
            await attempt((), self._note_due, number)
            await asyncio.sleep(_NOTICE_EVERY_S)

    async def _note_due(self, number: int) -> None:
        with suppress(RequestError):  # logged where it was raised; the same below
            if self._are_contacts_unknown:
                probe = await self._links.known_contacts([_NO_IDENTITY])
                self._are_contacts_unknown = probe[_NO_IDENTITY].status is ContactStatus.UNKNOWN
            await self._notices.note_due(number, are_contacts_known=not self._are_contacts_unknown)

    async def _keep_pages(self) -> None:
        """Have changes of pages recorded as long as a call asks for them."""
        while True:
            if self._page_watchers:
                with suppress(RequestError):
                    await self._notices.watch_pages()
            await asyncio.sleep(_KEEP_PAGES_S)

    def _wake(self) -> None:
        self._has_more.set()
        self._has_more = asyncio.Event()

    async def _read(self, number: int) -> None:
        positions = self._positions
        before = positions[number]
        try:
            # No await between advancing the position and buffering the message: the two always agree.
            async for message in self._messages(number, positions, until=None):
                if positions is not self._positions:
                    continue  # all calls have ended meanwhile, and new ones begin later
                self._buffer[self._next] = message
                self._buffer.pop(self._next - self._buffer_messages, None)
                self._next += 1
        except RequestError as error:
            if error.reason == "RESUME_TOKEN_EXPIRED" and positions is self._positions:
                await self._skip_lost(number)
        finally:
            if positions[number] != before:
                self._wake()

    async def _skip_lost(self, number: int) -> None:
        """Continue behind changes that were removed before they were read. All calls end, because they miss them."""
        with suppress(RequestError):
            _, last = await self._visitors.change_bounds(number)
            self._positions[number] = last
            self._buffer.clear()
            self._next += 1
            self._lost_before = self._next

    async def _messages(self, number: int, positions: list[str], until: str | None) -> AsyncIterator[Message]:
        """Yield the messages of a partition after its position, up to `until` if given; advance its position."""
        changes = await self._changes(number, positions[number], None if until else _WAIT_MS)
        if not changes:
            return
        records = await self._visitors.get({change.visit_id: None for change in changes})
        # The records may be newer than `changes`; the later changes are needed to rewind them.
        later = await self._changes(number, changes[-1].position)
        last = until or changes[-1].position
        found: list[VisitorChange] = []
        for count, one in enumerate(visitor_changes([*changes, *later], records)):
            if count % _CHANGES_PER_TURN == _CHANGES_PER_TURN - 1:
                await asyncio.sleep(0)
            if _order(one.change.position) > _order(last):
                break
            found.append(one)
        contacts = await self._contacts(found)
        message: Message | None = Message()
        for count, one in enumerate(found):
            if count % _CHANGES_PER_TURN == _CHANGES_PER_TURN - 1:
                await asyncio.sleep(0)
            positions[number] = one.change.position
            message = self._message(one, records[one.change.visit_id], contacts)
            if message is not None:
                message.resume_token = ".".join(positions)
                yield message
        positions[number] = last  # the last changes may be of visits that have expired
        if message is None:  # the last change gave no message, and callers may store its token
            yield Message(resume_token=".".join(positions))

    async def _contacts(self, changes: list[VisitorChange]) -> Mapping[str, KnownContact]:
        """Return the contacts before and after these changes. Those that are unknown are looked up again later."""
        contacts = await self._links.known_contacts(
            {attribution.identity for one in changes for attribution in (one.before, one.after)}
        )
        unknown = {
            one.change.visit_id
            for one in changes
            if contacts.get(one.after.identity, NO_CONTACT).status is ContactStatus.UNKNOWN
        }
        if unknown:
            self._are_contacts_unknown = True
            await self._notices.look_again([*unknown])
        return contacts

    def _message(self, one: VisitorChange, record: VisitRecord, contacts: Mapping[str, KnownContact]) -> Message | None:
        """Return the message of a change, without its token; None if nothing that a message has has changed."""
        change, before, after = one
        old, new = (contacts.get(attribution.identity, NO_CONTACT) for attribution in (before, after))
        found = {_CHANGES[kind] for kind in change.kinds if kind in _CHANGES}
        if before.state is not after.state:
            found.add(pb.VISITOR_CHANGE_STATE)
        if before._replace(state=after.state) != after:
            found.add(pb.VISITOR_CHANGE_IDENTITY)
        previous_contact_id = old.contact_id
        if Kind.CONTACT in change.kinds:
            is_of_identity = change.identity_hash in {"", self._visitors.hash_of(after.identity)}
            is_still_unknown = change.contact_id is None and new.status is ContactStatus.UNKNOWN
            if is_of_identity and not is_still_unknown:
                found.add(pb.VISITOR_CHANGE_CONTACT)
                previous_contact_id = old.contact_id if change.contact_id is None else change.contact_id
        elif old != new:
            found.add(pb.VISITOR_CHANGE_CONTACT)
        if not found:
            return None
        return Message(
            visitor=messages.visitor(record, contacts, after),
            previous_state=messages.state(before.state),
            previous_identity_id=before.identity,
            previous_contact_id=previous_contact_id,
            change_time=messages.timestamp(change.time_ms),
            changes=sorted(found),
        )

    async def _changes(self, number: int, after: str, wait_ms: int | None = None) -> list[TimelineChange]:
        """Return all changes after a position. Raises RequestError, also if some are no longer stored.

        If there is none, wait for one, `wait_ms` at most.
        """
        changes: list[TimelineChange] = []
        part = await self._visitors.changes(number, after, _CHANGES_PER_READ, wait_ms)
        while part:
            changes += part
            if len(part) < _CHANGES_PER_READ:
                break
            part = await self._visitors.changes(number, part[-1].position, _CHANGES_PER_READ)
        if len(changes) >= self._visitors.changelog_max_entries:  # as many remain when others are removed
            first, _ = await self._visitors.change_bounds(number)
            if _order(first) > _order(after):
                raise _expired()
        return changes

    async def watch(
        self, request: pb.WatchVisitorsRequest, wanted: WatchFilter, listed: AsyncIterator[Message] | None = None
    ) -> AsyncIterator[Message]:
        """Yield changes as they happen, first those after `resume_token` if it is given, else those of `listed`.

        Raises RequestError: INVALID_ARGUMENT for a malformed token, FAILED_PRECONDITION when further changes are no
        longer stored, RESOURCE_EXHAUSTED when the caller reads too slowly, UNAVAILABLE when the process stops.
        """
        positions = await self._parse_token(request.resume_token) if request.resume_token else None
        if not self._watchers:  # nothing was read meanwhile
            bounds = await asyncio.gather(*map(self._visitors.change_bounds, self._numbers))
            if not self._watchers:  # no other call has begun
                self._positions = [last for _, last in bounds]
        with metrics.WATCH_STREAMS.track_inprogress(), self._watching(wanted):
            if wanted.includes_pages:
                await self._notices.watch_pages()
            if positions is not None:
                await self._catch_up(positions)
            at, now = self._next, list(self._positions)
            if listed is not None and positions is None:
                async for message in listed:
                    yield message
                yield Message(resume_token=".".join(now))
            elif request.announce_progress:
                yield Message(resume_token=".".join(positions or now))
            if positions is not None:
                for number in self._numbers:
                    async for message in self._messages(number, positions, until=now[number]):
                        if (own := wanted.view(message)) is not None:
                            yield own
            async for message in self._buffered_messages(at, wanted, announces=request.announce_progress):
                yield message

    async def _catch_up(self, positions: list[str]) -> None:
        """Read up to these positions, which another process may have read: no call gets the changes before twice."""
        for number, position in zip(self._numbers, positions, strict=True):
            while _order(own := self._positions[number]) < _order(position):
                if not await self._visitors.changes(number, own, 1):
                    break
                await asyncio.sleep(_GATHER_S)

    @contextmanager
    def _watching(self, wanted: WatchFilter) -> Iterator[None]:
        self._watchers += 1
        self._is_watched.set()
        self._page_watchers += wanted.includes_pages
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._is_watched.clear()
            self._page_watchers -= wanted.includes_pages

    async def _buffered_messages(self, at: int, wanted: WatchFilter, *, announces: bool) -> AsyncIterator[Message]:
        while True:
            has_more = self._has_more
            skipped_token = ""  # the token of the last message if it did not match the request
            while at < self._next:
                message = self._buffer.get(at)
                if message is None and at < self._lost_before:
                    raise _expired()
                if message is None:
                    metrics.WATCHERS_TOO_SLOW.inc()
                    text = "the call read too slowly; resume with the last token"
                    raise RequestError.exhausted(text, _RETRY_MS, "WATCHER_TOO_SLOW")
                own = wanted.view(message)
                skipped_token = message.resume_token if own is None else ""
                if own is not None:
                    yield own
                at += 1
            if skipped_token and announces:
                yield Message(resume_token=skipped_token)
            if self._stopping.is_set():
                raise RequestError.unavailable("the server stops; resume with the last token", _RETRY_MS, "STOPPING")
            await has_more.wait()

    async def _parse_token(self, token: str) -> list[str]:
        positions = token.split(".")
        if not _TOKEN.fullmatch(token) or len(positions) != len(self._numbers):
            raise RequestError.invalid("resume_token", "must be a token of a message of this method")
        for number, position in zip(self._numbers, positions, strict=True):
            first, last = await self._visitors.change_bounds(number)
            if not _order(first) <= _order(position) <= _order(last):
                raise _expired()
        return positions


def _expired() -> RequestError:
    text = "changes after resume_token are no longer stored; watch again without a token, then list all"
    return RequestError.failed_precondition("RESUME_TOKEN_EXPIRED", text)


def _order(position: str) -> tuple[int, int]:
    milliseconds, _, sequence = position.partition("-")
    return int(milliseconds), int(sequence)
