"""Turns a few words into the batches a gateway sends to the collector: builders for tests."""

import json
import uuid
from typing import Any

from footfall.event.v1.event_pb2 import Event, EventBatch, EventContext

from tests.tools.visits import now_ms

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
)


def new_uuid() -> str:
    """A random id, dashed and in lower case."""
    return str(uuid.uuid4())


def message(name: str = "PageEntered", data: Any = None, **fields: Any) -> Event:
    """One event of a visit of its own, as it is on the wire; `data` is a JSON value or the bytes to send."""
    if data is not None:
        fields["data_json"] = data if isinstance(data, bytes) else json.dumps(data).encode()
    defaults = {"event_id": new_uuid(), "visit_id": new_uuid(), "timestamp_ms": now_ms()}
    return Event(**{"event_name": name, **defaults, **fields})


def context(**fields: Any) -> EventContext:
    """The context of a request that arrives now."""
    defaults: dict[str, Any] = {"received_time_ms": now_ms(), "user_agent": CHROME, "address": "203.0.113.77"}
    return EventContext(**defaults | fields)


def batch(*events: Event, contexts: list[EventContext] | None = None) -> EventBatch:
    """A batch of one request, unless `contexts` has others."""
    return EventBatch(contexts=contexts or [context()], events=events)
