"""From entries of the log to messages: history says who the visitors were, identity which contacts they are."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import grpc
from footfall.event.v1.event_pb2 import EventBatch
from footfall.history.v1.history_service_pb2 import (
    AttributedEvent,
    MissingEvent,
    Position,
    StreamAttributionsRequest,
)
from footfall.history.v1.history_service_pb2_grpc import HistoryServiceStub
from footfall.identity.v1.identity_pb2 import Identity
from footfall.identity.v1.identity_service_pb2 import BatchGetIdentitiesRequest
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_eventlog.admitted import has_stored_ids, is_valid_erasure
from footfall_eventlog.erasure_keys import ErasureKeys
from footfall_eventlog.log import decode
from footfall_eventlog.stream import Entry
from footfall_servicekit.channel import forwarded, open_channel
from footfall_servicekit.failure_log import FailureLog
from footfall_servicekit.tls import ClientTls

from footfall_relay.messages import (
    ERASURE,
    EVENT,
    REVISED,
    Message,
    Reference,
    changed_to,
    erasure_message,
    erasure_reference,
    event_message,
    sequence_of,
)
from footfall_relay.outlets_file import Outlet
from footfall_relay.positions import Reported

_IDENTITIES_PER_CALL: Final = 1_000

Key = tuple[str, str]
"""The visit and the id of an event."""


class HistoryUnavailableError(Exception):
    """History does not say who the visitors were. The text is the gRPC status."""


class NotStoredError(Exception):
    """Events of the log are not in history, though it has confirmed them."""

    def __init__(self, keys: Sequence[Key]) -> None:
        super().__init__(f"{len(keys)} events")
        self.keys = keys


class Stamped(NamedTuple):
    """The messages of some entries in their order, and what the outlet has got about their visits then."""

    messages: list[Message]
    reported: dict[str, Reported]


class Stamper:
    """Asks history and identity. Create it in the running event loop."""

    def __init__(
        self,
        history_target: str,
        identity_target: str,
        tls: ClientTls | None,
        *,
        history_timeout_ms: int,
        identity_timeout_ms: int,
        erasure_key: str,
    ) -> None:
        self._history_channel = open_channel(history_target, tls)
        self._identity_channel = open_channel(identity_target, tls)
        self._history = HistoryServiceStub(self._history_channel)
        self._identity = IdentityServiceStub(self._identity_channel)
        self._history_timeout_s = history_timeout_ms / 1000
        self._identity_timeout_s = identity_timeout_ms / 1000
        self._hash_of = lru_cache(maxsize=16_384)(ErasureKeys(erasure_key).hash_of)
        self._no_contacts = FailureLog("identity does not answer; contacts go out as UNKNOWN", "service")

    async def close(self) -> None:
        """Close the channels."""
        await self._history_channel.close()
        await self._identity_channel.close()

    @staticmethod
    def visits_of(outlet: Outlet, entries: Iterable[Entry]) -> list[str]:
        """The visits of the events in entries that an outlet takes."""
        return [*dict.fromkeys(one.visit_id for one in _references(outlet, entries) if one.visit_id)]

    async def stamp(
        self, outlet: Outlet, entries: Iterable[Entry], reported: Mapping[str, Reported], *, skipped: Sequence[Key] = ()
    ) -> Stamped:
        """The messages of entries. `reported`: what the outlet has got about visits. `skipped`: events to leave out.

        Raises HistoryUnavailableError and NotStoredError.
        """
        references = [*dict.fromkeys(_references(outlet, entries))]
        wanted: dict[str, dict[str, Reference]] = defaultdict(dict)
        for reference in references:
            if reference.kind == EVENT and (reference.visit_id, reference.event_id) not in skipped:
                wanted[reference.visit_id].setdefault(reference.event_id, reference)
        request = StreamAttributionsRequest(
            visits=[_asked(visit_id, wanted[visit_id], reported) for visit_id in wanted]
        )
        found: dict[Reference, AttributedEvent] = {}
        revised: dict[str, list[tuple[Reference, AttributedEvent]]] = defaultdict(list)
        attributions: dict[str, bytes] = {}
        missing: list[Key] = []
        async for visit_id, item in self._attributions(request):
            match item:
                case MissingEvent(dead_letter=False):
                    missing.append((visit_id, item.event_id))
                case MissingEvent():
                    pass
                case bytes():
                    attributions[visit_id] = item
                case (True, AttributedEvent() as event):
                    last = next(reversed(wanted[visit_id].values())).sequence
                    sequence = f"{last.rpartition('-')[0]}-{500_000 + len(revised[visit_id]):06d}"
                    about = Reference(REVISED, sequence, visit_id, event.event.event.event_id)
                    revised[visit_id].append((about, event))
                case (False, AttributedEvent() as event):
                    found[wanted[visit_id][event.event.event.event_id]] = event
        if missing:
            raise NotStoredError(missing)
        return await self._stamped(outlet, references, found, revised, _now_reported(reported, found, attributions))

    async def again(self, references: Sequence[Reference]) -> list[Message]:
        """The messages of dead letters by what is known now, without events that are no longer stored.

        Raises HistoryUnavailableError.
        """
        ids: dict[str, list[str]] = defaultdict(list)
        for reference in references:
            if reference.kind != ERASURE and reference.event_id not in ids[reference.visit_id]:
                ids[reference.visit_id].append(reference.event_id)
        request = StreamAttributionsRequest()
        for visit_id, event_ids in ids.items():
            # Before all events: nothing is revised.
            request.visits.add(visit_id=visit_id, event_ids=event_ids, last=Position(time_ms=0, id=""))
        found: dict[Key, AttributedEvent] = {}
        async for visit_id, item in self._attributions(request):
            match item:
                case (False, AttributedEvent() as event):
                    found[visit_id, event.event.event.event_id] = event
        events = {
            reference: found[key]
            for reference in references
            if (key := (reference.visit_id, reference.event_id)) in found
        }
        contacts = await self._contacts(events.values())
        return [
            erasure_message(one) if one.kind == ERASURE else self._message(one, events[one], contacts)
            for one in references
            if one.kind == ERASURE or one in events
        ]

    async def _attributions(
        self, request: StreamAttributionsRequest
    ) -> AsyncIterator[tuple[str, "MissingEvent | bytes | tuple[bool, AttributedEvent]"]]:
        if not request.visits:
            return
        call = self._history.StreamAttributions(request, timeout=self._history_timeout_s, metadata=forwarded())
        try:
            async for response in call:
                for item in response.items:
                    match item.WhichOneof("item"):
                        case "event":
                            yield item.visit_id, (False, item.event)
                        case "revised":
                            yield item.visit_id, (True, item.revised)
                        case "missing":
                            yield item.visit_id, item.missing
                        case _:
                            yield item.visit_id, item.attribution
        except grpc.aio.AioRpcError as error:
            raise HistoryUnavailableError(error.code().name) from None

    async def _stamped(
        self,
        outlet: Outlet,
        references: Sequence[Reference],
        found: Mapping[Reference, AttributedEvent],
        revised: Mapping[str, list[tuple[Reference, AttributedEvent]]],
        reported: dict[str, Reported],
    ) -> Stamped:
        """Put the messages into their order: revised ones follow the last event of their visit."""
        last = {reference.visit_id: reference for reference in references if reference in found}
        pairs: list[tuple[Reference, AttributedEvent | None]] = []
        for reference in references:
            if reference.kind == ERASURE or reference in found:
                pairs.append((reference, found.get(reference)))
            if last.get(reference.visit_id) == reference:
                pairs += [
                    (about, event)
                    for about, event in revised.get(reference.visit_id, ())
                    if event.erased or outlet.takes(event.event.event.site, event.event.event.event_name)
                ]
        pairs = [
            (reference, event)
            for reference, event in pairs
            if event is None or event.erased or not outlet.state_changes or changed_to(event) in outlet.state_changes
        ]
        contacts = await self._contacts(event for _, event in pairs if event)
        messages = [
            self._message(reference, event, contacts) if event else erasure_message(reference)
            for reference, event in pairs
        ]
        return Stamped(messages, reported)

    def _message(self, reference: Reference, event: AttributedEvent, contacts: Mapping[str, Identity]) -> Message:
        identities = event.event.stamp.identity_id, event.event.event.identity_id
        own, named = map(self._hash_of, identities)
        return event_message(reference, event, contacts.get(identities[0]), (own, named))

    async def _contacts(self, events: Iterable[AttributedEvent]) -> dict[str, Identity]:
        ids = [*dict.fromkeys(event.event.stamp.identity_id for event in events if event.event.stamp.identity_id)]
        known: dict[str, Identity] = {}
        while ids:
            request = BatchGetIdentitiesRequest(identity_ids=ids[:_IDENTITIES_PER_CALL])
            try:
                answer = await self._identity.BatchGetIdentities(
                    request, timeout=self._identity_timeout_s, metadata=forwarded()
                )
            except grpc.aio.AioRpcError as error:
                self._no_contacts.failed("identity", code=error.code().name)
                return known
            self._no_contacts.worked("identity")
            known |= {identity.identity_id: identity for identity in answer.identities}
            ids = [*answer.unread_identity_ids, *ids[_IDENTITIES_PER_CALL:]]
        return known


def _references(outlet: Outlet, entries: Iterable[Entry]) -> Iterator[Reference]:
    """What the entries are about, as far as the outlet takes it."""
    for entry in entries:
        batch = decode(entry) or EventBatch()
        if batch.HasField("erasure") and is_valid_erasure(batch.erasure):
            yield erasure_reference(batch.erasure, sequence_of(entry.id, 0))
        for number, event in enumerate(batch.events):
            if has_stored_ids(event) and outlet.takes(event.site, event.event_name):
                yield Reference(EVENT, sequence_of(entry.id, number), event.visit_id, event.event_id)


def _asked(
    visit_id: str, wanted: Mapping[str, Reference], reported: Mapping[str, Reported]
) -> StreamAttributionsRequest.ReportedVisit:
    asked = StreamAttributionsRequest.ReportedVisit(visit_id=visit_id, event_ids=wanted)
    if known := reported.get(visit_id):
        asked.attribution = known.attribution
        asked.last.time_ms, asked.last.id = known.last_ms, known.last_id
    return asked


def _now_reported(
    reported: Mapping[str, Reported], found: Mapping[Reference, AttributedEvent], attributions: Mapping[str, bytes]
) -> dict[str, Reported]:
    last: dict[str, tuple[int, str]] = {}
    for reference, event in found.items():
        key = event.event.event.event_time_ms, event.event.event.event_id
        known = reported.get(reference.visit_id)
        before = last.get(reference.visit_id) or ((known.last_ms, known.last_id) if known else (0, ""))
        last[reference.visit_id] = max(before, key)
    return {
        visit_id: Reported(*key, attributions[visit_id]) for visit_id, key in last.items() if visit_id in attributions
    }
