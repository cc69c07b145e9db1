"""What batches from the event log bring for each visit."""

from collections.abc import Callable, Collection, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from footfall.event.v1.event_pb2 import Event, EventBatch, EventContext
from footfall_eventlog.admitted import InvalidEventError, transition_of
from footfall_timeline import Transition, order_key

from footfall_history.storage.documents import DEVICE_FIELDS, Document, event_document
from footfall_history.storage.marks import CONFLICT, marks_of, marks_of_repetition

Key = TypeVar("Key", bound=Hashable)

_START_FIELDS: Final = ("browser_visit_id", *DEVICE_FIELDS)


class Unstorable(NamedTuple):
    """An event that cannot be stored, the request that brought it, and the reason."""

    event: Event
    context: EventContext
    reason: str

    @property
    def batch(self) -> EventBatch:
        """A batch with a copy of this event alone."""
        batch = EventBatch(contexts=[self.context], events=[self.event])
        batch.events[0].context_index = 0
        return batch


@dataclass
class Arrival:
    """What a batch brings for one visit.

    - `events`: documents by document id. Of several events with one id, the first in the batch with the earliest time.
    - `sources`: the event and context that each document was made from.
    - `conflicts`: ids of documents for which the batch holds events with different content.
    - `start`: fields of the visit from its earliest event. `start_key` sorts visits by start, then id.
    - `origin`: site of the event received first, which a sender cannot influence. `site_key` sorts by time of receipt.
    - `received_ms`: time of the last receipt, in milliseconds since the epoch.
    - `is_staff`: at least one event is one of staff.
    - `marks`: what is remarkable about these events by themselves, see `storage.marks`.
    """

    events: dict[str, Document] = field(default_factory=dict)
    sources: dict[str, tuple[Event, EventContext]] = field(default_factory=dict)
    transitions: list[Transition] = field(default_factory=list)
    conflicts: set[str] = field(default_factory=set)
    start: Document = field(default_factory=dict)
    origin: Document = field(default_factory=dict)
    received_ms: int = 0
    is_staff: bool = False
    marks: set[str] = field(default_factory=set)

    def add(self, event: Event, context: EventContext) -> None:
        """Add one event. Raises InvalidEventError, and then adds nothing."""
        transition = transition_of(event)
        document = event_document(event, context)
        if transition:
            self.transitions.append(transition)
        self.marks.update(marks_of(event, context))
        self.received_ms = max(self.received_ms, context.received_time_ms)
        self.is_staff = self.is_staff or bool(event.staff_reason)
        document_id = document["_id"]
        known = self.events.setdefault(document_id, document)
        if known is document:
            self.sources[document_id] = event, context
        else:
            known["order_key"] = min(known["order_key"], document["order_key"])
            marks = {*marks_of_repetition(known, document)}
            self.marks |= marks
            if CONFLICT in marks:
                self.conflicts.add(document_id)
        site_key = f"{context.received_time_ms:013d}{event.site}"
        if not self.origin or site_key < self.origin["site_key"]:
            self.origin = {"site": event.site, "site_key": site_key}
        start_key = order_key(event.event_time_ms, event.visit_id)
        if not self.start or start_key < self.start["start_key"]:
            self.start = {name: document[name] for name in _START_FIELDS if name in document}
            self.start["start_key"] = start_key
            if context.user_agent:
                self.start["user_agent"] = context.user_agent

    @property
    def named(self) -> set[str]:
        """Identities that its transitions name."""
        return {transition.identity for transition in self.transitions if transition.identity}

    def unstorable(self, reason: str) -> list[Unstorable]:
        """All its events, as unstorable for one reason."""
        return [Unstorable(event, context, reason) for event, context in self.sources.values()]


Arrivals = dict[str, Arrival]
"""Arrivals by visit id."""


def group_by_visit(batches: Iterable[EventBatch], unstorable: list[Unstorable]) -> Arrivals:
    """Group events by visit. Events with malformed ids, times or transitions are appended to `unstorable`."""
    arrivals: Arrivals = {}
    for batch in batches:
        for event in batch.events:
            context = context_of(event, batch)
            arrival = arrivals.get(event.visit_id) or Arrival()
            try:
                arrival.add(event, context)
            except InvalidEventError as error:
                unstorable.append(Unstorable(event, context, str(error)))
            else:
                arrivals[event.visit_id] = arrival
    return arrivals


def split_by_visit(batches: Iterable[EventBatch], visit_ids: Collection[str]) -> dict[str, EventBatch]:
    """One batch for each of these visits, with all its events and their contexts."""
    return split_events(batches, lambda event: event.visit_id if event.visit_id in visit_ids else None)


def split_events(batches: Iterable[EventBatch], key_of: Callable[[Event], Key | None]) -> dict[Key, EventBatch]:
    """One batch for each key, with the events that have it and their contexts. Events without a key are left out."""
    parts: dict[Key, EventBatch] = {}
    for batch in batches:
        positions: dict[tuple[Key, int], int] = {}
        for event in batch.events:
            key = key_of(event)
            if key is None:
                continue
            part = parts.setdefault(key, EventBatch())
            place = key, event.context_index
            if place not in positions:
                positions[place] = len(part.contexts)
                part.contexts.append(context_of(event, batch))
            part.events.add().CopyFrom(event)
            part.events[-1].context_index = positions[place]
    return parts


def context_of(event: Event, batch: EventBatch) -> EventContext:
    """The request that brought an event of a batch."""
    return batch.contexts[event.context_index] if event.context_index < len(batch.contexts) else EventContext()
