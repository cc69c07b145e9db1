"""Turns the names that pages and tokens give to what a person is found by into one name each."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

CLAIMS: Final = {"email": "email", "phone_number": "phone", "given_name": "firstName", "family_name": "lastName"}
"""What a token says of a person, and what a profile calls the same: the attributes. These can link to a contact."""

USUAL_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "email": ("email", "emailAddress", "mail"),
    "phone": ("phone", "phoneNumber", "mobile", "tel"),
    "firstName": ("firstName", "givenName"),
    "lastName": ("lastName", "familyName"),
}
"""By attribute what pages, unless settings say otherwise, and files of contacts call it, in any case."""


class AttributeNames:
    """What pages call the attributes, in any case. Of several names of one attribute the first counts that has a text.

    Of two spellings of a name the one counts that has the first small letter where they differ: `mail` before `Mail`.
    """

    def __init__(self, names: Mapping[str, Iterable[str]]) -> None:
        """`names` has for each attribute what pages call it, the name that counts before others first."""
        self._places = {
            name.strip().casefold(): (place, attribute)
            for attribute, of_attribute in names.items()
            for place, name in enumerate(of_attribute)
            if name.strip()
        }

    def unified(self, fields: Mapping[str, str]) -> dict[str, str]:
        """The fields of an event's data, JSON texts by key, with what counts of each attribute under its own name.

        What else is said of it stays under the key it has.
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


def text(value: str) -> str:
    """A JSON text's value when it is a string, else ""."""
    try:
        return msgspec.json.decode(value, type=str)
    except msgspec.DecodeError:
        return ""
