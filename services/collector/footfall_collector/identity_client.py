"""Client of the identity service: sends it stored events that identify, so that live state is current immediately.

It is an optimisation: identity reads the same events from the log.
"""

import time
from collections.abc import Iterable
from typing import Final

import grpc
from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1 import identity_service_pb2 as identity
from footfall.identity.v1.identity_service_pb2_grpc import IdentityServiceStub
from footfall_servicekit.channel import forwarded
from grpc import StatusCode

from footfall_collector import metrics
from footfall_collector.throttled_log import ThrottledLog

PAUSE_AFTER_FAILURE_S: Final = 1.0
_TRANSIENT_CODES: Final = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.RESOURCE_EXHAUSTED)


class IdentityClient:
    """Calls ResolveEvents. While identity is unavailable, it skips calls and tries once a second."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._resolve_events = IdentityServiceStub(channel).ResolveEvents
        self._is_available = True
        self._try_at = 0.0
        self._failed = ThrottledLog("ResolveEvents failed; identity will read these events from the log")

    async def resolve_events(self, events: Iterable[Event], timeout_s: float) -> None:
        """Send the events with a transition to identity within `timeout_s`; make no call when there are none.

        Never raises for a failed call. Removes from these events the data that ResolveEvents does not need.
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
            self._is_available = error.code() not in _TRANSIENT_CODES
            self._try_at = time.monotonic() + PAUSE_AFTER_FAILURE_S
            metrics.IDENTITY_CALLS_FAILED.inc()
            self._failed.warn(code=error.code().name)
        else:
            self._is_available = True
            metrics.IDENTITY_CALLS_ANSWERED.inc()

    def _may_try(self, timeout_s: float) -> bool:
        if timeout_s <= 0:
            return False
        if self._is_available:
            return True
        now = time.monotonic()
        if now < self._try_at:
            return False
        self._try_at = now + timeout_s  # this call tries; others are skipped until it has ended
        return True
