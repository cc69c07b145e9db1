"""Matomo: its HTTP tracking API, as GET, as POST of a form, and in bulk.

https://developer.matomo.org/api-reference/tracking-api
"""

from typing import Final

import msgspec
from footfall_eventlog.events import HEARTBEAT, PAGE_ENTERED, SIGN_IN

from footfall_gateway.beacons import Envelope, array_items
from footfall_gateway.trackers.translation import (
    Data,
    Request,
    Tracked,
    Translation,
    decode_json,
    form_fields,
    given,
    milliseconds,
    of_user,
)

PATHS: Final = dict.fromkeys(("/matomo.php", "/piwik.php"), "")

_EVENT: Final = {"e_c": "category", "e_n": "name", "e_v": "value"}
_ORDER: Final = {"ec_id": "orderId", "revenue": "revenue", "ec_tx": "tax", "ec_sh": "shipping", "ec_items": "items"}
_ACTIONS: Final = (
    ("search", "Search", {"search": "keyword", "search_cat": "category", "search_count": "count"}),
    ("link", "Outlink", {"link": "url"}),
    ("download", "Download", {"download": "url"}),
    ("ec_id", "Order", _ORDER),
    ("idgoal", "Goal", {"idgoal": "goal", "revenue": "revenue"}),
    ("url", PAGE_ENTERED, {"action_name": "title", "urlref": "referrer"}),
)
"""The parameter of a request, its event, and which parameters become `data`. The first one that is there counts."""
_CONTENT: Final = "c_n"
_CUSTOM: Final = "ca"
"""The mark of requests that are no page views."""
_CART: Final = "0"
"""The goal that stands for a change of the cart."""

Parameters = dict[str, str]


class _Bulk(msgspec.Struct):
    requests: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


_decode_bulk = msgspec.json.Decoder(_Bulk).decode
_decode_text = msgspec.json.Decoder(str).decode


def translate(request: Request, body: bytes) -> Envelope:
    """The envelope of a request. Raises BeaconError."""
    translation = Translation("_id, cid, uid")

    def track(parameters: Parameters, _: bytes) -> Tracked | None:
        return _tracked(parameters, request.received_ms)

    if body.lstrip().startswith(b"{"):
        requests = decode_json(body, _decode_bulk).requests
        translation.add_all(decode_json(bytes(requests) or b"[]", array_items), _decode_request, track)
    else:
        translation.add_all([body or request.query], form_fields, track)
    return translation.envelope(None)


def _decode_request(text: bytes) -> Parameters:
    return form_fields(_decode_text(text).lstrip("?").encode())


def _tracked(parameters: Parameters, received_ms: int) -> Tracked | None:
    get = parameters.get
    is_ping = get("ping") == "1"
    named = (HEARTBEAT, {}) if is_ping else _named(parameters)
    if named is None:
        return None
    name, data = named
    delay_s = parameters.pop("cdo", "")  # of the request, so it differs when it is sent again
    user = get("uid", "")
    return Tracked(
        name,
        repr(sorted(parameters.items())),
        get("_id") or get("cid") or of_user(user),
        _created_ms(get("cdt")) or received_ms - int(delay_s[:9] if delay_s.isdecimal() else "0") * 1_000,
        site=get("idsite"),
        session=get("_idvc", ""),  # the number of the visit, up to Matomo 3
        user=user,
        names_user=not is_ping,
        # The way that Matomo describes for a page after a logout.
        signs_out=get("new_visit") == "1" and not user,
        url=get("url"),
        page=get("pv_id"),
        language=get("lang"),
        data=data,
    )


def _named(parameters: Parameters) -> tuple[str, Data] | None:
    """The name and the data of a request, None when it is ignored."""
    get = parameters.get
    if "e_a" in parameters:
        name = parameters["e_a"]
        if name == SIGN_IN:
            return name, given(token=get("e_n"))
        return name, given(**{to: get(key) for key, to in _EVENT.items()})
    if _CONTENT in parameters:
        return None
    if get("idgoal") == _CART and not get("ec_id"):
        return "CartUpdated", given(**{to: get(key) for key, to in _ORDER.items()})
    for key, name, fields in _ACTIONS:
        if get(key) and not (name == PAGE_ENTERED and get(_CUSTOM) == "1"):
            return name, given(**{to: get(sent) for sent, to in fields.items()})
    return None


def _created_ms(sent: str | None) -> int | None:
    """The time that the sender gives: Unix seconds, or a date and time in UTC."""
    return milliseconds(int(sent[:12]) * 1_000 if sent and sent.isdecimal() else sent)
