"""Turns stored events that identify into a call to identity, so that it knows at once. The log brings all the rest."""

import time
from collections.abc import Iterable
from typing import Final

import grpc
from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_servicekit.channel import forwarded

from footfall_collector import metrics
from footfall_collector.throttled_warning import ThrottledWarning

PAUSE_S: Final = 1.0


class Resolver:
    """Calls identity. After a failure it leaves identity alone for a second, then lets one batch try."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._resolve_events = IdentityServiceStub(channel).ResolveEvents
        self._is_answering = True
        self._try_at = 0.0
        self._failed = ThrottledWarning("identity does not answer; it gets the events by the log")

    async def resolve(self, events: Iterable[Event], timeout_s: float) -> None:
        """Let identity know of those that change a timeline; when there are none it is not called.

        Never raises, and succeeds in nothing the log would not do later. Takes from these events what identity does not
        need.
        """
        identifying = [event for event in events if event.transition]
        if not identifying:
            return
        if not self._may_try(timeout_s):
            metrics.IDENTITY_CALLS_SKIPPED.inc()
            return
        for event in identifying:
            event.ClearField("data_json")
            event.ClearField("proven_json")
        request = identity.ResolveEventsRequest(events=identifying)
        try:
            await self._resolve_events(request, timeout=timeout_s, metadata=forwarded())
        except grpc.aio.AioRpcError as error:
            self._is_answering = False
            self._try_at = time.monotonic() + PAUSE_S
            metrics.IDENTITY_CALLS_FAILED.inc()
            self._failed.warn(code=error.code().name)
        else:
            self._is_answering = True
            metrics.IDENTITY_CALLS_ANSWERED.inc()

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
