"""The attributes that contacts are matched by, and the names that pages and tokens use for them."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

CLAIMS: Final = {"email": "email", "phone_number": "phone", "given_name": "firstName", "family_name": "lastName"}
"""The attribute in a profile by the name of the token's claim. These claims can link to a contact."""

USUAL_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "email": ("email", "emailAddress", "mail"),
    "phone": ("phone", "phoneNumber", "mobile", "tel"),
    "firstName": ("firstName", "givenName"),
    "lastName": ("lastName", "familyName"),
}
"""Default names of each attribute in event data and in files of contacts, in any case."""


class AttributeNames:
    """The names of the attributes in event data, in any case.

    Of several names of one attribute, the first whose value is a non-blank string counts. Of two spellings of one name,
    the one with a lower-case letter at the first difference counts: `mail` before `Mail`.
    """

    def __init__(self, names: Mapping[str, Iterable[str]]) -> None:
        """`names` are the names by attribute, in order of precedence."""
        self._places = {
            name.strip().casefold(): (place, attribute)
            for attribute, of_attribute in names.items()
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


def text(value: str) -> str:
    """Decode a JSON text; return "" if it is no string."""
    try:
        return msgspec.json.decode(value, type=str)
    except msgspec.DecodeError:
        return ""
