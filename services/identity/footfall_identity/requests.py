"""Turns fields of requests into checked values, or into the INVALID_ARGUMENT that names field and rule."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1.contact_pb2 import Contact
from footfall_servicekit.errors import RequestError
from footfall_timeline import LONGEST_IDENTITY, State, Transition, UnfitEventError, normalize_uuid, transition_of

from footfall_identity.contact_record import ContactRecord
from footfall_identity.matching import email_key, phone_key
from footfall_identity.visitor_store import Position

MAX_EVENTS: Final = 1_000
MAX_IDENTITIES: Final = 1_000
MAX_TEXT_LENGTH: Final = 256
MAX_ADDRESSES: Final = 32


# Tokens can be made up by whoever reads paging.py.
_LIVE_POSITION = re.compile(r"([0-9]{1,15})-(.*)", re.DOTALL)
_COUNT = re.compile(r"[0-9]{1,9}")


def admitted(events: Sequence[Event]) -> list[tuple[Event, Transition | None]]:
    """Events of the log, each with its transition."""
    if len(events) > MAX_EVENTS:
        raise RequestError.invalid("events", f"must be at most {MAX_EVENTS}")
    found = []
    for position, event in enumerate(events):
        try:
            found.append((event, transition_of(event)))
        except UnfitEventError as error:
            field, _, rule = str(error).partition(": ")
            raise RequestError.invalid(f"events[{position}].{field}", rule) from None
    return found


def visit_id(text: str) -> str:
    """A visit, in either form of a UUID."""
    try:
        return normalize_uuid(text)
    except ValueError:
        raise RequestError.invalid("visit_id", "must be a UUID") from None


def identity_id(text: str) -> str:
    """The name of an identity."""
    return _text("identity_id", text, LONGEST_IDENTITY)


def contact_id(text: str) -> str:
    """The name of a contact."""
    return _text("contact_id", text, MAX_TEXT_LENGTH)


def actor(text: str) -> str:
    """Who decides."""
    return _text("actor", text, MAX_TEXT_LENGTH)


def _text(field: str, text: str, longest: int) -> str:
    if not 1 <= len(text) <= longest:
        raise RequestError.invalid(field, f"must be 1 to {longest} characters")
    return text


def state(number: int) -> State | None:
    """A filter by state; None: any."""
    if not number:
        return None
    try:
        return State(number)
    except ValueError:
        raise RequestError.invalid("state", "must be a known state") from None


def live_position(text: str | None) -> Position | None:
    """What a page token of ListVisitors stands for."""
    if text is None:
        return None
    found = _LIVE_POSITION.fullmatch(text)
    if not found:
        raise _no_token()
    return int(found[1]), found[2]


def links_position(text: str | None) -> int | None:
    """What a page token of ListContactLinks stands for: how many links are older."""
    if text is None:
        return None
    if not _COUNT.fullmatch(text):
        raise _no_token()
    return int(text)


def _no_token() -> RequestError:
    return RequestError.invalid("page_token", "must be a token that this method returned")


def contact(given: Contact, phone_region: str | None) -> ContactRecord:
    """A contact to store. Raises with all that is wrong with it."""
    wrong: list[tuple[str, str]] = []
    if not 1 <= len(given.contact_id) <= MAX_TEXT_LENGTH:
        wrong.append(("contact.contact_id", f"must be 1 to {MAX_TEXT_LENGTH} characters"))
    phone_rule = "must be a telephone number, with + and country code" if phone_region is None else "must be a number"
    wrong += _wrong_addresses("email_addresses", given.email_addresses, email_key, "must be an e-mail address")
    wrong += _wrong_addresses(
        "phone_numbers", given.phone_numbers, lambda text: phone_key(text, phone_region), phone_rule
    )
    for field in ("first_name", "last_name", "title"):
        if len(getattr(given, field)) > MAX_TEXT_LENGTH:
            wrong.append((f"contact.{field}", f"must be at most {MAX_TEXT_LENGTH} characters"))
    if wrong:
        raise RequestError.invalid_fields(wrong)
    return ContactRecord(
        contact_id=given.contact_id,
        email_addresses=tuple(given.email_addresses),
        phone_numbers=tuple(given.phone_numbers),
        first_name=given.first_name,
        last_name=given.last_name,
        title=given.title,
    )


def _wrong_addresses(field: str, texts: Iterable[str], key: Callable[[str], str], rule: str) -> list[tuple[str, str]]:
    listed = list(texts)
    if len(listed) > MAX_ADDRESSES:
        return [(f"contact.{field}", f"must be at most {MAX_ADDRESSES}")]
    return [(f"contact.{field}[{position}]", rule) for position, text in enumerate(listed) if not key(text)]
