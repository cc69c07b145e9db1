"""The messages of WatchVisitors: one reader of the changes per process, shared by all calls."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from footfall.identity.v1 import identity_service_pb2 as pb
from footfall_servicekit.background import attempt
from footfall_servicekit.errors import RequestError

from footfall_identity import messages, metrics
from footfall_identity.changes import TimelineChange, visitor_changes
from footfall_identity.link_store import LinkStore
from footfall_identity.live_visitors import is_visible
from footfall_identity.visitor_store import VisitorStore

_POLL_S: Final = 0.1
_AFTER_FAILURE_S: Final = 1.0  # after an unexpected error, whose stack is logged each time
_CHANGES_PER_READ: Final = 1_000
_CHANGES_PER_TURN: Final = 200  # before other tasks of the event loop run
_RETRY_MS: Final = 100

_TOKEN = re.compile(r"\d{1,20}-\d{1,20}(\.\d{1,20}-\d{1,20})*")

Message = pb.WatchVisitorsResponse


class ChangeFeed:
    """Reads all changes and buffers the newest messages, which every call of WatchVisitors reads at its own pace.

    So the memory does not depend on the number of calls. A call that falls behind the buffer ends with an error.
    """

    def __init__(
        self, visitors: VisitorStore, links: LinkStore, numbers: range, *, buffer_messages: int, stopping: asyncio.Event
    ) -> None:
        self._visitors = visitors
        self._links = links
        self._numbers = numbers
        self._buffer_messages = buffer_messages
        self._stopping = stopping
        self._positions: list[str] = []  # last position read, by partition
        self._buffer: dict[int, Message] = {}
        self._next = 0
        self._has_started = asyncio.Event()
        self._has_more = asyncio.Event()

    async def run(self) -> None:
        """Read changes until the process stops, then wake all calls, so that they end."""
        while not self._has_started.is_set() and not self._stopping.is_set():
            await attempt((), self._start)
            await asyncio.sleep(_POLL_S)
        async with asyncio.TaskGroup() as following:
            for number in self._numbers:
                following.create_task(self._follow(number))
        self._wake()

    async def _start(self) -> None:
        with suppress(RequestError):  # logged where it was raised; the same below
            self._positions = [(await self._visitors.change_bounds(number))[1] for number in self._numbers]
            self._has_started.set()

    async def _follow(self, number: int) -> None:
        """Read one partition. A partition that does not answer does not delay the others."""
        while not self._stopping.is_set():
            has_read = await attempt((), self._read, number)
            await asyncio.sleep(_POLL_S if has_read else _AFTER_FAILURE_S)

    def _wake(self) -> None:
        self._has_more.set()
        self._has_more = asyncio.Event()

    async def _read(self, number: int) -> None:
        before = self._positions[number]
        try:
            # No await between advancing the position and buffering the message: the two always agree.
            async for message in self._messages(number, self._positions, until=None):
                self._buffer[self._next] = message
                self._buffer.pop(self._next - self._buffer_messages, None)
                self._next += 1
        except RequestError:
            pass
        finally:
            if self._positions[number] != before:
                self._wake()

    async def _messages(self, number: int, positions: list[str], until: str | None) -> AsyncIterator[Message]:
        """Yield the messages of a partition after its position, up to `until` if given; advance its position."""
        changes = await self._changes(number, positions[number])
        if not changes:
            return
        records = await self._visitors.get({change.visit_id: None for change in changes})
        # The records may be newer than `changes`; the later changes are needed to rewind them.
        later = await self._changes(number, changes[-1].position)
        last = until or changes[-1].position
        contact_ids = await self._links.contact_ids(
            {record.visit_state.attribution.identity for record in records.values()}
        )
        for count, (change, before, after) in enumerate(visitor_changes([*changes, *later], records)):
            if count % _CHANGES_PER_TURN == _CHANGES_PER_TURN - 1:
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
        positions[number] = last  # the last changes may be of visits that have expired

    async def _changes(self, number: int, after: str) -> list[TimelineChange]:
        changes: list[TimelineChange] = []
        while True:
            part = await self._visitors.changes(number, after, _CHANGES_PER_READ)
            changes += part
            if len(part) < _CHANGES_PER_READ:
                return changes
            after = part[-1].position

    async def watch(self, request: pb.WatchVisitorsRequest) -> AsyncIterator[Message]:
        """Yield changes as they happen, first those after `resume_token` if it is given.

        Raises RequestError: INVALID_ARGUMENT for a malformed token, FAILED_PRECONDITION when changes after it are no
        longer stored, RESOURCE_EXHAUSTED when the caller reads too slowly, UNAVAILABLE when the process stops.
        """
        positions = await self._parse_token(request.resume_token) if request.resume_token else None
        await self._has_started.wait()
        with metrics.WATCH_STREAMS.track_inprogress():
            at, now = self._next, list(self._positions)
            if request.announce_progress:
                yield Message(resume_token=".".join(positions or now))
            if positions is not None:
                for number in self._numbers:
                    async for message in self._messages(number, positions, until=now[number]):
                        if is_visible(message.visitor.site, request.site, request.sites):
                            yield message
            async for message in self._buffered_messages(at, request):
                yield message

    async def _buffered_messages(self, at: int, request: pb.WatchVisitorsRequest) -> AsyncIterator[Message]:
        while True:
            has_more = self._has_more
            skipped_token = ""  # the token of the last message if it did not match the request
            while at < self._next:
                message = self._buffer.get(at)
                if message is None:
                    metrics.WATCHERS_TOO_SLOW.inc()
                    text = "the call read too slowly; resume with the last token"
                    raise RequestError.exhausted(text, _RETRY_MS, "WATCHER_TOO_SLOW")
                is_wanted = is_visible(message.visitor.site, request.site, request.sites)
                skipped_token = "" if is_wanted else message.resume_token
                if is_wanted:
                    yield message
                at += 1
            if skipped_token and request.announce_progress:
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
                message = "changes after resume_token are no longer stored; watch again without a token, then list all"
                raise RequestError.failed_precondition("RESUME_TOKEN_EXPIRED", message)
        return positions


def _order(position: str) -> tuple[int, int]:
    milliseconds, _, sequence = position.partition("-")
    return int(milliseconds), int(sequence)
