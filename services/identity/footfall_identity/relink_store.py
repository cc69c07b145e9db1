"""Notes in MongoDB about identities that have to be linked again because a contact or a generic value has changed.

A note is about a cohort: all identities with the same match key, or all that a person has linked to the same contact.
Its identities are linked again in the order of their ids, in turns. The note holds the position, so any process can
take the next turn. A request for a cohort that has a note only changes the note's `rev`. Then all identities are linked
once more after the present pass, however many requests there were.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, NamedTuple
from uuid import uuid4

import msgspec

from footfall_identity.documents import find_any

_MAX_COUNTED: Final = 1_000
_FEW: Final = 20


class Cohort(NamedTuple):
    """The identities whose `field` has this value."""

    field: Literal["keys", "by_hand"]
    value: str

    @property
    def id(self) -> str:
        """The id of its note."""
        return f"{self.field}={self.value}"


class RelinkNote(msgspec.Struct, frozen=True, kw_only=True):
    """A cohort that has to be linked again.

    - `rev`: changes with every request.
    - `pass_rev`, `pass_ms`: `rev` and time when the present pass began.
    - `position`: the identities with ids up to this have been linked in the present pass; they are `done_count`.
    - `member_count`: the identities of the cohort, as they were counted last.
    - `since_ms`: since when it is pending; no later than the oldest request that is not served.
    - `turn_ms`: when a process may take the next turn. The least is served first.
    """

    note_id: str = msgspec.field(name="_id")
    field: Literal["keys", "by_hand"]
    value: str
    rev: str
    pass_rev: str
    pass_ms: int
    since_ms: int
    member_count: int
    done_count: int = 0
    position: str = ""
    turn_ms: int = 0

    @property
    def cohort(self) -> Cohort:
        """The identities that it is about."""
        return Cohort(self.field, self.value)

    @property
    def pending_count(self) -> int:
        """How many identities have still to be linked. All count again after a request during a pass."""
        return max(1, self.member_count - (self.done_count if self.rev == self.pass_rev else 0))


class RelinkStore:
    """The notes. Several processes may use them. Of two that take the same turn, the first to end it counts.

    All methods raise RequestError (UNAVAILABLE) while MongoDB is unavailable.
    """

    def __init__(self, notes: Any, translating_errors: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        """Use a collection, and the caller's way to convert errors of its driver."""
        self._notes = notes
        self._translating_errors = translating_errors

    async def request(self, member_counts: Mapping[Cohort, int], now_ms: int) -> None:
        """Note cohorts with the number of their members, so that all their identities are linked after this."""
        async with self._translating_errors():
            await asyncio.gather(*(self._request(*counted, now_ms) for counted in member_counts.items()))

    async def _request(self, cohort: Cohort, member_count: int, now_ms: int) -> None:
        rev = uuid4().hex
        new = RelinkNote(
            note_id=cohort.id,
            field=cohort.field,
            value=cohort.value,
            rev=rev,
            pass_rev=rev,
            pass_ms=now_ms,
            since_ms=now_ms,
            member_count=member_count,
        )
        inserted = msgspec.to_builtins(new)
        del inserted["_id"], inserted["rev"]
        await self._notes.update_one({"_id": cohort.id}, {"$set": {"rev": rev}, "$setOnInsert": inserted}, upsert=True)

    async def notes(self, cohorts: Collection[Cohort]) -> list[RelinkNote]:
        """Return the notes that there are about these cohorts."""
        async with self._translating_errors():
            # Mostly there is none at all. To ask for that is cheaper than to look for many.
            if len(cohorts) > _FEW and await self._notes.find_one({}, {"_id": 1}) is None:
                return []
            found = await find_any(self._notes, "_id", (cohort.id for cohort in cohorts))
        return [msgspec.convert(document, RelinkNote) for document in found]

    async def take_turn(self, now_ms: int, until_ms: int) -> RelinkNote | None:
        """Take the next turn that is due. Unless this process ends it until a later time, others take it too."""
        async with self._translating_errors():
            while True:
                query = self._notes.find({"turn_ms": {"$lte": now_ms}}).sort("turn_ms", 1).limit(1)
                documents = await query.to_list(None)
                if not documents:
                    return None
                note = msgspec.convert(documents[0], RelinkNote)
                condition = {"_id": note.note_id, "turn_ms": note.turn_ms}
                if (await self._notes.update_one(condition, {"$set": {"turn_ms": until_ms}})).matched_count:
                    return note
                # Another process was faster.

    async def end_turn(self, note: RelinkNote, linked: Sequence[str], now_ms: int) -> None:
        """Note which next identities are linked. The cohort goes to the end of the queue."""
        done_count = note.done_count + len(linked)
        change = {"position": linked[-1], "done_count": done_count, "turn_ms": now_ms}
        async with self._translating_errors():
            await self._notes.update_one(_same_turn(note), {"$set": change})

    async def end_pass(self, note: RelinkNote, now_ms: int) -> None:
        """Remove a note whose identities are all linked. After a request during the pass, begin another one instead."""
        condition = _same_turn(note)
        async with self._translating_errors():
            if (await self._notes.delete_one(condition | {"rev": note.pass_rev})).deleted_count:
                return
            document = await self._notes.find_one(condition)
            if document is None:
                return
            change = {
                "pass_rev": document["rev"],
                "pass_ms": now_ms,
                "since_ms": note.pass_ms,
                "member_count": note.done_count,
                "done_count": 0,
                "position": "",
                "turn_ms": now_ms,
            }
            await self._notes.update_one(condition, {"$set": change})

    async def backlog(self) -> tuple[int, int | None]:
        """Return the number of notes, at most 1,000, and since when the oldest of them is pending."""
        async with self._translating_errors():
            documents = await self._notes.find({}, {"since_ms": 1}).limit(_MAX_COUNTED).to_list(None)
        return len(documents), min((document["since_ms"] for document in documents), default=None)


def _same_turn(note: RelinkNote) -> dict[str, str]:
    """Return the condition that no process has ended this turn."""
    return {"_id": note.note_id, "pass_rev": note.pass_rev, "position": note.position}
