"""The MongoDB store of identities, contacts, links and tombstones; the only module that uses MongoDB.

Every write is conditional: it names the `rev` that it replaces, and no `rev` is used twice.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar
from uuid import uuid4

import msgspec
import structlog
from footfall_servicekit.errors import RequestError
from footfall_servicekit.paging import PAGE_BYTES
from footfall_timeline import identity_hash
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import DeleteOne, InsertOne, ReadPreference, ReplaceOne, WriteConcern
from pymongo.errors import BulkWriteError, ConnectionFailure, ExecutionTimeout, PyMongoError, WriteConcernError
from pymongo.uri_parser import parse_uri

from footfall_identity.contact_record import ContactRecord
from footfall_identity.identity_record import IdentityRecord, restricted_to_sites

RecordChange = Callable[[IdentityRecord], IdentityRecord]
"""Changes a record. It must be idempotent: applied to its own result, it changes nothing."""

Record = TypeVar("Record", IdentityRecord, ContactRecord)

MAX_MATCHES: Final = 1_000
"""Most contacts read per match key. An identity with more matches is ambiguous anyway."""

_DUPLICATE_KEY: Final = 11_000
# SecantusDB compares each document with each id of an `$in`: 1,000 ids in one query take a second, in groups 50 ms.
_IDS_PER_QUERY: Final = 50
# Few enough to stay within the time limit on a busy server.
_CHANGES_PER_WRITE: Final = 100
# A document may have 0.5 MB, and a page ends where a message is full.
_DOCUMENTS_PER_READ: Final = 50
_RETRY_MS: Final = 1_000
_TRANSIENT_ERRORS: Final = (ConnectionFailure, ExecutionTimeout, WriteConcernError)
"""Errors that may pass: MongoDB does not answer, or does not confirm a write."""
_PAUSE_AFTER_FAILURE_S: Final = 1.0

_log = structlog.get_logger()


def check_url(url: str) -> str:
    """Return the URL. Raises ValueError if the driver cannot parse it."""
    try:
        parse_uri(url)
    except (PyMongoError, ValueError):
        rule = "must be `mongodb://host:port`, or `mongodb+srv://name` with a name in DNS, and valid options of MongoDB"
        raise ValueError(rule) from None
    return url


class Tombstone(msgspec.Struct, frozen=True):
    """An erasure: the keyed hash of the identity, the time until which its events are erased, and who asked for it.

    `key_check` shows whether ERASURE_KEY is still the key of the hash.
    """

    erasure_id: str = msgspec.field(name="_id")
    hash: str
    erase_time_ms: int
    actor: str
    key_check: str


class LinkStore:
    """Reads and writes records. Unless said otherwise, methods raise RequestError (UNAVAILABLE) for transient errors.

    Writes are in the journal after `wait_for_journal`. `sites` limits a result to what events of these sites say; empty
    means all sites.
    """

    def __init__(self, url: str, database: str, *, timeout_ms: int, erasure_secret: str) -> None:
        """Create the store without connecting."""
        self._client: Any = AsyncIOMotorClient(
            url, serverSelectionTimeoutMS=timeout_ms, connectTimeoutMS=timeout_ms, socketTimeoutMS=timeout_ms
        )
        self._erasure_secret = erasure_secret
        store = self._client.get_database(database, read_preference=ReadPreference.PRIMARY)
        self._identities = store["identities"]
        self._contacts = store["contacts"]
        journaled = WriteConcern(**{**store.write_concern.document, "j": True})
        self._tombstones = store.get_collection("identity_tombstones", write_concern=journaled)
        self._marks = store.get_collection("identity_marks", write_concern=journaled)
        self._retry_at = 0.0

    async def prepare(self) -> None:
        """Wait until MongoDB answers, then create the indexes. Until then, queries may be slow."""
        while True:
            try:
                for field in ("location", "hash", "keys", "contact_id", "by_hand", "is_due"):
                    await self._identities.create_index(field, sparse=True)
                for field in ("keys", "is_stale"):
                    await self._contacts.create_index(field, sparse=True)
            except _TRANSIENT_ERRORS as error:
                _log.warning("MongoDB does not answer", error=type(error).__name__)
                await asyncio.sleep(_RETRY_MS / 1000)
            else:
                return

    async def get(self, identity_ids: Iterable[str], sites: Sequence[str] = ()) -> dict[str, IdentityRecord]:
        """Return the known ones of these identities, by id."""
        async with _translating_errors():
            documents = await self._by_id(identity_ids, sites=sites)
        return {record.identity_id: record for record in _writer(documents, sites)}

    async def _by_id(
        self, identity_ids: Iterable[str], fields: dict[str, int] | None = None, sites: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        wanted = list(dict.fromkeys(identity_ids))
        groups = [wanted[start : start + _IDS_PER_QUERY] for start in range(0, len(wanted), _IDS_PER_QUERY)]
        by_site = _site_filter(sites)
        queries = (self._identities.find({"_id": {"$in": group}} | by_site, fields).to_list(None) for group in groups)
        return [document for found in await asyncio.gather(*queries) for document in found]

    async def page(self, after: str, size: int, location: str, sites: Sequence[str] = ()) -> list[IdentityRecord]:
        """Return the first `size` identities with ids after `after` that events have named, by id.

        `location` filters by the location that all sites together know, unless it is empty.
        """
        query: dict[str, Any] = {"_id": {"$gt": after}, "first_ms": {"$gte": 0}}
        if location:
            query["location"] = location
        return await self._find(query, size, sites)

    async def linked_to(
        self, contact_id: str, after: str, size: int, sites: Sequence[str] = ()
    ) -> list[IdentityRecord]:
        """Return the first `size` identities with ids after `after` that are linked to a contact, by id."""
        return await self._find({"_id": {"$gt": after}, "contact_id": contact_id}, size, sites)

    async def _find(self, query: dict[str, Any], size: int, sites: Sequence[str] = ()) -> list[IdentityRecord]:
        """Return fewer than `size` records if they would exceed one message."""
        found: list[IdentityRecord] = []
        characters = 0
        async with _translating_errors():
            cursor = (
                self._identities.find(query | _site_filter(sites))
                .sort("_id", 1)
                .limit(size)
                .batch_size(_DOCUMENTS_PER_READ)
            )
            while characters <= PAGE_BYTES and (documents := await cursor.to_list(_DOCUMENTS_PER_READ)):
                records = _writer(documents, sites)
                characters += sum(len(value.value) for record in records for value in record.profile)
                found += records
            await cursor.close()
        return found

    async def contact_ids(self, identity_ids: Iterable[str]) -> dict[str, str]:
        """Return the contact ids of those of these identities that are linked.

        Never raises: while MongoDB is unavailable, the result is empty, and for a second after an error it is not
        queried.
        """
        wanted = [identity_id for identity_id in identity_ids if identity_id]
        if not wanted or time.monotonic() < self._retry_at:
            return {}
        try:
            documents = await self._by_id(wanted, {"contact_id": 1})
        except _TRANSIENT_ERRORS:
            self._retry_at = time.monotonic() + _PAUSE_AFTER_FAILURE_S
            return {}
        return {document["_id"]: document["contact_id"] for document in documents if "contact_id" in document}

    async def change(self, changes: Mapping[str, RecordChange]) -> dict[str, IdentityRecord]:
        """Apply its change to each identity, each atomically, and return the resulting records.

        An unknown identity starts as an empty record; one that ends blank is deleted. Records are written in groups, so
        that work that is done stays done if a later group takes too long.
        """
        results: dict[str, IdentityRecord] = {}
        while len(results) < len(changes):
            missing = [identity_id for identity_id in changes if identity_id not in results][:_CHANGES_PER_WRITE]
            known = await self.get(missing)
            pairs: list[tuple[IdentityRecord | None, IdentityRecord]] = []
            for identity_id in missing:
                before = known.get(identity_id)
                start = before or self._blank(identity_id)
                after = changes[identity_id](start)
                if after == start:
                    results[identity_id] = after
                else:
                    pairs.append((before, after))
            # It is not known which failed; those that were written will be found unchanged in the next round.
            if await self.replace(pairs):
                results |= {after.identity_id: after for _, after in pairs}
        return results

    def _blank(self, identity_id: str) -> IdentityRecord:
        secret = self._erasure_secret
        return IdentityRecord(identity_id=identity_id, hash=identity_hash(secret, identity_id).hex() if secret else "")

    async def replace(self, pairs: "list[tuple[IdentityRecord | None, IdentityRecord]]") -> bool:
        """Replace the first record of each pair (None: insert) by the second; return False if one has changed.

        After False, some pairs may have been written.
        """
        return await self._replace(self._identities, pairs)

    async def _replace(self, collection: Any, pairs: "list[tuple[Record | None, Record]]") -> bool:
        writes: list[InsertOne[Any] | ReplaceOne[Any] | DeleteOne] = []
        for before, after in pairs:
            document = msgspec.to_builtins(msgspec.structs.replace(after, rev=uuid4().hex))
            if before is None:
                writes.append(InsertOne(document))
                continue
            condition = {"_id": document["_id"], "rev": before.rev}
            writes.append(DeleteOne(condition) if after.is_blank else ReplaceOne(condition, document))
        if not writes:
            return True
        try:
            async with _translating_errors():
                done = await collection.bulk_write(writes, ordered=False)
        except BulkWriteError as error:
            if any(failure["code"] != _DUPLICATE_KEY for failure in error.details["writeErrors"]):
                raise
            return False
        return bool(done.matched_count + done.inserted_count + done.deleted_count == len(writes))

    async def contact(self, contact_id: str) -> ContactRecord | None:
        """Return a contact, also one that is being deleted."""
        async with _translating_errors():
            document = await self._contacts.find_one({"_id": contact_id})
        return msgspec.convert(document, ContactRecord) if document else None

    async def replace_contact(self, before: ContactRecord | None, after: ContactRecord) -> bool:
        """Replace a contact; return False if it was changed meanwhile."""
        return await self._replace(self._contacts, [(before, after)])

    async def contacts_by_key(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Return the ids of the contacts with each of these match keys."""
        wanted = list(keys)
        queries = [self._contacts.find({"keys": key}, {"_id": 1}).limit(MAX_MATCHES) for key in wanted]
        async with _translating_errors():
            answers = await asyncio.gather(*(query.to_list(None) for query in queries))
        return {
            key: [document["_id"] for document in documents] for key, documents in zip(wanted, answers, strict=True)
        }

    async def existing_contacts(self, contact_ids: Iterable[str]) -> set[str]:
        """Return those of these contacts that exist and are not deleted."""
        wanted = list(contact_ids)
        if not wanted:
            return set()
        async with _translating_errors():
            documents = await self._contacts.find({"_id": {"$in": wanted}}, {"is_deleted": 1}).to_list(None)
        return {document["_id"] for document in documents if not document.get("is_deleted")}

    async def affected_by(self, contact: ContactRecord) -> list[str]:
        """Return the identities whose link may change because this contact has changed."""
        found: set[str] = set()
        queries: list[dict[str, Any]] = [{"contact_id": contact.contact_id}, {"by_hand": contact.contact_id}]
        if contact.stale_keys:
            queries.append({"keys": {"$in": list(contact.stale_keys)}})
        for query in queries:
            found.update(await self._find_ids(query))
        return sorted(found)

    async def unfinished(self, size: int) -> tuple[list[str], list[ContactRecord]]:
        """Return up to `size` identities and contacts each that are marked for linking, after an interruption."""
        due = await self._find_ids({"is_due": True}, size)
        async with _translating_errors():
            stale = await self._contacts.find({"is_stale": True}).limit(size).to_list(None)
        return due, [msgspec.convert(document, ContactRecord) for document in stale]

    async def _find_ids(self, query: dict[str, Any], limit: int = 0) -> list[str]:
        """Return the identities that a query finds, all with `limit` 0."""
        async with _translating_errors():
            documents = await self._identities.find(query, {"_id": 1}).limit(limit).to_list(None)
        return [document["_id"] for document in documents]

    async def put_tombstone(self, tombstone: Tombstone) -> None:
        """Store an erasure, journaled. A known one stays as it is."""
        document = msgspec.to_builtins(tombstone)
        condition = {"_id": document.pop("_id")}
        async with _translating_errors():
            await self._tombstones.update_one(condition, {"$setOnInsert": document}, upsert=True)

    async def tombstones(self) -> list[Tombstone]:
        """Return all erasures."""
        async with _translating_errors():
            documents = await self._tombstones.find({}).to_list(None)
        return [msgspec.convert(document, Tombstone) for document in documents]

    async def find_by_hash(self, identity_hash: str) -> list[str]:
        """Return the identities with this hash: one or none."""
        return await self._find_ids({"hash": identity_hash})

    async def wait_for_journal(self) -> None:
        """Wait until all earlier writes are in the journal: one journaled write instead of many."""
        async with _translating_errors():
            await self._marks.replace_one({"_id": "durable"}, {"at_ms": time.time_ns() // 1_000_000}, upsert=True)

    async def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _site_filter(sites: Sequence[str]) -> dict[str, Any]:
    """Return the filter for identities that an event of these sites has named."""
    return {"presences.site": {"$in": [*sites]}} if sites else {}


def _writer(documents: Iterable[dict[str, Any]], sites: Sequence[str]) -> list[IdentityRecord]:
    records = [msgspec.convert(document, IdentityRecord) for document in documents]
    return [part for record in records if (part := restricted_to_sites(record, sites))] if sites else records


@asynccontextmanager
async def _translating_errors() -> AsyncIterator[None]:
    try:
        yield
    except (*_TRANSIENT_ERRORS, BulkWriteError) as error:
        # Other failures in the same bulk write do not matter here: what was not confirmed has to be repeated anyway.
        if isinstance(error, BulkWriteError) and not error.details["writeConcernErrors"]:
            raise
        _log.warning("MongoDB does not answer", error=type(error).__name__)
        raise RequestError.unavailable(
            "MongoDB, the store of identities, is not available; try again", _RETRY_MS
        ) from None
