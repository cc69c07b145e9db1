"""Turns events as a History API answers them into events as admission leaves them; pure.

What admission decides is read from what the source says of the visit: which events were transitions, and whom they
name. So the timeline, and with it every stamp, session and association, is made anew as the source had it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple, Self

import msgspec
from footfall.event.v1.event_pb2 import (
    ASSURANCE_CLAIMED,
    ASSURANCE_PROVEN,
    EVENT_TYPE_BUSINESS,
    EVENT_TYPE_SYSTEM,
    TRANSITION_KIND_SIGN_IN,
    TRANSITION_KIND_SIGN_OUT,
    TRANSITION_KIND_USER_INFO,
    Assurance,
    Event,
    EventBatch,
    EventContext,
)
from footfall_timeline import Kind, Rule, Walls, normalize_uuid, page_id, user_agent_id

from footfall_history.storage import PAGE_ENTERED, PAGE_EXITED, TIME_DIGITS

_KINDS: Final = {"UserInfo": Kind.USER_INFO, "SignIn": Kind.SIGN_IN, "SignOut": Kind.SIGN_OUT}
_SYSTEM_EVENTS: Final = {"VisitStarted", PAGE_ENTERED, PAGE_EXITED, *_KINDS}
# Under which names data has whom it names, the likeliest first.
_USER_KEYS: Final = ("userID", "userId", "userid", "username", "email")
# What names somebody although somebody else stays signed in.
_NAMED_BESIDE: Final = {Rule.USER_INFO_OTHER_IDENTITY, Rule.SIGN_IN_TOKEN_USED_BEFORE}
# As JSON it is longer than the 64 KiB that admission takes.
_LONGEST_EVENT: Final = 128 * 1024
_NO_DATA: Final = msgspec.Raw(b"{}")

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


Milliseconds = Annotated[int, msgspec.Meta(ge=0, lt=10**TIME_DIGITS)]


class PastEvent(msgspec.Struct):
    """An event resource. What the source leaves out is empty."""

    event_id: str = msgspec.field(name="eventID")
    visit_id: str = msgspec.field(name="visitID")
    timestamp: Milliseconds
    event_name: str | None = msgspec.field(name="eventName", default=None)
    server_timestamp: Milliseconds | None = msgspec.field(name="serverTimestamp", default=None)
    category: str | None = None
    browser_page_id: str | None = msgspec.field(name="browserPageID", default=None)
    page_id: str | None = msgspec.field(name="pageID", default=None)
    global_visit_id: str | None = msgspec.field(name="globalVisitID", default=None)
    url: str | None = None
    language_code: str | None = msgspec.field(name="languageCode", default=None)
    data: msgspec.Raw = _NO_DATA

    @property
    def received_ms(self) -> int:
        """When a server received it."""
        return self.server_timestamp or self.timestamp


class Told(NamedTuple):
    """What a source that explains its visits says of a transition. `identity`: empty when only its data may name it."""

    rule: str
    identity: str
    assurance: Assurance.ValueType
    reason: str

    @classmethod
    def of(cls, rule: str, after: str | None, assurance: str | None, reason: str | None) -> Self:
        """As `/explain` spells it; `after` is whose visit it was then."""
        identity = "" if rule in _NAMED_BESIDE else after or ""
        return cls(rule, identity, ASSURANCE_PROVEN if assurance == "proven" else ASSURANCE_CLAIMED, reason or "")


_BY_NAME: Final = Told("", "", ASSURANCE_CLAIMED, "imported")


@dataclass(frozen=True)
class PastVisit:
    """What a source says of a visit beside its events.

    `identities` are whom it names, None when that is not told; `transitions` is by event, None when they are not told.
    """

    visit_id: str
    start_ms: int = 0
    site: str = ""
    user_agent_id: str = ""
    user_agent: str = ""
    identities: frozenset[str] | None = None
    transitions: Mapping[str, Told] | None = None


class Timed(NamedTuple):
    """An event, and when it happened: by what its visit is ordered."""

    event: PastEvent
    at_ms: int


def batch_of(visit: PastVisit, events: Iterable[Timed], site: str, walls: Walls) -> EventBatch:
    """Events of one visit as the log would bring them. Their ids may be no UUIDs: that is found unfit later.

    Raises ValueError when the visit's id is none.
    """
    batch = EventBatch()
    sent = normalize_uuid(visit.visit_id)
    stored = walls.stored_id(sent, site)
    for index, (given, at_ms) in enumerate(events):
        batch.contexts.append(EventContext(received_time_ms=given.received_ms, user_agent=visit.user_agent))
        event = Event(
            event_id=_plain(given.event_id),
            event_name=given.event_name or "",
            event_type=EVENT_TYPE_SYSTEM if given.event_name in _SYSTEM_EVENTS else EVENT_TYPE_BUSINESS,
            visit_id=stored,
            browser_visit_id=sent if sent != stored else "",
            global_visit_id=_plain(given.global_visit_id or ""),
            browser_page_id=given.browser_page_id or "",
            page_id=_plain(given.page_id or ""),
            category=given.category or "",
            url=given.url or "",
            language_code=given.language_code or "",
            timestamp_ms=given.timestamp,
            event_time_ms=at_ms,
            received_time_ms=given.received_ms,
            data_json=_object(bytes(given.data)),
            site=site,
            context_index=index,
            user_agent_id=visit.user_agent_id,
        )
        if given.browser_page_id and not given.page_id:
            event.page_id = page_id(stored, given.browser_page_id)
        if visit.user_agent and not visit.user_agent_id:
            event.user_agent_id = user_agent_id(stored, visit.user_agent)
        _identify(event, visit)
        batch.events.append(event)
    return batch


def _identify(event: Event, visit: PastVisit) -> None:
    """What the event did to its visit, by what the source says of that; else by its name, as in the original."""
    kind = _KINDS.get(event.event_name)
    told = _BY_NAME if visit.transitions is None else visit.transitions.get(event.event_id)
    if kind is None or told is None:
        return
    if kind is Kind.SIGN_OUT:
        event.transition = TRANSITION_KIND_SIGN_OUT
    elif identity := told.identity or _named(event.data_json, visit.identities):
        is_sign_in = kind is Kind.SIGN_IN and (told is _BY_NAME or _opened_session(told.rule))
        event.transition = TRANSITION_KIND_SIGN_IN if is_sign_in else TRANSITION_KIND_USER_INFO
        event.identity_id = identity
        event.assurance, event.assurance_reason = told.assurance, told.reason


def _opened_session(rule: str) -> bool:
    """Whether a SignIn under this rule counted as one: not without the proof that its site demands."""
    return rule.startswith("sign_in.") and rule != Rule.SIGN_IN_TOKEN_USED_BEFORE


def _named(data_json: bytes, identities: frozenset[str] | None) -> str:
    """Whom the data of an event names: of the visit's identities, if these are known; empty when that is nobody."""
    fields = _decode_fields(data_json or b"{}")
    for name in (*_USER_KEYS, *fields) if identities is not None else _USER_KEYS:
        value = msgspec.json.decode(fields[name]) if name in fields else None
        text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if text and (identities is None or text in identities):
            return text
    return ""


def _object(data: bytes) -> bytes:
    """Data as the source has it; what is no object, under `value`, as `data` is always one here."""
    if data in {b"", b"{}", b"null"}:
        return b""
    return data if data.startswith(b"{") else b'{"value":%b}' % data


def _plain(id_: str) -> str:
    try:
        return normalize_uuid(id_)
    except ValueError:
        return id_


def decode_event(json: bytes | msgspec.Raw) -> PastEvent:
    """One event resource. Raises ValueError or RecursionError, with a text that names the rule and quotes nothing."""
    if len(memoryview(json)) > _LONGEST_EVENT:
        raise ValueError("larger than an event may be")
    event = msgspec.json.decode(json, type=PastEvent)
    msgspec.json.decode(event.data)  # all of it can be read later
    return event
