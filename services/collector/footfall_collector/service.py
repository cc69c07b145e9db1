"""Turns Collect calls into batches for the pipeline, and what goes wrong with them into statuses."""

from functools import partial
from typing import Any, Final

from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.collector.v1.collector_service_pb2_grpc import CollectorServiceServicer
from footfall.event.v1.event_pb2 import EventBatch
from footfall_eventlog.events import MAX_BATCH_BYTES, MAX_EVENT_TIME_MS, MAX_EVENTS
from footfall_servicekit.channel import remaining
from footfall_servicekit.errors import RequestError
from grpc.aio import ServicerContext

from footfall_collector.event_log import LogFullError, LogUnavailableError
from footfall_collector.pipeline import Pipeline

# Between 2001 and 2286 every time an event can get has 13 digits, as order keys demand.
_EARLIEST_RECEIVED_MS: Final = 10**12
_LATEST_RECEIVED_MS: Final = MAX_EVENT_TIME_MS - 86_400_000

_ANSWER_TRAVELS_S: Final = 0.25  # kept of the caller's deadline: a stored batch that is answered late is sent again
_RETRY_FULL_MS: Final = 5_000
_RETRY_UNAVAILABLE_MS: Final = 1_000


class CollectorService(CollectorServiceServicer):
    """The contract in collector_service.proto."""

    def __init__(self, pipeline: Pipeline, identity_timeout_s: float) -> None:
        self._pipeline = pipeline
        self._identity_timeout_s = identity_timeout_s

    async def Collect(  # noqa: N802
        self, request: collector.CollectRequest, context: ServicerContext[Any, Any]
    ) -> collector.CollectResponse:
        """Store a batch of events."""
        batch = request.batch
        check(batch)
        try:
            resolve_timeout_s = partial(remaining, context, self._identity_timeout_s, _ANSWER_TRAVELS_S)
            return await self._pipeline.collect(batch, resolve_timeout_s)
        except LogFullError:
            raise RequestError.exhausted("the event log has reached its bound", _RETRY_FULL_MS, "LOG_FULL") from None
        except LogUnavailableError:
            message = "the event log does not confirm that it has stored the batch"
            raise RequestError.unavailable(message, _RETRY_UNAVAILABLE_MS, "LOG_UNAVAILABLE") from None


def check(batch: EventBatch) -> None:
    """Raise RequestError for what is wrong with a batch as a whole: its sender's mistake, not a browser's."""
    count = len(batch.events)
    if not 1 <= count <= MAX_EVENTS:
        raise RequestError.invalid("batch.events", f"must be 1 to {MAX_EVENTS} events")
    if batch.ByteSize() > MAX_BATCH_BYTES and sum(event.ByteSize() for event in batch.events) > MAX_BATCH_BYTES:
        raise RequestError.invalid("batch.events", f"must have at most {MAX_BATCH_BYTES} bytes in all")
    if batch.HasField("erasure"):
        raise RequestError.invalid("batch.erasure", "must be empty: it has its place in the log only")
    contexts = len(batch.contexts)
    if any(event.context_index >= contexts for event in batch.events):
        raise RequestError.invalid("batch.events.context_index", "must be a position in batch.contexts")
    for context in batch.contexts:
        received_ms = context.received_time_ms
        if received_ms and not _EARLIEST_RECEIVED_MS <= received_ms <= _LATEST_RECEIVED_MS:
            rule = "must be 0 or milliseconds since the epoch, from 2001 to 2286"
            raise RequestError.invalid("batch.contexts.received_time_ms", rule)
