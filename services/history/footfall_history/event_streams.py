"""Live streams of attributed events in order of arrival, which can be resumed by a token.

They are read from the event log and not from MongoDB, so that an event that arrives late is not skipped. An event is
attributed as the consumer does it, by what is known of its visit at that moment.
"""

import asyncio
import base64
import re
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall.history.v1.history_service_pb2 import StreamEventsRequest, StreamEventsResponse
from footfall.history.v1.visit_pb2 import StoredEvent
from footfall_eventlog.checkpoint_store import Position
from footfall_eventlog.log import decode
from footfall_eventlog.site_groups import SiteGroups
from footfall_servicekit.errors import RequestError
from footfall_timeline import partition

from footfall_history import metrics
from footfall_history.event_log import EventLog
from footfall_history.queries import parse_uuid
from footfall_history.storage import Preview, document_id, stored_event

Positions = dict[int, Position]
"""Where to continue, by partition."""
Step = tuple[list[StoredEvent], Position]
"""The matching events of an entry, and the position after it."""

_RETRY_MS: Final = 5_000
_POSITION: Final = re.compile(r"(\d{1,3})=(\d{1,20}-\d{1,20})/(\d{1,20})")


class EventFilter(NamedTuple):
    """The events of a stream. Empty fields do not restrict: the site and visits asked for, the sites permitted."""

    site: str
    visit_ids: frozenset[str]
    sites: frozenset[str]

    def matches(self, site: str, visit_id: str) -> bool:
        """Whether an event matches, by its site and the stored id of its visit."""
        return (
            self.site in {"", site}
            and (not self.visit_ids or visit_id in self.visit_ids)
            and (not self.sites or site in self.sites)
        )

    def visits_of(self, batches: Sequence[EventBatch]) -> list[EventBatch]:
        """The batches with all events of visits that have a matching event: attribution needs the others as well."""
        if not any(self):
            return [*batches]
        visit_ids = {
            event.visit_id for batch in batches for event in batch.events if self.matches(event.site, event.visit_id)
        }
        return [
            EventBatch(contexts=batch.contexts, events=[one for one in batch.events if one.visit_id in visit_ids])
            for batch in batches
        ]


class EventStreams:
    """Serves live streams. Each stream reads the log on its own, at the pace of its client."""

    def __init__(
        self, log: EventLog, preview: Preview, stopping: asyncio.Event, *, max_streams: int, site_groups: SiteGroups
    ) -> None:
        self._site_groups = site_groups
        self._log = log
        self._preview = preview
        self._stopping = stopping
        self._max_streams = max_streams
        self._open_streams = 0

    async def events(self, request: StreamEventsRequest) -> AsyncGenerator[StreamEventsResponse, None]:
        """The responses to one request, until the service stops.

        Raises RequestError for a malformed token, for a position that the log no longer holds, and when `max_streams`
        are open: each uses Redis connections that the consumer needs as well.
        Raises TRANSIENT_LOG_ERRORS and TRANSIENT_STORE_ERRORS.
        """
        if self._open_streams >= self._max_streams:
            raise RequestError.exhausted("too many event streams are open; try again later", _RETRY_MS)
        self._open_streams += 1
        try:
            with metrics.EVENT_STREAMS.track_inprogress():
                async with aclosing(self._events(request)) as answers:
                    async for answer in answers:
                        yield answer
        finally:
            self._open_streams -= 1

    async def _events(self, request: StreamEventsRequest) -> AsyncGenerator[StreamEventsResponse, None]:
        sites, visit_ids = self._site_groups.sharing(request.sites), frozenset[str]()
        if request.visit_id:
            visit_ids = frozenset(self._site_groups.candidates(parse_uuid(request.visit_id, "visit_id"), sites))
        event_filter = EventFilter(request.site, visit_ids, frozenset(sites))
        positions = await self._begin(visit_ids, request.resume_token, from_oldest=request.from_oldest)
        if request.announce_progress:
            yield StreamEventsResponse(resume_token=_token(positions))
        reading = {
            number: asyncio.create_task(self._read(number, position, event_filter))
            for number, position in positions.items()
        }
        stop = asyncio.create_task(self._stopping.wait())
        try:
            while not stop.done():
                await asyncio.wait((*reading.values(), stop), return_when=asyncio.FIRST_COMPLETED)
                for number in [number for number, task in reading.items() if task.done()]:
                    events: list[StoredEvent] | None = None
                    for events, position in await reading[number]:
                        for event in events[:-1]:
                            yield StreamEventsResponse(event=event, resume_token=_token(positions))
                        positions[number] = position
                        for event in events[-1:]:
                            yield StreamEventsResponse(event=event, resume_token=_token(positions))
                    if events == [] and request.announce_progress:
                        yield StreamEventsResponse(resume_token=_token(positions))
                    reading[number] = asyncio.create_task(self._read(number, positions[number], event_filter))
        finally:
            tasks = (*reading.values(), stop)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin(self, visit_ids: Collection[str], token: str, *, from_oldest: bool) -> Positions:
        """The positions to begin at, in the partitions that have the visits."""
        count = self._log.partitions
        numbers = sorted({partition(visit_id, count) for visit_id in visit_ids}) or range(count)
        if not token:
            begin = self._log.first_position if from_oldest else self._log.last_position
            return {number: await begin(number) for number in numbers}
        positions = _positions(token)
        if positions.keys() != set(numbers):
            raise RequestError.invalid("resume_token", "must be used with the same visit_id, or also without one")
        for number, position in positions.items():
            await self._check_not_trimmed(number, position)
        return positions

    async def _read(self, number: int, position: Position, event_filter: EventFilter) -> list[Step]:
        """The matching events of the next entries, with the position after each entry.

        Raises RequestError if some of them were trimmed from the log, which also happens to a client that is too slow.
        """
        entries = await self._log.read_after(number, position)
        await self._check_not_trimmed(number, position)
        batches = event_filter.visits_of([decode(entry) or EventBatch() for entry, _ in entries])
        documents, _ = await self._preview.documents(batches)
        attributed = {
            key: stored_event(document)
            for key, document in documents.items()
            if event_filter.matches(document.get("site", ""), document["visit_id"])
        }
        return [
            ([attributed[key] for event in batch.events if (key := _key(event)) in attributed], after)
            for batch, (_, after) in zip(batches, entries, strict=True)
        ]

    async def _check_not_trimmed(self, number: int, position: Position) -> None:
        if not await self._log.holds_all_after(number, position):
            message = "the log no longer holds what follows resume_token; list the events since, stream without a token"
            raise RequestError.failed_precondition("RESUME_TOKEN_EXPIRED", message)


def _key(event: Event) -> str:
    return document_id(event.visit_id, event.event_id)


def _token(positions: Positions) -> str:
    text = ",".join(f"{number}={position.id}/{position.ordinal}" for number, position in positions.items())
    return base64.urlsafe_b64encode(text.encode()).decode()


def _positions(token: str) -> Positions:
    """The positions in a token. Raises RequestError."""
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        text = ""
    parts = [_POSITION.fullmatch(part) for part in text.split(",")]
    if not all(parts):
        raise RequestError.invalid("resume_token", "must be a token that this method returned")
    return {int(part[1]): Position(part[2], int(part[3])) for part in parts if part}
