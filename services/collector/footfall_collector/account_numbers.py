"""Turns texts with numbers of payment cards and bank accounts (IBAN) into the same without them.

The check digits of all that look like one are computed together: anybody may send a text that is nothing else.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from footfall_collector.masking import spliced

LEAST_DIGITS: Final = 12
"""No such number has fewer: an IBAN of the Netherlands has 12, a card 14."""

# No part of a longer number or word, a decimal fraction, a telephone number or a UUID. These look back over the first
# four characters, so that a search goes to those at once.
_BEGIN: Final = r"(?:(?<![\w.\\-].{4})|(?<=\\[nrt].{4})|(?<=\\u[0-9a-fA-F]{4}.{4}))(?<!(?<!\w)\+.{4})"
_END: Final = r"(?![\w-]|\.\d)"
_CARD_SHAPE = re.compile(
    rf"([2-6](?:(?<!\d.)|(?<=\\u....\d))\d{{3}}{_BEGIN}"
    rf"(?:\d{{10,15}}|([ +.-]|%20)\d{{4}}\2\d{{4}}\2\d{{4}}|([ +.-]|%20)\d{{6}}\3\d{{4,5}}){_END})",
    re.ASCII | re.DOTALL,
)
_IBAN_SHAPE = re.compile(
    rf"([A-Za-z]{{2}}\d\d{_BEGIN}"
    r"(?:[A-Za-z0-9]{11,28}|(?:(?:[ +]|%20)[A-Za-z0-9]{4}){2,7}(?:(?:[ +]|%20)[A-Za-z0-9]{1,4})?)"
    rf"{_END})",
    re.ASCII | re.DOTALL,
)
# The numbers of a JSON text, which stand outside of its strings: what is before one, and the number.
_BARE_SHAPE = re.compile(
    r'((?:[^"0-9]++|"(?:[^"\\]++|\\.)*+"|\d{1,13}+(?!\d)|(?!(?<![\w.+-])\d{14,19}(?![\w.]))\d++)*+)(\d{14,19}|\Z)',
    re.ASCII | re.DOTALL,
)
# What the issuers number: Visa, Mastercard, American Express, Diners, and JCB, Discover, UnionPay and Maestro.
_CARD = re.compile(
    r"4(?:\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|(?:35|50|5[6-8]|6\d)\d{14,17}"
)
_LONG_NUMBER = re.compile(r"[0-9]{14}")
_LONGEST_CARD: Final = 19
_VALUES = bytes.maketrans(b"0123456789", bytes(range(10)))
_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))  # the digits of the double, added

# The countries by how long their IBANs are.
_IBAN_LENGTHS: Final = {
    **dict.fromkeys(["NO"], 15),
    **dict.fromkeys(["BE"], 16),
    **dict.fromkeys(["DK", "FI", "FO", "GL", "NL"], 18),
    **dict.fromkeys(["MK", "SI"], 19),
    **dict.fromkeys(["AT", "BA", "EE", "KZ", "LT", "LU", "XK"], 20),
    **dict.fromkeys(["CH", "HR", "LI", "LV"], 21),
    **dict.fromkeys(["BG", "BH", "CR", "DE", "GB", "GE", "IE", "ME", "RS", "VA"], 22),
    **dict.fromkeys(["AE", "GI", "IL", "IQ", "OM", "SO", "TL"], 23),
    **dict.fromkeys(["AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"], 24),
    **dict.fromkeys(["LY", "PT", "ST"], 25),
    **dict.fromkeys(["IS", "TR"], 26),
    **dict.fromkeys(["FR", "GR", "IT", "MC", "MR", "SM"], 27),
    **dict.fromkeys(["AL", "AZ", "BY", "CY", "DO", "GT", "HU", "LB", "NI", "PL", "SV"], 28),
    **dict.fromkeys(["BR", "EG", "PS", "QA", "UA"], 29),
    **dict.fromkeys(["JO", "KW", "MU", "YE"], 30),
    **dict.fromkeys(["MT", "SC"], 31),
    **dict.fromkeys(["LC"], 32),
}
_LETTERS: Final = tuple((chr(letter), str(letter - ord("A") + 10)) for letter in range(ord("A"), ord("Z") + 1))


def without_account_numbers(text: str, mask: str) -> str:
    """Put the mask in the place of every number of a card or an account."""
    parts = _CARD_SHAPE.split(text)
    if len(parts) > 1:
        shapes = parts[1::4]
        text = spliced(parts[::4], _masked(shapes, _are_cards(_bare(shapes)), mask))
    parts = _IBAN_SHAPE.split(text)
    if len(parts) > 1:
        shapes = parts[1::2]
        text = spliced(parts[::2], _masked(shapes, _are_ibans(_bare(shapes)), mask))
    return text


def without_bare_card_numbers(json: str, mask: str) -> str:
    """Put the mask, which is a JSON value, in the place of every number of a JSON text that is one of a card."""
    if not _LONG_NUMBER.search(json):
        return json
    parts = _BARE_SHAPE.split(json)  # nothing, what is before, number; and so on
    numbers = parts[2::3]
    masked = _masked(numbers, _are_cards(numbers), mask)
    return spliced(parts[1::3], masked)


def _bare(shapes: Iterable[str]) -> list[str]:
    """The shapes without what separates their groups."""
    together = "\n".join(shapes).replace("%20", "")
    for separator in " +.-":
        together = together.replace(separator, "")
    return together.split("\n")


def _masked(shapes: Sequence[str], are_numbers: Iterable[object], mask: str) -> list[str]:
    return [mask if is_number else shape for shape, is_number in zip(shapes, are_numbers, strict=True)]


def _are_cards(numbers: Sequence[str]) -> list[bool]:
    """Whether an issuer would number a card so, and its check digit is right (ISO/IEC 7812-1, Luhn)."""
    together = "".join([number.zfill(_LONGEST_CARD) for number in numbers]).encode()
    # Each column as one integer with a byte for each number; a sum of 19 digits fits into a byte.
    sums = 0
    for column in range(_LONGEST_CARD):
        values = _DOUBLED if (_LONGEST_CARD - column) % 2 == 0 else _VALUES
        sums += int.from_bytes(together[column::_LONGEST_CARD].translate(values))
    fits = _CARD.fullmatch
    return [
        total % 10 == 0 and fits(number) is not None
        for number, total in zip(numbers, sums.to_bytes(len(numbers)), strict=True)
    ]


def _are_ibans(shapes: Sequence[str]) -> list[bool]:
    """Whether they are as long as those of their country, and their check digits are right (ISO 13616)."""
    together = "\n".join([shape[4:] + shape[:4] for shape in shapes]).upper()
    for letter, digits in _LETTERS:
        together = together.replace(letter, digits)
    length = _IBAN_LENGTHS.get
    return [
        length(shape[:2].upper()) == len(shape) and int(number) % 97 == 1
        for shape, number in zip(shapes, together.split("\n"), strict=True)
    ]
