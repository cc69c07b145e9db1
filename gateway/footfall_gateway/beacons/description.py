"""The OpenAPI description of the beacon endpoints, which are not in the table of operations."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import msgspec
from footfall_eventlog.events import MAX_EVENTS
from msgspec import Meta

from footfall_gateway.beacons.connection import MAX_PIXEL_QUERY
from footfall_gateway.beacons.endpoint import BeaconResponse
from footfall_gateway.beacons.envelope import (
    BeaconEvent,
    EventName,
    Milliseconds,
    SentEventId,
    SentSite,
    SentVisitId,
    Timestamp,
)
from footfall_gateway.http import CONNECTION_ERRORS, ERROR_HEADERS, Schema, Unrouted, with_body


class SentEvent(BeaconEvent, kw_only=True):
    """An event of a page. `null` means not given; other keys are ignored. At most 64 KiB."""

    event_name: EventName = msgspec.field(name="eventName")
    event_id: SentEventId = msgspec.field(name="eventID")
    visit_id: SentVisitId = msgspec.field(name="visitID")
    timestamp: Timestamp


class NewEvent(BeaconEvent, kw_only=True):
    """An event to create. `null` means not given; other keys are ignored. At most 64 KiB."""

    event_name: EventName = msgspec.field(name="eventName")
    event_id: Annotated[SentEventId, Meta(description="The event. Not given: a new id.")] | None = msgspec.field(
        name="eventID", default=None
    )
    visit_id: Annotated[str, Meta(description="Ignored: the visit is that of the path.")] | None = msgspec.field(
        name="visitID", default=None
    )
    timestamp: Annotated[Timestamp, Meta(description="When the event happened (ms). Not given: now.")] | None = None
    site: (
        Annotated[SentSite, Meta(description="The website. Not given: that of the key, or else `default`.")] | None
    ) = None


class BeaconEnvelope(msgspec.Struct, rename="camel"):
    """Several events of one page, with the sender's clock."""

    events: Annotated[list[SentEvent], Meta(description="The events.", min_length=1, max_length=MAX_EVENTS)]
    sent_at: (
        Annotated[
            Milliseconds,
            Meta(description="The sender's clock at the time of sending (ms). It corrects a clock that is wrong."),
        ]
        | None
    ) = None
    site: Annotated[SentSite, Meta(description="The website of the events that name none.")] | None = None
    dropped: Annotated[
        Any,
        Meta(
            description="The number of events that the sender has lost since its last answered beacon. Anything but an "
            "integer counts as 0."
        ),
    ] = None


_BODIES: Final = (
    SentEvent,
    Annotated[list[SentEvent], Meta(min_length=1, max_length=MAX_EVENTS)],
    BeaconEnvelope,
)
_EXAMPLE: Final = {
    "eventName": "SignIn",
    "eventID": "0b1d6f2a-6f0d-4b53-9d2c-2f9f0c3a7e11",
    "visitID": "5c571c1e-8a44-4f4e-9a3e-0d1f6f2a7b22",
    "timestamp": 1767606012466,
    "url": "https://shop.example/account",
    "data": {"userID": "dana@example.com", "firstName": "Dana", "lastName": "Oak"},
}
_ERRORS: Final = {
    400: "No event is stored, and sending the same again does not help.",
    413: "The beacon has more than 1 MiB or 1,000 events. Send it in parts. Or it is packed too tightly.",
    429: "Too many events or bytes from this address or for this site. Wait for `Retry-After`.",
    500: "Footfall has a fault.",
    503: "It is not known whether events are stored. Send the beacon again after `Retry-After`; that is safe.",
}
_POST_ERRORS: Final = {
    408: "The body took too long to arrive. Send the beacon again.",
    415: "The Content-Type is neither application/json nor text/plain, or the Content-Encoding is not gzip.",
}


def _paths(schema: Callable[[Any], Schema]) -> dict[str, Schema]:
    body = {"anyOf": [schema(found) for found in _BODIES]}
    outcome = schema(BeaconResponse)

    def answers(errors: Mapping[int, str]) -> dict[str, Schema]:
        described = {200: "Some events are stored; `rejected` lists the others.", **errors}
        return {
            str(status): with_body("application/json", outcome, text) | ERROR_HEADERS.get(status, {})
            for status, text in described.items()
        } | CONNECTION_ERRORS

    picture = answers(_ERRORS) | {
        "200": with_body("application/json", outcome, "Every event is stored or left out, as in 204 of `POST /beacon`: "
        "a picture. Or some events are stored, and `rejected` lists the others."),
        "414": with_body("application/json", outcome, f"The query has more than {MAX_PIXEL_QUERY} bytes. Use POST."),
    }  # fmt: skip
    picture["200"]["content"]["image/gif"] = {}
    return {
        "/beacon": {
            "post": {
                "operationId": "postBeacon",
                "tags": ["Beacons"],
                "summary": "Send events of a page",
                "security": [],
                "requestBody": {
                    "required": True,
                    "description": "One event, an array of events, or an envelope.",
                    "content": {
                        "application/json": {"schema": body, "example": _EXAMPLE},
                        "text/plain": {"schema": {"type": "string", "description": "The same JSON."}},
                    },
                },
                "responses": {
                    "204": {
                        "description": "Every event is on disk, or left out because its site honours the `Sec-GPC: 1` "
                        "of the request."
                    },
                    **answers(_ERRORS | _POST_ERRORS),
                },
            }
        },
        "/beacon.gif": {
            "get": {
                "operationId": "getPixel",
                "tags": ["Beacons"],
                "summary": "Send events by an image, for pages that cannot send a POST",
                "security": [],
                "parameters": [
                    {
                        "name": "e",
                        "in": "query",
                        "required": True,
                        "description": "The body of a beacon in base64url. The whole query has at most "
                        f"{MAX_PIXEL_QUERY} bytes.",
                        "schema": {
                            "type": "string",
                            "pattern": "^[A-Za-z0-9_-]+=*$",
                            "maxLength": MAX_PIXEL_QUERY - len("e="),
                        },
                    }
                ],
                "responses": picture,
            }
        },
    }


BEACON_DESCRIPTION: Final = Unrouted(_BODIES, [BeaconResponse], _paths)
