"""Checks and completes what a contact center reports of an interaction, and appends it to the event log."""

import time
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec
from footfall.collector.v1.collector_service_pb2 import RecordInteractionRequest
from footfall.event.v1.event_pb2 import Event, EventBatch
from footfall.event.v1.interaction_pb2 import InteractionChannel, InteractionUpdate
from footfall_eventlog.events import MAX_IDENTITY_LENGTH
from footfall_eventlog.interactions import (
    INTERACTION_TIMES,
    MAX_CONTACT_ID_LENGTH,
    MAX_INTERACTION_ID_LENGTH,
    MAX_INTERACTION_TEXT_LENGTH,
    interaction_key,
    is_interaction_id,
    is_interaction_time,
)
from footfall_eventlog.phone_numbers import e164
from footfall_eventlog.site_groups import SiteGroups
from footfall_eventlog.sites import DEFAULT_SITE
from footfall_servicekit.errors import RequestError
from footfall_timeline import normalize_uuid, partition
from google.protobuf.timestamp_pb2 import Timestamp

from footfall_collector import metrics
from footfall_collector.event_log import EventLog
from footfall_collector.normalize import check_data
from footfall_collector.redact import Redactor
from footfall_collector.service_clients import VisitLookup

Violations = Iterator[tuple[str, str]]

_ABOUT: Final = ("visit_id", "identity_id", "contact_id", "phone")
_TEXTS: Final = ("agent", "queue", "disposition")
_RETRY_MS: Final = 1_000


class InteractionRules(NamedTuple):
    """Limits of interactions, as in the settings of the same names."""

    max_note_length: int
    max_data_bytes: int
    max_clock_ahead_s: int
    max_per_second: int
    phone_region: str | None = None


class InteractionRecorder:
    """Stores updates of interactions. Calls may run concurrently."""

    def __init__(
        self,
        log: EventLog,
        visits: VisitLookup,
        redactor: Redactor,
        site_groups: SiteGroups,
        rules: InteractionRules,
        *,
        partitions: int,
    ) -> None:
        self._log = log
        self._visits = visits
        self._redactor = redactor
        self._site_groups = site_groups
        self._rules = rules
        self._partitions = partitions
        self._rate = RateLimit(rules.max_per_second)

    async def record(self, request: RecordInteractionRequest) -> InteractionUpdate:
        """Store an update, and return it as stored.

        Raises RequestError, LogFullError, LogUnavailableError and LogRejectedError.
        """
        update, now_ms = request.interaction, time.time_ns() // 1_000_000
        update.DiscardUnknownFields()  # no limit is known for them
        for field in ("site", "browser_visit_id", "scope"):
            update.ClearField(field)
        if not update.HasField("update_time"):
            update.update_time.FromMilliseconds(now_ms)
        if wrong := [*self._violations(update, now_ms)]:
            raise RequestError.invalid_fields([(f"interaction.{field}", rule) for field, rule in wrong])
        if request.sites and not update.visit_id:
            raise RequestError.invalid("interaction.visit_id", "is required for a caller that is limited to sites")
        if not self._rate.takes_one(time.monotonic()):
            message = "more interactions than COLLECTOR_MAX_INTERACTIONS_PER_SECOND; send it again later"
            raise RequestError.exhausted(message, _RETRY_MS)
        self._normalize(update)
        if update.visit_id:
            await self._find_visit(update, [*request.sites])
        number = partition(interaction_key(update), self._partitions)
        entry = EventBatch(interaction=update).SerializeToString()
        await self._log.append({number: entry}, {update.site or DEFAULT_SITE: 1})
        metrics.INTERACTIONS.inc()
        if update.browser_visit_id:
            update.visit_id = update.browser_visit_id
        return update

    def _violations(self, update: InteractionUpdate, now_ms: int) -> Violations:
        """The fields of an update that break rules, each with its rule."""
        if not is_interaction_id(update.interaction_id):
            yield "interaction_id", f"must be 1 to {MAX_INTERACTION_ID_LENGTH} characters, none a control character"
        yield from self._about_violations(update)
        if update.channel not in InteractionChannel.values():
            yield "channel", "must be known to this version"
        for field in _TEXTS:
            if len(getattr(update, field)) > MAX_INTERACTION_TEXT_LENGTH:
                yield field, f"must be at most {MAX_INTERACTION_TEXT_LENGTH} characters"
        if len(update.note) > self._rules.max_note_length:
            yield "note", f"must be at most {self._rules.max_note_length} characters"
        if len(update.data_json) > self._rules.max_data_bytes:
            yield "data_json", f"must be at most {self._rules.max_data_bytes} bytes"
        elif broken_rule := check_data(Event(data_json=update.data_json)):
            yield "data_json", broken_rule.partition(": ")[2]
        yield from self._time_violations(update, now_ms)

    def _about_violations(self, update: InteractionUpdate) -> Violations:
        match update.WhichOneof("about"):
            case None:
                yield "about", f"exactly one of {', '.join(_ABOUT)} is required"
            case "visit_id":
                try:
                    normalize_uuid(update.visit_id)
                except ValueError:
                    yield "visit_id", "must be a UUID"
            case "phone":
                if not e164(update.phone, self._rules.phone_region):
                    needs_code = "" if self._rules.phone_region else " with + and its country code"
                    yield "phone", f"must be a telephone number{needs_code}"
            case "identity_id" if not 1 <= len(update.identity_id) <= MAX_IDENTITY_LENGTH:
                yield "identity_id", f"must be 1 to {MAX_IDENTITY_LENGTH} characters"
            case "contact_id" if not 1 <= len(update.contact_id) <= MAX_CONTACT_ID_LENGTH:
                yield "contact_id", f"must be 1 to {MAX_CONTACT_ID_LENGTH} characters"

    def _time_violations(self, update: InteractionUpdate, now_ms: int) -> Violations:
        given: dict[str, int] = {}
        for field in (name for name in INTERACTION_TIMES if update.HasField(name)):
            moment: Timestamp = getattr(update, field)
            if not is_interaction_time(moment):
                yield field, "must be a time from 1970 to 2286"
                continue
            given[field] = moment.ToMilliseconds()
            if given[field] > now_ms + self._rules.max_clock_ahead_s * 1000:
                yield field, f"must not be more than {self._rules.max_clock_ahead_s} s in the future"
        if given.keys() >= {"start_time", "end_time"} and given["end_time"] < given["start_time"]:
            yield "end_time", "must not be before start_time"

    def _normalize(self, update: InteractionUpdate) -> None:
        """Write times in whole milliseconds and numbers in E.164 form, and mask secrets."""
        for field in INTERACTION_TIMES:
            if update.HasField(field):
                moment: Timestamp = getattr(update, field)
                moment.FromMilliseconds(moment.ToMilliseconds())
        if update.WhichOneof("about") == "phone":
            update.phone = e164(update.phone, self._rules.phone_region)
        texts = {field: text for field in (*_TEXTS, "note") if (text := getattr(update, field))}
        masked = self._redactor.mask_json(msgspec.json.encode(texts))
        for field, text in msgspec.json.decode(masked, type=dict[str, str]).items():
            setattr(update, field, text)
        if update.data_json:
            update.data_json = self._redactor.mask_json(update.data_json)

    async def _find_visit(self, update: InteractionUpdate, sites: list[str]) -> None:
        """Set what follows from the visit: its stored id, its site, and the scope of the interaction's id."""
        visit = await self._visits.find(normalize_uuid(update.visit_id), sites)
        update.visit_id, update.site = visit.stored_id, visit.site
        update.browser_visit_id = visit.browser_id if visit.browser_id != visit.stored_id else ""
        if sites:
            update.scope = self._site_groups.group_of(visit.site)


class RateLimit:
    """At most so many in a second; as many may come together after a second without any."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._left = float(per_second)
        self._seen_s = 0.0

    def takes_one(self, now_s: float) -> bool:
        """Whether one more is allowed at this time of a clock that never goes back; if so, count it."""
        self._left = min(self._per_second, self._left + (now_s - self._seen_s) * self._per_second)
        self._seen_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
