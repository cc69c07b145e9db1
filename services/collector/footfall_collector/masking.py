"""Turns texts into the same with other words in the place of what patterns find, without Python for each match.

A text is here what `bytewise` makes of bytes: then its lower case has every character in the same place.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate


def bytewise(text: bytes) -> str:
    """A character for each byte: looking into a str is four times as fast as into bytes."""
    return text.decode("latin-1")


def put_behind(patterns: Iterable[re.Pattern[str]], text: str, mask: str) -> str:
    """Find patterns in the lower case of a text: of each match keep the first group and mask the second, the last."""
    for pattern in patterns:
        parts = pattern.split(text.encode("latin-1").lower().decode("latin-1"))
        if len(parts) > 1:
            ends = [*accumulate(map(len, parts))]
            parts = [*map(text.__getitem__, map(slice, [0, *ends], ends))]
            parts[2::3] = [mask] * (len(parts) // 3)
            text = "".join(parts)
    return text


def spliced(outer: Sequence[str], inner: Sequence[str]) -> str:
    """The texts in turn: an outer one, an inner one, and so on."""
    parts = [""] * (len(outer) + len(inner))
    parts[::2], parts[1::2] = outer, inner
    return "".join(parts)
