"""Turns stored events into a call to identity, so that live states are right at once. The log brings what it misses."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import grpc
from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_servicekit.channel import forwarded

from footfall_collector import metrics
from footfall_collector.rare_line import RareLine

PAUSE_S: Final = 1.0

# Visit, site, arrival, device, whether without address and title of a page.
_Kind = tuple[str, str, int, str, bool, bool]
_Told = tuple[int, str, Event]  # when, the address of the page, all


class Resolver:
    """Calls identity. After a failure it leaves identity alone for a second, then lets one batch try."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._resolve_events = IdentityServiceStub(channel).ResolveEvents
        self._is_answering = True
        self._try_at = 0.0
        self._failed = RareLine("identity does not answer; it gets the events by the log")

    async def resolve(self, events: Iterable[Event], entries: Mapping[int, str], timeout_s: float) -> None:
        """Let identity know. Never raises, and succeeds in nothing the log would not do later.

        `entries` are the ids of the log's entries that hold these events, by partition. Takes from the events what
        identity does not need.
        """
        if not self._may_try(timeout_s):
            metrics.RESOLVES_SKIPPED.inc()
            return
        request = identity.ResolveEventsRequest()
        for event in telling(events):
            if not event.transition:
                event.ClearField("data_json")
            request.events.append(event)
        for partition, entry_id in entries.items():
            request.entries.add(partition=partition, entry_id=entry_id)
        try:
            await self._resolve_events(request, timeout=timeout_s, metadata=forwarded())
        except grpc.aio.AioRpcError as error:
            self._is_answering = False
            self._try_at = time.monotonic() + PAUSE_S
            metrics.RESOLVES_FAILED.inc()
            self._failed.warn(code=error.code().name)
        else:
            self._is_answering = True
            metrics.RESOLVES_ANSWERED.inc()

    def _may_try(self, timeout_s: float) -> bool:
        if timeout_s <= 0:
            return False
        if self._is_answering:
            return True
        now = time.monotonic()
        if now < self._try_at:
            return False
        self._try_at = now + timeout_s  # this one tries; the others go on without until it knows
        return True


def telling(events: Iterable[Event]) -> Iterator[Event]:
    """The events that tell identity all: those that identify, and of the others of a visit the first and the last.

    Where these do not agree in what identity keeps of them, it is the first and the last of each kind. What happened in
    between changes nothing there; of a beacon with ten events two are enough.
    """
    first: dict[_Kind, _Told] = {}
    last: dict[_Kind, _Told] = {}
    for event in events:
        if event.transition:
            yield event
            continue
        at, url = event.event_time_ms, event.url
        kind = event.visit_id, event.site, event.received_time_ms, event.global_visit_id, not url, not event.title
        if kind not in first:
            first[kind] = last[kind] = (at, url, event)
        elif (at, url) > last[kind][:2]:
            last[kind] = (at, url, event)
        elif at < first[kind][0]:
            first[kind] = (at, url, event)
    for kind, earliest in first.items():
        yield earliest[2]
        if last[kind] is not earliest:
            yield last[kind][2]
