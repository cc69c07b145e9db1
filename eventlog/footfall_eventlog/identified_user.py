"""The user that a SignIn or UserInfo event names, extracted from its data, and what the identity policy says of it.

The collector judges an event by these functions when it arrives, and history when a policy is tried on stored events.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event

from footfall_eventlog.events import MAX_IDENTITY_LENGTH, SIGN_OUT, USER_ID
from footfall_eventlog.identity_policy import SitePolicy

_OF_IDENTITY: Final = ("transition", "identity_id", "assurance", "assurance_reason", "proven_json", "token_id")
_INTEGER_LIMIT: Final = 10**MAX_IDENTITY_LENGTH

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class IdentifiedUser(NamedTuple):
    """The user that an event names.

    `user_id` is "" when no key has a value, and `is_blank` if one of the keys is given without one. `is_user_id_key`:
    the value is that of `userID` in any case; another key, such as `email`, may hold an id of another kind. `token` is
    a JSON value of any type, or None. `fields` are the event's data.
    """

    user_id: str
    is_blank: bool
    is_user_id_key: bool
    token: object
    fields: Mapping[str, msgspec.Raw]


def extract_user(event: Event, keys: Sequence[str]) -> IdentifiedUser | None:
    """Extract the user of an event named in TRANSITION_KINDS. Return None when the user id has a wrong type or length.

    The first of the keys with a value counts; null and "" are no values. `data.token` is removed from the event, and
    another spelling of `userID` that counts is renamed to `userID`. All values stay as sent.

    An integer is returned as its decimal text, because some sites have numeric account ids; in the data it stays a
    number. The user id of a SignOut is ignored: the event applies to the user who is signed in.
    """
    fields = {**data_fields(event.data_json)}
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
    if user_id is None:
        return None
    is_blank = not found_key and any(key in fields for key in keys)
    return IdentifiedUser(user_id, is_blank, is_user_id_key, _decoded(token), fields)


def apply_policy(event: Event, user: IdentifiedUser, policy: SitePolicy) -> bool:
    """Ignore the user id of a SignIn or UserInfo, and mark attributes, that belong to no person.

    The event must have the transition, identity and assurance that it has if the user id is not ignored. Return False,
    and leave the event as it is, when it gives no user id at all.
    """
    if not (event.identity_id or user.is_blank):
        return False
    event.policy_version = policy.version
    if reason := policy.placeholders.ignored_reason(event.identity_id):
        for field in _OF_IDENTITY:
            event.ClearField(field)
        event.ignored_reason = reason
    else:
        is_proven = event.assurance == event_pb2.ASSURANCE_PROVEN
        said = data_fields(event.proven_json) if is_proven else user.fields
        event.ignored_keys.extend(policy.placeholders.ignored_keys(said))
    return True


def data_fields(json: bytes) -> Mapping[str, msgspec.Raw]:
    """The fields of a JSON object that is known to be valid."""
    return _decode_fields(json) if json else {}


def _decoded(value: msgspec.Raw | None) -> Any:
    return None if value is None else msgspec.json.decode(value)


def _user_id(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < _INTEGER_LIMIT:
        value = str(value)
    return value if isinstance(value, str) and 1 <= len(value) <= MAX_IDENTITY_LENGTH else None
