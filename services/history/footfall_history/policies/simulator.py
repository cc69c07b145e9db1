"""Runs the stored visits of a time under another identity policy, and counts what changes. Writes nothing.

Visits are read by start, in small groups. Memory holds one group, the counts, and a limited number of examples;
identities are counted on disk (`identity_pairs`).
"""

import asyncio
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappush, heapreplace
from typing import Final

from footfall_eventlog.events import SIGN_OUT, TRANSITION_KINDS
from footfall_eventlog.identity_policy import IdentityPolicy
from footfall_timeline import Kind, State, order_key

from footfall_history.policies import report as form
from footfall_history.policies.comparison import MAX_PAIRS, OTHER_USER, VisitChange, VisitComparison
from footfall_history.policies.decisions import ERASED, EVENT_FIELDS, JudgedEvent, judge
from footfall_history.policies.identity_pairs import CHANGES, IdentityPairs
from footfall_history.policies.link_evidence import LinkEvidence
from footfall_history.storage import Document, Store, Tombstones, Visit, event_time_ms, events_of_visits

VISIT_FIELDS: Final = (
    *("rev", "timeline", "identities", "start_key", "site_key", "touched_ms", "truncated"),
    *("browser_visit_id", "site", "last_key", "staff"),
)
_IDENTIFYING: Final[Document] = {"event_name": {"$in": [*TRANSITION_KINDS]}}
# A visit may have 2,000 transitions, and an event 64 KiB.
_VISITS_PER_READ: Final = 50
_EVENTS_PER_READ: Final = 100
_MAX_NAMES: Final = 1_000
"""Different versions, and different keys of attributes, that are counted by name."""
OTHERS: Final = "..."
"""Stands for all others."""
NAMED: Final = "named"
"""The decision that an event names an identity."""


@dataclass(frozen=True)
class Range:
    """The visits to read: those of these sites (all if empty) that began at or after a time and before another."""

    from_ms: int | None
    to_ms: int
    sites: Sequence[str] = ()


class Pace:
    """Leaves most of MongoDB to others: every group of visits is followed by a pause as long as its work.

    `rate`: visits per second at most; None: as many as the pauses allow.
    """

    def __init__(self, rate: float | None) -> None:
        self._rate = rate

    async def pause(self, visits: int, took_s: float) -> None:
        """Wait after a group of visits that took so long."""
        await asyncio.sleep(max(took_s, visits / self._rate - took_s if self._rate else 0.0))


class Examples:
    """A limited number of changed visits of each kind of change.

    They are those with the smallest hashes: spread evenly over all, and the same in every run.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._found: dict[VisitChange, list[tuple[int, str, form.VisitExample]]] = {}

    def offer(self, comparison: VisitComparison, document: Document) -> None:
        """Keep a visit if it is one of those."""
        visit_id = document["_id"]
        rank = -int.from_bytes(hashlib.blake2b(visit_id.encode(), digest_size=8).digest())
        kept = self._found.setdefault(comparison.change, [])
        if len(kept) < self._limit:
            heappush(kept, (rank, visit_id, _example(comparison, document)))
        elif self._limit and kept[0][0] < rank:
            heapreplace(kept, (rank, visit_id, _example(comparison, document)))

    def chosen(self) -> list[form.VisitExample]:
        """The examples: by kind of change, then by start."""
        kept = [example for kind in VisitChange for _, _, example in self._found.get(kind, ())]
        order = {kind.value: number for number, kind in enumerate(VisitChange)}
        return sorted(kept, key=lambda one: (order[one.change], one.start_time, one.visit_id))


@dataclass
class Counts:
    """What has been counted so far."""

    visits: int = 0
    staff_visits: int = 0
    events: int = 0
    last_start_ms: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    states: Counter[tuple[State, State]] = field(default_factory=Counter)
    changes: Counter[VisitChange] = field(default_factory=Counter)
    sessions_before: int = 0
    sessions_after: int = 0
    decisions: Counter[tuple[str, str]] = field(default_factory=Counter)
    evidence: dict[str, Counter[bool]] = field(default_factory=lambda: defaultdict(Counter))
    """By key of an attribute: how many SignIns have it as evidence for a link only now (True), or no longer."""
    doubts: Counter[str] = field(default_factory=Counter)


class Simulator:
    """Reads visits and compares each. `run` once, then `report`. Raises TRANSIENT_STORE_ERRORS."""

    def __init__(
        self,
        store: Store,
        tombstones: Tombstones,
        pairs: IdentityPairs,
        policy: IdentityPolicy,
        signing_sites: Container[str],
        *,
        evidence: LinkEvidence | None = None,
        max_transitions: int,
        max_examples: int,
    ) -> None:
        """`signing_sites`: where only a valid token authenticates. `max_examples`: of each kind of change.

        `evidence` gets what links identities to contacts.
        """
        self._store = store
        self._tombstones = tombstones
        self._pairs = pairs
        self._evidence = evidence
        self._policy = policy
        self._signing_sites = signing_sites
        self._max_transitions = max_transitions
        self._examples = Examples(max_examples)
        self._started = time.monotonic()
        self.counts = Counts()

    async def run(self, visits: Range, pace: Pace, progress: Callable[[], None] = lambda: None) -> None:
        """Compare all visits of a range. `progress` is called after each group."""
        self._started = time.monotonic()
        where: Document = {"site": {"$in": [*visits.sites]}} if visits.sites else {}
        lower = await self._store.first_start_key({}) if visits.from_ms is None else order_key(visits.from_ms, "")
        if lower is None:
            return
        cursor = self._store.visits_in_order(where, lower, order_key(visits.to_ms, ""), VISIT_FIELDS)
        began = time.monotonic()
        while documents := await cursor.take(_VISITS_PER_READ):
            customers = [document for document in documents if not document.get("staff")]
            self.counts.staff_visits += len(documents) - len(customers)
            self.counts.last_start_ms = event_time_ms(documents[-1]["start_key"])
            await self._compare(customers)
            progress()
            await pace.pause(len(documents), time.monotonic() - began)
            began = time.monotonic()

    async def _compare(self, documents: Sequence[Document]) -> None:
        comparisons = {
            document["_id"]: VisitComparison(Visit.from_document(document), self._max_transitions)
            for document in documents
        }
        current = ""
        async for events in self._judged(documents):
            for visit_id, judged in events:
                if visit_id != current:
                    self._flush(current, comparisons)
                    current = visit_id
                comparison = comparisons[visit_id]
                comparison.add(judged)
                self._count(judged)
                if len(comparison.pairs) >= MAX_PAIRS:
                    self._pairs.add(visit_id, comparison.take_pairs())
        self._flush(current, comparisons)
        for document in documents:
            visit_id = document["_id"]
            if not comparisons[visit_id].events:
                self._flush(visit_id, comparisons)
            self._finish(comparisons[visit_id], document)

    async def _judged(self, visits: Sequence[Document]) -> AsyncIterator[list[tuple[str, JudgedEvent]]]:
        """The events of these visits that identify, judged. Those of one visit come together, by order key."""
        async for documents in events_of_visits(self._store, visits, _IDENTIFYING, EVENT_FIELDS, _EVENTS_PER_READ):
            events = [(one["visit_id"], judge(one, self._policy.of_site, self._signing_sites)) for one in documents]
            events = await self._with_erasures(events)
            if self._evidence:
                self._evidence.add(zip(documents, (judged for _, judged in events), strict=True))
            yield events

    async def _with_erasures(self, events: list[tuple[str, JudgedEvent]]) -> list[tuple[str, JudgedEvent]]:
        """The events, where those that name an erased person only under the policy are erased as it would be then."""
        named = {one.after.identity for _, one in events if one.after.identity != one.before.identity} - {""}
        erase_times = await self._tombstones.erase_times(named)
        if not erase_times:
            return events
        return [
            (visit_id, one._replace(after=one.after.erased()))
            if one.after.identity != one.before.identity
            and event_time_ms(one.order_key) <= erase_times.get(one.after.identity, -1)
            else (visit_id, one)
            for visit_id, one in events
        ]

    def _count(self, judged: JudgedEvent) -> None:
        if judged.name == SIGN_OUT:
            return
        counts, before, after = self.counts, judged.before, judged.after
        words = before.reason or NAMED, after.reason or NAMED
        if before.identity and after.identity and before.identity != after.identity:
            words = NAMED, OTHER_USER
        counts.decisions[words] += 1
        if before.reason != ERASED:
            counts.versions[_known(judged.version, counts.versions)] += 1
        if before.kind is after.kind is Kind.SIGN_IN:
            for key in before.ignored_keys ^ after.ignored_keys:
                counts.evidence[_known(key, counts.evidence)][key in before.ignored_keys] += 1

    def _flush(self, visit_id: str, comparisons: Mapping[str, VisitComparison]) -> None:
        """Add what is left of the pairs of a visit after its last event."""
        if visit_id:
            comparisons[visit_id].finish()
            self._pairs.add(visit_id, comparisons[visit_id].take_pairs())

    def _finish(self, comparison: VisitComparison, document: Document) -> None:
        counts = self.counts
        counts.visits += 1
        counts.events += comparison.events
        counts.doubts["expired"] += comparison.expired
        counts.doubts.update({doubt.value: count for doubt, count in comparison.doubts.items()})
        before, after = comparison.before, comparison.after
        counts.states[before.attribution.state, after.attribution.state] += 1
        counts.sessions_before += len(before.sessions)
        counts.sessions_after += len(after.sessions)
        if comparison.change is not VisitChange.NONE:
            counts.changes[comparison.change] += 1
            self._examples.offer(comparison, document)

    def report(self, visits: Range, largest: int, links: form.Links | None = None) -> form.Report:
        """The report, with the `largest` identities of each kind of change, and what was found of links."""
        counts = self.counts
        self._pairs.prepare()
        identities_before, identities_after = self._pairs.counts()
        return form.Report(
            policy_version=self._policy.version,
            stored_versions=[form.VersionCount(*one) for one in sorted(counts.versions.items())],
            create_time=_moment(time.time_ns() // 1_000_000),
            from_time=None if visits.from_ms is None else _moment(visits.from_ms),
            to_time=_moment(visits.to_ms),
            sites=[*visits.sites],
            seconds=round(time.monotonic() - self._started, 1),
            visits=counts.visits,
            staff_visits=counts.staff_visits,
            events=counts.events,
            states=[
                form.StateCount(before.name, after.name, count)
                for (before, after), count in sorted(counts.states.items())
            ],
            changed_visits=form.ChangedVisits(**{kind.value: count for kind, count in counts.changes.items()}),
            sessions_before=counts.sessions_before,
            sessions_after=counts.sessions_after,
            decisions=[form.DecisionCount(*words, count) for words, count in sorted(counts.decisions.items())],
            evidence=[
                form.EvidenceCount(key, after, count)
                for key, counted in sorted(counts.evidence.items())
                for after, count in sorted(counted.items())
            ],
            identities=form.Identities(
                identities_before, identities_after, **{kind: self._identities(kind, largest) for kind in CHANGES}
            ),
            links=links,
            examples=self._examples.chosen(),
            doubts=form.Doubts(**counts.doubts),
            not_simulated=[*form.NOT_SIMULATED],
        )

    def _identities(self, kind: str, largest: int) -> form.IdentityChanges:
        total, found = self._pairs.changed(kind, largest)
        return form.IdentityChanges(
            total,
            [
                form.IdentityChange(one.identity, one.events, one.others, [form.IdentityPart(*p) for p in one.parts])
                for one in found
            ],
        )


def _known(name: str, known: Collection[str]) -> str:
    """The name under which something is counted: senders can invent names."""
    return name if name in known or len(known) < _MAX_NAMES else OTHERS


def _example(comparison: VisitComparison, document: Document) -> form.VisitExample:
    rows, more = comparison.rows()
    return form.VisitExample(
        document.get("browser_visit_id") or document["_id"],
        document.get("site", ""),
        _moment(event_time_ms(document["start_key"])),
        comparison.change.value,
        [
            form.ExplainedEvent(
                row.event_id,
                row.name,
                _moment(event_time_ms(row.order_key)),
                form.EventExplanation(*row.before),
                form.EventExplanation(*row.after),
            )
            for row in rows
        ],
        more,
    )


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
