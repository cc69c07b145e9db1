"""Patterns that find the values of secrets by their names: in parameters of addresses and in JSON.

The patterns are for texts in lower case. Each has two groups: the text to keep, and the secret. They match the end of a
name, which decides for most names. Unbounded repetitions are possessive, so that the time is linear in the text.
"""

import re
from collections.abc import Iterable
from typing import Final

JSON_STRING: Final = r'"(?:[^"\\]++|\\.)*+"'
"""Matches a JSON string."""
JSON_LITERAL: Final = r'[^\s"\\\[\]{},:]++'
"""Matches a number, `true`, `false` or `null`."""

# Matches a string of a JSON text that is itself in a JSON string: its quotes are escaped, and its escapes twice.
_INNER_STRING: Final = r'\\"(?:[^"\\]++|\\\\(?:\\.|[^"\\])|\\[^"\\])*+\\"'
_NOT_EMPTY: Final = r'(?!null\b|true\b|false\b|""|\\"\\")'
_MAX_DEPTH: Final = 32  # admission rejects deeper data
_MAX_INNER_DEPTH: Final = 2  # low, because brackets may be unbalanced there, which makes a search expensive
_PERCENT: Final = "%(?:25)*+"
_FLAGS: Final = re.ASCII | re.DOTALL  # ASCII: bytes above 0x7F are no white space

_BRACKETS: Final = rf"(?:\[?\]|(?:{_PERCENT}5b)?{_PERCENT}5d)?"


def _whole_name(name: str) -> str:
    """Return a pattern of a name that is no part of a longer word; it looks back from the end of the name."""
    back = f".{{{len(name)}}}"
    escaped = "|".join(f"(?<={start}{back})" for start in ("u0026", "%5b", "%3f", "%26", "%23", "%3b"))
    return rf"{re.escape(name)}(?:(?<![a-z0-9]{back})|{escaped})"


# Each pattern begins with a letter: this makes a search fast.
_SECRET_NAMES: Final = (
    r"pass[-_ ]?(?:w(?:or)?d|wort|phrase|code)[a-z0-9_.\[\]-]{0,32}+",
    *("tokens?", "secrets?", "pwds?", "jwts?", "authorization", "samlresponse", "jsessionid", "cvv2?", "cvc2?"),
    *(rf"{of}[-_ .]?keys?" for of in ("api", "access", "private", "secret", "signing")),
    *(f"{_whole_name(name)}s?" for name in ("pass", "pw", "otp", "pin", "csc")),
)
_AMBIGUOUS_NAMES: Final = ("codes?", "states?", "sids?", "auths?", "keys?", "sigs?", "tickets?")
"""Names of secrets only if the value looks random."""


class SecretPatterns:
    """Patterns for the built-in names and for `own`, further names in lower case."""

    def __init__(self, own: Iterable[str]) -> None:
        self._names = (*_SECRET_NAMES, *map(_whole_name, own))

    def any_name(self) -> re.Pattern[str]:
        """Return a pattern of any name at the end of a line. It has no groups."""
        return re.compile(rf"(?:{'|'.join((*self._names, *_AMBIGUOUS_NAMES))}){_BRACKETS}$", re.ASCII | re.MULTILINE)

    def parameters(self) -> list[re.Pattern[str]]:
        """Return patterns of parameters in path, query and fragment."""
        escaped = r"\\(?:/|u(?!002[36])[0-9a-f]{4})"
        value = rf'(?!\*\*\*)(?:[^&#\s"\\]++|{escaped})++'
        in_path = rf'(;[a-z0-9_.-]{{0,32}}?(?:{"|".join(self._names)}){_BRACKETS}=)([^;/?&#\s"\\]++)'
        return [re.compile(in_path, _FLAGS), *self._values("=", r'[^a-z0-9&#\s"\\]', value)]

    def encoded_parameters(self) -> list[re.Pattern[str]]:
        """Return patterns of parameters of an address that is itself the value of a parameter."""
        end = rf"(?!{_PERCENT}(?:26|23))"
        return self._values(f"{_PERCENT}3d", rf'(?:{end}[^a-z0-9&#\s"\\])', rf'(?:{end}[^&#\s"\\])++')

    def members(self) -> list[re.Pattern[str]]:
        """Return patterns of members of JSON objects."""
        return self._members('"', _value(JSON_STRING, r'[^\[\]{}"]++', _MAX_DEPTH))

    def inner_members(self) -> list[re.Pattern[str]]:
        """Return patterns of members of objects in a JSON text that is itself in a JSON string."""
        return self._members(r'\\"', _value(_INNER_STRING, r'(?:[^\[\]{}"\\]++|\\[^"\\])', _MAX_INNER_DEPTH))

    def fields(self) -> list[re.Pattern[str]]:
        """Return patterns of values in forms sent as lists: `{"name": "password", "value": "..."}`."""
        value = f"(?:{JSON_STRING}|{JSON_LITERAL})"
        some = rf'(?:"[^"\\]*+"\s*+:\s*+{value}\s*+,\s*+){{0,4}}?'
        name = rf'"(?:name|key|field|id)"\s*+:\s*+"[^"\\]{{0,64}}?(?:{"|".join(self._names)}){_BRACKETS}"'
        return [
            *self._values(rf'"\s*+,\s*+{some}"value"\s*+:\s*+', _IN_JSON, value, '"'),
            re.compile(rf'("value"\s*+:\s*+{_NOT_EMPTY})({value})(?=\s*+,\s*+{some}{name})', _FLAGS),
        ]

    def _members(self, quote: str, value: str) -> list[re.Pattern[str]]:
        return self._values(rf"{quote}\s*+:\s*+", _IN_JSON, value, quote)

    def _values(self, behind: str, separator: str, value: str, quote: str = "") -> list[re.Pattern[str]]:
        """Return patterns of a value behind a secret name, and of a random value behind an ambiguous name."""
        return [
            re.compile(rf"((?:{'|'.join(names)}){_BRACKETS}{behind}{condition})({value})", _FLAGS)
            for names, condition in ((self._names, _NOT_EMPTY), (_AMBIGUOUS_NAMES, f"(?={quote}{_random(separator)})"))
        ]


_IN_JSON: Final = r'(?:[^a-z0-9"\\]|\\[^"])'


def _random(separator: str) -> str:
    """Return a pattern of the start of a random value: a UUID, or 16 letters and digits (both) in a row."""
    words = rf"(?:[a-z0-9]{{0,15}}+(?![a-z0-9]){separator}++)*+"
    return rf"(?:[0-9a-f]{{8}}-[0-9a-f]{{4}}-|{words}(?=[a-z0-9]{{16}})(?=[a-z]*+[0-9])(?=[0-9]*+[a-z]))"


def _value(string: str, other: str, depth: int) -> str:
    """Return a pattern of a JSON value; `string` matches its strings, `other` what is between strings and brackets."""
    nested = r"(?!)"
    for _ in range(depth):
        nested = rf"[\[{{](?:{other}|{string}|{nested})*+[\]}}]"
    return f"(?:{string}|{nested}|{JSON_LITERAL})"
