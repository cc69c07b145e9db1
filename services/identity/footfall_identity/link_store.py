"""Turns records of identities, contacts and erasures into documents of MongoDB and back; the one file that asks it.

Every write is conditional on what was read: it names the `rev` it replaces, and no `rev` is ever used twice.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self, TypeVar
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
"""What to make of a record. Applied again to its own result it must change nothing."""

Record = TypeVar("Record", IdentityRecord, ContactRecord)

MAX_MATCHES: Final = 1_000
"""Contacts looked at when one identity is matched. More of them would be as ambiguous."""

_DUPLICATE_KEY: Final = 11_000
# SecantusDB compares each document with each id of an `$in`: a thousand at once take a second, in groups 50 ms.
_IDS_PER_QUERY: Final = 50
# Well within the time limit also where others keep the server busy.
_CHANGES_PER_WRITE: Final = 100
# A document can have half a megabyte, and a page of them ends where a message is full.
_DOCUMENTS_PER_READ: Final = 50
_RETRY_MS: Final = 1_000
_TRANSIENT_ERRORS: Final = (ConnectionFailure, ExecutionTimeout, WriteConcernError)
"""MongoDB does not answer, or does not confirm what it was given to write."""
_PAUSE_AFTER_FAILURE_S: Final = 1.0

_log = structlog.get_logger()


def check_url(url: str) -> str:
    """Return a URL. Raises ValueError for one that the driver makes nothing of."""
    try:
        parse_uri(url)
    except (PyMongoError, ValueError):
        rule = "must be `mongodb://host:port`, or `mongodb+srv://name` with a name in DNS, and have options of MongoDB"
        raise ValueError(rule) from None
    return url


class Tombstone(msgspec.Struct, frozen=True):
    """That somebody was erased: the keyed hash of the identity, the moment up to which, and who asked.

    `key_check` tells whether ERASURE_KEY is still the one that the hash was made with.
    """

    erasure_id: str = msgspec.field(name="_id")
    hash: str
    erase_time_ms: int
    actor: str
    key_check: str


class LinkStore:
    """Identities, contacts and tombstones. Unless they say so, methods raise RequestError (UNAVAILABLE) in its absence.

    What is written is journaled after `wait_for_journal`.
    """

    def __init__(self, client: Any, database: str, erasure_secret: str) -> None:
        self._client = client
        self._erasure_secret = erasure_secret
        part = client.get_database(database, read_preference=ReadPreference.PRIMARY)
        self._identities = part["identities"]
        self._contacts = part["contacts"]
        journaled = WriteConcern(**{**part.write_concern.document, "j": True})
        self._tombstones = part.get_collection("identity_tombstones", write_concern=journaled)
        self._marks = part.get_collection("identity_marks", write_concern=journaled)
        self._try_again_at = 0.0

    @classmethod
    def open(cls, url: str, database: str, *, timeout_ms: int, erasure_secret: str) -> Self:
        """Return the store at a MongoDB URL without connecting yet."""
        client: Any = AsyncIOMotorClient(
            url, serverSelectionTimeoutMS=timeout_ms, connectTimeoutMS=timeout_ms, socketTimeoutMS=timeout_ms
        )
        return cls(client, database, erasure_secret)

    async def prepare(self) -> None:
        """Wait until MongoDB answers, then make sure that it has the indexes. Until then queries may be slow."""
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
        """The identities of these that are known, by id; of sites only what these know of them."""
        async with _translating_errors():
            documents = await self._by_id(identity_ids, sites=sites)
        return {record.identity_id: record for record in _writer(documents, sites)}

    async def _by_id(
        self, identity_ids: Iterable[str], fields: dict[str, int] | None = None, sites: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        wanted = list(dict.fromkeys(identity_ids))
        groups = [wanted[start : start + _IDS_PER_QUERY] for start in range(0, len(wanted), _IDS_PER_QUERY)]
        known = _known_to(sites)
        queries = (self._identities.find({"_id": {"$in": group}} | known, fields).to_list(None) for group in groups)
        return [document for found in await asyncio.gather(*queries) for document in found]

    async def page(self, after: str, size: int, location: str, sites: Sequence[str] = ()) -> list[IdentityRecord]:
        """Identities that events have named, by id, the first `size` after `after`; of one location if not empty.

        Of sites only those they know; what is searched for by location is what all sites together know.
        """
        query: dict[str, Any] = {"_id": {"$gt": after}, "first_ms": {"$gte": 0}}
        if location:
            query["location"] = location
        return await self._find(query, size, sites)

    async def linked_to(
        self, contact_id: str, after: str, size: int, sites: Sequence[str] = ()
    ) -> list[IdentityRecord]:
        """Identities linked to a contact, by id, the first `size` after `after`; of sites only those they know."""
        return await self._find({"_id": {"$gt": after}, "contact_id": contact_id}, size, sites)

    async def _find(self, query: dict[str, Any], size: int, sites: Sequence[str] = ()) -> list[IdentityRecord]:
        """Fewer than `size` also when those found are more than one message takes."""
        found: list[IdentityRecord] = []
        characters = 0
        async with _translating_errors():
            cursor = (
                self._identities.find(query | _known_to(sites))
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
        """The contacts that these identities are linked to, where there is one.

        Never raises: while MongoDB does not answer there is none, and for a second after a failure it is not asked.
        """
        wanted = [identity_id for identity_id in identity_ids if identity_id]
        if not wanted or time.monotonic() < self._try_again_at:
            return {}
        try:
            documents = await self._by_id(wanted, {"contact_id": 1})
        except _TRANSIENT_ERRORS:
            self._try_again_at = time.monotonic() + _PAUSE_AFTER_FAILURE_S
            return {}
        return {document["_id"]: document["contact_id"] for document in documents if "contact_id" in document}

    async def change(self, changes: Mapping[str, RecordChange]) -> dict[str, IdentityRecord]:
        """Apply to each identity its change, atomically each, and return the results.

        An unknown one starts empty but for its hash; one that ends blank is removed. So many at a time that what
        is done stays done when a later command takes too long.
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
            # When some have failed it is not known which; those that have not will be found as they should be.
            if await self.replace(pairs):
                results |= {after.identity_id: after for _, after in pairs}
        return results

    def _blank(self, identity_id: str) -> IdentityRecord:
        secret = self._erasure_secret
        return IdentityRecord(identity_id=identity_id, hash=identity_hash(secret, identity_id).hex() if secret else "")

    async def replace(self, pairs: "list[tuple[IdentityRecord | None, IdentityRecord]]") -> bool:
        """Write each second record in the place of the first; whether all of the first were still there."""
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
        """A contact, also one that is being deleted."""
        async with _translating_errors():
            document = await self._contacts.find_one({"_id": contact_id})
        return msgspec.convert(document, ContactRecord) if document else None

    async def replace_contact(self, before: ContactRecord | None, after: ContactRecord) -> bool:
        """Write a contact in the place of another version; whether that was still there."""
        return await self._replace(self._contacts, [(before, after)])

    async def contacts_by_key(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """For each of these keys the contacts that have it."""
        wanted = list(keys)
        queries = [self._contacts.find({"keys": key}, {"_id": 1}).limit(MAX_MATCHES) for key in wanted]
        async with _translating_errors():
            answers = await asyncio.gather(*(query.to_list(None) for query in queries))
        return {
            key: [document["_id"] for document in documents] for key, documents in zip(wanted, answers, strict=True)
        }

    async def existing_contacts(self, contact_ids: Iterable[str]) -> set[str]:
        """Those of these contacts that are there and not deleted."""
        wanted = list(contact_ids)
        if not wanted:
            return set()
        async with _translating_errors():
            documents = await self._contacts.find({"_id": {"$in": wanted}}, {"is_deleted": 1}).to_list(None)
        return {document["_id"] for document in documents if not document.get("is_deleted")}

    async def affected_by(self, contact: ContactRecord) -> list[str]:
        """The identities whose contact may be another now that this one has changed."""
        found: set[str] = set()
        queries: list[dict[str, Any]] = [{"contact_id": contact.contact_id}, {"by_hand": contact.contact_id}]
        if contact.stale_keys:
            queries.append({"keys": {"$in": list(contact.stale_keys)}})
        for query in queries:
            async with _translating_errors():
                documents = await self._identities.find(query, {"_id": 1}).to_list(None)
            found |= {document["_id"] for document in documents}
        return sorted(found)

    async def unfinished(self, size: int) -> tuple[list[str], list[ContactRecord]]:
        """Identities to be judged, and contacts whose identities are to be: left over by whoever did not come to it."""
        async with _translating_errors():
            due = await self._identities.find({"is_due": True}, {"_id": 1}).limit(size).to_list(None)
            stale = await self._contacts.find({"is_stale": True}).limit(size).to_list(None)
        return [document["_id"] for document in due], [msgspec.convert(document, ContactRecord) for document in stale]

    async def put_tombstone(self, tombstone: Tombstone) -> None:
        """Remember an erasure, journaled. One that is known stays as it is."""
        document = msgspec.to_builtins(tombstone)
        condition = {"_id": document.pop("_id")}
        async with _translating_errors():
            await self._tombstones.update_one(condition, {"$setOnInsert": document}, upsert=True)

    async def tombstones(self) -> list[Tombstone]:
        """All erasures."""
        async with _translating_errors():
            documents = await self._tombstones.find({}).to_list(None)
        return [msgspec.convert(document, Tombstone) for document in documents]

    async def find_by_hash(self, identity_hash: str) -> list[str]:
        """The identities that a hash stands for: one or none."""
        async with _translating_errors():
            documents = await self._identities.find({"hash": identity_hash}, {"_id": 1}).to_list(None)
        return [document["_id"] for document in documents]

    async def wait_for_journal(self) -> None:
        """Return when all that was written before is in the journal: one write that waits for it instead of each."""
        async with _translating_errors():
            await self._marks.replace_one({"_id": "durable"}, {"at_ms": time.time_ns() // 1_000_000}, upsert=True)

    async def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _known_to(sites: Sequence[str]) -> dict[str, Any]:
    """What a document has that an event of these sites, if they are given, has named."""
    return {"presences.site": {"$in": [*sites]}} if sites else {}


def _writer(documents: Iterable[dict[str, Any]], sites: Sequence[str]) -> list[IdentityRecord]:
    records = [msgspec.convert(document, IdentityRecord) for document in documents]
    return [part for record in records if (part := restricted_to_sites(record, sites))] if sites else records


@asynccontextmanager
async def _translating_errors() -> AsyncIterator[None]:
    try:
        yield
    except (*_TRANSIENT_ERRORS, BulkWriteError) as error:
        # Also when some of a bulk was ruled_out besides: of the others nobody knows.
        if isinstance(error, BulkWriteError) and not error.details["writeConcernErrors"]:
            raise
        _log.warning("MongoDB does not answer", error=type(error).__name__)
        raise RequestError.unavailable("the store of identities does not answer", _RETRY_MS) from None
