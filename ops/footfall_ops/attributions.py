"""Compares the attribution of each stored event with the timeline of its visit, and corrects it if asked to.

The services may run meanwhile: what differs is read again before it is reported. Memory holds a group of visits.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from footfall_history.storage import (
    REATTRIBUTION_FIELDS,
    Document,
    Store,
    Tombstones,
    Visit,
    attribution_fields,
    event_time_ms,
    events_of_visits,
    reattributions_of,
)
from footfall_timeline import order_key

from footfall_ops.stores import now_ms

_VISITS_PER_READ: Final = 50
_EVENTS_PER_READ: Final = 1_000
_MOST: Final = 1_000
"""Differences that are looked for in a group of visits: memory holds them."""
_ATTRIBUTION: Final = ("state", "identity_id", "session_id")
_EVENT_FIELDS: Final = ("visit_id", "event_id", "rev", *_ATTRIBUTION, *REATTRIBUTION_FIELDS)
_VISIT_FIELDS: Final = (
    *("rev", "timeline", "identities", "session_ids", "start_key", "site_key", "touched_ms", "last_key"),
    *("truncated", "staff", "marks"),
)
_AGAIN_AFTER_S: Final = (0.5, 2.0, 5.0)
_RECENT_MS: Final = 1_800_000
"""Visits that were touched later may be changing now. The time of the last receipt may be stored ten minutes late."""


class Difference(NamedTuple):
    """What is stored otherwise than it follows from the timeline. The text names fields and no value of a person."""

    kind: str
    visit_id: str
    place: str
    text: str


class Attributions:
    """Verifies visits of history. Methods raise TRANSIENT_STORE_ERRORS and LaterVersionError.

    `report` gets each difference. With `repairs`, differences are corrected. `is_alone`: no service changes anything
    meanwhile.
    """

    def __init__(
        self,
        store: Store,
        tombstones: Tombstones,
        report: Callable[[Difference], None],
        *,
        repairs: bool = False,
        is_alone: bool = False,
    ) -> None:
        self._store = store
        self._tombstones = tombstones
        self._report = report
        self._repairs = repairs
        self._again_after_s = () if is_alone else _AGAIN_AFTER_S
        self.visits = 0
        self.events = 0
        self.differences = 0
        self.left = 0
        """Differences that are not corrected."""
        self.last_start_ms = 0

    async def of_range(self, from_ms: int | None, to_ms: int, sites: Sequence[str]) -> AsyncIterator[int]:
        """Verify the visits that began between two times, of these sites or of all. Gives the size of each group."""
        where: Document = {"site": {"$in": [*sites]}} if sites else {}
        lower = await self._store.first_start_key({}) if from_ms is None else order_key(from_ms, "")
        if lower is None:
            return
        cursor = self._store.visits_in_order(where, lower, order_key(to_ms, ""), _VISIT_FIELDS)
        while documents := await cursor.take(_VISITS_PER_READ):
            await self.verify(documents)
            self.last_start_ms = event_time_ms(documents[-1]["start_key"])
            yield len(documents)

    async def of_touched(self, since_ms: int) -> AsyncIterator[int]:
        """Verify the visits that were touched since a time. Gives the size of each group."""
        async for documents in self._store.touched_visits(since_ms, _VISITS_PER_READ):
            await self.verify(documents)
            yield len(documents)

    async def verify(self, documents: Sequence[Document]) -> None:
        """Verify these visits."""
        self.visits += len(documents)
        found = await self._compare(documents, counts=True)
        for pause_s in self._again_after_s:
            if not found:
                return
            await asyncio.sleep(pause_s)
            again = await self._read({one.visit_id for one in found})
            found = [*{*found}.intersection(await self._compare(again))]
            if all(visit["touched_ms"] < now_ms() - _RECENT_MS for visit in again):
                break
        found.sort()
        self.differences += len(found)
        for difference in found:
            self._report(difference)
        wrong = {one.visit_id for one in found}
        if self._repairs and wrong:
            await self._repair(await self._read(wrong))
            found = await self._compare(await self._read(wrong))
        self.left += len(found)

    async def _read(self, visit_ids: Iterable[str]) -> list[Document]:
        ids = [*visit_ids]
        return await self._store.find_visits({"_id": {"$in": ids}}, len(ids), _VISIT_FIELDS)

    async def _compare(self, documents: Sequence[Document], *, counts: bool = False) -> list[Difference]:
        """The differences of these visits. With _MOST of them, there may be more."""
        visits = {document["_id"]: self._visit(document) for document in documents}
        found = [
            Difference("visit", visit_id, visit_id, text)
            for document in documents
            for visit_id in [document["_id"]]
            if (text := _wrong_fields(visits[visit_id], document))
        ]
        async for events in events_of_visits(self._store, documents, {}, _EVENT_FIELDS, _EVENTS_PER_READ):
            self.events += len(events) if counts else 0
            for event in events if len(found) < _MOST else ():
                visit_id = event["visit_id"]
                if text := _wrong_attribution(visits[visit_id], event):
                    found.append(Difference("attribution", visit_id, f"{visit_id}/{event['event_id']}", text))
        return found

    def _visit(self, document: Document) -> Visit:
        return Visit.from_document(document, erases_anonymous=self._tombstones.erases_anonymous)

    async def _repair(self, documents: Sequence[Document]) -> None:
        """Attribute the events again that are attributed wrongly, and write what follows from the timelines."""
        for document in documents:
            visit = self._visit(document)
            if _wrong_fields(visit, document):
                named = {transition.identity for transition in visit.timeline if transition.identity}
                visit = replace(visit, rev=visit.rev + 1, identities=visit.identities | named)
                await self._store.replace_timelines([(visit.visit_id, self._tombstones.timeline_fields(visit))])
            async for events in events_of_visits(self._store, [document], {}, _EVENT_FIELDS, _EVENTS_PER_READ):
                wrong = [event for event in events if _wrong_attribution(visit, event)]
                await self._store.invalidate_attributions([event["_id"] for event in wrong])
                await self._store.reattribute(reattributions_of(visit, wrong))


def _wrong_attribution(visit: Visit, event: Mapping[str, Any]) -> str:
    """What is wrong about the attribution of an event; empty if nothing is."""
    part = visit.range_at(event["order_key"])
    right, _ = attribution_fields(part.attribution, visit.rev)
    wrong = [name for name in _ATTRIBUTION if event.get(name) != right.get(name)]
    wrong += ["rev"] if event["rev"] > visit.rev else []
    wrong += ["erased"] if part.is_erased and not event.get("erased") else []
    return f"differs from the timeline: {', '.join(wrong)}" if wrong else ""


def _wrong_fields(visit: Visit, document: Mapping[str, Any]) -> str:
    """Which stored fields of a visit do not follow from its timeline; empty if all do."""
    sessions = [session.session_id for session in visit.visit_state.sessions]
    named = {transition.identity for transition in visit.timeline if transition.identity}
    wrong = ["session_ids"] if document.get("session_ids", []) != sessions else []
    wrong += [] if named <= visit.identities else ["identities"]
    return f"differs from the timeline: {', '.join(wrong)}" if wrong else ""
