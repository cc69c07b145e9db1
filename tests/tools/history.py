"""Turns events in the envelope of a page into entries of the log, as admission writes them without a sign-in key."""

import json
from collections.abc import Iterable
from typing import Any

from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall_eventlog.events import SYSTEM_EVENTS
from footfall_timeline import normalize_uuid, page_id, user_agent_id
from redis.asyncio import Redis

from tests.tools.batches import CHROME, batch, context
from tests.tools.visits import KINDS, event, now_ms
from tests.tools.visits import Event as Envelope


def logged(envelope: Envelope, **more: Any) -> Event:
    """One admitted event; `more` replaces fields of the message."""
    name, visit_id = envelope["eventName"], normalize_uuid(envelope["visitID"])
    user = envelope["data"].get("userID", "") if name in {"SignIn", "UserInfo"} else ""
    fields = {
        "event_id": normalize_uuid(envelope["eventID"]),
        "event_name": name,
        "event_type": event_pb2.EVENT_TYPE_SYSTEM if name in SYSTEM_EVENTS else event_pb2.EVENT_TYPE_BUSINESS,
        "visit_id": visit_id,
        "global_visit_id": envelope.get("globalVisitID", ""),
        "browser_page_id": envelope["pageID"],
        "category": envelope["category"],
        "url": envelope["url"],
        "language_code": envelope["languageCode"],
        "timestamp_ms": envelope["timestamp"],
        "data_json": json.dumps(envelope["data"]).encode(),
        "site": envelope.get("site", "default"),
        "event_time_ms": envelope["timestamp"],
        "page_id": page_id(visit_id, envelope["pageID"]),
        "user_agent_id": user_agent_id(visit_id, CHROME),
        "transition": KINDS.get(name, 0),
        "identity_id": user,
        "assurance": event_pb2.ASSURANCE_CLAIMED if user else event_pb2.ASSURANCE_UNSPECIFIED,
        "assurance_reason": "no_key" if user else "",
        "staff_reason": envelope.get("staffReason", 0),
    }
    return Event(**fields | more)


def entry(envelopes: Iterable[Envelope], **about_request: Any) -> EventBatch:
    """One entry of the log with these events, which came with one request."""
    return batch(*map(logged, envelopes), contexts=[context(**about_request)])


async def append_unfit(redis_url: str, visit_id: str) -> str:
    """Append an event that history cannot read, as a later version might write it; the id of its dead letter."""
    unfit = logged(event("PageEntered", visit_id, now_ms(), site="shop"), transition=9)
    async with Redis.from_url(redis_url) as redis:
        await redis.xadd("log:{p00}", {"b": batch(unfit).SerializeToString()})
    return f"{unfit.visit_id}/{unfit.event_id}"
