"""The attributes that contacts are matched by: how pages and tokens call them, and what an event says of them."""

from collections.abc import Container, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec
from footfall.event.v1.event_pb2 import Event
from footfall_timeline import Assurance, Transition

from footfall_eventlog.devices import DeviceDay, device_day
from footfall_eventlog.match_keys import MatchKeys, match_keys_of

CLAIMS: Final = {"email": "email", "phone_number": "phone", "given_name": "firstName", "family_name": "lastName"}
"""The attribute in a profile by the name of the token's claim. These claims can link to a contact."""

USUAL_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "email": ("email", "emailAddress", "mail"),
    "phone": ("phone", "phoneNumber", "mobile", "tel"),
    "firstName": ("firstName", "givenName"),
    "lastName": ("lastName", "familyName"),
}
"""Default names of each attribute in event data and in files of contacts, in any case."""

_decode_data = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class AttributeNames:
    """The names of the attributes in event data, in any case.

    Of several names of one attribute, the first whose value is a non-blank string counts. Of two spellings of one name,
    the one with a lower-case letter at the first difference counts: `mail` before `Mail`.
    """

    def __init__(self, names: Mapping[str, Iterable[str]]) -> None:
        """`names` are the names by attribute, in order of precedence."""
        self.by_attribute = {attribute: tuple(of_attribute) for attribute, of_attribute in names.items()}
        self._places = {
            name.strip().casefold(): (place, attribute)
            for attribute, of_attribute in self.by_attribute.items()
            for place, name in enumerate(of_attribute)
            if name.strip()
        }

    def unified(self, fields: Mapping[str, str]) -> dict[str, str]:
        """Return the fields (JSON texts by key) with the value of each attribute under the attribute's name.

        Further values of an attribute keep their own keys.
        """
        given = [
            (self._places[key.casefold()], key.swapcase(), key) for key in fields if key.casefold() in self._places
        ]
        chosen: dict[str, str] = {}
        for (_, attribute), _, key in sorted(given):
            if text(fields[key]).strip():
                chosen.setdefault(attribute, key)
        others = {key: value for key, value in fields.items() if key not in chosen.values()}
        return others | {attribute: fields[key] for attribute, key in chosen.items()}


class Said(NamedTuple):
    """What an event says of a person: its data, and the claims of its token if that is valid, as JSON texts by key.

    Attributes have their own names. Values that belong to no person are not among the match keys. Of staff there are no
    match keys, and no device.
    """

    fields: dict[str, str]
    proven: dict[str, str]
    match_keys: MatchKeys
    device: DeviceDay | None


def said_by(event: Event, transition: Transition, names: AttributeNames, phone_region: str | None) -> Said:
    """Return what a SignIn or UserInfo says."""
    is_proven = transition.assurance is Assurance.PROVEN
    data, token = _fields(event.data_json), _fields(event.proven_json if is_proven else b"")
    fields, proven = names.unified(data), _attributes(token)
    if event.staff_reason:
        return Said(fields, proven, MatchKeys(), None)
    matched = proven if is_proven else fields
    if event.ignored_keys:  # values that belong to no person stay in the profile, but match no contact
        ignored = {*event.ignored_keys}
        matched = _attributes(_without(token, ignored)) if is_proven else names.unified(_without(data, ignored))
    texts = {key: text(matched[key]) for key in CLAIMS.values() if key in matched}
    device = device_day(transition.identity, event.global_visit_id, transition.event_time_ms)
    return Said(fields, proven, match_keys_of(event, transition, texts, phone_region), device)


def _fields(json: bytes) -> dict[str, str]:
    """Return the values of a JSON object as JSON texts; nothing for an invalid object."""
    try:
        return {key: bytes(value).decode() for key, value in _decode_data(json or b"{}").items()}
    except ValueError:  # DecodeError is one
        return {}


def _attributes(token: Mapping[str, str]) -> dict[str, str]:
    return {CLAIMS[claim]: value for claim, value in token.items() if claim in CLAIMS}


def _without(fields: Mapping[str, str], ignored: Container[str]) -> dict[str, str]:
    return {key: value for key, value in fields.items() if key not in ignored}


def text(value: str) -> str:
    """Decode a JSON text; return "" if it is no string."""
    try:
        return msgspec.json.decode(value, type=str)
    except msgspec.DecodeError:
        return ""
