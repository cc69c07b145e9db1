"""Turns the data of a SignIn, UserInfo or SignOut into whom it names, and takes the sign-in token out of it."""

from typing import Any, Final, NamedTuple

import msgspec
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event

KINDS: Final = {
    "UserInfo": event_pb2.TRANSITION_KIND_USER_INFO,
    "SignIn": event_pb2.TRANSITION_KIND_SIGN_IN,
    "SignOut": event_pb2.TRANSITION_KIND_SIGN_OUT,
}
"""The events that change who a visitor is taken to be."""

MAX_USER_ID: Final = 512
_BIGGEST_INTEGER: Final = 10**MAX_USER_ID

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Claim(NamedTuple):
    """What an identifying event says. `token` is None when it has none; it may be of any JSON type."""

    user_id: str
    token: object


def take_claim(event: Event) -> Claim | None:
    """Read the claim of an event named in KINDS, whose data must be a JSON object; None when it names no user but must.

    In place, `data.userId` becomes `data.userID`, unless that is there too, and `data.token` is removed; the rest stays
    as sent. A user id that is a JSON integer is taken as its decimal text, because sites have numeric account ids; in
    the data it stays a number. SignOut needs no user: it is about whoever is signed in.
    """
    data = event.data_json
    fields = _decode_fields(data) if data else {}
    token = fields.pop("token", None)
    is_alias = "userID" not in fields and "userId" in fields
    if is_alias:
        fields = {"userID" if name == "userId" else name: value for name, value in fields.items()}
    if is_alias or token is not None:
        event.data_json = msgspec.json.encode(fields)
    user_id = "" if event.event_name == "SignOut" else _user_id(_decoded(fields.get("userID")))
    return None if user_id is None else Claim(user_id, _decoded(token))


def _decoded(value: msgspec.Raw | None) -> Any:
    return None if value is None else msgspec.json.decode(value)


def _user_id(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _BIGGEST_INTEGER:
        value = str(value)
    return value if isinstance(value, str) and 1 <= len(value) <= MAX_USER_ID else None
