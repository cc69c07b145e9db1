"""Turns the log into a stream of stamped events as they arrive, which can be resumed where it was left.

It reads the log's streams themselves, not MongoDB: so it skips nothing that arrives late for its time. What it says of
an event is what the consumer stores, as far as the visit is known at that moment.
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
from footfall_servicekit.errors import RequestError
from footfall_servicekit.stream import Entry
from footfall_timeline import Walls, partition
from google.protobuf.message import DecodeError

from footfall_history import metrics
from footfall_history.event_log import Log, Position
from footfall_history.queries import uuid_of
from footfall_history.storage import Preview, document_id, stored_event

Positions = dict[int, Position]
"""By partition, behind which entry to go on."""

_RETRY_MS: Final = 5_000
_NO_WALLS: Final = Walls()
_PLACE: Final = re.compile(r"(\d{1,3})=(\d{1,20}-\d{1,20})/(\d{1,20})")


class Wanted(NamedTuple):
    """Which events somebody watches, and may see: of a site, of visits, of sites; empty: of any."""

    site: str
    visit_ids: frozenset[str]
    sites: frozenset[str]

    def has(self, site: str, visit_id: str) -> bool:
        """Whether an event is among them, by its site and the stored id of its visit."""
        return (
            self.site in {"", site}
            and (not self.visit_ids or visit_id in self.visit_ids)
            and (not self.sites or site in self.sites)
        )

    def part(self, batches: Sequence[EventBatch]) -> list[EventBatch]:
        """Of batches the visits that have such events: what else they did says who their visitor was."""
        if not any(self):
            return [*batches]
        visit_ids = {
            event.visit_id for batch in batches for event in batch.events if self.has(event.site, event.visit_id)
        }
        return [
            EventBatch(contexts=batch.contexts, events=[one for one in batch.events if one.visit_id in visit_ids])
            for batch in batches
        ]


class LiveTail:
    """Streams of events as they arrive. Each watcher reads for itself, as quickly as it takes what it is given."""

    def __init__(
        self, log: Log, preview: Preview, stopping: asyncio.Event, *, most_watchers: int, walls: Walls = _NO_WALLS
    ) -> None:
        self._walls = walls
        self._log = log
        self._preview = preview
        self._stopping = stopping
        self._most_watchers = most_watchers
        self._watchers = 0

    async def events(self, request: StreamEventsRequest) -> AsyncGenerator[StreamEventsResponse, None]:
        """Events of a site or a visit, until the service stops.

        Raises RequestError for a token that is none, when the log no longer holds what follows, and when there are as
        many watchers as may be: each keeps connections to Redis from the consumer.
        """
        if self._watchers >= self._most_watchers:
            raise RequestError.exhausted("as many streams of events as may be are open", _RETRY_MS)
        self._watchers += 1
        try:
            with metrics.WATCHERS.track_inprogress():
                async with aclosing(self._events(request)) as answers:
                    async for answer in answers:
                        yield answer
        finally:
            self._watchers -= 1

    async def _events(self, request: StreamEventsRequest) -> AsyncGenerator[StreamEventsResponse, None]:
        sites, visit_ids = self._walls.sharing(request.sites), frozenset[str]()
        if request.visit_id:
            visit_ids = frozenset(self._walls.candidates(uuid_of(request.visit_id, "visit_id"), sites))
        wanted = Wanted(request.site, visit_ids, frozenset(sites))
        positions = await self._begin(visit_ids, request.resume_token)
        if request.announce_progress:
            yield StreamEventsResponse(resume_token=_token(positions))
        reading = {
            number: asyncio.create_task(self._read(number, place, wanted)) for number, place in positions.items()
        }
        stop = asyncio.create_task(self._stopping.wait())
        try:
            while not stop.done():
                await asyncio.wait((*reading.values(), stop), return_when=asyncio.FIRST_COMPLETED)
                for number in [number for number, task in reading.items() if task.done()]:
                    events: list[StoredEvent] | None = None
                    for events, place in await reading[number]:
                        for event in events[:-1]:
                            yield StreamEventsResponse(event=event, resume_token=_token(positions))
                        positions[number] = place
                        for event in events[-1:]:
                            yield StreamEventsResponse(event=event, resume_token=_token(positions))
                    if events == [] and request.announce_progress:
                        yield StreamEventsResponse(resume_token=_token(positions))
                    reading[number] = asyncio.create_task(self._read(number, positions[number], wanted))
        finally:
            tasks = (*reading.values(), stop)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _begin(self, visit_ids: Collection[str], token: str) -> Positions:
        """Where to begin in each partition that matters."""
        count = self._log.partitions
        numbers = sorted({partition(visit_id, count) for visit_id in visit_ids}) or range(count)
        if not token:
            return {number: await self._log.end(number) for number in numbers}
        positions = _positions(token)
        if positions.keys() != set(numbers):
            raise RequestError.invalid("resume_token", "must come with the visit_id, or none, that it was given for")
        for number, place in positions.items():
            await self._must_reach_back_to(number, place)
        return positions

    async def _read(self, number: int, place: Position, wanted: Wanted) -> list[tuple[list[StoredEvent], Position]]:
        """The wanted events of the next entries, and the place behind each.

        Raises RequestError when entries are gone that should have been among them: also whoever takes events too
        slowly can be overtaken by the trimming of the log.
        """
        entries = await self._log.read_behind(number, place)
        await self._must_reach_back_to(number, place)
        batches = wanted.part([_batch(entry) for entry, _ in entries])
        documents, _ = await self._preview.of(batches)
        stamped = {
            key: stored_event(document)
            for key, document in documents.items()
            if wanted.has(document.get("site", ""), document["visit_id"])
        }
        return [
            ([stamped[key] for event in batch.events if (key := _key(event)) in stamped], behind)
            for batch, (_, behind) in zip(batches, entries, strict=True)
        ]

    async def _must_reach_back_to(self, number: int, place: Position) -> None:
        if not await self._log.reaches_back_to(number, place):
            message = "the log no longer holds what follows resume_token; list the events since, and begin without one"
            raise RequestError.failed_precondition("LOG_TRIMMED", message)


def _batch(entry: Entry) -> EventBatch:
    try:
        return EventBatch.FromString(entry.payload)
    except DecodeError:  # the consumer puts it aside
        return EventBatch()


def _key(event: Event) -> str:
    return document_id(event.visit_id, event.event_id)


def _token(positions: Positions) -> str:
    text = ",".join(f"{number}={place.id}/{place.ordinal}" for number, place in positions.items())
    return base64.urlsafe_b64encode(text.encode()).decode()


def _positions(token: str) -> Positions:
    """The places a token stands for. Raises RequestError."""
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode("ascii")
    except ValueError:
        text = ""
    parts = [_PLACE.fullmatch(part) for part in text.split(",")]
    if not all(parts):
        raise RequestError.invalid("resume_token", "must be a token that this method gave")
    return {int(part[1]): Position(part[2], int(part[3])) for part in parts if part}
