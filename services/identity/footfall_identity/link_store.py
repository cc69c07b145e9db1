"""Turns records of identities into documents of MongoDB and back, each write conditional on what was read."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self
from uuid import uuid4

import msgspec
import structlog
from footfall_servicekit.errors import RequestError
from motor.motor_asyncio import AsyncIOMotorClient
from msgspec.structs import replace
from pymongo import InsertOne, ReplaceOne, WriteConcern
from pymongo.errors import BulkWriteError, ConnectionFailure, ExecutionTimeout

from footfall_identity.identity_record import IdentityRecord

Change = Callable[[IdentityRecord], IdentityRecord]
"""What to make of a record. Applied again to its own result it must change nothing."""

_DUPLICATE_KEY: Final = 11_000
_RETRY_MS: Final = 1_000
_UNAVAILABLE: Final = (ConnectionFailure, ExecutionTimeout)
_LEAVE_ALONE_S: Final = 1.0

_log = structlog.get_logger()


class LinkStore:
    """Identities in MongoDB. Unless they say so, methods raise RequestError (UNAVAILABLE) when it does not answer."""

    def __init__(self, client: Any, database: str) -> None:
        self._client = client
        self._identities = client[database]["identities"]
        self._marks = client[database].get_collection("identity_marks", write_concern=WriteConcern(j=True))
        self._try_again_at = 0.0

    @classmethod
    def open(cls, url: str, database: str, *, timeout_ms: int) -> Self:
        """Return the store at a MongoDB URL without connecting yet."""
        client: Any = AsyncIOMotorClient(
            url,
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            socketTimeoutMS=timeout_ms,
            tz_aware=True,
        )
        return cls(client, database)

    async def prepare(self) -> None:
        """Wait until MongoDB answers, then make sure that it has the indexes. Until then queries may be slow."""
        while True:
            try:
                await self._identities.create_index("location", sparse=True)
                await self._identities.create_index("contact_id", sparse=True)
            except _UNAVAILABLE as error:
                _log.warning("MongoDB does not answer", error=type(error).__name__)
                await asyncio.sleep(_RETRY_MS / 1000)
            else:
                return

    async def get(self, identity_ids: Iterable[str]) -> dict[str, IdentityRecord]:
        """The identities of these that are known, by id."""
        async with _answering():
            documents = await self._identities.find({"_id": {"$in": list(identity_ids)}}).to_list(None)
        return {document["_id"]: msgspec.convert(document, IdentityRecord) for document in documents}

    async def page(self, after: str, size: int, location: str) -> list[IdentityRecord]:
        """Identities that events have named, by id, the first `size` after `after`; of one location if not empty."""
        query: dict[str, Any] = {"_id": {"$gt": after}, "first_ms": {"$gte": 0}}
        if location:
            query["location"] = location
        async with _answering():
            documents = await self._identities.find(query).sort("_id", 1).limit(size).to_list(None)
        return [msgspec.convert(document, IdentityRecord) for document in documents]

    async def contact_ids(self, identity_ids: Iterable[str]) -> dict[str, str]:
        """The contacts that these identities are linked to, where there is one.

        Never raises: while MongoDB does not answer there is none, and for a second after a failure it is not asked.
        """
        wanted = [identity_id for identity_id in identity_ids if identity_id]
        if not wanted or time.monotonic() < self._try_again_at:
            return {}
        query = {"_id": {"$in": wanted}, "contact_id": {"$gt": ""}}
        try:
            documents = await self._identities.find(query, {"contact_id": 1}).to_list(None)
        except _UNAVAILABLE:
            self._try_again_at = time.monotonic() + _LEAVE_ALONE_S
            return {}
        return {document["_id"]: document["contact_id"] for document in documents}

    async def change(self, changes: Mapping[str, Change]) -> dict[str, IdentityRecord]:
        """Apply to each identity its change, atomically each, and return the results. An unknown one starts empty.

        Written, but journaled only after `make_durable`.
        """
        results: dict[str, IdentityRecord] = {}
        while len(results) < len(changes):
            missing = [identity_id for identity_id in changes if identity_id not in results]
            known = await self.get(missing)
            writes: list[InsertOne[Any] | ReplaceOne[Any]] = []
            written: dict[str, IdentityRecord] = {}
            for identity_id in missing:
                before = known.get(identity_id) or IdentityRecord(identity_id=identity_id)
                after = changes[identity_id](before)
                if after == before:
                    results[identity_id] = after
                    continue
                written[identity_id] = after = replace(after, rev=uuid4().hex)
                document = msgspec.to_builtins(after)
                # A rev is never used twice, also not by a document that takes the place of one deleted.
                condition = {"_id": identity_id, "rev": before.rev}
                writes.append(ReplaceOne(condition, document) if before.rev else InsertOne(document))
            # When some have failed it is not known which; those that have not will be found as they should be.
            if writes and await self._write(writes):
                results |= written
        return results

    async def _write(self, writes: list[InsertOne[Any] | ReplaceOne[Any]]) -> bool:
        """Whether all of them found what they expected."""
        try:
            async with _answering():
                done = await self._identities.bulk_write(writes, ordered=False)
        except BulkWriteError as error:
            if any(failure["code"] != _DUPLICATE_KEY for failure in error.details["writeErrors"]):
                raise
            return False
        return bool(done.matched_count + done.inserted_count == len(writes))

    async def make_durable(self) -> None:
        """Return when all that was written before is in the journal: one write that waits for it instead of each."""
        async with _answering():
            await self._marks.replace_one({"_id": "durable"}, {"at_ms": time.time_ns() // 1_000_000}, upsert=True)

    async def close(self) -> None:
        """Close the connections."""
        self._client.close()


@asynccontextmanager
async def _answering() -> AsyncIterator[None]:
    try:
        yield
    except _UNAVAILABLE as error:
        _log.warning("MongoDB does not answer", error=type(error).__name__)
        raise RequestError.unavailable("the store of identities does not answer", _RETRY_MS) from None
