"""The beacon in the API description: it is in no table of operations."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from footfall_gateway.beacons.connection import MAX_PIXEL_QUERY
from footfall_gateway.beacons.endpoint import BeaconAnswer
from footfall_gateway.beacons.envelope import BeaconEvent, Milliseconds
from footfall_gateway.http import ERROR_HEADERS, Schema, Unrouted, with_body


class BeaconEnvelope(msgspec.Struct, rename="camel"):
    """Several events of one page, with the clock of their sender."""

    events: list[BeaconEvent]
    sent_at: Milliseconds | None = None
    site: str | None = None
    dropped: int | None = None
    """Events that were lost before they could be sent, since the last beacon that was answered."""


def _paths(schema: Callable[[Any], Schema]) -> dict[str, Schema]:
    body = {"oneOf": [schema(found) for found in (BeaconEvent, list[BeaconEvent], BeaconEnvelope)]}
    refused = schema(BeaconAnswer)
    told = {
        200: "Only some events are stored; the others are named.",
        400: "No event is stored, and sending the same again will not help.",
        408: "The body took too long to arrive.",
        413: "More than 1 MiB or 1,000 events.",
        415: "Neither application/json nor text/plain.",
        429: "Too many events from this address.",
        503: "Nothing is known to be stored. Sending the same again is safe.",
    }
    answers = {
        str(status): with_body("application/json", refused, text) | ERROR_HEADERS.get(status, {})
        for status, text in told.items()
    }
    picture = with_body(
        "application/json", refused, "Every event is stored, or only some are and the others are named."
    )
    picture["content"]["image/gif"] = {}
    return {
        "/beacon": {
            "post": {
                "operationId": "postBeacon",
                "tags": ["Beacons"],
                "summary": "Send events of a page; 204 once all of them are on disk",
                "security": [],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": body}, "text/plain": {"schema": {"type": "string"}}},
                },
                "responses": {"204": {"description": "Every event is stored."}, **answers},
            }
        },
        "/beacon.gif": {
            "get": {
                "operationId": "getPixel",
                "tags": ["Beacons"],
                "summary": "Send events by a picture, for pages that allow nothing else",
                "security": [],
                "parameters": [
                    {
                        "name": "e",
                        "in": "query",
                        "required": True,
                        "description": f"What would be the body of a beacon, in base64url; with the rest of the query "
                        f"at most {MAX_PIXEL_QUERY} bytes.",
                        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]+=*$"},
                    }
                ],
                "responses": {
                    **answers,
                    "200": picture,
                    "414": with_body("application/json", refused, "A longer query."),
                },
            }
        },
    }


BEACON_DESCRIPTION: Final = Unrouted([BeaconEvent, BeaconEnvelope, BeaconAnswer, list[BeaconEvent]], _paths)
