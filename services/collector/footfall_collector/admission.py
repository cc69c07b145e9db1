"""Admission: decides the site, time, user and proof of each event, masks secrets, and rejects or suppresses events.

All later processing is a pure function of the admitted events. Admission changes a batch in place. Its result depends
only on the batch, the current time and the configuration.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from functools import partial
from operator import attrgetter
from typing import Any, Final

import msgspec
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall_eventlog.events import (
    MAX_EVENT_BYTES,
    MAX_IDENTITY_LENGTH,
    PAGE_ENTERED,
    SYSTEM_EVENTS,
    TRANSITION_KINDS,
)
from footfall_eventlog.identified_user import apply_policy, extract_user
from footfall_eventlog.identity_policy import IdentityPolicy, SitePolicy
from footfall_eventlog.site_groups import SiteGroups
from footfall_eventlog.staff import StaffRules
from footfall_servicekit.failure_log import FailureLog
from footfall_timeline import page_id, user_agent_id

from footfall_collector.normalize import STEPS
from footfall_collector.redact import Redactor
from footfall_collector.request_context import NO_STAFF, RequestContext, minimize_context
from footfall_collector.sign_in_token import TokenRules, TokenVerdict, verify_token
from footfall_collector.sites import Site, Sites

DAY_MS: Final = 86_400_000
SLICE_BYTES: Final = MAX_EVENT_BYTES // 2
"""Bytes admitted together, unless one event is larger: at most 5 ms for the most expensive content known."""
SMALL_SLICE_BYTES: Final = SLICE_BYTES // 8
_MAX_TITLE_LENGTH: Final = 256
_TRACKER_PAGE_ID_LENGTH: Final = 32
_CLOCK_TOLERANCE_MS: Final = 5_000
"""Largest difference at which a sender's clock counts as right. The network delay of the request is part of it."""
_SIGN_IN = event_pb2.TRANSITION_KIND_SIGN_IN
_SIGN_OUT = event_pb2.TRANSITION_KIND_SIGN_OUT
_NO_GROUPS: Final = SiteGroups()
_DEFAULT_POLICY: Final = IdentityPolicy()
_OF_ADMISSION: Final = (
    "transition",
    "identity_id",
    "assurance",
    "assurance_reason",
    "proven_json",
    "token_id",
    "assurance_reason_code",
    "ignored_reason",
    "policy_version",
    "ignored_keys",
)
_of_admission = attrgetter(*_OF_ADMISSION)
_UNPROVEN: Final = {
    event_pb2.TRANSITION_KIND_USER_INFO: (event_pb2.ASSURANCE_CLAIMED, "user_info"),
    _SIGN_IN: (event_pb2.ASSURANCE_CLAIMED, "no_key"),
    _SIGN_OUT: (event_pb2.ASSURANCE_UNSPECIFIED, ""),
}
"""Assurance and its reason, by kind, of an event without a valid sign-in token."""


class _Titled(msgspec.Struct):
    title: Any = None


_decode_titled = msgspec.json.Decoder(_Titled).decode


def _title(data_json: bytes) -> str:
    """Return `data.title` of a PageEntered event, truncated; "" when it is no string."""
    title = _decode_titled(data_json).title if data_json else None
    return title[:_MAX_TITLE_LENGTH] if isinstance(title, str) else ""


def _rejection(reason: collector.RejectReason.ValueType, message: str) -> collector.Outcome:
    """Return the outcome of a rejected event. The message names a field and its rule; it never quotes the event."""
    return collector.Outcome(status=collector.OUTCOME_STATUS_REJECTED, reason=reason, message=message)


_BOT = _rejection(collector.REJECT_REASON_BOT, "User-Agent: belongs to a robot, which this site rejects")
_TOO_OLD = _rejection(collector.REJECT_REASON_TOO_OLD, "timestamp: must not be older than MAX_EVENT_AGE_DAYS")
_UNKNOWN_SITE = _rejection(collector.REJECT_REASON_UNKNOWN_SITE, "site: must be known and allow the page's origin")
_TOO_LARGE = _rejection(collector.REJECT_REASON_TOO_LARGE, "event: larger than 64 KiB")
_NO_CONTEXT = _rejection(
    collector.REJECT_REASON_MALFORMED, "context_index: must be the position of a context in the batch"
)
_FAILED = _rejection(collector.REJECT_REASON_MALFORMED, "the server cannot process this event")
_SUPPRESSED = collector.Outcome(
    status=collector.OUTCOME_STATUS_SUPPRESSED, message="Sec-GPC: sent by the browser, and honoured by this site"
)


_Outcomes = dict[int, collector.Outcome]
"""By the position of an event in its batch."""
_Step = Callable[[Event], collector.Outcome | None]
"""Changes an event in place; returns its outcome if it is excluded."""


class Admission:
    """Admits batches by the rules of one deployment."""

    def __init__(
        self,
        sites: Sites,
        redactor: Redactor,
        *,
        max_event_age_ms: int,
        token_rules: TokenRules = TokenRules(),  # noqa: B008 - immutable
        received_tolerance_ms: int | None = None,
        site_groups: SiteGroups = _NO_GROUPS,
        policy_of: Callable[[str], SitePolicy] = _DEFAULT_POLICY.of_site,
        staff_rules: Callable[[], StaffRules] = lambda: NO_STAFF,
        category_of: Callable[[Event], str] = lambda _: "",
    ) -> None:
        """Create the rules.

        Args:
            sites: the known sites with their origins and signing keys.
            redactor: masks secrets.
            max_event_age_ms: older events are rejected.
            token_rules: limits for sign-in tokens.
            received_tolerance_ms: largest accepted difference of a context's receive time from now; None: any.
            site_groups: the groups of sites that share visits.
            policy_of: returns the identity policy of a site that is in force now.
            staff_rules: returns what marks events as those of staff now.
            category_of: returns the categories of an event that was sent without any.

        """
        self._sites = sites
        self._site_groups = site_groups
        self._redactor = redactor
        self._max_event_age_ms = max_event_age_ms
        self._token_rules = token_rules
        self._received_tolerance_ms = received_tolerance_ms
        self._category_of = category_of
        self._policy_of = policy_of
        self._staff_rules = staff_rules
        self._failed = FailureLog("an event cannot be processed; it is rejected", "step", "error")

    def admit(self, batch: EventBatch, now_ms: int) -> dict[int, collector.Outcome]:
        """Admit a batch in place; return the outcomes of excluded (rejected or suppressed) events by position.

        An excluded event may be changed in part and must not be used. An event whose `context_index` is wrong, or whose
        admission fails unexpectedly, is rejected alone, because a batch has the events of many visitors.
        """
        excluded: dict[int, collector.Outcome] = {}
        for _ in self.admit_in_slices(batch, now_ms, excluded):
            pass
        return excluded

    def admit_in_slices(
        self,
        batch: EventBatch,
        now_ms: int,
        excluded: dict[int, collector.Outcome],
        most_bytes: int = SLICE_BYTES,
    ) -> Iterator[None]:
        """Do the same as `admit`, but yield between slices of `most_bytes`, and add the outcomes to `excluded`."""
        staff = self._staff_rules()
        requests = [minimize_context(context, now_ms, self._received_tolerance_ms, staff) for context in batch.contexts]
        admit = partial(self._admit, requests, staff.sites, now_ms)
        events: list[tuple[int, Event]] = []
        slice_bytes = 0
        for position, event in enumerate(batch.events):
            size = event.ByteSize()
            if slice_bytes and slice_bytes + size > most_bytes:
                self._admit_slice(events, admit, excluded)
                yield
                events, slice_bytes = [], 0
            slice_bytes += size
            if size > MAX_EVENT_BYTES:  # all that follows relies on it
                excluded[position] = _TOO_LARGE
            else:
                events.append((position, event))
        self._admit_slice(events, admit, excluded)

    def _admit_slice(self, events: Sequence[tuple[int, Event]], admit: _Step, excluded: _Outcomes) -> None:
        """Admit events of a batch, given with their positions, and add the outcomes of excluded ones.

        One step for all events, then the other: a processor runs the same code again faster than other code in turn.
        """
        for step in (admit, self._complete):
            for position, event in events:
                if position in excluded:
                    continue
                try:
                    outcome = step(event)
                except Exception as error:
                    self._failed.failed("admission", exc_info=error, error=type(error).__name__)
                    outcome = _FAILED
                if outcome is not None:
                    excluded[position] = outcome

    def _admit(
        self, requests: Sequence[RequestContext], staff_sites: Set[str], now_ms: int, event: Event
    ) -> collector.Outcome | None:
        """Set all but what `_complete` sets. Returns the outcome of an excluded event."""
        index = event.context_index
        if index >= len(requests):
            return _NO_CONTEXT
        request = requests[index]
        for step, reason in STEPS:
            broken_rule = step(event)
            if broken_rule is not None:
                return _rejection(reason, broken_rule)
        site = self._sites.find(event.site or request.site, request.origin)
        if site is None:
            return _UNKNOWN_SITE
        if request.sends_gpc and site.honours_gpc:
            return _SUPPRESSED
        if request.is_robot and site.refuses_bots:
            return _BOT
        event.site = site.name
        sent_ms = request.received_ms if request.keeps_times else request.sent_ms
        happened_ms = event_time(event.timestamp_ms, request.received_ms, sent_ms)
        if happened_ms < request.received_ms - self._max_event_age_ms and not request.keeps_times:
            return _TOO_OLD
        event.event_time_ms = happened_ms
        event.received_time_ms = request.received_ms
        event.staff_reason = event_pb2.STAFF_REASON_SITE if site.name in staff_sites else request.staff_reason
        rejection = self._identify(event, site, now_ms)
        self._derive_ids(event, request.user_agent)
        return rejection

    def _complete(self, event: Event) -> None:
        """Mask secrets, and set the title, and the categories of an event that was sent without any."""
        self._redact(event)
        if not event.category:
            event.category = self._category_of(event)

    def _derive_ids(self, event: Event, user_agent: str) -> None:
        """Set the ids of visit, page and user agent. The stored visit id is specific to the site's group."""
        sent = event.visit_id
        visit, page = self._site_groups.stored_id(sent, event.site), event.browser_page_id
        event.visit_id = visit
        event.browser_visit_id = sent if visit != sent else ""
        event.page_id = page_id(visit, page) if page else ""
        event.user_agent_id = user_agent_id(visit, user_agent) if user_agent else ""

    def _redact(self, event: Event) -> None:
        mask, url, data = self._redactor.mask_text, event.url, event.data_json
        masked_url, masked_data = mask(url), self._redactor.mask_json(data)
        if masked_url != url:
            event.url = masked_url
        if masked_data != data:
            event.data_json = masked_data
        # Secrets are unlikely in these, but the page chooses their content too.
        name, category, page = event.event_name, event.category, event.browser_page_id
        if name not in SYSTEM_EVENTS and (masked := mask(name)) != name:
            event.event_name = masked
        if category and (masked := mask(category)) != category:
            event.category = masked
        is_of_tracker = len(page) == _TRACKER_PAGE_ID_LENGTH and page.isalnum()
        if not is_of_tracker and (masked := mask(page)) != page:
            event.browser_page_id = masked
        event.title = _title(masked_data) if name == PAGE_ENTERED else ""

    def _identify(self, event: Event, site: Site, now_ms: int) -> collector.Outcome | None:
        """Set transition, identity and assurance. Values that the sender has put into these fields are overwritten."""
        if any(_of_admission(event)):  # it costs less to look than to clear
            for field in _OF_ADMISSION:
                event.ClearField(field)
        kind = TRANSITION_KINDS.get(event.event_name)
        if kind is None:
            return None
        policy = self._policy_of(site.name)
        user = extract_user(event, policy.user_id_keys)
        if user is None:
            return _invalid_user_id(policy.user_id_keys)
        event.transition = kind
        event.identity_id = user.user_id
        event.assurance, event.assurance_reason = _UNPROVEN[kind]
        if kind == _SIGN_IN and site.keys:
            proof = verify_token(
                user.token,
                site.keys,
                site=site.name,
                visit_id=event.visit_id,
                user_id=user.user_id if user.is_user_id_key else "",
                happened_ms=event.event_time_ms,
                now_ms=now_ms,
                rules=self._token_rules,
            )
            event.assurance_reason = proof.verdict
            if proof.verdict is TokenVerdict.VALID:
                event.identity_id = proof.user_id
                event.assurance = event_pb2.ASSURANCE_PROVEN
                event.proven_json, event.token_id = proof.attributes, proof.token_id
            else:
                event.transition = event_pb2.TRANSITION_KIND_USER_INFO
        is_stored = kind == _SIGN_OUT or apply_policy(event, user, policy)
        return None if is_stored else _invalid_user_id(policy.user_id_keys)


def _invalid_user_id(keys: Sequence[str]) -> collector.Outcome:
    return _rejection(
        collector.REJECT_REASON_INVALID_USER_ID,
        f"data.{keys[0]}: must be a string of 1 to {MAX_IDENTITY_LENGTH} characters or an integer. The first of these "
        f"keys with a value counts: {', '.join(keys)}",
    )


def event_time(timestamp_ms: int, received_ms: int, sent_ms: int) -> int:
    """Return the time of an event, in milliseconds since the epoch, from its timestamp by the sender's clock.

    - `sent_ms` (the sender's clock when it sent the request) within 5 s of `received_ms`: the timestamp.
    - `sent_ms` further off: the timestamp, corrected by the difference.
    - `sent_ms` 0 (unknown): the timestamp if it is within a day of `received_ms`, else `received_ms`.
    - A result of more than a day after `received_ms` is replaced by `received_ms`.
    """
    if sent_ms:
        clock_lag = received_ms - sent_ms
        happened_ms = timestamp_ms if abs(clock_lag) <= _CLOCK_TOLERANCE_MS else timestamp_ms + clock_lag
    else:
        happened_ms = timestamp_ms if abs(received_ms - timestamp_ms) <= DAY_MS else received_ms
    return received_ms if happened_ms > received_ms + DAY_MS else happened_ms
