"""The user that a SignIn or UserInfo event names, and its sign-in token, extracted from the event's data."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
from footfall.event.v1.event_pb2 import Event
from footfall_eventlog.events import MAX_IDENTITY_LENGTH, SIGN_OUT, USER_ID

_INTEGER_LIMIT: Final = 10**MAX_IDENTITY_LENGTH

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class IdentifiedUser(NamedTuple):
    """The user that an event names.

    `user_id` is "" when no key has a value. `is_user_id_key`: the value is that of `userID` in any case; another key,
    such as `email`, may hold an id of another kind. `token` is a JSON value of any type, or None.
    """

    user_id: str
    is_user_id_key: bool
    token: object


def extract_user(event: Event, keys: Sequence[str]) -> IdentifiedUser | None:
    """Extract the user of an event named in TRANSITION_KINDS. Return None when the user id has a wrong type or length.

    The first of the keys with a value counts; null and "" are no values. `data.token` is removed from the event, and
    another spelling of `userID` that counts is renamed to `userID`. All values stay as sent.

    An integer is returned as its decimal text, because some sites have numeric account ids; in the data it stays a
    number. The user id of a SignOut is ignored: the event applies to the user who is signed in.
    """
    data = event.data_json
    fields = _decode_fields(data) if data else {}
    token = fields.pop("token", None)
    given = ((key, value) for key in keys if (value := _decoded(fields.get(key))) not in (None, ""))
    found_key, value = next(given, ("", ""))
    is_user_id_key = found_key.casefold() == USER_ID.casefold()
    is_alias = is_user_id_key and USER_ID not in fields
    if is_alias:
        fields = {USER_ID if name == found_key else name: value for name, value in fields.items()}
    if is_alias or token is not None:
        event.data_json = msgspec.json.encode(fields)
    user_id = _user_id(value) if found_key and event.event_name != SIGN_OUT else ""
    return None if user_id is None else IdentifiedUser(user_id, is_user_id_key, _decoded(token))


def _decoded(value: msgspec.Raw | None) -> Any:
    return None if value is None else msgspec.json.decode(value)


def _user_id(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _INTEGER_LIMIT:
        value = str(value)
    return value if isinstance(value, str) and 1 <= len(value) <= MAX_IDENTITY_LENGTH else None
