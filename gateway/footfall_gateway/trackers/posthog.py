"""PostHog: the requests of posthog-js and of the libraries for servers.

https://posthog.com/docs/api/capture
"""

import base64
import binascii
import re
from typing import Final

import msgspec
from footfall_eventlog.events import PAGE_ENTERED, PAGE_EXITED, USER_INFO

from footfall_gateway.beacons import BeaconError, Envelope, array_items
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
    text_of,
)

PATHS: Final = dict.fromkeys(("/e", "/i/v0/e", "/batch", "/capture"), "")

_NAMES: Final = {
    "$pageview": PAGE_ENTERED,
    "$screen": PAGE_ENTERED,
    "$pageleave": PAGE_EXITED,
    "$identify": USER_INFO,
    "$set": USER_INFO,
}
"""The events of PostHog that are events of Footfall. All others that begin with `$` are ignored."""
_OWN: Final = {"token", "distinct_id"}
"""Properties of PostHog itself, beside those that begin with `$`."""


_FLAGS: Final = b'{"featureFlags":{},"featureFlagPayloads":{},"errorsWhileComputingFlags":false}'
_CONFIG: Final = b'{"supportedCompression":["gzip","gzip-js"],"hasFeatureFlags":false}'
_CONFIG_PATH: Final = re.compile("/array/[^/]{1,64}/config")


class _Event(msgspec.Struct):
    event: str | None = None
    distinct_id: SentId = None
    uuid: str | None = None
    timestamp: SentTime = None
    properties: SentData | None = None
    set: SentData | None = msgspec.field(name="$set", default=None)
    set_once: SentData | None = msgspec.field(name="$set_once", default=None)


class _Body(msgspec.Struct):
    api_key: str | None = None
    token: str | None = None
    sent_at: SentTime = None
    event: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    batch: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_event = msgspec.json.Decoder(_Event).decode
_decode_map = msgspec.json.Decoder(SentData).decode


def translate(request: Request, body: bytes) -> Envelope:
    """The envelope of a request. Raises BeaconError."""
    body = _plain(body)
    if body.lstrip().startswith(b"["):
        head, items = _Body(), decode_json(body, array_items)
    else:
        head = decode_json(body, _decode_body)
        is_batch = bytes(head.batch) not in {b"", b"null"}
        items = decode_json(bytes(head.batch), array_items) if is_batch else [msgspec.Raw(body)]
    translation = Translation("$device_id, distinct_id")

    def track(event: _Event, text: bytes) -> Tracked | None:
        return _tracked(event, text, request.received_ms)

    translation.add_all(items, _decode_event, track)
    sent = head.sent_at or form_fields(request.query).get("_")
    return translation.envelope(sent, head.api_key or head.token)


def _plain(body: bytes) -> bytes:
    """The JSON of a body that may be a form or base64. Raises BeaconError."""
    text = body.strip()
    if text.startswith((b"{", b"[")):
        return text
    if (data := form_fields(text).get("data")) is not None:
        text = data.encode().strip()
    if text.startswith((b"{", b"[")):
        return text
    try:
        return base64.b64decode(text.replace(b" ", b"+"), validate=True)  # a plus that was not escaped
    except binascii.Error:
        raise BeaconError("the body is not JSON") from None


def _tracked(event: _Event, text: bytes, received_ms: int) -> Tracked | None:
    properties = event.properties or {}
    sent_name = event.event or ""
    name = _NAMES.get(sent_name, sent_name)
    if name.startswith("$"):
        return None
    distinct_id = id_text(event.distinct_id) or text_of(properties.get("distinct_id"))
    user = distinct_id if sent_name == "$identify" else text_of(properties.get("$user_id"))
    data: Data = {key: value for key, value in properties.items() if not key.startswith("$") and key not in _OWN}
    if name == USER_INFO:
        if not user:
            return None
        data = _set(event.set_once, properties.get("$set_once")) | _set(event.set, properties.get("$set"))
    elif name == PAGE_ENTERED:
        referrer = text_of(properties.get("$referrer"))
        data = {**given(referrer="" if referrer == "$direct" else referrer), **data}
    elif name == PAGE_EXITED and (duration := properties.get("$prev_pageview_duration")):
        data = {"duration": duration, **data}
    seconds = properties.get("$time")
    at_ms = milliseconds(event.timestamp) or (seconds and _milliseconds(seconds)) or received_ms
    return Tracked(
        name,
        event.uuid or text_of(properties.get("$insert_id")) or text.decode(),
        text_of(properties.get("$device_id")) or distinct_id,
        at_ms,
        site=text_of(properties.get("token")),
        session=text_of(properties.get("$session_id")),
        user=user,
        names_user=name == PAGE_ENTERED,
        url=text_of(properties.get("$current_url")) or None,
        page=text_of(properties.get("$pageview_id")) or None,
        language=text_of(properties.get("$browser_language")) or None,
        data=data,
    )


def _set(*sources: SentData | msgspec.Raw | None) -> SentData:
    """The properties of a person, from both places where they can be; without those of PostHog itself."""
    found: SentData = {}
    for source in sources:
        try:
            found |= (_decode_map(source) if isinstance(source, msgspec.Raw) else source) or {}
        except msgspec.ValidationError:
            continue
    return {key: value for key, value in found.items() if not key.startswith("$")}


def _milliseconds(seconds: msgspec.Raw) -> int | None:
    try:
        return milliseconds(msgspec.json.decode(seconds, type=float) * 1000)
    except msgspec.ValidationError:
        return None


def settings(path: str) -> bytes | None:
    """The settings that posthog-js loads from this path before it sends: nothing but events is wanted."""
    if path in {"/flags", "/decide"}:
        return _FLAGS
    return _CONFIG if _CONFIG_PATH.fullmatch(path) else None
