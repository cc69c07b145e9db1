"""The OpenAPI description of the beacon endpoints, which are not in the table of operations."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from footfall_gateway.beacons.connection import MAX_PIXEL_QUERY
from footfall_gateway.beacons.endpoint import BeaconResponse
from footfall_gateway.beacons.envelope import BeaconEvent, Milliseconds
from footfall_gateway.http import ERROR_HEADERS, Schema, Unrouted, with_body


class BeaconEnvelope(msgspec.Struct, rename="camel"):
    """Several events of one page, with the sender's clock."""

    events: list[BeaconEvent]
    sent_at: Milliseconds | None = None
    site: str | None = None
    dropped: int | None = None
    """Events that the sender has dropped since the last beacon that was answered."""


def _paths(schema: Callable[[Any], Schema]) -> dict[str, Schema]:
    body = {"oneOf": [schema(found) for found in (BeaconEvent, list[BeaconEvent], BeaconEnvelope)]}
    refused = schema(BeaconResponse)
    descriptions = {
        200: "Some events are stored; `rejected` lists the others.",
        400: "No event is stored. Do not send the beacon again.",
        408: "The body took too long to arrive.",
        413: "The beacon has more than 1 MiB or 1,000 events.",
        415: "Content-Type is neither application/json nor text/plain.",
        429: "Too many events from this address or for this site. Wait for Retry-After.",
        503: "It is not known whether events are stored. Send the beacon again; that is safe.",
    }
    answers = {
        str(status): with_body("application/json", refused, text) | ERROR_HEADERS.get(status, {})
        for status, text in descriptions.items()
    }
    picture = with_body(
        "application/json", refused, "Every event is stored, or some are and `rejected` lists the others."
    )
    picture["content"]["image/gif"] = {}
    return {
        "/beacon": {
            "post": {
                "operationId": "postBeacon",
                "tags": ["Beacons"],
                "summary": "Send events of a page",
                "security": [],
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": body}, "text/plain": {"schema": {"type": "string"}}},
                },
                "responses": {"204": {"description": "Every event is on disk."}, **answers},
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
                        "description": f"The body of a beacon in base64url. The whole query has at most "
                        f"{MAX_PIXEL_QUERY} bytes.",
                        "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]+=*$"},
                    }
                ],
                "responses": {
                    **answers,
                    "200": picture,
                    "414": with_body("application/json", refused, "The query is too long."),
                },
            }
        },
    }


BEACON_DESCRIPTION: Final = Unrouted([BeaconEvent, BeaconEnvelope, BeaconResponse, list[BeaconEvent]], _paths)
