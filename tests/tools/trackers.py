"""Visits as SDKs of other makers report them, with the events that they are: by tables of the tests' own."""

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlencode
from uuid import UUID, uuid4, uuid5

from tests.tools.reference import Sent

Kind = Literal["page", "custom", "identify", "sign out"]
KINDS: Final[tuple[Kind, ...]] = ("page", "custom", "identify", "sign out")
SITE: Final = "shop"
PEOPLE: Final = ("ann@shop.example", "o'neil/çelik #7 100%", "42")


class Step(NamedTuple):
    """Something that happens in a visit. `user`: whom the SDK knows by then."""

    kind: Kind
    at_ms: int
    user: str
    event_id: str
    page: str


class Visit(NamedTuple):
    """A visit. A page of a protocol without ids of pages is none of `page`."""

    device: str
    session: str
    steps: list[Step]


Message = dict[str, Any]
HttpRequest = tuple[str, str, bytes]
"""Method, path with query, and body."""


class Sdk(NamedTuple):
    """An SDK: what it sends of a step, how it sends messages, and the visit and the events that they are."""

    name: str
    message: Callable[[Visit, Step], Message]
    request: Callable[[list[Message], int], HttpRequest]
    names: dict[Kind, str]
    naming: frozenset[Kind]
    """The steps that say by the way who the visitor is."""
    has_sessions: bool = True

    def visit_id(self, visit: Visit) -> str:
        """The visit that Footfall makes of it."""
        day = datetime.fromtimestamp(visit.steps[0].at_ms / 1000, UTC).date().isoformat()
        return visit.session if self.has_sessions else str(uuid5(UUID(visit.device), day))

    def events(self, step: Step) -> list[Sent]:
        """The events that a step is."""
        name = self.names[step.kind]
        own = Sent(step.at_ms, step.event_id, name, "", {})
        if name == "UserInfo":
            own = own._replace(at_ms=step.at_ms - 1, user=step.user)
        if not (step.user and step.kind in self.naming):
            return [own]
        tracked = str(uuid5(UUID(step.event_id), "UserInfo"))
        return [Sent(step.at_ms - 1, tracked, "UserInfo", step.user, {}), own]


def random_visit(chance: random.Random, start_ms: int) -> Visit:
    """A visit of people who sign in and out as they like, within a minute of seconds."""
    steps: list[Step] = []
    at_ms, user, page = start_ms, "", ""
    for _ in range(chance.randint(2, 20)):
        at_ms += chance.choice([1_000, 2_000, 3_000])
        kind = chance.choice(KINDS)
        user = chance.choice(PEOPLE) if kind == "identify" else user
        page = uuid4().hex[:6] if kind == "page" or not page else page
        steps.append(Step(kind, at_ms, user, str(uuid4()), page))
        user = "" if kind == "sign out" else user
    return Visit(str(uuid4()), str(uuid4()), steps)


def iso(at_ms: int) -> str:
    """A time as browsers write it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _segment_message(visit: Visit, step: Step) -> Message:
    kind = {"page": "page", "identify": "identify"}.get(step.kind, "track")
    message = {
        "type": kind,
        "messageId": step.event_id,
        "anonymousId": visit.device,
        "userId": step.user or None,
        "timestamp": iso(step.at_ms),
        "context": {"page": {"url": "https://shop.example/loans"}, "sessionId": visit.session},
    }
    if kind == "track":
        message |= {"event": "Signed Out" if step.kind == "sign out" else "AddToCart", "properties": {"sku": "A-1"}}
    if kind == "identify":
        message["traits"] = {"email": "ann@shop.example"}
    return message


def _segment_request(messages: list[Message], sent_ms: int) -> HttpRequest:
    body = {"writeKey": SITE, "batch": messages, "sentAt": iso(sent_ms)}
    return "POST", "/v1/batch", json.dumps(body).encode()


def _posthog_message(visit: Visit, step: Step) -> Message:
    names = {"page": "$pageview", "identify": "$identify", "sign out": "logged_out", "custom": "AddToCart"}
    user = {"$user_id": step.user} if step.user else {}
    return {
        "event": names[step.kind],
        "uuid": step.event_id,
        "timestamp": iso(step.at_ms),
        "properties": {
            "distinct_id": step.user or visit.device,
            "$device_id": visit.device,
            "$session_id": visit.session,
            "$current_url": "https://shop.example/loans",
            "$pageview_id": step.page,
            "sku": "A-1",
            **user,
        },
    }


def _posthog_request(messages: list[Message], sent_ms: int) -> HttpRequest:
    return "POST", "/e/?ver=1", json.dumps({"api_key": SITE, "batch": messages, "sent_at": iso(sent_ms)}).encode()


def _snowplow_message(visit: Visit, step: Step) -> Message:
    message = {
        "e": "pv" if step.kind == "page" else "se",
        "eid": step.event_id,
        "duid": visit.device,
        "sid": visit.session,
        "aid": SITE,
        "dtm": str(step.at_ms),
        "url": "https://shop.example/loans",
    }
    if step.kind != "page":
        names = {"identify": "Welcome", "sign out": "log-out", "custom": "AddToCart"}
        message |= {"se_ca": "shop", "se_ac": names[step.kind]}
    return message | ({"uid": step.user} if step.user else {})


def _snowplow_request(messages: list[Message], sent_ms: int) -> HttpRequest:
    body = {
        "schema": "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4",
        "data": [message | {"stm": str(sent_ms)} for message in messages],
    }
    return "POST", "/com.snowplowanalytics.snowplow/tp2", json.dumps(body).encode()


def _matomo_message(visit: Visit, step: Step) -> Message:
    message = {
        "idsite": SITE,
        "rec": "1",
        "_id": visit.device,
        "cdt": str(step.at_ms // 1_000),
        "rand": step.event_id,
        "url": "https://shop.example/loans",
        "pv_id": step.page,
    }
    if step.kind != "page":
        names = {"identify": "Welcome", "sign out": "Logout", "custom": "AddToCart"}
        message |= {"e_c": "shop", "e_a": names[step.kind], "ca": "1"}
    return message | ({"uid": step.user} if step.user else {})


def _matomo_request(messages: list[Message], _sent_ms: int) -> HttpRequest:
    return "POST", "/matomo.php", json.dumps({"requests": ["?" + urlencode(message) for message in messages]}).encode()


_CUSTOM: Final[dict[Kind, str]] = {"page": "PageEntered", "custom": "AddToCart", "sign out": "SignOut"}
SEGMENT: Final = Sdk(
    "segment", _segment_message, _segment_request, {**_CUSTOM, "identify": "UserInfo"}, frozenset({"page"})
)
POSTHOG: Final = Sdk(
    "posthog", _posthog_message, _posthog_request, {**_CUSTOM, "identify": "UserInfo"}, frozenset({"page"})
)
SNOWPLOW: Final = Sdk(
    "snowplow",
    _snowplow_message,
    _snowplow_request,
    {**_CUSTOM, "identify": "Welcome"},
    frozenset({"page", "custom", "identify"}),
)
MATOMO: Final = Sdk(
    "matomo",
    _matomo_message,
    _matomo_request,
    {**_CUSTOM, "identify": "Welcome"},
    frozenset({"page", "custom", "identify"}),
    has_sessions=False,
)
SDKS: Final = (SEGMENT, POSTHOG, SNOWPLOW, MATOMO)
