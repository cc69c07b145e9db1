"""Turns event resources of a History API into events as admission would have logged them.

Which events were transitions, and the identities that they name, is taken from what the source says about the visit. So
the timeline, and with it each attribution, session and association, becomes the same as in the source.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple, Self

import msgspec
from footfall.event.v1.event_pb2 import (
    ASSURANCE_CLAIMED,
    ASSURANCE_PROVEN,
    EVENT_TYPE_BUSINESS,
    EVENT_TYPE_SYSTEM,
    IGNORED_REASON_PLACEHOLDER,
    STAFF_REASON_SITE,
    TRANSITION_KIND_SIGN_IN,
    TRANSITION_KIND_SIGN_OUT,
    TRANSITION_KIND_USER_INFO,
    Assurance,
    Event,
    EventBatch,
    EventContext,
)
from footfall_eventlog.events import SYSTEM_EVENTS, TRANSITION_KINDS
from footfall_eventlog.identity_policy import IdentityPolicy, SitePolicy
from footfall_eventlog.site_groups import SiteGroups
from footfall_timeline import Rule, normalize_uuid, page_id, user_agent_id

from footfall_history.storage import TIME_DIGITS

# Transitions that name an identity while another one stays signed in.
_OTHER_IDENTITY_RULES: Final = {Rule.USER_INFO_OTHER_IDENTITY, Rule.SIGN_IN_TOKEN_USED_BEFORE}
# As JSON, an event may be longer than the 64 KiB that admission accepts.
_MAX_EVENT_BYTES: Final = 128 * 1024
_NO_DATA: Final = msgspec.Raw(b"{}")

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

Milliseconds = Annotated[int, msgspec.Meta(ge=0, lt=10**TIME_DIGITS)]


class PastEvent(msgspec.Struct):
    """An event resource. Fields that the source omits are empty."""

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
        """When the server received it, in milliseconds since the epoch."""
        return self.server_timestamp or self.timestamp


class ExplainedTransition(NamedTuple):
    """A transition as its source explains it. `identity`: empty if it can only be found in the event's data."""

    rule: str
    identity: str
    assurance: Assurance.ValueType
    reason: str

    @classmethod
    def from_resource(cls, rule: str, after: str | None, assurance: str | None, reason: str | None) -> Self:
        """From the fields of `/explain`. `after`: the identity of the visitor after the transition."""
        identity = "" if rule in {*_OTHER_IDENTITY_RULES, Rule.IGNORED} else after or ""
        return cls(rule, identity, ASSURANCE_PROVEN if assurance == "proven" else ASSURANCE_CLAIMED, reason or "")


_BY_NAME: Final = ExplainedTransition("", "", ASSURANCE_CLAIMED, "imported")


@dataclass(frozen=True)
class PastVisit:
    """A visit without its events.

    `identities` and `transitions` (by event id) are None if the source does not provide them.
    """

    visit_id: str
    start_ms: int = 0
    site: str = ""
    user_agent_id: str = ""
    user_agent: str = ""
    identities: frozenset[str] | None = None
    transitions: Mapping[str, ExplainedTransition] | None = None


class TimedEvent(NamedTuple):
    """An event and its event time, which orders the visit, in milliseconds since the epoch."""

    event: PastEvent
    at_ms: int


def to_batch(
    visit: PastVisit, events: Iterable[TimedEvent], site: str, site_groups: SiteGroups, policy: IdentityPolicy
) -> EventBatch:
    """Events of one visit as a batch of the log. Malformed event ids are left to the attributor to refuse.

    Raises ValueError if the visit's id is malformed.
    """
    batch = EventBatch()
    sent = normalize_uuid(visit.visit_id)
    stored = site_groups.stored_id(sent, site)
    for index, (given, at_ms) in enumerate(events):
        batch.contexts.append(EventContext(received_time_ms=given.received_ms, user_agent=visit.user_agent))
        event = Event(
            event_id=_plain(given.event_id),
            event_name=given.event_name or "",
            event_type=EVENT_TYPE_SYSTEM if given.event_name in SYSTEM_EVENTS else EVENT_TYPE_BUSINESS,
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
        if site in policy.staff.sites:
            event.staff_reason = STAFF_REASON_SITE
        _identify(event, visit, policy.of_site(site))
        batch.events.append(event)
    return batch


def _identify(event: Event, visit: PastVisit, policy: SitePolicy) -> None:
    """Set the transition of an event as the source explains it, otherwise by its name as in GWE 8.5.

    A user id that names no person is ignored, as at admission.
    """
    kind = TRANSITION_KINDS.get(event.event_name)
    explained = _BY_NAME if visit.transitions is None else visit.transitions.get(event.event_id)
    if kind is None or explained is None:
        return
    if kind == TRANSITION_KIND_SIGN_OUT:
        event.transition = TRANSITION_KIND_SIGN_OUT
        return
    was_ignored = explained.rule == Rule.IGNORED
    known = None if was_ignored else visit.identities
    identity = explained.identity or _named(event.data_json, policy.user_id_keys, known)
    if not (identity or was_ignored):
        return
    event.policy_version = policy.version
    if (reason := policy.placeholders.ignored_reason(identity)) or was_ignored:
        event.ignored_reason = reason or IGNORED_REASON_PLACEHOLDER
        return
    is_sign_in = kind == TRANSITION_KIND_SIGN_IN and (explained is _BY_NAME or _opened_session(explained.rule))
    event.transition = TRANSITION_KIND_SIGN_IN if is_sign_in else TRANSITION_KIND_USER_INFO
    event.identity_id = identity
    event.assurance, event.assurance_reason = explained.assurance, explained.reason
    event.ignored_keys.extend(policy.placeholders.ignored_keys(_decode_fields(event.data_json or b"{}")))


def _opened_session(rule: str) -> bool:
    """Whether a SignIn had an effect under this rule: not without the proof that its site requires."""
    return rule.startswith("sign_in.") and rule != Rule.SIGN_IN_TOKEN_USED_BEFORE


def _named(data_json: bytes, keys: Sequence[str], identities: frozenset[str] | None) -> str:
    """The identity that an event's data names by these keys; empty if there is none.

    If the identities of the visit are known, it is one of them, by any key.
    """
    fields = _decode_fields(data_json or b"{}")
    for name in (*keys, *fields) if identities is not None else keys:
        value = msgspec.json.decode(fields[name]) if name in fields else None
        text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if text and (identities is None or text in identities):
            return text
    return ""


def _object(data: bytes) -> bytes:
    """Data as JSON object. Any other value is put into a field `value`."""
    if data in {b"", b"{}", b"null"}:
        return b""
    return data if data.startswith(b"{") else b'{"value":%b}' % data


def _plain(id_: str) -> str:
    try:
        return normalize_uuid(id_)
    except ValueError:
        return id_


def decode_event(json: bytes | msgspec.Raw) -> PastEvent:
    """One event resource. Raises ValueError or RecursionError, with a message that does not quote the data."""
    if len(memoryview(json)) > _MAX_EVENT_BYTES:
        raise ValueError("larger than an event may be (128 KiB)")
    event = msgspec.json.decode(json, type=PastEvent)
    msgspec.json.decode(event.data)  # raises if it is malformed
    return event
