"""Telephone numbers in E.164 form: the spelling in which numbers are compared."""

from typing import Final

import phonenumbers

MAX_PHONE_LENGTH: Final = 64


def check_region(region: str | None) -> str | None:
    """The country code. Raises ValueError for one without telephone numbers."""
    if region is not None and region not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError("must be the two capital letters of a country, such as DE")
    return region


def e164(text: str, region: str | None) -> str:
    """A telephone number in E.164 form, with `;ext=` and the extension if it has one; "" for an invalid one.

    Without `+` it is a number of `region`.
    """
    if len(text) > MAX_PHONE_LENGTH:
        return ""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return ""
    # Not is_valid_number: new number ranges are used long before the library knows them.
    if phonenumbers.is_possible_number_with_reason(number) != phonenumbers.ValidationResult.IS_POSSIBLE:
        return ""
    formatted = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return f"{formatted};ext={number.extension}" if number.extension else formatted
