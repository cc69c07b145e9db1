"""Turns addresses and data that hold passwords, tokens or card numbers into the same without them.

Also without what names a visit in links between domains.

It is for accidents: a page whose address carries a reset token, a form that is reported whole. Who hides a secret on
purpose can. What is not masked stays as sent, to the byte.

Strangers choose what is looked through here. So a text is gone through by patterns, each of which sees it once, and
JSON is not taken apart: the patterns know its strings. Python does next to nothing for each match (see
tests/unit/test_cost.py).
"""

import re
from collections.abc import Iterable, Set
from functools import lru_cache
from itertools import starmap
from typing import Final

import msgspec

from footfall_collector.account_numbers import LEAST_DIGITS, without_account_numbers, without_bare_card_numbers
from footfall_collector.secret_names import STRING, WORD, SecretNames
from footfall_collector.splicing import bytewise, put_behind, spliced

MASK: Final = "***"
"""What stands in the place of a secret; needs no escaping in URLs and JSON."""

KEPT_KEY: Final = "userID"
"""The one key whose value is stored whatever it looks like: it is the identity itself."""

_NOT_DIGITS = bytes(set(range(256)) - set(b"0123456789"))

# Addresses of pages come again with every event, so what they look like without secrets is remembered. Not of long
# ones, which may come from anybody.
_LONGEST_REMEMBERED: Final = 512
_MOST_REMEMBERED: Final = 8_192

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_FLAGS: Final = re.ASCII | re.DOTALL
_KEY = re.compile(r'"([^"\\]*+)"\s*+:', _FLAGS)
_PARAMETER = re.compile(r'[?&#;"\s\\]([^?&#=;"\\\s]++)=', _FLAGS)
_KEPT = re.compile(rf'("{KEPT_KEY}"\s*+:\s*+(?:{STRING}|{WORD}))', _FLAGS)
_LEFT_OUT: Final = f'"{KEPT_KEY}":null'
_NAMING_KEYS: Final = frozenset({"name", "key", "field", "id"})
_ADDRESSES: Final = ('"url"', '"referrer"', '"title"')
_ADDRESS = re.compile(rf'((?:{"|".join(_ADDRESSES)})\s*+:\s*+")((?:[^"\\]++|\\.)*+)', _FLAGS)

_JWT = re.compile(r"eyJ(?:(?<![\w-]...)|(?<=\\[nrt]...))[\w-]{8,}+\.[\w-]++\.[\w-]*+", _FLAGS)
_USERINFO = (
    re.compile(r'(:(?://|\\/\\/))([^/?#\s"\\]*)(?=@)', _FLAGS),
    re.compile(r'(%3a%2f%2f)((?:(?!%2f|%3f|%23|%40)[^/?#&\s"\\])*+)(?=%40)', _FLAGS),
)
# What is before an e-mail address, and the address, or the end. A byte of a letter outside of ASCII is one of a word.
_MAILBOX: Final = r"(?:[\w.+'\x80-\xff-]|%(?:2[BDEbde7]|5[Ff]|[89A-Fa-f][0-9A-Fa-f]))++"
_AT_HOST: Final = r"(?:@|%(?:25)*+40)[\w\x80-\xff-]++(?:\.[\w\x80-\xff-]++)++"
_EMAIL = re.compile(
    rf"((?:[^\w.+'%\\\x80-\xff-]++|\\(?:u[0-9a-fA-F]{{4}}|[\x00-\x7f])?|{_MAILBOX}(?!{_AT_HOST})|%(?:[0-9A-Fa-f]{{2}})?)*+)({_MAILBOX}{_AT_HOST}|\Z)",
    _FLAGS,
)
# What the tracking script puts into links to other domains of an owner (docs/adr/0026), with a sign beside it; also in
# an address inside an address. What is before the whole text is not its own, and stays.
_LINK_NAME: Final = "_gt_link"


def _links(question: str, ampersand: str, equals: str) -> str:
    named = rf"{_LINK_NAME}{equals}[\w.-]*+"
    several = rf"{named}(?:{ampersand}{named})*+"
    return rf"{question}{several}(?!{ampersand})|(?<={question}){several}{ampersand}|(?!\A){ampersand}{several}"


_SIGNS: Final = ((r"\?", "&", "="), ("%3f", "%26", "%3d"), ("%253f", "%2526", "%253d"))
_LINK = re.compile("|".join(starmap(_links, _SIGNS)), _FLAGS | re.IGNORECASE)


class Redactor:
    """The rules of one deployment: the built-in ones and further names of keys, in any case.

    `emails`: whether e-mail addresses are masked in addresses and titles of pages.
    """

    def __init__(self, keys: Iterable[str] = (), *, emails: bool = True) -> None:
        names = SecretNames(_lower(key.strip().encode()) for key in keys if key.strip())
        self._emails = emails
        self._secret_name = names.any_name()
        self._plain_names: set[str] = set()
        self._parameters, self._encoded_parameters = names.parameters(), names.encoded_parameters()
        self._members, self._inner_members, self._fields = names.members(), names.inner_members(), names.fields()
        self._known_address = lru_cache(maxsize=_MOST_REMEMBERED)(self._any_address)

    def address(self, text: str) -> str:
        """Mask the secrets of an address of a page, or of another text that says where a visitor was."""
        return self._known_address(text) if len(text) <= _LONGEST_REMEMBERED else self._any_address(text)

    def _any_address(self, text: str) -> str:
        utf8 = b"&%b" % text.encode()  # so that the first parameter is behind something too
        lower = _lower(utf8)
        has_secret, has_email = self._may_hold_secret(utf8, lower), self._emails and _has_at(lower)
        if not (has_secret or has_email):
            return text
        masked = bytewise(utf8)
        if has_secret:
            masked = self._text(masked, lower)
        if has_email:
            masked = _without_emails(masked)
        return masked[1:].encode("latin-1").decode()

    def json(self, json: bytes) -> bytes:
        """Mask the secrets of a valid JSON text: values of secret keys, and what each text and number in it holds."""
        if len(json) <= len("{}"):
            return json
        lower = _lower(json)
        is_flat = lower[0] == "{" and lower.find("{", 1) < 0 and "[" not in lower
        keys = _decode_object(json).keys() if is_flat else {*_KEY.findall(bytewise(json))}
        has_key = self._has_secret_name(keys)
        is_form = "value" in keys and not _NAMING_KEYS.isdisjoint(keys)
        has_json = r"\"" in lower
        has_secret = self._may_hold_secret(json, lower)
        has_email = self._emails and _has_at(lower) and any(key in lower for key in _ADDRESSES)
        if not (has_key or is_form or has_json or has_secret or has_email):
            return json
        text = bytewise(json)
        if has_key:
            text = put_behind(self._members, text, f'"{MASK}"')
        if is_form:
            text = put_behind(self._fields, text, f'"{MASK}"')
        if has_json:
            text = put_behind(self._inner_members, text, rf"\"{MASK}\"")
        if has_secret or has_email:
            others = _KEPT.split(text)
            kept, text = others[1::2], _LEFT_OUT.join(others[::2])
            if has_email:
                text = _without_emails_in_addresses(text)
            if has_secret:
                text = self._text(without_bare_card_numbers(text, f'"{MASK}"'), lower)
            text = spliced(text.split(_LEFT_OUT), kept)
        return text.encode("latin-1")

    def _has_secret_name(self, names: Set[str]) -> bool:
        """Whether one may be of a secret. All are looked at at once: who sends them says how many there are."""
        if self._plain_names.issuperset(names):
            return False
        if self._secret_name.search(_lower("\n".join(names).encode())):
            return True
        if len(self._plain_names) > _MOST_REMEMBERED:
            self._plain_names.clear()
        self._plain_names.update(names)
        return False

    def _may_hold_secret(self, utf8: bytes, lower: str) -> bool:
        """Whether a text is worth a closer look, but for the keys of JSON. Nearly always it is not."""
        first = lower.find("=")
        if first >= 0:
            begin = max(0, lower.rfind("?", 0, first))  # of an address, which is where most of them are
            if self._has_secret_name({*_PARAMETER.findall(lower, begin)}):
                return True
        if _LINK_NAME in lower or "eyj" in lower or len(utf8.translate(None, _NOT_DIGITS)) >= LEAST_DIGITS:
            return True
        if "%" in lower and "3d" in lower and any(pattern.search(lower) for pattern in self._encoded_parameters):
            return True
        return _has_at(lower) and ("//" in lower or r"\/" in lower or "%2f" in lower)

    def _text(self, text: str, lower: str) -> str:
        if _LINK_NAME in lower:
            text = _LINK.sub("", text)
        if "=" in lower:
            text = put_behind(self._parameters, text, MASK)
        if "%" in lower and "3d" in lower:
            text = put_behind(self._encoded_parameters, text, MASK)
        if "eyj" in lower:
            text = _JWT.sub(MASK, text)
        if _has_at(lower):
            text = put_behind(_USERINFO, text, MASK)
        return without_account_numbers(text, MASK)


def _without_emails_in_addresses(json: str) -> str:
    parts = _ADDRESS.split(json)  # what is before, the key, its value; and so on
    values = [key + _without_emails(value) for key, value in zip(parts[1::3], parts[2::3], strict=True)]
    return spliced(parts[::3], values)


def _without_emails(text: str) -> str:
    parts = _EMAIL.split(text)  # nothing, what is before, the address; and so on
    return spliced(parts[1::3], [found and MASK for found in parts[2::3]])


def _has_at(lower: str) -> bool:
    return "@" in lower or ("%" in lower and ("%40" in lower or "%2540" in lower))


def _lower(text: bytes) -> str:
    """The text bytewise, letters of ASCII in lower case."""
    return text.lower().decode("latin-1")
