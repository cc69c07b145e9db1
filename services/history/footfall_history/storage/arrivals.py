"""Turns batches as logged into what they bring for each visit."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from footfall.event.v1.event_pb2 import Event, EventBatch, EventContext
from footfall_eventlog.admitted import InvalidEventError, transition_of
from footfall_timeline import Transition, order_key

from footfall_history.storage.documents import DEVICE_FIELDS, Document, event_document, has_same_content

_START_FIELDS: Final = ("browser_visit_id", *DEVICE_FIELDS)


class Unstorable(NamedTuple):
    """An event that cannot be stored, and why."""

    event: Event
    context: EventContext
    reason: str


@dataclass
class Arrival:
    """What a batch brings for one visit.

    `events` are by document id, each the first of its id in the batch, at the earliest time of all of its id; `sources`
    what they were made from. `start` is what the earliest of them says of the visit; its `start_key` sorts visits by
    (start, id). `origin` is the site of the one received first, which no sender can set; its `site_key` sorts by that.
    """

    events: dict[str, Document] = field(default_factory=dict)
    sources: dict[str, tuple[Event, EventContext]] = field(default_factory=dict)
    transitions: list[Transition] = field(default_factory=list)
    conflicts: set[str] = field(default_factory=set)
    start: Document = field(default_factory=dict)
    origin: Document = field(default_factory=dict)
    received_ms: int = 0

    def add(self, event: Event, context: EventContext) -> None:
        """Take in one event. Raises InvalidEventError and then takes in nothing."""
        transition = transition_of(event)
        document = event_document(event, context)
        if transition:
            self.transitions.append(transition)
        self.received_ms = max(self.received_ms, context.received_time_ms)
        document_id = document["_id"]
        known = self.events.setdefault(document_id, document)
        if known is document:
            self.sources[document_id] = event, context
        else:
            known["order_key"] = min(known["order_key"], document["order_key"])
            if not has_same_content(known, document):
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
        """Whom its transitions name."""
        return {transition.identity for transition in self.transitions if transition.identity}

    def unstorable(self, reason: str) -> list[Unstorable]:
        """All its events, for one reason."""
        return [Unstorable(event, context, reason) for event, context in self.sources.values()]


Arrivals = dict[str, Arrival]


def by_visit(batches: Iterable[EventBatch], unstorable: list[Unstorable]) -> Arrivals:
    """Sort events by visit; those that are unfit go to `unstorable`."""
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


def parts_of(batches: Iterable[EventBatch], visit_ids: Collection[str]) -> dict[str, EventBatch]:
    """Everything in these batches that is of these visits, in a batch for each."""
    parts: dict[str, EventBatch] = {}
    for batch in batches:
        positions: dict[tuple[str, int], int] = {}
        for event in batch.events:
            if event.visit_id not in visit_ids:
                continue
            part = parts.setdefault(event.visit_id, EventBatch())
            key = event.visit_id, event.context_index
            if key not in positions:
                positions[key] = len(part.contexts)
                part.contexts.append(context_of(event, batch))
            part.events.add().CopyFrom(event)
            part.events[-1].context_index = positions[key]
    return parts


def context_of(event: Event, batch: EventBatch) -> EventContext:
    """What is known of the request that brought an event of a batch."""
    return batch.contexts[event.context_index] if event.context_index < len(batch.contexts) else EventContext()
