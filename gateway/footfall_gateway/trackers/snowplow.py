"""Snowplow: its tracker protocol, as POST of self-describing JSON and as GET.

https://docs.snowplow.io/docs/fundamentals/canonical-event/
"""

import base64
from typing import Final

import msgspec
from footfall_eventlog.events import HEARTBEAT, PAGE_ENTERED

from footfall_gateway.beacons import BeaconError, Envelope, array_items
from footfall_gateway.trackers.translation import (
    Data,
    Request,
    SentData,
    SentTime,
    Tracked,
    Translation,
    decode_json,
    form_fields,
    given,
    milliseconds,
    of_user,
    text_of,
)

_POST: Final = "post"
_GET: Final = "get"
PATHS: Final = {"/com.snowplowanalytics.snowplow/tp2": _POST, "/i": _GET}

_STRUCTURED: Final = "se"
_SELF_DESCRIBING: Final = "ue"
_PING: Final = "pp"
_NAMES: Final = {"pv": PAGE_ENTERED, _PING: HEARTBEAT, "tr": "Transaction", "ti": "TransactionItem"}
"""The event by the value of `e`. A structured and a self-describing event have names of their own."""
_FIELDS: Final = {
    "pv": {"page": "title", "refr": "referrer"},
    _STRUCTURED: {"se_ca": "category", "se_la": "label", "se_pr": "property", "se_va": "value"},
    "tr": {
        "tr_id": "orderId",
        "tr_af": "affiliation",
        "tr_tt": "total",
        "tr_tx": "tax",
        "tr_sh": "shipping",
        "tr_cu": "currency",
    },
    "ti": {
        "ti_id": "orderId",
        "ti_sk": "sku",
        "ti_nm": "name",
        "ti_ca": "category",
        "ti_pr": "price",
        "ti_qu": "quantity",
        "ti_cu": "currency",
    },
}
"""Which parameters become `data` of an event, under which names."""


class _Body(msgspec.Struct):
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


class _SelfDescribing(msgspec.Struct):
    schema: str = ""
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


Parameters = dict[str, str]

_decode_body = msgspec.json.Decoder(_Body).decode
_decode_parameters = msgspec.json.Decoder(dict[str, str | int | float | None]).decode
_decode_one = msgspec.json.Decoder(_SelfDescribing).decode
_decode_many = msgspec.json.Decoder(list[_SelfDescribing]).decode
_decode_data = msgspec.json.Decoder(SentData).decode


def translate(request: Request, body: bytes) -> Envelope:
    """The envelope of a request. Raises BeaconError."""
    translation = Translation("duid, uid")
    sent: list[SentTime] = [None]

    def track(values: dict[str, str | int | float | None], _: bytes) -> Tracked | None:
        parameters = {key: str(value) for key, value in values.items() if value is not None}
        sent.append(parameters.pop("stm", None))  # of the request, so it differs when the event is sent again
        return _tracked(parameters, request.received_ms)

    if request.kind == _GET:
        items = [msgspec.Raw(msgspec.json.encode(form_fields(body)))]
    else:
        items = decode_json(bytes(decode_json(body, _decode_body).data) or b"[]", array_items)
    translation.add_all(items, _decode_parameters, track)
    return translation.envelope(sent[-1])


def _tracked(parameters: Parameters, received_ms: int) -> Tracked | None:
    get = parameters.get
    kind = get("e", "")
    data: Data = given(**{name: get(key) for key, name in _FIELDS.get(kind, {}).items()})
    if kind == _STRUCTURED:
        name = get("se_ac", "")
    elif kind == _SELF_DESCRIBING:
        name, data = _self_described(parameters)
    elif kind in _NAMES:
        name = _NAMES[kind]
    else:
        return None
    return Tracked(
        name,
        get("eid") or repr(sorted(parameters.items())),
        get("duid") or of_user(get("uid")),
        milliseconds(get("ttm")) or milliseconds(get("dtm")) or received_ms,
        site=get("aid"),
        session=get("sid", ""),
        user=get("uid", ""),
        names_user=kind != _PING,
        url=get("url"),
        page=_page_view(parameters),
        language=get("lang"),
        data=data,
    )


def _self_described(parameters: Parameters) -> tuple[str, Data]:
    """The name and the data of a self-describing event. Raises BeaconError."""
    envelope = decode_json(_json_of(parameters, "ue_pr", "ue_px"), _decode_one)
    event = decode_json(bytes(envelope.data), _decode_one)
    parts = event.schema.removeprefix("iglu:").split("/")
    if len(parts) != 4:
        raise BeaconError("schema: must be iglu:vendor/name/format/version")
    return parts[1], decode_json(bytes(event.data) or b"{}", _decode_data)


def _page_view(parameters: Parameters) -> str | None:
    """The id of the page view, which is in an entity of the event. Raises BeaconError."""
    text = _json_of(parameters, "co", "cx")
    if not text:
        return None
    for entity in decode_json(bytes(decode_json(text, _decode_one).data), _decode_many):
        if "/web_page/" in entity.schema:
            return text_of(decode_json(bytes(entity.data), _decode_data).get("id")) or None
    return None


def _json_of(parameters: Parameters, plain: str, encoded: str) -> bytes:
    """JSON that is in one parameter, or as base64url in another; empty when it is not given. Raises BeaconError."""
    if text := parameters.get(plain):
        return text.encode()
    text = parameters.get(encoded, "").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
    except ValueError:
        raise BeaconError(f"{encoded}: must be base64url") from None
