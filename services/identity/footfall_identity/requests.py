"""Validation of request fields. Each function returns the value or raises RequestError (INVALID_ARGUMENT)."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from enum import IntEnum
from functools import partial
from hashlib import blake2b
from typing import Final, NamedTuple, TypeVar

from footfall.event.v1.event_pb2 import Event
from footfall.identity.v1.contact_pb2 import Contact
from footfall.identity.v1.identity_service_pb2 import (
    BatchUpsertContactsRequest,
    DeleteContactRequest,
    FinishContactSyncRequest,
    GetVisitorMinutesRequest,
    IdentityEvidence,
    JudgeLinksRequest,
    ListContactsRequest,
    ListIdentitiesRequest,
    ListVisitorsRequest,
    MergeContactsRequest,
    RenameIdentityRequest,
    UndoMergeRequest,
    UndoRenameRequest,
    UpdateContactRequest,
    UpsertContactRequest,
    WatchVisitorsRequest,
)
from footfall.identity.v1.visitor_pb2 import (
    STAFF_FILTER_EXCLUDE,
    STAFF_FILTER_INCLUDE,
    STAFF_FILTER_ONLY,
    StaffFilter,
)
from footfall_eventlog.admitted import InvalidEventError, transition_of
from footfall_eventlog.events import MAX_EVENTS, MAX_IDENTITY_LENGTH
from footfall_eventlog.match_keys import RULES, MatchKey, MatchKeys, Rule, email_key, name_key, phone_key
from footfall_eventlog.settings import MINUTE_MS
from footfall_servicekit.errors import RequestError
from footfall_timeline import State, Transition, normalize_uuid
from google.protobuf.message import Message
from msgspec.structs import replace

from footfall_identity.contact_directory import ContactFilter, ContactsPosition
from footfall_identity.contact_names import folded_words
from footfall_identity.contact_record import CONTACT_FIELDS, ContactChange, ContactRecord, RememberedRequest
from footfall_identity.linker import Evidence
from footfall_identity.live_lists import Position
from footfall_identity.live_visitors import ONLY_PRESENT, VisitorFilter
from footfall_identity.matching import Doubt
from footfall_identity.presence import Presence
from footfall_identity.visit_codes import CODE_DIGITS
from footfall_identity.visitor_counts import MAX_MINUTES
from footfall_identity.watch_filter import WatchFilter

MAX_IDENTITIES: Final = 1_000
MAX_TEXT_LENGTH: Final = 256
MAX_ADDRESSES: Final = 32
MAX_CONTACTS: Final = 1_000
MAX_JUDGED: Final = 100
MAX_VALUES_PER_PAGE: Final = 100
"""Generic values, each of which is counted."""
_MAX_NUMBERS: Final = 10
_MAX_VALUE_ID_LENGTH: Final = 64
_MAX_SITES: Final = 100
_MAX_SERIES: Final = 10
_MAX_WATCHED: Final = 1_000

_Number = TypeVar("_Number", bound=IntEnum)
_Value = TypeVar("_Value")

# Page tokens are not signed, so callers may forge them.
_LIVE_POSITION = re.compile(r"([0-9]{1,15})-(.*)", re.DOTALL)
_COUNT = re.compile(r"[0-9]{1,9}")
_CONTACTS_POSITION = re.compile(r"([0-9]{1,9})-(.*)", re.DOTALL)
_CODE = re.compile(rf"[0-9]{{{CODE_DIGITS}}}")
_EMAIL_RULE: Final = "must be an e-mail address"
_NAMES: Final = ("first_name", "last_name", "title")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LETTER = re.compile(r"[^\W\d_]")
# The letters of a telephone number: those of RFC 3966, and the words before an extension that phonenumbers knows.
_EXTENSION = re.compile(
    r"^\s*tel:|;(ext|isub)=(?=\d)|(ext(n|ensi[oó]n)?|x|int|anexo|доб)[.:]?(?=\s*\d+#?\s*$)", re.IGNORECASE
)
_DIGEST_BYTES: Final = 12
_STAFF: Final = {STAFF_FILTER_EXCLUDE: False, STAFF_FILTER_INCLUDE: None, STAFF_FILTER_ONLY: True}
_TWICE: Final = "must not be given twice"


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
    return _uuid("visit_id", text)


def identity_id(text: str) -> str:
    """Return an identity id."""
    return _text("identity_id", text, MAX_IDENTITY_LENGTH)


def several_ids(ids: Sequence[str]) -> Sequence[str]:
    """Return the ids of several identities, which may be unknown."""
    if len(ids) > MAX_IDENTITIES:
        raise RequestError.invalid("identity_ids", f"must have at most {MAX_IDENTITIES} items")
    return ids


def link_doubt(request: ListIdentitiesRequest) -> Doubt:
    """Return the doubt that identities are listed by; NONE: any or none."""
    if request.link_doubt not in {*Doubt}:
        raise RequestError.invalid("link_doubt", "is no value of LinkDoubt")
    if request.link_doubt and (request.location or request.shared_only):
        raise RequestError.invalid("link_doubt", "must not be given together with location or shared_only")
    return Doubt(request.link_doubt)


def judged(request: JudgeLinksRequest) -> tuple[list[Rule], dict[str, Evidence]]:
    """Return the rules to judge by, and what could link each identity."""
    rules = [*request.rules]
    if len({*rules}) < len(rules) or not {*rules} <= {*RULES}:
        raise RequestError.invalid("rules", "must be EMAIL_ADDRESS, PHONE_NUMBER or NAME, each at most once")
    if len(request.identities) > MAX_JUDGED:
        raise RequestError.invalid("identities", f"must have at most {MAX_JUDGED} items")
    return [*map(Rule, rules)], dict(_evidence(f"identities[{n}]", one) for n, one in enumerate(request.identities))


def _evidence(field: str, given: IdentityEvidence) -> tuple[str, Evidence]:
    keys = {one.attribute: MatchKey(one.assurance, "", "", one.key) for one in given.keys}
    if not keys.keys() <= {*MatchKeys.__struct_fields__}:
        raise RequestError.invalid(f"{field}.keys", "an attribute is not known")
    generic = {one.key: int(one.generic_assurance) for one in given.keys if one.generic_assurance}
    identity = _text(f"{field}.identity_id", given.identity_id, MAX_IDENTITY_LENGTH)
    return identity, Evidence(MatchKeys(**keys), generic, given.shared)


def contact_id(text: str) -> str:
    """Return a contact id."""
    return _text("contact_id", text, MAX_TEXT_LENGTH)


def renamed_id(request: RenameIdentityRequest | UndoRenameRequest) -> str:
    """Return the old name of an identity."""
    return _text("from_identity_id", request.from_identity_id, MAX_IDENTITY_LENGTH)


def new_id(request: RenameIdentityRequest) -> str:
    """Return the new name of an identity."""
    return _other("to_identity_id", request.to_identity_id, request.from_identity_id, MAX_IDENTITY_LENGTH)


def merged_id(request: MergeContactsRequest | UndoMergeRequest) -> str:
    """Return the contact that is merged into another."""
    return _text("from_contact_id", request.from_contact_id, MAX_TEXT_LENGTH)


def into_id(request: MergeContactsRequest) -> str:
    """Return the contact that another is merged into."""
    return _other("into_contact_id", request.into_contact_id, request.from_contact_id, MAX_TEXT_LENGTH)


def _other(field: str, text: str, one: str, max_length: int) -> str:
    if _text(field, text, max_length) == one:
        raise RequestError.invalid(field, "must not be the same as the name that leads to it")
    return text


def code(text: str) -> str:
    """Return the code of a visit."""
    if not _CODE.fullmatch(text):
        raise RequestError.invalid("code", f"must be {CODE_DIGITS} digits")
    return text


def value_id(text: str) -> str:
    """Return the name of a generic value."""
    return _text("value_id", text, _MAX_VALUE_ID_LENGTH)


def actor(text: str) -> str:
    """Return the name of the person or system that decides."""
    return _text("actor", text, MAX_TEXT_LENGTH)


def wait_ms(request: UpsertContactRequest | UpdateContactRequest | DeleteContactRequest) -> int | None:
    """Return how long a call waits for links; None if the request does not say it."""
    if not request.HasField("wait_ms"):
        return None
    if request.wait_ms < 0:
        raise RequestError.invalid("wait_ms", "must not be negative")
    return request.wait_ms


def _text(field: str, text: str, max_length: int) -> str:
    if not 1 <= len(text) <= max_length:
        raise RequestError.invalid(field, f"must have 1 to {max_length} characters")
    return text


def visitor_filter(request: ListVisitorsRequest, visible_sites: Iterable[str]) -> VisitorFilter:
    """Return the filters for visitors of websites that the caller may see (empty: of all).

    `contact_id` is not among them: it stands for the identities that are linked to the contact.
    """
    states = _numbers("states", request.states, State)
    if request.state:
        states = _both(_numbers("state", [request.state], State), states)
    return VisitorFilter(
        states=states,
        presences=_numbers("presences", request.presences, Presence) if request.presences else ONLY_PRESENT,
        sites=_sites(request, visible_sites),
        identities=frozenset([identity_id(request.identity_id)]) if request.identity_id else None,
        global_visit_id=_uuid("global_visit_id", request.global_visit_id) if request.global_visit_id else "",
        is_staff=_staff(request.staff, STAFF_FILTER_EXCLUDE),
    )


def _staff(asked: StaffFilter.ValueType, default: StaffFilter.ValueType) -> bool | None:
    """Return whether to find visits of staff only, or of customers only; None: both."""
    try:
        return _STAFF[asked or default]
    except KeyError:
        raise RequestError.invalid("staff", "must be a value of StaffFilter") from None


def _numbers(field: str, numbers: Sequence[int], of: type[_Number]) -> frozenset[_Number] | None:
    """Return the values of an enum to filter by; None: any."""
    if len(numbers) > _MAX_NUMBERS:
        raise RequestError.invalid(field, f"must have at most {_MAX_NUMBERS} items")
    try:
        return None if 0 in numbers or not numbers else frozenset(map(of, numbers))
    except ValueError:
        raise RequestError.invalid(field, f"must be values of Visitor{of.__name__}") from None


def _sites(request: ListVisitorsRequest | WatchVisitorsRequest, visible_sites: Iterable[str]) -> frozenset[str] | None:
    """Return the websites to filter by, of those that the caller may see (empty: all); None: any."""
    if len(request.in_sites) > _MAX_SITES:
        raise RequestError.invalid("in_sites", f"must have at most {_MAX_SITES} items")
    named = _both(frozenset([request.site]) if request.site else None, frozenset(request.in_sites) or None)
    return _both(frozenset(visible_sites) or None, named)


def watch_filter(request: WatchVisitorsRequest, visible_sites: Collection[str]) -> WatchFilter:
    """Return the filters for changes of visitors of websites that the caller may see (empty: of all)."""
    return WatchFilter(
        visit_ids=_watched("visit_ids", request.visit_ids, _uuid),
        identities=_watched("identity_ids", request.identity_ids, partial(_text, max_length=MAX_IDENTITY_LENGTH)),
        contacts=_watched("contact_ids", request.contact_ids, partial(_text, max_length=MAX_TEXT_LENGTH)),
        sites=_sites(request, visible_sites),
        states=_numbers("states", request.states, State),
        includes_pages=request.include_pages,
        is_limited=bool(visible_sites),
        is_staff=_staff(request.staff, STAFF_FILTER_INCLUDE if request.visit_ids else STAFF_FILTER_EXCLUDE),
    )


def _watched(field: str, ids: Sequence[str], checked: Callable[[str, str], str]) -> frozenset[str] | None:
    """Return ids to filter by; None: any. `checked` takes the name of a field and its text."""
    if len(ids) > _MAX_WATCHED:
        raise RequestError.invalid(field, f"must have at most {_MAX_WATCHED} items")
    return frozenset(checked(f"{field}[{position}]", text) for position, text in enumerate(ids)) or None


def _both(one: frozenset[_Value] | None, other: frozenset[_Value] | None) -> frozenset[_Value] | None:
    """Return what is in both; None stands for everything."""
    if one is None or other is None:
        return one if other is None else other
    return one & other


def _uuid(field: str, text: str) -> str:
    try:
        return normalize_uuid(text)
    except ValueError:
        raise RequestError.invalid(field, "must be a UUID") from None


def minutes(request: GetVisitorMinutesRequest, at_ms: int) -> tuple[list[str], int, int]:
    """Return the sites asked for (empty: all together), and from and until when their minutes are, at `at_ms`."""
    if len(request.in_sites) > _MAX_SERIES:
        raise RequestError.invalid("in_sites", f"must have at most {_MAX_SERIES} items")
    until_ms = _time_ms(request, "end_time", at_ms)
    from_ms = _time_ms(request, "start_time", until_ms - 60 * MINUTE_MS)
    if not 0 <= until_ms - from_ms <= MAX_MINUTES * MINUTE_MS:
        raise RequestError.invalid("start_time", f"must be at most {MAX_MINUTES:,} minutes before end_time")
    return [*request.in_sites], from_ms, until_ms


def _time_ms(request: GetVisitorMinutesRequest, field: str, default_ms: int) -> int:
    if not request.HasField(field):  # type: ignore[arg-type]
        return default_ms
    try:
        at_ms: int = getattr(request, field).ToMilliseconds()
    except ValueError:
        raise RequestError.invalid(field, "must be a time from the years 1 to 9999") from None
    return at_ms


def live_position(text: str | None) -> Position | None:
    """Return the position in a page token of ListVisitors."""
    if text is None:
        return None
    found = _LIVE_POSITION.fullmatch(text)
    if not found:
        raise _invalid_token()
    return Position(int(found[1]), found[2])


def links_position(text: str | None) -> int | None:
    """Return the position in a page token of ListContactLinks: the number of older links."""
    if text is None:
        return None
    if not _COUNT.fullmatch(text):
        raise _invalid_token()
    return int(text)


def _invalid_token() -> RequestError:
    return RequestError.invalid("page_token", "must be a next_page_token of this method")


def contact_filter(request: ListContactsRequest, phone_region: str | None) -> ContactFilter:
    """Return the filters for contacts. The error names everything that is wrong with them."""
    found = ContactFilter(
        email=email_key(request.email),
        phone=phone_key(request.phone, phone_region),
        words=folded_words(request.name) if len(request.name) <= MAX_TEXT_LENGTH else (),
        contact_ids=tuple(request.contact_ids),
    )
    wrong = []
    if request.email and not found.email:
        wrong.append(("email", _EMAIL_RULE))
    if request.phone and not found.phone:
        wrong.append(("phone", _phone_rule(phone_region)))
    if request.name and not found.words:
        wrong.append(("name", f"must have a letter or digit, and at most {MAX_TEXT_LENGTH} characters"))
    if len(found.contact_ids) > MAX_CONTACTS:
        wrong.append(("contact_ids", f"must have at most {MAX_CONTACTS} items"))
    if wrong:
        raise RequestError.invalid_fields(wrong)
    return found


def contacts_position(text: str | None) -> ContactsPosition:
    """Return the position in a page token of ListContacts."""
    if text is None:
        return ContactsPosition()
    found = _CONTACTS_POSITION.fullmatch(text)
    if not found:
        raise _invalid_token()
    return ContactsPosition(found[2], int(found[1]))


def _phone_rule(phone_region: str | None) -> str:
    return "must be a telephone number" + (", with + and country code" if phone_region is None else "")


def contact_change(
    given: Contact,
    phone_region: str | None,
    *,
    update_mask: Sequence[str] = CONTACT_FIELDS,
    creates: bool = True,
    creates_only: bool = False,
    request: RememberedRequest | None = None,
) -> ContactChange:
    """Return the change of a contact. The error names everything that is wrong with it."""
    fields = _masked_fields(given, update_mask)
    # A contact that is created has all values that are given.
    change, wrong = checked_contact(given, phone_region, CONTACT_FIELDS if creates else fields)
    if wrong:
        raise RequestError.invalid_fields((f"contact.{field}", rule) for field, rule in wrong)
    return replace(change, fields=fields, creates=creates, creates_only=creates_only, request=request)


def _masked_fields(given: Contact, paths: Sequence[str]) -> Sequence[str]:
    """Return the fields to change: those of an `update_mask`, or those that are given."""
    unknown = [path for path in paths if path != "*" and path not in Contact.DESCRIPTOR.fields_by_name]
    if unknown:
        raise RequestError.invalid("update_mask", f"must have only {', '.join(CONTACT_FIELDS)} or *")
    if "*" in paths:
        return CONTACT_FIELDS
    return [field for field in CONTACT_FIELDS if (field in paths if paths else getattr(given, field))]


def checked_contact(
    given: Contact, phone_region: str | None, fields: Sequence[str] = CONTACT_FIELDS
) -> tuple[ContactChange, list[tuple[str, str]]]:
    """Return the change of these fields of a contact, and the fields that break rules, with the rules."""
    wrong = _wrong_text("contact_id", given.contact_id, min_length=1)
    emails, wrong_emails = _addresses("email_addresses", given.email_addresses, email_key, _EMAIL_RULE)
    phones, wrong_phones = _addresses(
        "phone_numbers",
        given.phone_numbers,
        lambda text: _phone_key(text, phone_region),
        f"{_phone_rule(phone_region)}, without letters",
    )
    wrong += wrong_emails + wrong_phones
    for field in _NAMES:
        wrong += _wrong_text(field, getattr(given, field))
    names = given.first_name, given.last_name
    record = ContactRecord(
        contact_id=given.contact_id,
        email_addresses=tuple(given.email_addresses),
        phone_numbers=tuple(given.phone_numbers),
        first_name=given.first_name,
        last_name=given.last_name,
        title=given.title,
        keys=tuple(sorted({*emails, *phones, name_key(*names)} - {""})),
    )
    relevant = [found for found in wrong if found[0].partition("[")[0] in ("contact_id", *fields)]
    return ContactChange(contact_id=given.contact_id, given=record, fields=fields, etag=given.etag), relevant


class ContactItem(NamedTuple):
    """A contact of a batch: its change, and the fields that break rules, with the rules."""

    change: ContactChange | None
    violations: Sequence[tuple[str, str]] = ()


def contact_items(request: BatchUpsertContactsRequest, phone_region: str | None, at_ms: int) -> Iterator[ContactItem]:
    """Return the contacts of a batch. Each is validated when it is taken."""
    _check_batch("contacts", request.contacts)
    if request.generation < 0:
        raise RequestError.invalid("generation", "must not be negative")
    return _contact_items(request.contacts, remembered(request.request_id, request, at_ms), phone_region)


def _contact_items(
    contacts: Iterable[Contact], request: RememberedRequest | None, phone_region: str | None
) -> Iterator[ContactItem]:
    seen: set[str] = set()
    for given in contacts:
        change, wrong = checked_contact(given, phone_region)
        if given.contact_id in seen:
            wrong = [("contact_id", _TWICE)]
        seen.add(given.contact_id)
        yield ContactItem(None if wrong else replace(change, request=request), wrong)


def sent_ids(request: BatchUpsertContactsRequest) -> list[str]:
    """Return the contacts that a batch names, also those that are not valid."""
    return [one for one in {given.contact_id for given in request.contacts} if not _wrong_length("contact_id", one, 1)]


def deletions(contact_ids: Sequence[str]) -> list[ContactItem]:
    """Return the contacts of a batch to delete."""
    _check_batch("contact_ids", contact_ids)
    items = []
    seen: set[str] = set()
    for given in contact_ids:
        wrong = _wrong_length("contact_id", given, 1) or ([("contact_id", _TWICE)] if given in seen else [])
        items.append(ContactItem(None if wrong else ContactChange(contact_id=given, given=None, creates=False), wrong))
        seen.add(given)
    return items


def _check_batch(field: str, items: Sequence[object]) -> None:
    if len(items) > MAX_CONTACTS:
        raise RequestError.invalid(field, f"must have at most {MAX_CONTACTS} items")


def generation(request: FinishContactSyncRequest) -> int:
    """Return the number of a synchronization."""
    if request.generation < 1:
        raise RequestError.invalid("generation", "must be 1 or more")
    return request.generation


def percent(request: FinishContactSyncRequest) -> int:
    """Return the percentage of contacts that may be deleted; 0: that of the setting."""
    if not 0 <= request.max_deleted_percent <= 100:
        raise RequestError.invalid("max_deleted_percent", "must be 0 to 100")
    return request.max_deleted_percent


def deletion(given: DeleteContactRequest) -> ContactChange:
    """Return the deletion of a contact."""
    return ContactChange(contact_id=contact_id(given.contact_id), given=None, creates=False, etag=given.etag)


def remembered(request_id: str, request: Message, at_ms: int) -> RememberedRequest | None:
    """Return the request id of a write with a digest of what is written; None without an id."""
    if not request_id:
        return None
    found = _uuid("request_id", request_id)
    content = type(request)()
    content.CopyFrom(request)
    for field in ("request_id", "wait_ms"):
        if field in content.DESCRIPTOR.fields_by_name:
            content.ClearField(field)
    text = type(request).__name__.encode() + content.SerializeToString(deterministic=True)
    return RememberedRequest(found, blake2b(text, digest_size=_DIGEST_BYTES).hexdigest(), at_ms)


def _wrong_text(field: str, text: str, min_length: int = 0) -> list[tuple[str, str]]:
    """Return the rule that a text breaks, with its field."""
    if wrong := _wrong_length(field, text, min_length):
        return wrong
    if text and not text.strip():
        return [(field, "must not consist of spaces alone")]
    if _CONTROL.search(text):
        return [(field, "must not have control characters")]
    return []


def _wrong_length(field: str, text: str, min_length: int) -> list[tuple[str, str]]:
    if min_length <= len(text) <= MAX_TEXT_LENGTH:
        return []
    rule = f"must have {min_length} to" if min_length else "must have at most"
    return [(field, f"{rule} {MAX_TEXT_LENGTH} characters")]


def _addresses(
    field: str, texts: Sequence[str], key: Callable[[str], str], rule: str
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the match keys of addresses, and what is wrong with them."""
    if len(texts) > MAX_ADDRESSES:
        return [], [(field, f"must have at most {MAX_ADDRESSES} items")]
    keys: list[str] = []
    wrong = []
    for position, text in enumerate(texts):
        found = "" if _CONTROL.search(text) else key(text)
        if not found:
            wrong.append((f"{field}[{position}]", rule))
        elif found in keys:
            wrong.append((f"{field}[{position}]", f"must not be the same as {field}[{keys.index(found)}]"))
        keys.append(found)
    return keys, wrong


def _phone_key(text: str, phone_region: str | None) -> str:
    """Return the match key of a contact's telephone number: without letters, which would be taken for digits."""
    has_letter = _LETTER.search(text) and _LETTER.search(_EXTENSION.sub("", text))
    return "" if has_letter else phone_key(text, phone_region)
