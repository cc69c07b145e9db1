"""Turns URLs and data that hold passwords, tokens or card numbers into the same without them.

It is for accidents: a page whose address carries a reset token, a form that is reported whole. Who hides a secret on
purpose can. What nothing is removed from stays as sent, to the byte.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import msgspec

MASK: Final = "***"
"""What stands in the place of a secret; needs no escaping in URLs and JSON."""

KEPT_KEY: Final = "userID"
"""The one key whose value is stored whatever it looks like: it is the identity itself."""

# Every secret name and every JSON Web Token has one of these in it. Looking for all takes a microsecond.
_HINTS = ("pass", "token", "secret", "pwd", "jwt", "auth", "key", "cvv", "cvc", "csc", "eyj")

# Takes what it can and begins nowhere inside of that, so that hostile text costs no more than its length.
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,}+\.[\w-]++\.[\w-]*+", re.ASCII)

_NOT_DIGITS = bytes(set(range(256)) - set(b"0123456789"))
_LEAST_CARD_DIGITS: Final = 14
# Whole or in groups, and no part of a longer number, a decimal fraction, a telephone number or a UUID.
_CARD_SHAPE = re.compile(
    r"(?<![\w.-])(?<!(?<!\w)\+)"
    r"(?:\d{14,19}|\d{4}([ +-]|%20)\d{4}\1\d{4}\1\d{4}|\d{4}([ +-]|%20)\d{6}\2\d{4,5})"
    r"(?![\w-]|\.\d)",
    re.ASCII,
)
_SEPARATORS = re.compile("%20|[ +-]")
# What the issuers number: Visa, Mastercard, American Express, Diners, and JCB, Discover, UnionPay and Maestro.
_CARD = re.compile(
    r"4(?:\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|(?:35|50|5[6-8]|6\d)\d{14,17}"
)
_DOUBLED = str.maketrans("0123456789", "0246813579")  # the digits of each digit's double, added

# Addresses of pages come again with every event, so what they look like without secrets is remembered. Not of long
# ones, which may come from anybody.
_LONGEST_REMEMBERED: Final = 512
_MOST_REMEMBERED: Final = 8_192

_MASK_JSON: Final = msgspec.json.encode(MASK)
_NO_SECRETS: Final = frozenset({b"null", b"true", b"false", b'""'})
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


class Redactor:
    """The rules of one deployment: the built-in ones and further names of keys, in any case."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        own = [key.strip().lower() for key in keys if key.strip()]
        self._hints = (*_HINTS, *(_bytewise(key.encode()) for key in own))
        self._secret_name = re.compile(_names(".", own), re.IGNORECASE | re.DOTALL)
        # A parameter, and one of a URL that is itself the value of a parameter. Each looks ahead to the end of the name
        # and never goes back into it: a text that says "password" ten thousand times costs no more than its length.
        character = r"[^?&#=%\s]"
        names = _names(character, own)
        self._pair = re.compile(rf"(?:^|(?<=[?&#]))(?={character}++=)((?>{names}=))[^&#\s]+", re.IGNORECASE)
        self._encoded_pair = re.compile(
            rf"(?<=%3f|%26|%23)(?={character}++%3d)((?>{names}%3d))(?:(?!%26|%23)[^&#\s])+", re.IGNORECASE
        )
        self._known_text = lru_cache(maxsize=_MOST_REMEMBERED)(self._any_text)

    def text(self, text: str) -> str:
        """Mask the secrets of a URL, or of any text: parameters with secret names, JSON Web Tokens, card numbers."""
        return self._known_text(text) if len(text) <= _LONGEST_REMEMBERED else self._any_text(text)

    def _any_text(self, text: str) -> str:
        return self._text(text) if self._may_hold_secret(text.encode()) else text

    def json(self, json: bytes) -> bytes:
        """Mask the secrets of a valid JSON text: values of secret keys, and of every text and number in it.

        Where something is masked, the objects and lists around it lose what white space they had.
        """
        if len(json) <= len("{}"):
            return json
        first = json.lstrip()[:1]
        if first not in {b"{", b"[", b'"'}:
            is_card = len(json) >= _LEAST_CARD_DIGITS and json.isdigit() and _is_card_number(json.decode())
            return _MASK_JSON if is_card else json
        if not self._may_hold_secret(json):
            return json
        if first == b"{":
            return self._object(json)
        if first == b"[":
            return self._array(json)
        text = _decode_text(json)
        masked = self._text(text)
        return json if masked == text else msgspec.json.encode(masked)

    def _object(self, json: bytes) -> bytes:
        is_changed = False
        fields = _decode_object(json)
        for name, raw in fields.items():
            if name == KEPT_KEY:
                continue
            value = bytes(raw)
            if not self._secret_name.fullmatch(name):
                masked = self.json(value)
            else:
                masked = value if value in _NO_SECRETS else _MASK_JSON
            if masked is not value:
                fields[name] = msgspec.Raw(masked)
                is_changed = True
        return msgspec.json.encode(fields) if is_changed else json

    def _array(self, json: bytes) -> bytes:
        items = [bytes(raw) for raw in _decode_array(json)]
        masked = [self.json(item) for item in items]
        return json if masked == items else msgspec.json.encode([msgspec.Raw(item) for item in masked])

    def _text(self, text: str) -> str:
        if "=" in text:
            text = self._pair.sub(rf"\1{MASK}", text)
        if "%3" in text:
            text = self._encoded_pair.sub(rf"\1{MASK}", text)
        if "eyJ" in text:
            text = _JWT.sub(MASK, text)
        return _CARD_SHAPE.sub(lambda shape: MASK if _is_card_number(shape[0]) else shape[0], text)

    def _may_hold_secret(self, text: bytes) -> bool:
        """Whether a closer look is worth its while. Nearly always not."""
        lower = _bytewise(text)
        for hint in self._hints:  # five times as fast as any(), for every event
            if hint in lower:
                return True
        return len(text.translate(None, _NOT_DIGITS)) >= _LEAST_CARD_DIGITS


def _names(character: str, own: Iterable[str]) -> str:
    """A pattern of all names of secrets, in which `character` is what a name can be made of."""
    any_ = f"{character}*"
    built_in = (
        rf"{any_}pass[-_ ]?(?:w(?:or)?d|wort|phrase|code){any_}",
        rf"{any_}(?:token|secret|pwd|jwt|authorization)",
        rf"{any_}(?:api|access|private|secret|signing)[-_ .]?key",
        rf"{any_}(?:cvv|cvc)2?",
        "csc",
    )
    return f"(?:{'|'.join((*built_in, *map(re.escape, own)))})"


def _bytewise(text: bytes) -> str:
    """A character for each byte, letters of ASCII in lower case: looking into a str is four times as fast."""
    return text.lower().decode("latin-1")


def _is_card_number(shape: str) -> bool:
    """Whether an issuer would number a card so, and its check digit is right (ISO/IEC 7812-1, Luhn)."""
    digits = _SEPARATORS.sub("", shape)
    if not _CARD.fullmatch(digits):
        return False
    return sum(map(int, digits[-1::-2] + digits[-2::-2].translate(_DOUBLED))) % 10 == 0
