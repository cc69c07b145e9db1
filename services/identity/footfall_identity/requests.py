"""Validation of request fields. Each function returns the value or raises RequestError (INVALID_ARGUMENT)."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1.contact_pb2 import Contact
from footfall_eventlog.admitted import InvalidEventError, transition_of
from footfall_eventlog.events import MAX_EVENTS, MAX_IDENTITY_LENGTH
from footfall_servicekit.errors import RequestError
from footfall_timeline import State, Transition, normalize_uuid

from footfall_identity.contact_record import ContactRecord
from footfall_identity.matching import email_key, phone_key
from footfall_identity.visitor_store import Position

MAX_IDENTITIES: Final = 1_000
MAX_TEXT_LENGTH: Final = 256
MAX_ADDRESSES: Final = 32

# Page tokens are not signed, so callers may forge them.
_LIVE_POSITION = re.compile(r"([0-9]{1,15})-(.*)", re.DOTALL)
_COUNT = re.compile(r"[0-9]{1,9}")


def admitted(events: Sequence[Event]) -> list[tuple[Event, Transition | None]]:
    """Return admitted events with their transitions (None for events that do not identify)."""
    if len(events) > MAX_EVENTS:
        raise RequestError.invalid("events", f"must have at most {MAX_EVENTS} items")
    found = []
    for position, event in enumerate(events):
        try:
            found.append((event, transition_of(event)))
        except InvalidEventError as error:
            field, _, rule = str(error).partition(": ")
            raise RequestError.invalid(f"events[{position}].{field}", rule) from None
    return found


def visit_id(text: str) -> str:
    """Return a visit id in normal form."""
    try:
        return normalize_uuid(text)
    except ValueError:
        raise RequestError.invalid("visit_id", "must be a UUID") from None


def identity_id(text: str) -> str:
    """Return an identity id."""
    return _text("identity_id", text, MAX_IDENTITY_LENGTH)


def contact_id(text: str) -> str:
    """Return a contact id."""
    return _text("contact_id", text, MAX_TEXT_LENGTH)


def actor(text: str) -> str:
    """Return the name of the person or system that decides."""
    return _text("actor", text, MAX_TEXT_LENGTH)


def _text(field: str, text: str, max_length: int) -> str:
    if not 1 <= len(text) <= max_length:
        raise RequestError.invalid(field, f"must have 1 to {max_length} characters")
    return text


def state(number: int) -> State | None:
    """Return the state to filter by; None: any."""
    if not number:
        return None
    try:
        return State(number)
    except ValueError:
        raise RequestError.invalid("state", "must be a value of VisitorState") from None


def live_position(text: str | None) -> Position | None:
    """Return the position in a page token of ListVisitors."""
    if text is None:
        return None
    found = _LIVE_POSITION.fullmatch(text)
    if not found:
        raise _invalid_token()
    return int(found[1]), found[2]


def links_position(text: str | None) -> int | None:
    """Return the position in a page token of ListContactLinks: the number of older links."""
    if text is None:
        return None
    if not _COUNT.fullmatch(text):
        raise _invalid_token()
    return int(text)


def _invalid_token() -> RequestError:
    return RequestError.invalid("page_token", "must be a next_page_token of this method")


def contact(given: Contact, phone_region: str | None) -> ContactRecord:
    """Return the record of a contact to store. The error names everything that is wrong with it."""
    wrong: list[tuple[str, str]] = []
    if not 1 <= len(given.contact_id) <= MAX_TEXT_LENGTH:
        wrong.append(("contact.contact_id", f"must have 1 to {MAX_TEXT_LENGTH} characters"))
    phone_rule = (
        "must be a telephone number, with + and country code" if phone_region is None else "must be a telephone number"
    )
    wrong += _wrong_addresses("email_addresses", given.email_addresses, email_key, "must be an e-mail address")
    wrong += _wrong_addresses(
        "phone_numbers", given.phone_numbers, lambda text: phone_key(text, phone_region), phone_rule
    )
    for field in ("first_name", "last_name", "title"):
        if len(getattr(given, field)) > MAX_TEXT_LENGTH:
            wrong.append((f"contact.{field}", f"must have at most {MAX_TEXT_LENGTH} characters"))
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
        return [(f"contact.{field}", f"must have at most {MAX_ADDRESSES} items")]
    return [(f"contact.{field}[{position}]", rule) for position, text in enumerate(listed) if not key(text)]
