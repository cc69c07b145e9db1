"""Turns the names of secrets into the patterns that find their values: in parameters of addresses and in JSON.

The patterns are for texts in lower case, and each has two groups: what is kept, and the secret. They begin with the end
of a name, which is all that counts of most, and nothing in them that may be of any length is gone through twice.
"""

import re
from collections.abc import Iterable
from typing import Final

STRING: Final = r'"(?:[^"\\]++|\\.)*+"'
"""A string of JSON."""
WORD: Final = r'[^\s"\\\[\]{},:]++'
"""A number, `true`, `false` or `null`."""

# A JSON text in a string of JSON: its quotes are escaped, and its escapes twice.
_INNER_STRING: Final = r'\\"(?:[^"\\]++|\\\\(?:\\.|[^"\\])|\\[^"\\])*+\\"'
_NOTHING: Final = r'(?!null\b|true\b|false\b|""|\\"\\")'
_DEEPEST: Final = 32  # admission lets nothing through that is nested deeper
_DEEPEST_INNER: Final = 2  # where brackets need not be in pairs, and looking for the last one may be in vain
_PERCENT: Final = "%(?:25)*+"
_FLAGS: Final = re.ASCII | re.DOTALL  # or a byte of a letter might be white space

_BRACKETS: Final = rf"(?:\[?\]|(?:{_PERCENT}5b)?{_PERCENT}5d)?"


def _word(name: str) -> str:
    """A pattern of a name that is no part of a longer word; it looks back from its end."""
    back = f".{{{len(name)}}}"
    escaped = "|".join(f"(?<={begin}{back})" for begin in ("u0026", "%5b", "%3f", "%26", "%23", "%3b"))
    return rf"{re.escape(name)}(?:(?<![a-z0-9]{back})|{escaped})"


# Each begins with a letter, so that a search goes from one such letter to the next.
_SURE: Final = (
    r"pass[-_ ]?(?:w(?:or)?d|wort|phrase|code)[a-z0-9_.\[\]-]{0,32}+",
    *("tokens?", "secrets?", "pwds?", "jwts?", "authorization", "samlresponse", "jsessionid", "cvv2?", "cvc2?"),
    *(rf"{of}[-_ .]?keys?" for of in ("api", "access", "private", "secret", "signing")),
    *(f"{_word(name)}s?" for name in ("pass", "pw", "otp", "pin", "csc")),
)
_AMBIGUOUS: Final = ("codes?", "states?", "sids?", "auths?", "keys?", "sigs?", "tickets?")
"""Names of secrets only when the value looks like one."""


class SecretNames:
    """The built-in names, and those of a deployment, which must be in lower case."""

    def __init__(self, own: Iterable[str]) -> None:
        self._sure = (*_SURE, *map(_word, own))

    def any_name(self) -> re.Pattern[str]:
        """Any of the names, at the end of a line."""
        return re.compile(rf"(?:{'|'.join((*self._sure, *_AMBIGUOUS))}){_BRACKETS}$", re.ASCII | re.MULTILINE)

    def parameters(self) -> list[re.Pattern[str]]:
        """Parameters in path, query and fragment."""
        escaped = r"\\(?:/|u(?!002[36])[0-9a-f]{4})"
        value = rf'(?!\*\*\*)(?:[^&#\s"\\]++|{escaped})++'
        in_path = rf'(;[a-z0-9_.-]{{0,32}}?(?:{"|".join(self._sure)}){_BRACKETS}=)([^;/?&#\s"\\]++)'
        return [re.compile(in_path, _FLAGS), *self._values("=", r'[^a-z0-9&#\s"\\]', value)]

    def encoded_parameters(self) -> list[re.Pattern[str]]:
        """Parameters of an address that is itself the value of a parameter."""
        end = rf"(?!{_PERCENT}(?:26|23))"
        return self._values(f"{_PERCENT}3d", rf'(?:{end}[^a-z0-9&#\s"\\])', rf'(?:{end}[^&#\s"\\])++')

    def members(self) -> list[re.Pattern[str]]:
        """Members of JSON objects."""
        return self._members('"', _value(STRING, r'[^\[\]{}"]++', _DEEPEST))

    def inner_members(self) -> list[re.Pattern[str]]:
        """Members of the objects of a JSON text in a string of JSON."""
        return self._members(r'\\"', _value(_INNER_STRING, r'(?:[^\[\]{}"\\]++|\\[^"\\])', _DEEPEST_INNER))

    def fields(self) -> list[re.Pattern[str]]:
        """The values of forms that are lists: `{"name": "password", "value": "..."}`."""
        value = f"(?:{STRING}|{WORD})"
        some = rf'(?:"[^"\\]*+"\s*+:\s*+{value}\s*+,\s*+){{0,4}}?'
        name = rf'"(?:name|key|field|id)"\s*+:\s*+"[^"\\]{{0,64}}?(?:{"|".join(self._sure)}){_BRACKETS}"'
        return [
            *self._values(rf'"\s*+,\s*+{some}"value"\s*+:\s*+', _IN_JSON, value, '"'),
            re.compile(rf'("value"\s*+:\s*+{_NOTHING})({value})(?=\s*+,\s*+{some}{name})', _FLAGS),
        ]

    def _members(self, quote: str, value: str) -> list[re.Pattern[str]]:
        return self._values(rf"{quote}\s*+:\s*+", _IN_JSON, value, quote)

    def _values(self, behind: str, separator: str, value: str, quote: str = "") -> list[re.Pattern[str]]:
        """What is behind a name, for sure names and for ambiguous ones with a value that looks like a secret."""
        return [
            re.compile(rf"((?:{'|'.join(names)}){_BRACKETS}{behind}{condition})({value})", _FLAGS)
            for names, condition in ((self._sure, _NOTHING), (_AMBIGUOUS, f"(?={quote}{_random(separator)})"))
        ]


_IN_JSON: Final = r'(?:[^a-z0-9"\\]|\\[^"])'


def _random(separator: str) -> str:
    """A pattern of the begin of a value that nobody typed: a UUID, or with 16 letters and digits in a row, of both."""
    words = rf"(?:[a-z0-9]{{0,15}}+(?![a-z0-9]){separator}++)*+"
    return rf"(?:[0-9a-f]{{8}}-[0-9a-f]{{4}}-|{words}(?=[a-z0-9]{{16}})(?=[a-z]*+[0-9])(?=[0-9]*+[a-z]))"


def _value(string: str, other: str, depth: int) -> str:
    """A pattern of a value of JSON, of which `string` is a string, and `other` what may be between those."""
    nested = r"(?!)"
    for _ in range(depth):
        nested = rf"[\[{{](?:{other}|{string}|{nested})*+[\]}}]"
    return f"(?:{string}|{nested}|{WORD})"
