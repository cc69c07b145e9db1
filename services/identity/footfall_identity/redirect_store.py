"""Redirects in MongoDB: one record for each name about which anything was decided.

A redirect is one write, so of two decisions about a name one finds that of the other. Two decisions about different
names may together form a circle or exceed the limit. Each is therefore checked once more after it is written, when it
sees the other, and taken back if it breaks a rule.

Most deployments have no redirects, and most answers depend on that. So a process may remember for a moment that there
are none. The first decision is answered only when no process remembers that any longer.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final
from uuid import uuid4

import msgspec
from footfall_servicekit.errors import RequestError
from msgspec.structs import replace

from footfall_identity.documents import find_any, has_replaced
from footfall_identity.redirects import Names, Redirect, decided, forgetting, undone

_CLOCKS_MS: Final = 60_000
"""The clocks of the servers differ by less than this."""


class RedirectStore:
    """The redirects of one kind. All methods raise RequestError (UNAVAILABLE) while MongoDB is unavailable."""

    def __init__(
        self,
        redirects: Any,
        translating_errors: Callable[[], AbstractAsyncContextManager[None]],
        max_names: int,
        *,
        remember_ms: int = 0,
    ) -> None:
        """Use a collection, and the caller's way to convert errors of its driver.

        `max_names`: how many names may mean the same. `remember_ms`: how long it may be remembered that there are no
        redirects. It must be the same in all processes.
        """
        self._redirects = redirects
        self._translating_errors = translating_errors
        self.max_names = max_names
        self._remember_s = remember_ms / 1000
        self._none_until_s = 0.0
        self._were_any = False

    async def names(self, wanted: Iterable[str], *, may_remember: bool = False) -> Names:
        """Return the redirects in force between these names and all that mean the same as one of them.

        `may_remember`: the decisions that have been answered are enough. A write that depends on the names needs all
        decisions that are stored.
        """
        leads_to: dict[str, str] = {}
        known: set[str] = set()
        further = {*wanted}
        if not further or (may_remember and time.monotonic() < self._none_until_s):
            return Names({})
        if not (self._were_any or await self._are_any_in_force()):
            return Names({})
        while further:
            known |= further
            found = await self._with_any("ends", further, {"ends": 1})
            leads_to |= {document["_id"]: document["ends"][1] for document in found}
            further = {name for document in found for name in document["ends"]} - known
        return Names(leads_to)

    async def _are_any_in_force(self) -> bool:
        """Return whether there is any redirect. If there is none, one command says so of many names.

        Else names are looked for without asking again: SecantusDB reads all redirects for it.
        """
        asked_s = time.monotonic()
        async with self._translating_errors():
            are_any = await self._redirects.find_one({"ends": {"$gt": ""}}, {"_id": 1}) is not None
        self._none_until_s = 0.0 if are_any else asked_s + self._remember_s
        self._were_any = are_any
        return are_any

    async def _with_any(
        self, field: str, values: Iterable[str], fields: dict[str, int] | None = None
    ) -> list[dict[str, Any]]:
        async with self._translating_errors():
            return await find_any(self._redirects, field, values, fields)

    async def get(self, from_id: str) -> Redirect | None:
        """Return what was decided about a name."""
        async with self._translating_errors():
            document = await self._redirects.find_one({"_id": from_id})
        return msgspec.convert(document, Redirect) if document else None

    async def decide(self, from_id: str, to_id: str, actor: str, now_ms: int) -> Redirect:
        """Let a name lead to another; return its record, unchanged if it does so already.

        Every process that answers afterwards knows it. Raises RequestError (FAILED_PRECONDITION) if it leads to a third
        one, if the other leads to it, or if too many names would mean the same.
        """
        while True:
            before = await self.get(from_id)
            if before and before.to_id == to_id:
                await self._wait_until_known(now_ms)
                return before
            if before and before.to_id:
                raise RequestError.failed_precondition(
                    "ALREADY_REDIRECTED",
                    "this name leads to another one already; undo that first, or use the name that it leads to",
                )
            self._check(await self.names([from_id, to_id]), from_id, to_id)
            if written := await self._replace(before, decided(before, from_id, to_id, actor, now_ms)):
                break
        try:
            self._check(await self.names([from_id]), from_id, to_id)
        except RequestError:
            await self._take_back(before, written)
            raise
        await self._wait_until_known(now_ms)
        return written

    async def _wait_until_known(self, now_ms: int) -> None:
        """Wait until no process remembers that there are no redirects. None does if one has been in force for long."""
        if not self._remember_s:
            return
        async with self._translating_errors():
            document = await self._redirects.find_one({"ends": {"$gt": ""}})
        if document is None or msgspec.convert(document, Redirect).decisions[-1].at_ms > now_ms - _CLOCKS_MS:
            await asyncio.sleep(self._remember_s)

    def _check(self, names: Names, from_id: str, to_id: str) -> None:
        if names.current(to_id, among=[from_id]) == from_id or names.has_circle(from_id):
            raise RequestError.failed_precondition("REDIRECT_CYCLE", "the other name leads to this one already")
        if len({*names.together(from_id), *names.together(to_id)}) > self.max_names:
            raise RequestError.failed_precondition(
                "TOO_MANY_NAMES", f"more than {self.max_names} names would mean the same (IDENTITY_MAX_NAMES)"
            )

    async def undo(self, from_id: str, actor: str, now_ms: int) -> Redirect:
        """Let a name lead nowhere; return its record, unchanged if it does so already.

        Raises RequestError (FAILED_PRECONDITION) if it never led anywhere.
        """
        while True:
            before = await self.get(from_id)
            if before is None:
                raise RequestError.failed_precondition("NOT_REDIRECTED", "this name has never led to another one")
            if not before.to_id:
                return before
            if written := await self._replace(before, undone(before, actor, now_ms)):
                return written

    async def _replace(self, before: Redirect | None, after: Redirect) -> Redirect | None:
        """Replace a record (None: insert); return it as stored, None if it was changed meanwhile."""
        stored = replace(after, rev=uuid4().hex)
        async with self._translating_errors():
            done = await has_replaced(self._redirects, before.rev if before else None, msgspec.to_builtins(stored))
        return stored if done else None

    async def _take_back(self, before: Redirect | None, written: Redirect) -> None:
        if before is None:
            await self._delete(written)
        else:
            await self._replace(written, replace(before, is_due=True))

    async def page(self, after: str, size: int, of_names: Sequence[str] | None = None) -> list[Redirect]:
        """Return the first `size` records of names after `after`, in order; of these names, unless it is None."""
        async with self._translating_errors():
            if of_names is not None:
                documents = await self._with_any("_id", [name for name in of_names if name > after])
            else:
                documents = await self._redirects.find({"_id": {"$gt": after}}).sort("_id", 1).limit(size).to_list(None)
        found = sorted((msgspec.convert(one, Redirect) for one in documents), key=lambda one: one.from_id)
        return found[:size]

    async def due(self, size: int) -> list[Redirect]:
        """Return up to `size` records since whose change links have not been decided, after an interruption."""
        async with self._translating_errors():
            documents = await self._redirects.find({"is_due": True}).limit(size).to_list(None)
        return [msgspec.convert(document, Redirect) for document in documents]

    async def unmark(self, redirect: Redirect) -> None:
        """Note that links have been decided since the last change of a record, unless it has changed again."""
        async with self._translating_errors():
            await self._redirects.update_one({"_id": redirect.from_id, "rev": redirect.rev}, {"$unset": {"is_due": ""}})

    async def remove(self, names: Iterable[str]) -> None:
        """Remove all decisions that mention one of these names."""
        removed = {*names}
        while found := [msgspec.convert(one, Redirect) for one in await self._with_any("mentions", removed)]:
            for redirect in found:
                if left := forgetting(redirect, removed):
                    await self._replace(redirect, left)
                else:
                    await self._delete(redirect)

    async def _delete(self, redirect: Redirect) -> None:
        async with self._translating_errors():
            await self._redirects.delete_one({"_id": redirect.from_id, "rev": redirect.rev})
