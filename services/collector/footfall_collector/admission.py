"""Turns a batch as sent into a batch as logged: the one step that owns clock, proof, consent, secrets, robots and site.

Everything after it is a pure function of what it wrote. It works in place, and is itself a function of the batch and
of the time at which a request without a time of arrival came in.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec
from footfall.collector.v1 import collector_service_pb2 as collector
from footfall.event.v1 import event_pb2
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall_timeline import Walls, page_id, user_agent_id

from footfall_collector.claim import KINDS, MAX_USER_ID, USER_ID_KEYS, take_claim
from footfall_collector.normalize import MAX_EVENT_BYTES, STEPS, SYSTEM_EVENTS
from footfall_collector.proof import TokenRules, Verdict, judge
from footfall_collector.redact import Redactor
from footfall_collector.sender import Sender, cut_down
from footfall_collector.sites import Site, Sites

DAY_MS: Final = 86_400_000
SLICE_BYTES: Final = MAX_EVENT_BYTES
"""How much of a batch is admitted at a time: 5 ms of the costliest content that is known. Larger events are refused."""
_LONGEST_TITLE: Final = 256
_PAGE_ID: Final = 32
_RIGHT_WITHIN_MS: Final = 5_000
"""How far a clock may seem off and still counts as right (docs/api/beacons.md). A request's own way is part of it."""
_SIGN_IN = event_pb2.TRANSITION_KIND_SIGN_IN
_SIGN_OUT = event_pb2.TRANSITION_KIND_SIGN_OUT
_NO_WALLS: Final = Walls()
_CLAIMED: Final = {
    event_pb2.TRANSITION_KIND_USER_INFO: (event_pb2.ASSURANCE_CLAIMED, "user_info"),
    _SIGN_IN: (event_pb2.ASSURANCE_CLAIMED, "no_key"),
    _SIGN_OUT: (event_pb2.ASSURANCE_UNSPECIFIED, ""),
}
"""How far an event is to be trusted on its own word, and why no further."""


class _Titled(msgspec.Struct):
    title: Any = None


_decode_titled = msgspec.json.Decoder(_Titled).decode


def _title(data_json: bytes) -> str:
    """The title of a page, from the data of its PageEntered."""
    title = _decode_titled(data_json).title if data_json else None
    return title[:_LONGEST_TITLE] if isinstance(title, str) else ""


def _rejection(reason: collector.RejectReason.ValueType, message: str) -> collector.Outcome:
    """That an event is refused for good. The message names the field and its rule and quotes nothing."""
    return collector.Outcome(status=collector.OUTCOME_STATUS_REJECTED, reason=reason, message=message)


_BOT = _rejection(collector.REJECT_REASON_BOT, "User-Agent: a robot's, and the site refuses robots")
_TOO_OLD = _rejection(collector.REJECT_REASON_TOO_OLD, "timestamp: happened longer ago than this server accepts")
_UNKNOWN_SITE = _rejection(collector.REJECT_REASON_UNKNOWN_SITE, "site: not known here, or not for this origin")
_SUPPRESSED = collector.Outcome(
    status=collector.OUTCOME_STATUS_SUPPRESSED, message="Sec-GPC: given, and the site honours it"
)


class Admission:
    """The rules of one deployment."""

    def __init__(
        self,
        sites: Sites,
        redactor: Redactor,
        *,
        max_event_age_ms: int,
        token_rules: TokenRules = TokenRules(),  # noqa: B008 - immutable
        received_tolerance_ms: int | None = None,
        walls: Walls = _NO_WALLS,
        user_id_keys: Sequence[str] = USER_ID_KEYS,
        category_of: Callable[[Event], str] = lambda _: "",
    ) -> None:
        """`received_tolerance_ms`: how far a time of arrival that was told may be off; None: it is believed.

        `category_of` gives the categories of events that come without any.
        """
        self._sites = sites
        self._walls = walls
        self._redactor = redactor
        self._max_event_age_ms = max_event_age_ms
        self._token_rules = token_rules
        self._received_tolerance_ms = received_tolerance_ms
        self._category_of = category_of
        self._user_id_keys = user_id_keys
        names = ", ".join(user_id_keys)
        self._no_user = _rejection(
            collector.REJECT_REASON_INVALID_USER_ID,
            f"data.{user_id_keys[0]}: must be a string of 1 to {MAX_USER_ID} characters or an integer; of {names} the "
            "first counts that is given",
        )

    def admit(self, batch: EventBatch, now_ms: int) -> dict[int, collector.Outcome]:
        """Admit a batch in place; return what becomes of those that are not to be logged, by position.

        These are rejected or suppressed, and left half done.

        Every `context_index` must be in range.
        """
        turned_away: dict[int, collector.Outcome] = {}
        for _ in self.admit_in_slices(batch, now_ms, turned_away):
            pass
        return turned_away

    def admit_in_slices(
        self, batch: EventBatch, now_ms: int, turned_away: dict[int, collector.Outcome]
    ) -> Iterator[None]:
        """Do what `admit` does, and stop between slices of the batch, so that others can have their turn.

        `turned_away` takes what `admit` returns.
        """
        senders = [cut_down(context, now_ms, self._received_tolerance_ms) for context in batch.contexts]
        slice_bytes = 0
        for position, event in enumerate(batch.events):
            size = event.ByteSize()
            if slice_bytes and slice_bytes + size > SLICE_BYTES:
                yield
                slice_bytes = 0
            slice_bytes += size
            outcome = self._admit(event, senders[event.context_index], now_ms)
            if outcome is not None:
                turned_away[position] = outcome

    def _admit(self, event: Event, sender: Sender, now_ms: int) -> collector.Outcome | None:
        for step, reason in STEPS:
            broken_rule = step(event)
            if broken_rule is not None:
                return _rejection(reason, broken_rule)
        site = self._sites.find(event.site or sender.site, sender.origin)
        if site is None:
            return _UNKNOWN_SITE
        if sender.sends_gpc and site.honours_gpc:
            return _SUPPRESSED
        if sender.is_robot and site.refuses_bots:
            return _BOT
        event.site = site.name
        sent_ms = sender.received_ms if sender.keeps_times else sender.sent_ms
        happened_ms = event_time(event.timestamp_ms, sender.received_ms, sent_ms)
        if happened_ms < sender.received_ms - self._max_event_age_ms and not sender.keeps_times:
            return _TOO_OLD
        event.event_time_ms = happened_ms
        event.received_time_ms = sender.received_ms
        rejection = self._identify(event, site, now_ms)
        self._place(event, sender.user_agent)
        self._redact(event)
        if not event.category:
            event.category = self._category_of(event)
        return rejection

    def _place(self, event: Event, user_agent: str) -> None:
        """Put the event into the visit of its site's group, whose id no page of another group can send."""
        sent = event.visit_id
        visit, page = self._walls.stored_id(sent, event.site), event.browser_page_id
        event.visit_id = visit
        event.browser_visit_id = sent if visit != sent else ""
        event.page_id = page_id(visit, page) if page else ""
        event.user_agent_id = user_agent_id(visit, user_agent) if user_agent else ""

    def _redact(self, event: Event) -> None:
        address, url, data = self._redactor.address, event.url, event.data_json
        masked_url, masked_data = address(url), self._redactor.json(data)
        if masked_url != url:
            event.url = masked_url
        if masked_data != data:
            event.data_json = masked_data
        # No places for secrets, but what stands there is of the site's making too.
        name, category, page = event.event_name, event.category, event.browser_page_id
        if name not in SYSTEM_EVENTS and (masked := address(name)) != name:
            event.event_name = masked
        if category and (masked := address(category)) != category:
            event.category = masked
        is_plain = len(page) == _PAGE_ID and page.isalnum()  # as the tracking script makes them
        if not is_plain and (masked := address(page)) != page:
            event.browser_page_id = masked
        event.title = _title(masked_data) if name == "PageEntered" else ""

    def _identify(self, event: Event, site: Site, now_ms: int) -> collector.Outcome | None:
        """Decide what the event does to its visit, whom it names and how far that is to be trusted.

        All four fields are written for every event: what a sender put there says nothing.
        """
        event.ClearField("assurance_reason_code")
        event.ClearField("proven_json")
        event.ClearField("token_id")
        kind = KINDS.get(event.event_name)
        if kind is None:
            event.ClearField("transition")
            event.ClearField("identity_id")
            event.ClearField("assurance")
            event.ClearField("assurance_reason")
            return None
        claim = take_claim(event, self._user_id_keys)
        if claim is None:
            return self._no_user
        event.transition = kind
        event.identity_id = claim.user_id
        event.assurance, event.assurance_reason = _CLAIMED[kind]
        if kind == _SIGN_IN and site.keys:
            proof = judge(
                claim.token,
                site.keys,
                site=site.name,
                visit_id=event.visit_id,
                user_id=claim.user_id if claim.is_user_id else "",
                happened_ms=event.event_time_ms,
                now_ms=now_ms,
                rules=self._token_rules,
            )
            event.assurance_reason = proof.verdict
            if proof.verdict is Verdict.VALID:
                event.identity_id = proof.user_id
                event.assurance = event_pb2.ASSURANCE_PROVEN
                event.proven_json, event.token_id = proof.attributes, proof.token_id
            else:
                event.transition = event_pb2.TRANSITION_KIND_USER_INFO
        return None if event.identity_id or kind == _SIGN_OUT else self._no_user


def event_time(timestamp_ms: int, received_ms: int, sent_ms: int) -> int:
    """When an event happened (design 3.2), in milliseconds since the epoch. `sent_ms` 0: not told.

    A clock that is right within five seconds is believed. One that is further off is corrected by what it showed when
    the event was sent. Of one that is unknown only what fits the time of arrival within a day is believed.
    """
    if sent_ms:
        clock_lag = received_ms - sent_ms
        happened_ms = timestamp_ms if abs(clock_lag) <= _RIGHT_WITHIN_MS else timestamp_ms + clock_lag
    else:
        happened_ms = timestamp_ms if abs(received_ms - timestamp_ms) <= DAY_MS else received_ms
    return received_ms if happened_ms > received_ms + DAY_MS else happened_ms
