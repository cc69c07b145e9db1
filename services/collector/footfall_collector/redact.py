"""Masking of secrets in addresses and data: passwords, tokens, card and account numbers, e-mail addresses.

Visit ids that the tracking script puts into links between domains are removed too.

It protects against accidents, such as a reset token in an address or a form that is sent as a whole. It does not find
secrets that are hidden on purpose. Everything else stays as sent, to the byte.

The texts come from browsers and may be hostile. So each pattern passes over a text once, JSON is not parsed (the
patterns recognise its strings), and there is little Python work per match (see tests/unit/test_cost.py).
"""

import re
from collections.abc import Iterable, Set
from functools import lru_cache
from itertools import starmap
from typing import Final

import msgspec

from footfall_collector.account_numbers import MIN_DIGITS, mask_account_numbers, mask_json_card_numbers
from footfall_collector.masking import as_latin1, interleave, mask_values
from footfall_collector.secret_patterns import JSON_LITERAL, JSON_STRING, SecretPatterns

MASK: Final = "***"
"""Replaces a secret; needs no escaping in URLs and JSON."""

UNMASKED_KEY: Final = "userID"
"""The only key whose value is never masked: it is the identity itself."""

_NOT_DIGITS = bytes(set(range(256)) - set(b"0123456789"))

# Addresses of pages recur with every event, so results are cached. Long ones are not: anybody may send many different.
_MAX_CACHED_LENGTH: Final = 512
_CACHE_SIZE: Final = 8_192

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_FLAGS: Final = re.ASCII | re.DOTALL
_KEY = re.compile(r'"([^"\\]*+)"\s*+:', _FLAGS)
_PARAMETER = re.compile(r'[?&#;"\s\\]([^?&#=;"\\\s]++)=', _FLAGS)
_UNMASKED_MEMBER = re.compile(rf'("{UNMASKED_KEY}"\s*+:\s*+(?:{JSON_STRING}|{JSON_LITERAL}))', _FLAGS)
_PLACEHOLDER: Final = f'"{UNMASKED_KEY}":null'
_NAMING_KEYS: Final = frozenset({"name", "key", "field", "id"})
_ADDRESSES: Final = ('"url"', '"referrer"', '"title"')
_ADDRESS = re.compile(rf'((?:{"|".join(_ADDRESSES)})\s*+:\s*+")((?:[^"\\]++|\\.)*+)', _FLAGS)

_JWT = re.compile(r"eyJ(?:(?<![\w-]...)|(?<=\\[nrt]...))[\w-]{8,}+\.[\w-]++\.[\w-]*+", _FLAGS)
_USERINFO = (
    re.compile(r'(:(?://|\\/\\/))([^/?#\s"\\]*)(?=@)', _FLAGS),
    re.compile(r'(%3a%2f%2f)((?:(?!%2f|%3f|%23|%40)[^/?#&\s"\\])*+)(?=%40)', _FLAGS),
)
# Matches what precedes an e-mail address, and the address or the end. Bytes above 0x7F count as letters.
_MAILBOX: Final = r"(?:[\w.+'\x80-\xff-]|%(?:2[BDEbde7]|5[Ff]|[89A-Fa-f][0-9A-Fa-f]))++"
_AT_HOST: Final = r"(?:@|%(?:25)*+40)[\w\x80-\xff-]++(?:\.[\w\x80-\xff-]++)++"
_EMAIL = re.compile(
    rf"((?:[^\w.+'%\\\x80-\xff-]++|\\(?:u[0-9a-fA-F]{{4}}|[\x00-\x7f])?|{_MAILBOX}(?!{_AT_HOST})|%(?:[0-9A-Fa-f]{{2}})?)*+)({_MAILBOX}{_AT_HOST}|\Z)",
    _FLAGS,
)
# The parameter that the tracking script adds to links to other domains of the same owner (docs/adr/0026), with one
# separator beside it. It may be in an address inside an address. The character before the whole text stays.
_LINK_NAME: Final = "_gt_link"


def _link_pattern(question: str, ampersand: str, equals: str) -> str:
    named = rf"{_LINK_NAME}{equals}[\w.-]*+"
    several = rf"{named}(?:{ampersand}{named})*+"
    return rf"{question}{several}(?!{ampersand})|(?<={question}){several}{ampersand}|(?!\A){ampersand}{several}"


_SEPARATORS: Final = ((r"\?", "&", "="), ("%3f", "%26", "%3d"), ("%253f", "%2526", "%253d"))
_LINK = re.compile("|".join(starmap(_link_pattern, _SEPARATORS)), _FLAGS | re.IGNORECASE)


class Redactor:
    """Masks secrets.

    `keys` are names of secrets besides the built-in ones, in any case. `emails`: also mask e-mail addresses in
    addresses and titles of pages.
    """

    def __init__(self, keys: Iterable[str] = (), *, emails: bool = True) -> None:
        names = SecretPatterns(_lower(key.strip().encode()) for key in keys if key.strip())
        self._emails = emails
        self._secret_name = names.any_name()
        self._harmless_names: set[str] = set()
        self._parameters, self._encoded_parameters = names.parameters(), names.encoded_parameters()
        self._members, self._inner_members, self._fields = names.members(), names.inner_members(), names.fields()
        self._mask_cached = lru_cache(maxsize=_CACHE_SIZE)(self._mask_text)

    def mask_text(self, text: str) -> str:
        """Mask the secrets in the address of a page or in another short text. Idempotent."""
        return self._mask_cached(text) if len(text) <= _MAX_CACHED_LENGTH else self._mask_text(text)

    def _mask_text(self, text: str) -> str:
        utf8 = b"&%b" % text.encode()  # the patterns expect a separator before each parameter
        lower = _lower(utf8)
        has_secret, has_email = self._may_hold_secret(utf8, lower), self._emails and _has_at(lower)
        if not (has_secret or has_email):
            return text
        masked = as_latin1(utf8)
        if has_secret:
            masked = self._mask_in_text(masked, lower)
        if has_email:
            masked = _mask_emails(masked)
        return masked[1:].encode("latin-1").decode()

    def mask_json(self, json: bytes) -> bytes:
        """Mask the secrets in a valid JSON object: values of secret keys, and secrets in all strings and numbers."""
        if len(json) <= len("{}"):
            return json
        lower = _lower(json)
        is_flat = lower[0] == "{" and lower.find("{", 1) < 0 and "[" not in lower
        keys = _decode_object(json).keys() if is_flat else {*_KEY.findall(as_latin1(json))}
        has_key = self._has_secret_name(keys)
        is_form = "value" in keys and not _NAMING_KEYS.isdisjoint(keys)
        has_json = r"\"" in lower
        has_secret = self._may_hold_secret(json, lower)
        has_email = self._emails and _has_at(lower) and any(key in lower for key in _ADDRESSES)
        if not (has_key or is_form or has_json or has_secret or has_email):
            return json
        text = as_latin1(json)
        if has_key:
            text = mask_values(self._members, text, f'"{MASK}"')
        if is_form:
            text = mask_values(self._fields, text, f'"{MASK}"')
        if has_json:
            text = mask_values(self._inner_members, text, rf"\"{MASK}\"")
        if has_secret or has_email:
            parts = _UNMASKED_MEMBER.split(text)
            unmasked, text = parts[1::2], _PLACEHOLDER.join(parts[::2])
            if has_email:
                text = _mask_emails_in_members(text)
            if has_secret:
                text = self._mask_in_text(mask_json_card_numbers(text, f'"{MASK}"'), lower)
            text = interleave(text.split(_PLACEHOLDER), unmasked)
        return text.encode("latin-1")

    def _has_secret_name(self, names: Set[str]) -> bool:
        """Whether one of the names may be that of a secret. One search for all names, because there may be many."""
        if self._harmless_names.issuperset(names):
            return False
        if self._secret_name.search(_lower("\n".join(names).encode())):
            return True
        if len(self._harmless_names) > _CACHE_SIZE:
            self._harmless_names.clear()
        self._harmless_names.update(names)
        return False

    def _may_hold_secret(self, utf8: bytes, lower: str) -> bool:
        """Whether a text may hold a secret, apart from values of JSON keys. Fast; nearly always negative."""
        first = lower.find("=")
        if first >= 0:
            start = max(0, lower.rfind("?", 0, first))  # where the query of an address begins
            if self._has_secret_name({*_PARAMETER.findall(lower, start)}):
                return True
        if _LINK_NAME in lower or "eyj" in lower or len(utf8.translate(None, _NOT_DIGITS)) >= MIN_DIGITS:
            return True
        if "%" in lower and "3d" in lower and any(pattern.search(lower) for pattern in self._encoded_parameters):
            return True
        return _has_at(lower) and ("//" in lower or r"\/" in lower or "%2f" in lower)

    def _mask_in_text(self, text: str, lower: str) -> str:
        if _LINK_NAME in lower:
            text = _LINK.sub("", text)
        if "=" in lower:
            text = mask_values(self._parameters, text, MASK)
        if "%" in lower and "3d" in lower:
            text = mask_values(self._encoded_parameters, text, MASK)
        if "eyj" in lower:
            text = _JWT.sub(MASK, text)
        if _has_at(lower):
            text = mask_values(_USERINFO, text, MASK)
        return mask_account_numbers(text, MASK)


def _mask_emails_in_members(json: str) -> str:
    parts = _ADDRESS.split(json)  # before, key, value, before, key, value, ...
    values = [key + _mask_emails(value) for key, value in zip(parts[1::3], parts[2::3], strict=True)]
    return interleave(parts[::3], values)


def _mask_emails(text: str) -> str:
    parts = _EMAIL.split(text)  # "", before, address, "", before, address, ...
    return interleave(parts[1::3], [found and MASK for found in parts[2::3]])


def _has_at(lower: str) -> bool:
    return "@" in lower or ("%" in lower and ("%40" in lower or "%2540" in lower))


def _lower(text: bytes) -> str:
    """Return `as_latin1` of the text with ASCII letters in lower case."""
    return text.lower().decode("latin-1")
