"""Checkpoints and gaps of one consumer group in the MongoDB database that holds what the group has stored.

The collections, and so the driver and its errors, are those of the service.
"""

import asyncio
import sys
from collections.abc import Awaitable
from typing import Any, NamedTuple, Self

if sys.version_info < (3, 12):
    # That of Python 3.11 loses a cancellation that comes with the result, and PyMongo sends by it. This is 3.12's.
    async def _wait_for(awaitable: Awaitable[Any], timeout: float | None) -> Any:  # noqa: ASYNC109
        async with asyncio.timeout(timeout):
            return await awaitable

    asyncio.wait_for = _wait_for  # type: ignore[assignment]


class Position(NamedTuple):
    """A position in a partition's stream: after the entry with this id, the `ordinal`-th that was ever appended."""

    id: str
    ordinal: int

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The position in a text of `text`; None for an empty one."""
        entry_id, _, ordinal = text.partition("/")
        return cls(entry_id, int(ordinal)) if text else None

    @property
    def text(self) -> str:
        """The position as Redis keeps it."""
        return f"{self.id}/{self.ordinal}"


def order_of(entry_id: str) -> tuple[int, int]:
    """What entry ids are compared by: the time of the append in milliseconds since the epoch, and a number."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


class Checkpoint(NamedTuple):
    """The position up to which a group has stored a partition.

    - `epoch`: the state of Redis that the position is of.
    - `node`: the process of Redis at that time; empty if it is not known.
    - `written_ms`: when it was written, in milliseconds since the epoch.
    - `server`: the process of MongoDB at that time, see `CheckpointStore.server`; None if it is not known.
    """

    epoch: str
    id: str
    ordinal: int
    node: str
    written_ms: int
    server: str | None

    @property
    def position(self) -> Position:
        """The position."""
        return Position(self.id, self.ordinal)


class Gap(NamedTuple):
    """Entries of a partition that the log no longer holds, and that MongoDB has lost or may have lost.

    - `from_ms`, `until_ms`: they were appended between these times, in milliseconds since the epoch; 0: since ever.
    - `found_ms`: when the gap was found.
    - `is_confirmed`: an operator has taken note of it.
    """

    id: str
    partition: int
    from_ms: int
    until_ms: int
    entries: int
    found_ms: int
    is_confirmed: bool = False


def checkpoint_key(number: int, partitions: int) -> str:
    """The key of a partition's checkpoint. With another number of partitions it is another part of the visits."""
    return f"{number}/{partitions}"


class CheckpointStore:
    """Methods raise what the driver raises. `key` names a partition, see `checkpoint_key`."""

    def __init__(self, checkpoints: Any, gaps: Any) -> None:
        """Use two collections, whose writes wait for the journal."""
        self._checkpoints = checkpoints
        self._gaps = gaps

    async def server(self) -> str:
        """MongoDB's process and its election as primary: with others, MongoDB may be in an earlier state.

        A router of a sharded cluster knows neither; then the answer is always the same.
        """
        about = await self._checkpoints.database.command("hello")
        if about.get("msg") == "isdbgrid":  # the process would be that of the router
            return ""
        return f"{about.get('topologyVersion', {}).get('processId', '')}/{about.get('electionId', '')}"

    async def read(self, key: str) -> Checkpoint | None:
        """The checkpoint of a partition."""
        found = await self._checkpoints.find_one({"_id": key})
        return Checkpoint(*map(found.get, Checkpoint._fields)) if found else None

    async def replace(self, key: str, known: Checkpoint | None, new: Checkpoint) -> bool:
        """Replace a checkpoint (None: there is none); return False if it is no longer the known one."""
        if known is None:
            change = {"$setOnInsert": new._asdict()}
            answer = await self._checkpoints.update_one({"_id": key}, change, upsert=True)
            return answer.upserted_id is not None
        condition = {"_id": key, **known._asdict()}
        answer = await self._checkpoints.update_one(condition, {"$set": new._asdict()})
        return bool(answer.matched_count)

    async def forget(self) -> None:
        """Remove all checkpoints: the log is another one now."""
        await self._checkpoints.delete_many({})

    async def put_gap(self, gap: Gap) -> None:
        """Store a gap. One that was stored before is replaced."""
        document = gap._asdict()
        await self._gaps.replace_one({"_id": document.pop("id")}, document, upsert=True)

    async def gaps(self) -> list[Gap]:
        """All gaps, in the order of their times."""
        documents = await self._gaps.find({}).to_list(None)
        found = [Gap(document["_id"], *(document[name] for name in Gap._fields[1:])) for document in documents]
        return sorted(found, key=lambda gap: (gap.from_ms, gap.id))

    async def confirm_gap(self, gap_id: str) -> bool:
        """Note that an operator knows of a gap; return whether there is such a gap."""
        answer = await self._gaps.update_one({"_id": gap_id}, {"$set": {"is_confirmed": True}})
        return bool(answer.matched_count)
