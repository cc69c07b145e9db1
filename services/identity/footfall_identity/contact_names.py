"""Words of names without case and accents, and their beginnings, by which contacts are found."""

import re
import unicodedata
from typing import Final

_BEGINNING_LENGTHS: Final = (1, 3, 5, 8)
"""Lengths of the beginnings that are stored: few, because each is one more entry of an index."""

_LETTERS: Final = str.maketrans(
    {
        "æ": "ae",
        "œ": "oe",
        "ø": "o",
        "đ": "d",
        "ð": "d",
        "ħ": "h",
        "\u0131": "i",
        "ĸ": "k",
        "ł": "l",
        "ŋ": "n",
        "ŧ": "t",
        "þ": "th",
        "ə": "e",
    }
)
"""Small letters that Unicode does not take apart, and how they are typed without them."""

_ASCII_WORD: Final = re.compile("[a-z0-9]+")

_APOSTROPHES: Final = dict.fromkeys(map(ord, "'`\u00b4\u02bb\u02bc\u2018\u2019"))


def folded_words(text: str) -> tuple[str, ...]:
    """Return the different words of a text in small letters without accents, in their order."""
    if text.isascii():  # nearly always
        return tuple(dict.fromkeys(_ASCII_WORD.findall(text.translate(_APOSTROPHES).lower())))
    decomposed = unicodedata.normalize("NFKD", text.translate(_APOSTROPHES)).casefold().translate(_LETTERS)
    # Vowel signs, for instance of Hindi, are marks too, but combine with class 0.
    plain = (character for character in decomposed if not unicodedata.combining(character))
    letters = (character if unicodedata.category(character)[0] in "LMN" else " " for character in plain)
    return tuple(dict.fromkeys("".join(letters).split()))


def begin_all(words: tuple[str, ...], first: str, last: str) -> bool:
    """Return whether each of these words begins a word of the first or last name."""
    named = folded_words(f"{first} {last}")
    return all(any(word.startswith(beginning) for word in named) for beginning in words)


def name_beginnings(first: str, last: str) -> set[str]:
    """Return the stored beginnings of all words of a name, as search keys."""
    words = folded_words(f"{first} {last}")
    return {f"word:{word[:length]}" for word in words for length in _BEGINNING_LENGTHS if length <= len(word)}


def stored_beginning(words: tuple[str, ...]) -> str:
    """Return the search key that all contacts have who have these words: of the longest word, the longest."""
    longest = max(words, key=len)
    length = max(length for length in _BEGINNING_LENGTHS if length <= len(longest))
    return f"word:{longest[:length]}"
