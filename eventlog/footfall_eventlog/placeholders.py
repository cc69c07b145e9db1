"""User ids and attributes that belong to no person: placeholders, unfilled templates, hashes of the empty text."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final

import msgspec
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import IgnoredReason

PLACEHOLDERS_VERSION: Final = "defaults-1"
"""Version of PLACEHOLDERS and of the shapes below. It changes when either changes."""
PLACEHOLDERS: Final = (
    # Values of JavaScript and other languages for "nothing", turned into text.
    *("undefined", "null", "nil", "none", "NaN", "true", "false", "0", "-1", "[]", "{}"),
    # Words for "nothing" and for visitors who are not signed in. Analytics products refuse or report most of these.
    *("n/a", "n.a.", "-", "--", "?", "(none)", "not set", "not_set", "(not set)", "unset", "unknown", "(unknown)"),
    *("invalid", "anonymous", "anon", "guest", "not_authenticated", "unauthenticated", "not logged in"),
    # The name of the key in place of its value.
    *("id", "user_id", "userid", "username", "email", "distinct_id", "distinctid"),
    # The nil and the max UUID.
    *("00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
    *("0" * 32, "f" * 32),
    # Addresses that people and programs type to fill a required field.
    *("test@test.com", "test@example.com", "user@example.com", "email@example.com", "name@example.com"),
    *("none@none.com", "no@email.com", "noemail@noemail.com", "a@a.com"),
)
"""The default placeholders, for every site. Values that some site may well use for a person are not here: `test`,
`admin`, `user`, `1`."""

PLACEHOLDER_PHONES: Final = ("0123456789", "1234567890", "123456789", "12345678", "1234567", "9876543210", "987654321")
"""Telephone numbers that are typed to fill a required field, as digits. So are those that end in seven equal digits."""

_MAX_IGNORED_KEYS: Final = 20
_MAX_ATTRIBUTE_BYTES: Final = 6 * 256
"""Length of the JSON text of the longest value that can link a contact: 256 characters, each of them escaped."""

_EMPTY_HASHES: Final = frozenset(
    hashlib.new(name, b"", usedforsecurity=False).hexdigest() for name in ("md5", "sha1", "sha256", "sha512")
)
_TEMPLATES: Final = (("{{", "}}"), ("${", "}"), ("%%", "%%"), ("<%", "%>"), ("[object ", "]"))
_MARK: Final = re.compile(r"[{%<\[]")
"""Finds quickly that a text has no template."""
_QUOTES: Final = " \t\r\n\"'`"
# Characters that show nothing. Unicode gives the first ones a category of letters or symbols. The others are those of
# the categories Cc and Cf that are no white space. To ask `unicodedata` would need a loop over each text.
_BLANKS: Final = r"\u115f\u1160\u2800\u3164\uffa0"
_CONTROLS: Final = r"\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"
_FORMATS: Final = (
    r"\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    r"\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001"
    r"\U000e0020-\U000e007f"
)
_INVISIBLE: Final = re.compile(f"[{_BLANKS}{_CONTROLS}{_FORMATS}]+")
# Single characters of which NFKC makes words. They stay as they are: a hostile text may consist of them.
_WORDS: Final = re.compile(r"([\u3300-\u33ff\ufdfa\ufdfb]+)")
_PHONE: Final = re.compile(r"[+(]?[0-9][0-9 ()./-]{5,30}")
_NOT_DIGITS: Final = re.compile(r"[^0-9]+")
_EQUAL_DIGITS: Final = re.compile(r"[0-9]*([0-9])\1{6}")

_decode_text = msgspec.json.Decoder(str).decode


def folded(text: str) -> str:
    """The text without case, width, invisible characters and white space around it: two such ids look the same."""
    if not (text.isascii() and text.isprintable()):
        parts = _WORDS.split(text)
        parts[::2] = [unicodedata.normalize("NFKC", part) for part in parts[::2]]
        text = _INVISIBLE.sub("", "".join(parts))
    return text.strip().casefold()


class Placeholders:
    """The placeholders of a site: by default PLACEHOLDERS and PLACEHOLDER_PHONES.

    Values are compared as `folded`, and without quotes around them: a page may have encoded its text as JSON twice.
    """

    def __init__(self) -> None:
        self._values = frozenset(map(compared, PLACEHOLDERS))
        self._phones = frozenset(PLACEHOLDER_PHONES)
        self._persons: frozenset[str] = frozenset()
        self._persons_phones: frozenset[str] = frozenset()

    def changed(self, added: Iterable[str], persons: Iterable[str]) -> "Placeholders":
        """With these added, and with the values that name a person: those are never ignored."""
        added, persons = [*map(compared, added)], {*map(compared, persons)}
        changed = Placeholders()
        changed._values = (self._values | {*added}) - persons
        changed._persons = (self._persons - {*added}) | persons
        added_phones, persons_phones = _phones(added), _phones(persons)
        changed._phones = (self._phones | added_phones) - persons_phones
        changed._persons_phones = (self._persons_phones - added_phones) | persons_phones
        return changed

    def ignored_reason(self, text: str) -> IgnoredReason.ValueType:
        """Why a user id names no person; unspecified if it does."""
        text = compared(text)
        if not text:
            return event_pb2.IGNORED_REASON_BLANK
        if text in self._persons:
            return event_pb2.IGNORED_REASON_UNSPECIFIED
        if text in self._values:
            return event_pb2.IGNORED_REASON_PLACEHOLDER
        if text in _EMPTY_HASHES:
            return event_pb2.IGNORED_REASON_EMPTY_HASH
        if _MARK.search(text) and any(_has_template(text, *marks) for marks in _TEMPLATES):
            return event_pb2.IGNORED_REASON_TEMPLATE
        return event_pb2.IGNORED_REASON_UNSPECIFIED

    def ignored_keys(self, fields: Mapping[str, msgspec.Raw]) -> list[str]:
        """The keys whose values are an e-mail address, a telephone number or a name, but of no person. At most 20.

        Which keys hold attributes is a setting of identity. So values decide: an address has an `@`, a telephone number
        has digits. Any word may be a name, so only values under keys with `name` in them are names.
        """
        return [*islice(self._ignored_keys(fields), _MAX_IGNORED_KEYS)]

    def _ignored_keys(self, fields: Mapping[str, msgspec.Raw]) -> Iterator[str]:
        for key, value in fields.items():
            json = bytes(value)
            if json.startswith(b'"') and len(json) <= _MAX_ATTRIBUTE_BYTES:
                text = _decode_text(json)
                if "@" in text or "name" in key.casefold():
                    is_ignored = bool(self.ignored_reason(text))
                else:
                    is_ignored = not text[:1].isalpha() and self._is_placeholder_phone(text)
                if is_ignored:
                    yield key

    def _is_placeholder_phone(self, text: str) -> bool:
        return any(
            digits in self._phones or (_EQUAL_DIGITS.fullmatch(digits) and digits not in self._persons_phones)
            for digits in _phones([folded(text)])
        )


def compared(text: str) -> str:
    """The text as it is compared with placeholders: folded, and without quotes around it."""
    return folded(text).strip(_QUOTES)


_LISTED: Final = {compared(placeholder): placeholder for placeholder in PLACEHOLDERS}


def listed_placeholder(text: str) -> str:
    """The one of PLACEHOLDERS that a text is compared as equal to, as it stands there; empty if there is none."""
    return _LISTED.get(compared(text), "")


def _phones(texts: Iterable[str]) -> set[str]:
    """The digits of the texts that look like telephone numbers."""
    return {_NOT_DIGITS.sub("", text) for text in texts if _PHONE.fullmatch(text)}


def _has_template(text: str, begin: str, end: str) -> bool:
    start = text.find(begin)
    return start >= 0 and text.find(end, start + len(begin)) >= 0
