"""The gRPC service CollectorService: checks a batch, stores it, and maps errors to gRPC statuses."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import grpc
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceServicer
from footfall.event.v1.event_pb2 import EventBatch
from footfall_eventlog.events import MAX_BATCH_BYTES, MAX_EVENT_TIME_MS, MAX_EVENTS
from footfall_servicekit.channel import remaining
from footfall_servicekit.errors import RequestError
from grpc.aio import ServicerContext

from footfall_collector.admission import DAY_MS
from footfall_collector.event_log import LogFullError, LogRejectedError, LogUnavailableError
from footfall_collector.interactions import InteractionRecorder
from footfall_collector.pipeline import Pipeline

# Order keys need event times of exactly 13 digits; receive times from 2001 to 2286 guarantee that.
_EARLIEST_RECEIVED_MS: Final = 10**12
_LATEST_RECEIVED_MS: Final = MAX_EVENT_TIME_MS - DAY_MS

# Part of the caller's deadline reserved for the response: a batch that is stored but answered late is sent again.
_RESPONSE_MARGIN_S: Final = 0.25
_RETRY_FULL_MS: Final = 5_000
_RETRY_UNAVAILABLE_MS: Final = 1_000


class CollectorService(CollectorServiceServicer):
    """Implements collector_service.proto."""

    def __init__(self, pipeline: Pipeline, interactions: InteractionRecorder, identity_timeout_s: float) -> None:
        self._pipeline = pipeline
        self._interactions = interactions
        self._identity_timeout_s = identity_timeout_s

    async def Collect(  # noqa: N802
        self, request: collector.CollectRequest, context: ServicerContext[Any, Any]
    ) -> collector.CollectResponse:
        """Store a batch of events. Events may be stored in part; the outcomes say which."""
        batch = request.batch
        check_batch(batch)
        with _log_errors("batch"):
            resolve_timeout_s = partial(remaining, context, self._identity_timeout_s, _RESPONSE_MARGIN_S)
            return await self._pipeline.collect(batch, resolve_timeout_s)

    async def RecordInteraction(  # noqa: N802
        self, request: collector.RecordInteractionRequest, _context: ServicerContext[Any, Any]
    ) -> collector.RecordInteractionResponse:
        """Store an update of an interaction."""
        with _log_errors("interaction"):
            stored = await self._interactions.record(request)
        for field in ("browser_visit_id", "scope"):
            stored.ClearField(field)
        return collector.RecordInteractionResponse(interaction=stored)


@contextmanager
def _log_errors(what: str) -> Iterator[None]:
    """Raise errors of the event log as RequestError."""
    try:
        yield
    except LogFullError:
        message = f"the event log is full; send the {what} again later"
        raise RequestError.exhausted(message, _RETRY_FULL_MS, "LOG_FULL") from None
    except LogUnavailableError:
        message = f"the event log did not confirm that it has stored the {what}; send it again"
        raise RequestError.unavailable(message, _RETRY_UNAVAILABLE_MS, "LOG_UNAVAILABLE") from None
    except LogRejectedError:
        message = f"the event log rejects the {what}; an operator must repair it (see the collector's log)"
        raise RequestError(grpc.StatusCode.INTERNAL, "INTERNAL", message) from None


def check_batch(batch: EventBatch) -> None:
    """Raise RequestError (INVALID_ARGUMENT) for a batch that its sender, a gateway, has built wrongly."""
    count = len(batch.events)
    if not 1 <= count <= MAX_EVENTS:
        raise RequestError.invalid("batch.events", f"must be 1 to {MAX_EVENTS} events")
    if batch.ByteSize() > MAX_BATCH_BYTES and sum(event.ByteSize() for event in batch.events) > MAX_BATCH_BYTES:
        raise RequestError.invalid("batch.events", f"must have at most {MAX_BATCH_BYTES} bytes in total")
    if batch.HasField("erasure"):
        raise RequestError.invalid("batch.erasure", "must be empty: erasures come from identity, through the log")
    if batch.HasField("interaction"):
        raise RequestError.invalid("batch.interaction", "must be empty: RecordInteraction takes interactions")
    for context in batch.contexts:
        received_ms = context.received_time_ms
        if received_ms and not _EARLIEST_RECEIVED_MS <= received_ms <= _LATEST_RECEIVED_MS:
            rule = "must be 0 or milliseconds since the epoch, from 2001 to 2286"
            raise RequestError.invalid("batch.contexts.received_time_ms", rule)
