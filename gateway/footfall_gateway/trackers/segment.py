"""Segment and RudderStack: their HTTP tracking API, which both SDKs speak.

https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/
"""

import base64
import binascii
import re
from typing import Final

import msgspec
from footfall_eventlog.events import PAGE_ENTERED, USER_INFO

from footfall_gateway.beacons import Envelope, Headers, array_items
from footfall_gateway.trackers.translation import (
    Data,
    Request,
    SentData,
    SentId,
    SentTime,
    Tracked,
    Translation,
    decode_json,
    form_fields,
    given,
    id_text,
    milliseconds,
    of_user,
    text_of,
)

_BATCH: Final = ""
_TYPES: Final = ("track", "page", "screen", "identify", "group", "alias")
PATHS: Final = {
    **{f"/v1/{name}": kind for kind in _TYPES for name in (kind, kind[0])},
    **dict.fromkeys(("/v1/batch", "/v1/b", "/v1/import", "/beacon/v1/batch"), _BATCH),
}
"""The type of the message, or that the body has a batch of them."""


_NO_REFERRER: Final = b'"$direct"'
"""What RudderStack says of a page without a referrer."""
_PROJECT: Final = re.compile("/v1/projects/([A-Za-z0-9._-]{1,64})/settings")
_SOURCE: Final = {
    "source": {
        "id": "footfall",
        "name": "footfall",
        "writeKey": "",
        "enabled": True,
        "workspaceId": "footfall",
        "config": {"statsCollection": {"errors": {"enabled": False}, "metrics": {"enabled": False}}},
        "destinations": [],
    },
    "updatedAt": "2026-01-01T00:00:00.000Z",
}
"""The settings of a source, as the SDK of RudderStack loads them: nothing but events is wanted."""


class _Page(msgspec.Struct, gc=False):
    url: str | None = None


class _Context(msgspec.Struct, rename="camel"):
    page: _Page | None = None
    traits: SentData | None = None
    session_id: SentId = None
    """Of RudderStack."""
    locale: str | None = None


class _Message(msgspec.Struct, rename="camel"):
    type: str | None = None
    event: str | None = None
    name: str | None = None
    category: str | None = None
    anonymous_id: SentId = None
    user_id: SentId = None
    group_id: SentId = None
    message_id: str | None = None
    original_timestamp: SentTime = None
    timestamp: SentTime = None
    properties: SentData | None = None
    traits: SentData | None = None
    context: _Context | None = None


class _Body(msgspec.Struct, rename="camel"):
    write_key: str | None = None
    sent_at: SentTime = None
    batch: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_message = msgspec.json.Decoder(_Message).decode


def translate(request: Request, body: bytes) -> Envelope:
    """The envelope of a request. Raises BeaconError."""
    head = decode_json(body, _decode_body)
    translation = Translation("anonymousId, userId")

    def track(message: _Message, text: bytes) -> Tracked | None:
        return _tracked(message, text, request)

    items = [body] if request.kind else decode_json(bytes(head.batch) or b"[]", array_items)
    translation.add_all(items, _decode_message, track)
    site = head.write_key or _user(request.headers) or form_fields(request.query).get("writeKey")
    return translation.envelope(head.sent_at, site)


def _tracked(message: _Message, text: bytes, request: Request) -> Tracked | None:
    kind = request.kind or message.type or ""
    context = message.context or _Context()
    properties = message.properties or {}
    user = id_text(message.user_id)
    data: Data
    if kind == "track":
        name, data = message.event or "", properties
    elif kind in {"page", "screen"}:
        kept = {key: value for key, value in properties.items() if bytes(value) != _NO_REFERRER}
        name, data = PAGE_ENTERED, {**given(name=message.name, category=message.category), **kept}
    elif kind == "identify":  # traits without a user identify no person
        name, data = USER_INFO if user else "Identify", message.traits or context.traits or {}
    elif kind == "group":
        name, data = "Group", {**given(groupId=id_text(message.group_id)), **(message.traits or {})}
    else:
        return None
    at_ms = milliseconds(message.original_timestamp) or milliseconds(message.timestamp) or request.received_ms
    return Tracked(
        name,
        message.message_id or text.decode(),
        id_text(message.anonymous_id) or of_user(user),
        at_ms,
        session=id_text(context.session_id),
        user=user,
        names_user=name == PAGE_ENTERED,
        url=(kind == "page" and text_of(properties.get("url"))) or (context.page and context.page.url) or None,
        language=context.locale,
        data=data,
    )


def _user(headers: Headers) -> str:
    """The user of HTTP Basic, which is the write key; empty when there is none."""
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"basic":
        return ""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[0].decode("latin-1")
    except binascii.Error:
        return ""


def settings(path: str) -> bytes | None:
    """The settings that an SDK loads from this path before it sends. None: it loads none."""
    if path == "/sourceConfig":
        return msgspec.json.encode(_SOURCE)
    if project := _PROJECT.fullmatch(path):
        return msgspec.json.encode({"integrations": {"Segment.io": {"apiKey": project[1]}}})
    return None
