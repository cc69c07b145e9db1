"""Masking of numbers of payment cards and bank accounts (IBAN) in texts.

The check digits of all candidates are computed together, because a hostile text may consist of candidates only.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from footfall_collector.masking import interleave

MIN_DIGITS: Final = 12
"""Fewest digits of such a number: an IBAN of the Netherlands has 12, a card 14."""

# A number is no part of a longer number or word, a decimal fraction, a telephone number or a UUID. The lookbehinds are
# placed after the first four characters, so that a search tests those first.
_START: Final = r"(?:(?<![\w.\\-].{4})|(?<=\\[nrt].{4})|(?<=\\u[0-9a-fA-F]{4}.{4}))(?<!(?<!\w)\+.{4})"
_END: Final = r"(?![\w-]|\.\d)"
_CARD_SHAPE = re.compile(
    rf"([2-6](?:(?<!\d.)|(?<=\\u....\d))\d{{3}}{_START}"
    rf"(?:\d{{10,15}}|([ +.-]|%20)\d{{4}}\2\d{{4}}\2\d{{4}}|([ +.-]|%20)\d{{6}}\3\d{{4,5}}){_END})",
    re.ASCII | re.DOTALL,
)
_IBAN_SHAPE = re.compile(
    rf"([A-Za-z]{{2}}\d\d{_START}"
    r"(?:[A-Za-z0-9]{11,28}|(?:(?:[ +]|%20)[A-Za-z0-9]{4}){2,7}(?:(?:[ +]|%20)[A-Za-z0-9]{1,4})?)"
    rf"{_END})",
    re.ASCII | re.DOTALL,
)
# Matches a number of a JSON text outside of its strings, together with everything before it.
_JSON_NUMBER_SHAPE = re.compile(
    r'((?:[^"0-9]++|"(?:[^"\\]++|\\.)*+"|\d{1,13}+(?!\d)|(?!(?<![\w.+-])\d{14,19}(?![\w.]))\d++)*+)(\d{14,19}|\Z)',
    re.ASCII | re.DOTALL,
)
# The prefixes and lengths of Visa, Mastercard, American Express, Diners, JCB, Discover, UnionPay and Maestro.
_CARD_LINE = re.compile(
    r"^(?:4(?:\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-5]|[689]\d)\d{11}|(?:35|50|5[6-8]|6\d)\d{14,17})$",
    re.MULTILINE,
)
_CARD_SIGN: Final = "c"
_LONG_NUMBER = re.compile(r"[0-9]{14}")
_MAX_CARD_DIGITS: Final = 19
_VALUES = bytes.maketrans(b"0123456789", bytes(range(10)))
_DOUBLED = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))  # digit sum of the doubled value

# The length of an IBAN by country.
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


def mask_account_numbers(text: str, mask: str) -> str:
    """Replace every number of a card or an account in a text by the mask."""
    parts = _CARD_SHAPE.split(text)
    if len(parts) > 1:
        candidates = parts[1::4]
        text = interleave(parts[::4], _replace_numbers(candidates, _are_cards(_without_separators(candidates)), mask))
    parts = _IBAN_SHAPE.split(text)
    if len(parts) > 1:
        candidates = parts[1::2]
        text = interleave(parts[::2], _replace_numbers(candidates, _are_ibans(_without_separators(candidates)), mask))
    return text


def mask_json_card_numbers(json: str, mask: str) -> str:
    """Replace every number (not string) of a JSON text that is a card number by the mask, a JSON value."""
    if not _LONG_NUMBER.search(json):
        return json
    parts = _JSON_NUMBER_SHAPE.split(json)  # "", before, number, "", before, number, ...
    numbers = parts[2::3]
    masked = _replace_numbers(numbers, _are_cards(numbers), mask)
    return interleave(parts[1::3], masked)


def _without_separators(candidates: Iterable[str]) -> list[str]:
    """Return the candidates without the separators between their groups."""
    together = "\n".join(candidates).replace("%20", "")
    for separator in " +.-":
        together = together.replace(separator, "")
    return together.split("\n")


def _replace_numbers(candidates: Sequence[str], are_valid: Iterable[object], mask: str) -> list[str]:
    return [mask if is_valid else candidate for candidate, is_valid in zip(candidates, are_valid, strict=True)]


def _are_cards(numbers: Sequence[str]) -> list[bool]:
    """Tell for each number whether prefix, length and check digit are those of a card (ISO/IEC 7812-1, Luhn)."""
    together = "".join([number.zfill(_MAX_CARD_DIGITS) for number in numbers]).encode()
    # Each column of digits is one integer with a byte per number. A sum of 19 digits fits into a byte.
    sums = 0
    for column in range(_MAX_CARD_DIGITS):
        values = _DOUBLED if (_MAX_CARD_DIGITS - column) % 2 == 0 else _VALUES
        sums += int.from_bytes(together[column::_MAX_CARD_DIGITS].translate(values))
    signs = _CARD_LINE.sub(_CARD_SIGN, "\n".join(numbers)).split("\n")
    return [
        total % 10 == 0 and sign == _CARD_SIGN for sign, total in zip(signs, sums.to_bytes(len(numbers)), strict=True)
    ]


def _are_ibans(candidates: Sequence[str]) -> list[bool]:
    """Tell for each candidate whether the length for its country and the check digits are right (ISO 13616)."""
    together = "\n".join([candidate[4:] + candidate[:4] for candidate in candidates]).upper()
    for letter, digits in _LETTERS:
        together = together.replace(letter, digits)
    length = _IBAN_LENGTHS.get
    return [
        length(candidate[:2].upper()) == len(candidate) and int(number) % 97 == 1
        for candidate, number in zip(candidates, together.split("\n"), strict=True)
    ]
