"""Turns the data of a SignIn, UserInfo or SignOut into whom it names, and takes the sign-in token out of it."""

from collections.abc import Sequence
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

USER_ID: Final = "userID"
USER_ID_KEYS: Final = (USER_ID, "userId", "userid", "username", "email")
"""The keys that usually say whom an event names, in the order they are asked."""

MAX_USER_ID: Final = 512
_BIGGEST_INTEGER: Final = 10**MAX_USER_ID

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Claim(NamedTuple):
    """What an identifying event says: whom it names, and the token, None when it has none, of any JSON type.

    `is_user_id`: it says so under `userID`, however spelled. What another key holds may be an id of another kind.
    """

    user_id: str
    is_user_id: bool
    token: object


def take_claim(event: Event, keys: Sequence[str]) -> Claim | None:
    """Read the claim of an event named in KINDS, whose data must be a JSON object; None when what it names is no user.

    The first of the keys decides that has a value: neither null nor an empty text. When none has, it names "".

    In place, another spelling of `userID` becomes that when it decides, and `data.token` is removed; the rest stays as
    sent. A user id that is a JSON integer is taken as its decimal text, because sites have numeric account ids; in the
    data it stays a number. SignOut names nobody: it is about whoever is signed in.
    """
    data = event.data_json
    fields = _decode_fields(data) if data else {}
    token = fields.pop("token", None)
    given = ((key, value) for key in keys if (value := _decoded(fields.get(key))) not in (None, ""))
    decisive, value = next(given, ("", ""))
    is_user_id = decisive.casefold() == USER_ID.casefold()
    is_alias = is_user_id and USER_ID not in fields
    if is_alias:
        fields = {USER_ID if name == decisive else name: value for name, value in fields.items()}
    if is_alias or token is not None:
        event.data_json = msgspec.json.encode(fields)
    user_id = _user_id(value) if decisive and event.event_name != "SignOut" else ""
    return None if user_id is None else Claim(user_id, is_user_id, _decoded(token))


def _decoded(value: msgspec.Raw | None) -> Any:
    return None if value is None else msgspec.json.decode(value)


def _user_id(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _BIGGEST_INTEGER:
        value = str(value)
    return value if isinstance(value, str) and 1 <= len(value) <= MAX_USER_ID else None
