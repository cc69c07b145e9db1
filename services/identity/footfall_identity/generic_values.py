"""Generic values in MongoDB: e-mail addresses, telephone numbers and names that too many identities give.

A document says up to which assurance rules do not use a value, and what a person has decided about it. It says what the
identities say (`value_counting.py`), and goes when neither is left. If links have to change, it has a mark
(`is_stale`) until the identities with the value have a note to be linked again, so a crash loses nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from footfall_identity.documents import all_of, find_any, has_replaced, open_with


class GenericValue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value by its match key. Every write sets another `rev`.

    - `value_id`: a random name, which may stand in addresses and logs.
    - `assurance`: rules do not use the value of identities up to this assurance; 0: they use it of all.
    - `since_ms`: since when that is more than 0.
    - `is_allowed`, `actor`, `decide_ms`: whether a person has allowed it all the same; who decided last, and when.
    - `is_stale`: since `update_ms`, identities that give it have to be linked again.
    """

    key: str = msgspec.field(name="_id")
    value_id: str
    rev: str = ""
    assurance: int = 0
    since_ms: int = 0
    is_allowed: bool = False
    actor: str = ""
    decide_ms: int = 0
    is_stale: bool = False
    update_ms: int = 0

    @classmethod
    def new(cls, key: str) -> "GenericValue":
        """Return a value that is not stored yet."""
        return cls(key=key, value_id=uuid4().hex)

    @property
    def unused_up_to(self) -> int:
        """The assurance up to which rules do not use it."""
        return 0 if self.is_allowed else self.assurance

    @property
    def is_shown(self) -> bool:
        """Whether it is generic, or was allowed while it was."""
        return bool(self.assurance) or self.is_allowed

    @property
    def is_blank(self) -> bool:
        """Whether it can be removed."""
        return not (self.is_shown or self.is_stale)


class GenericValueStore:
    """The documents. All methods raise RequestError (UNAVAILABLE) while MongoDB is unavailable."""

    def __init__(self, values: Any, translating_errors: Callable[[], AbstractAsyncContextManager[None]]) -> None:
        """Use a collection, and the caller's way to convert errors of its driver."""
        self._values = values
        self._translating_errors = translating_errors

    async def get(self, keys: Iterable[str]) -> dict[str, GenericValue]:
        """Return the known ones of these values, by match key."""
        async with self._translating_errors():
            found = await find_any(self._values, "_id", keys)
        return {value.key: value for value in _values(found)}

    async def find(self, value_id: str) -> GenericValue | None:
        """Return the value with this name."""
        async with self._translating_errors():
            documents = await self._values.find({"value_id": value_id}).limit(1).to_list(None)
        return next(iter(_values(documents)), None)

    async def page(self, after: str, size: int) -> list[GenericValue]:
        """Return the first `size` values with names after `after`, by name, also such as are not shown."""
        async with self._translating_errors():
            query = self._values.find({"value_id": {"$gt": after}}).sort("value_id", 1).limit(size)
            return _values(await query.to_list(None))

    async def count(self, limit: int) -> int:
        """Return the number of values that rules do not use, at most `limit`."""
        query = {"assurance": {"$gt": 0}, "is_allowed": {"$ne": True}}
        async with self._translating_errors():
            return int(await self._values.count_documents(query, limit=limit))

    async def put(self, before: GenericValue | None, after: GenericValue) -> GenericValue | None:
        """Replace a value (None: insert it); a blank one is removed. Return it as it is stored.

        None: it has been changed meanwhile.
        """
        stored = replace(after, rev=uuid4().hex)
        async with self._translating_errors():
            if before and after.is_blank:
                done = (await self._values.delete_one({"_id": before.key, "rev": before.rev})).deleted_count
            else:
                done = await has_replaced(self._values, before.rev if before else None, msgspec.to_builtins(stored))
        return stored if done else None

    async def stale(self, size: int, before_ms: int) -> list[GenericValue]:
        """Return up to `size` values that were marked before a time."""
        stale, before = {"is_stale": True}, {"update_ms": {"$lt": before_ms}}
        async with self._translating_errors():
            return _values(await all_of(open_with, self._values, stale, before, limit=size))

    async def unmark(self, value: GenericValue) -> None:
        """Remove the mark of a value, unless it has been changed meanwhile."""
        await self.put(value, replace(value, is_stale=False))


def _values(documents: Sequence[dict[str, Any]]) -> list[GenericValue]:
    return [msgspec.convert(document, GenericValue) for document in documents]
