"""The MongoDB store of identities, contacts, links and tombstones; the only module that uses MongoDB.

Every write is conditional: it names the `rev` that it replaces, and no `rev` is used twice.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar
from uuid import uuid4

import msgspec
import pymongo
from footfall_eventlog.checkpoint_store import CheckpointStore
from footfall_eventlog.erasure_keys import ErasureKeys
from footfall_eventlog.identity_policy import LinkRules
from footfall_eventlog.settings import mongo_url_check
from footfall_eventlog.store_reports import mongo_problem, mongo_report
from footfall_servicekit import metrics
from footfall_servicekit.channel import time_left
from footfall_servicekit.errors import RequestError
from footfall_servicekit.failure_log import FailureLog
from footfall_servicekit.indexes import Indexes
from footfall_servicekit.mongo_errors import is_transient
from footfall_servicekit.paging import PAGE_BYTES
from pymongo import AsyncMongoClient, DeleteOne, InsertOne, ReadPreference, ReplaceOne, UpdateOne, WriteConcern
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from pymongo.uri_parser import parse_uri

from footfall_identity.contact_record import STALE_KEY, ContactMark, ContactRecord, ContactSync, WrittenBatch
from footfall_identity.documents import all_of, find_any, in_groups, open_with
from footfall_identity.generic_values import GenericValueStore
from footfall_identity.identity_record import RECORD_FORM, Decision, IdentityRecord, doubt_key, restricted_to_sites
from footfall_identity.known_contact import NO_CONTACT, UNKNOWN_CONTACT, KnownContact
from footfall_identity.matching import Doubt, Matches
from footfall_identity.merged_contacts import MergedContacts
from footfall_identity.redirect_store import RedirectStore
from footfall_identity.relink_store import Cohort, RelinkStore
from footfall_identity.visitor_notices import ChangingContact, VisitorNotices

RecordChange = Callable[[IdentityRecord], IdentityRecord]
"""Changes a record. It must be idempotent: applied to its own result, it changes nothing."""

Record = TypeVar("Record", IdentityRecord, ContactRecord)

MAX_NAMES: Final = 50
"""Names that may mean the same, by default."""

MAX_MATCHES: Final = 10_000
"""Contacts with a match key are counted up to this number."""

_DUPLICATE_KEY: Final = 11_000
_CONTACT_SYNC: Final = "contact_sync"
_LINK_RULES: Final = "sharing_limits"  # which was all that earlier versions noted
_SENT: Final = "contact_sync_marks"
# Few, because keys that many contacts or identities have are asked for one by one, with those of their group.
_KEYS_PER_QUERY: Final = 25
# Few enough to stay within the time limit on a busy server.
_CHANGES_PER_WRITE: Final = 100
# Identities with some match keys that are read to be counted. If there are more, the server counts those of each key.
_READ_TO_COUNT: Final = 2_000
# A document may have 0.5 MB, and a page ends where a message is full.
_DOCUMENTS_PER_READ: Final = 50
_RETRY_MS: Final = 1_000
# Identities that events have named.
_NAMED: Final[dict[str, Any]] = {"first_ms": {"$gte": 0}}
_LAST_DECISION: Final[Mapping[str, Any]] = {"decisions": {"$slice": -1}, "contact_id": 1}
TRANSIENT_STORE_ERRORS: Final = (ConnectionFailure, ExecutionTimeout, WriteConcernError)
"""What `LinkStore.checkpoints` raises for errors that may pass: no answer, or a write that is not confirmed."""
_PAUSE_AFTER_FAILURE_S: Final = 1.0
_LONG_READ_S: Final = 120.0
# For building an index, which may take hours. The time to connect is also that for heartbeats: when one is late, the
# driver closes the connection.
_WITHOUT_TIME_LIMIT: Final[Mapping[str, Any]] = {"connectTimeoutMS": 30_000, "socketTimeoutMS": None, "timeoutMS": None}
# Not sparse: it also finds contacts without search keys. Contacts are matched by it too: an index on `keys` would make
# each write of a contact half as dear again.
_SEARCH_INDEX: Final = "contacts.search_keys._id"
_FORMER_INDEX: Final = "is_stale_1"
_INDEXES: Final = (
    _SEARCH_INDEX,
    "identities.keys._id",
    "identities.proven_keys._id",
    "generic_values.is_stale",
    "identities.contact_id",
    "identities.by_hand",
    "identities.is_due",
    "identities.hash",
    "identities.location",
    "identity_renames.ends",
    "identity_renames.mentions",
    "identity_renames.is_due",
    "contact_merges.ends",
    "contact_merges.is_due",
    "identities.device_peak",
    "identities.doubt",
    "generic_values.value_id",
)
"""Collection and fields of each, in the order in which they are made: those that linking needs first."""

_unavailable = FailureLog("MongoDB does not answer", "store")

check_url = mongo_url_check(parse_uri, PyMongoError)


class Tombstone(msgspec.Struct, frozen=True):
    """An erasure: the mark of the identity (`ErasureKeys`), until when its events are erased, and who asked for it.

    `key_check` shows whether ERASURE_KEY is still the key of the mark.
    """

    erasure_id: str = msgspec.field(name="_id")
    hash: str
    erase_time_ms: int
    actor: str
    key_check: str
    sealed: str = ""


class Givers(NamedTuple):
    """How many identities give a value, and of how many a token proves it."""

    total: int
    proven: int


class _Stopwatch(CommandListener):
    """Measures the commands of a client."""

    def started(self, event: CommandStartedEvent) -> None:
        """Nothing is measured yet."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        metrics.store_seconds("mongodb", event.command_name).observe(event.duration_micros / 1_000_000)

    def failed(self, event: CommandFailedEvent) -> None:
        metrics.store_seconds("mongodb", event.command_name).observe(event.duration_micros / 1_000_000)


class LinkStore:
    """Reads and writes records. Unless said otherwise, methods raise RequestError (UNAVAILABLE) for transient errors.

    Writes are in the journal after `wait_for_journal`. `sites` limits a result to what events of these sites say; empty
    means all sites.
    """

    def __init__(
        self,
        url: str,
        database: str,
        *,
        timeout_ms: int,
        erasure_secret: str,
        contact_timeout_ms: int = 1_000,
        max_names: int = MAX_NAMES,
        remember_ms: int = 0,
        notices: VisitorNotices | None = None,
    ) -> None:
        """Create the store without connecting. `notices` are written of contacts of identities that change.

        `max_names`: names that may mean the same person, and contacts that may be merged into one. `remember_ms`: see
        RedirectStore.
        """
        self._client: Any = AsyncMongoClient(
            url,
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            socketTimeoutMS=timeout_ms,
            timeoutMS=timeout_ms,  # of an operation with its repetitions
            event_listeners=[_Stopwatch()],
        )
        self._open_builder: Any = partial(
            AsyncMongoClient, url, serverSelectionTimeoutMS=timeout_ms, **_WITHOUT_TIME_LIMIT
        )
        self._contact_timeout_s = contact_timeout_ms / 1000
        self._erasure_keys = ErasureKeys(erasure_secret)
        self._notices = notices
        store = self._client.get_database(database, read_preference=ReadPreference.PRIMARY)
        self._identities = store["identities"]
        self._contacts = store["contacts"]
        journaled = WriteConcern(**{**store.write_concern.document, "j": True})
        self._tombstones = store.get_collection("identity_tombstones", write_concern=journaled)
        self._marks = store.get_collection("identity_marks", write_concern=journaled)
        self._batches = store["contact_batches"]
        self.checkpoints = CheckpointStore(
            store.get_collection("identity_checkpoints", write_concern=journaled),
            store.get_collection("identity_gaps", write_concern=journaled),
        )
        self.relinks = RelinkStore(store["identity_relinks"], _translating_errors)
        redirects = partial(
            RedirectStore, translating_errors=_translating_errors, max_names=max_names, remember_ms=remember_ms
        )
        self.renames = redirects(store["identity_renames"])
        """Of identities."""
        self.merges = redirects(store["contact_merges"])
        """Of contacts."""
        self.generic_values = GenericValueStore(store["generic_values"], _translating_errors)
        self._retry_at = 0.0

    def _sent(self, generation: int) -> Any:
        """Marks of the contacts that were sent in a synchronization: a collection, which is fast to remove."""
        return self._identities.database[f"{_SENT}_{generation}"]

    async def prepare(self) -> None:
        """Make the indexes, and return when all exist. Until then, a query may be slow or reach the time limit.

        Processes that do so together build each index once: MongoDB lets the second one wait for the build.
        """
        async with self._open_builder() as builder:

            async def create(name: str) -> None:
                collection, *fields = name.split(".")
                indexed = builder[self._identities.database.name][collection]
                await indexed.create_index([(field, 1) for field in fields], sparse=name != _SEARCH_INDEX)

            await Indexes(_INDEXES).make(create)

    async def report(self) -> str:
        """Return a line about MongoDB and its indexes. Raises RefusalError and NotReadyError."""
        database, existing = self._identities.database, set[str]()
        try:
            version = (await self._client.server_info())["version"]
            for collection in {name.partition(".")[0] for name in _INDEXES}:
                for about in (await database[collection].index_information()).values():
                    existing.add(".".join([collection, *(field for field, _ in about["key"])]))
        except PyMongoError as error:
            raise mongo_problem(error) from None
        return mongo_report(version, [name for name in _INDEXES if name not in existing])

    async def get(self, identity_ids: Iterable[str], sites: Sequence[str] = ()) -> dict[str, IdentityRecord]:
        """Return the known ones of these identities, by id."""
        async with _translating_errors():
            documents = await self._with_any("_id", identity_ids, sites=sites)
        return {record.identity_id: record for record in _writer(documents, sites)}

    async def visible(self, identity_ids: Iterable[str], sites: Sequence[str]) -> set[str]:
        """Return those of these identities that events of these sites have named."""
        async with _translating_errors():
            return {one["_id"] for one in await self._with_any("_id", identity_ids, {"_id": 1}, sites)}

    async def _with_any(
        self, field: str, values: Iterable[str], fields: Mapping[str, Any] | None = None, sites: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Return the identities whose field has one of these values, of which each counts once."""
        return await find_any(self._identities, field, values, fields, _site_filter(sites))

    async def page(
        self, after: str, size: int, location: str, sites: Sequence[str] = (), *, above_devices: int | None = None
    ) -> list[IdentityRecord]:
        """Return the first `size` identities with ids after `after` that events have named, by id.

        `location` filters by the location that all sites together know, unless it is empty; `above_devices` by a day
        with more devices than this.
        """
        where: dict[str, Any] = {"_id": {"$gt": after}}
        rest = where | _NAMED
        if above_devices is not None:
            where = {"device_peak": {"$gt": above_devices}}
            rest |= where
        if location:
            where = {"location": location}
        return await self._find(where, rest, size, sites)

    async def linked_to(
        self, contact_id: str, after: str, size: int, sites: Sequence[str] = ()
    ) -> list[IdentityRecord]:
        """Return the first `size` identities with ids after `after` that are linked to a contact, by id."""
        return await self._find({"contact_id": contact_id}, {"_id": {"$gt": after}}, size, sites)

    async def doubtful(self, doubt: Doubt, after: str, size: int) -> list[IdentityRecord]:
        """Return the first `size` identities with ids after `after` that events have named and that have this doubt."""
        return await self._find(_of_doubt(doubt, after), _NAMED, size, by="doubt")

    async def count_doubtful(self, doubt: Doubt, limit: int) -> int:
        """Return the number of identities that have this doubt, at most `limit`."""
        return await self._count(_of_doubt(doubt), limit, _NAMED)

    async def _find(
        self, where: dict[str, Any], rest: dict[str, Any], size: int, sites: Sequence[str] = (), *, by: str = "_id"
    ) -> list[IdentityRecord]:
        """Return fewer than `size` records if they would exceed one message. `where`, `rest`: see `open_with`."""
        found: list[IdentityRecord] = []
        characters = 0
        async with _translating_errors():
            cursor = await open_with(self._identities, where, rest | _site_filter(sites), by=by, limit=size)
            cursor.batch_size(_DOCUMENTS_PER_READ)
            while characters <= PAGE_BYTES and (documents := await cursor.to_list(_DOCUMENTS_PER_READ)):
                records = _writer(documents, sites)
                characters += sum(len(value.value) for record in records for value in record.profile)
                found += records
            if cursor.alive:
                await cursor.close()
        return found

    async def known_contacts(
        self, identity_ids: Iterable[str], sites: Sequence[str] = ()
    ) -> defaultdict[str, KnownContact]:
        """Return what is known of the contacts of these identities. No identity ("") has no contact.

        Without an answer of MongoDB within `contact_timeout_ms` they are unknown, and for a second it is not asked.
        """
        wanted = [identity_id for identity_id in identity_ids if identity_id]
        found: defaultdict[str, KnownContact] = defaultdict(lambda: NO_CONTACT)
        if not wanted:
            return found
        try:
            if time.monotonic() < self._retry_at:
                return found | dict.fromkeys(wanted, UNKNOWN_CONTACT)
            async with _translating_errors(self._contact_timeout_s):
                documents = await self._with_any("_id", wanted, _LAST_DECISION)
        except RequestError:
            self._retry_at = time.monotonic() + _PAUSE_AFTER_FAILURE_S
            return found | dict.fromkeys(wanted, UNKNOWN_CONTACT)
        for document in documents:
            for decision in document.get("decisions", ()):
                found[document["_id"]] = KnownContact.of(msgspec.convert(decision, Decision), sites)
        return found

    async def in_force(self, identity_ids: Iterable[str]) -> list[IdentityRecord]:
        """Return of the known ones of these identities what they share with others, and the decision in force."""
        fields = {"first_ms": 1, "device_peak": 1, "decisions": {"$slice": -1}}
        async with _translating_errors():
            return _writer(await self._with_any("_id", identity_ids, fields), ())

    async def linked_ids(self, contact_id: str, sites: Sequence[str], size: int) -> list[str]:
        """Return the first `size` identities that are linked to a contact, by id."""
        return await self._find_ids({"contact_id": contact_id}, size, _site_filter(sites), by="_id")

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
                start = before or self.blank(identity_id)
                after = changes[identity_id](start)
                if after == start:
                    results[identity_id] = after
                else:
                    pairs.append((before, after))
            # It is not known which failed; those that were written will be found unchanged in the next round.
            if await self.replace(pairs):
                results |= {after.identity_id: after for _, after in pairs}
        return results

    def blank(self, identity_id: str) -> IdentityRecord:
        """Return the record of an identity of which nothing is known."""
        return IdentityRecord(identity_id=identity_id, hash=self._erasure_keys.hash_of(identity_id))

    async def replace(self, pairs: "list[tuple[IdentityRecord | None, IdentityRecord]]") -> bool:
        """Replace the first record of each pair (None: insert) by the second; return False if one has changed.

        After False, some pairs may have been written.
        """
        contacts = [*_changing_contacts(pairs)]
        if self._notices is None or not contacts:
            return await self._replace(self._identities, pairs)
        async with self._notices.changing(contacts):
            return await self._replace(self._identities, pairs)

    async def _replace(self, collection: Any, pairs: "list[tuple[Record | None, Record]]") -> bool:
        new = [(before, msgspec.structs.replace(after, rev=uuid4().hex)) for before, after in pairs]
        return await self._write(collection, new)

    async def _write(self, collection: Any, pairs: "list[tuple[Record | None, Record]]") -> bool:
        """Replace records by others that have a new `rev`."""
        writes: list[InsertOne[Any] | ReplaceOne[Any] | DeleteOne] = []
        for before, after in pairs:
            document = msgspec.to_builtins(after)
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

    async def contacts(self, contact_ids: Iterable[str]) -> dict[str, ContactRecord]:
        """Return the known ones of these contacts, by id, also those that are being deleted."""
        async with _translating_errors():
            found = await find_any(self._contacts, "_id", contact_ids)
        records = (msgspec.convert(document, ContactRecord) for document in found)
        return {record.contact_id: record for record in records}

    async def store_contacts(self, pairs: "list[tuple[ContactRecord | None, ContactRecord]]") -> list[ContactRecord]:
        """Replace the first record of each pair (None: insert) by the second; return those that were replaced.

        The others have been changed meanwhile.
        """
        stored = [msgspec.structs.replace(after, rev=uuid4().hex) for _, after in pairs]
        if await self._write(
            self._contacts, [(before, after) for (before, _), after in zip(pairs, stored, strict=True)]
        ):
            return stored
        now = await self.contacts(record.contact_id for record in stored)
        # One that was to be removed is gone; the others have the new `rev`.
        found = {contact_id: record.rev for contact_id, record in now.items()}
        return [
            record for record in stored if found.get(record.contact_id) == (None if record.is_blank else record.rev)
        ]

    async def note_batch(self, batch: WrittenBatch) -> None:
        """Store a note about contacts before they are written; again: with its present time."""
        async with _translating_errors():
            await self._batches.replace_one({"_id": batch.batch_id}, msgspec.to_builtins(batch), upsert=True)

    async def next_batch(self, before_ms: int) -> WrittenBatch | None:
        """Return a batch of contacts that was written before a time, and whose identities have to be linked again."""
        async with _translating_errors():
            document = await self._batches.find_one({"at_ms": {"$lt": before_ms}})
        return msgspec.convert(document, WrittenBatch) if document else None

    async def remove_batch(self, batch_id: str) -> None:
        """Remove the note about contacts whose identities are linked."""
        async with _translating_errors():
            await self._batches.delete_one({"_id": batch_id})

    async def contact_marks(self, size: int) -> AsyncIterator[list[ContactMark]]:
        """Yield the marks of all contacts, by id, `size` at a time."""
        query = self._contacts.find({}, {"update_ms": 1, "is_deleted": 1})
        async for documents in _read_by_id(query, size):
            yield [msgspec.convert(document, ContactMark) for document in documents]

    async def mark_sent(self, generation: int, contact_ids: Sequence[str]) -> None:
        """Note that contacts were sent in a synchronization. Marks of contacts, which their writers do not touch."""
        async with _translating_errors():
            for group in in_groups(contact_ids):
                try:
                    await self._sent(generation).insert_many([{"_id": one} for one in group], ordered=False)
                except BulkWriteError as error:
                    if any(failure["code"] != _DUPLICATE_KEY for failure in error.details["writeErrors"]):
                        raise

    async def sent_of(self, generation: int, contact_ids: Sequence[str]) -> set[str]:
        """Return those of these contacts that were sent in a synchronization."""
        async with _translating_errors():
            found = await find_any(self._sent(generation), "_id", contact_ids)
        return {document["_id"] for document in found}

    async def forget_sent(self, contact_ids: Sequence[str]) -> None:
        """Remove the marks of contacts that were deleted, of the latest synchronization."""
        if sync := await self.contact_sync():
            async with _translating_errors():
                deletions = [DeleteOne({"_id": contact_id}) for contact_id in contact_ids]
                await self._sent(sync.generation).bulk_write(deletions, ordered=False)

    async def sent_ids(self, generation: int, size: int) -> AsyncIterator[list[str]]:
        """Yield the contacts that were sent in a synchronization, by id, `size` at a time."""
        async for documents in _read_by_id(self._sent(generation).find({}), size):
            yield [document["_id"] for document in documents]

    async def contact_sync(self) -> ContactSync | None:
        """Return the latest synchronization of contacts."""
        async with _translating_errors():
            document = await self._marks.find_one({"_id": _CONTACT_SYNC})
        return msgspec.convert(document, ContactSync) if document else None

    async def begin_contact_sync(self, sync: ContactSync) -> ContactSync:
        """Store a synchronization unless a later one is known; return the latest. Removes the marks of earlier ones."""
        document = {"_id": _CONTACT_SYNC} | msgspec.to_builtins(sync)
        async with _translating_errors():
            with suppress(DuplicateKeyError):  # there is one already
                await self._marks.insert_one(document)
            await self._marks.replace_one({"_id": _CONTACT_SYNC, "generation": {"$lt": sync.generation}}, document)
        latest = await self.contact_sync() or sync
        with suppress(RequestError):  # what takes longer than a command is done by the store, or by the next call
            await self._remove_sent_before(latest.generation)
        return latest

    async def _remove_sent_before(self, generation: int) -> None:
        database = self._identities.database
        async with _translating_errors():
            for name in await database.list_collection_names():
                collection, _, number = name.rpartition("_")
                if name == _SENT or (collection == _SENT and int(number) < generation):
                    await database.drop_collection(name)

    async def contacts_after(
        self, contact_id: str, limit: int, search_key: str = "", skip: int = 0
    ) -> list[ContactRecord]:
        """Return contacts with ids after `contact_id`, by id: `limit` of them after the first `skip`.

        Those with `search_key`, unless it is empty. Also contacts that are being deleted.
        """
        query: dict[str, Any] = {"_id": {"$gt": contact_id}} | ({"search_keys": search_key} if search_key else {})
        async with _translating_errors():
            documents = await self._contacts.find(query).sort("_id", 1).skip(skip).limit(limit).to_list(None)
        return [msgspec.convert(document, ContactRecord) for document in documents]

    async def linked_contacts(self, contact_ids: Iterable[str], sites: Sequence[str]) -> set[str]:
        """Return those of these contacts to which an identity is linked that events of these sites have named."""
        async with _translating_errors():
            documents = await self._with_any("contact_id", contact_ids, {"contact_id": 1}, sites)
        return {document["contact_id"] for document in documents}

    async def contacts_without_search_keys(self, size: int) -> list[ContactRecord]:
        """Return up to `size` contacts that an earlier version has written."""
        async with _translating_errors():
            documents = await self._contacts.find({"search_keys": None}).limit(size).to_list(None)
        return [msgspec.convert(document, ContactRecord) for document in documents]

    async def leave_former_index(self) -> None:
        """Give contacts that an earlier version has marked as stale the search key of the mark; drop its index."""
        async with _translating_errors():
            if _FORMER_INDEX in await self._contacts.index_information():
                await self._contacts.update_many({"is_stale": True}, {"$addToSet": {"search_keys": STALE_KEY}})
                with suppress(OperationFailure):  # another process has dropped it
                    await self._contacts.drop_index(_FORMER_INDEX)

    async def replace_contacts(self, pairs: "list[tuple[ContactRecord | None, ContactRecord]]") -> bool:
        """Replace contacts as `replace` replaces identities."""
        return await self._replace(self._contacts, pairs)

    async def matches(self, limits: Mapping[str, int]) -> dict[str, Matches]:
        """Return the contacts with each of these match keys: the first by id, as many as the limit of the key."""
        groups = in_groups(limits, _KEYS_PER_QUERY)
        async with _translating_errors():
            found = await asyncio.gather(*(self._matches_of({key: limits[key] for key in group}) for group in groups))
        return {key: matches for part in found for key, matches in part.items()}

    async def _matches_of(self, limits: Mapping[str, int]) -> dict[str, Matches]:
        """Return the contacts with each of a few match keys. Each key has a query of its own if many have them."""
        if len(limits) > 1:
            query = self._contacts.find({"search_keys": {"$in": [*limits]}}, {"keys": 1})
            documents = await query.limit(min(limits.values())).to_list(None)
            if len(documents) < min(limits.values()):
                return {key: _matches_in(documents, key) for key in limits}
        found = await asyncio.gather(*(self._matches(key, limit) for key, limit in limits.items()))
        return dict(zip(limits, found, strict=True))

    async def _matches(self, key: str, limit: int) -> Matches:
        query = {"search_keys": key}
        documents = await self._contacts.find(query, {"_id": 1}).sort("_id", 1).limit(limit).to_list(None)
        total = len(documents)
        if total == limit:
            total = await self._contacts.count_documents(query, limit=max(limit, MAX_MATCHES))
        return Matches(tuple(document["_id"] for document in documents), total)

    async def keys_of_contacts(self, contact_ids: Iterable[str]) -> dict[str, list[str]]:
        """Return the match keys of those of these contacts that exist and are not deleted."""
        async with _translating_errors():
            found = await find_any(self._contacts, "_id", contact_ids, {"is_deleted": 1, "keys": 1})
        return {document["_id"]: document.get("keys", []) for document in found if not document.get("is_deleted")}

    async def merged_contacts(self, named: Collection[str], matching: Collection[str] = ()) -> MergedContacts:
        """Return the merges of contacts: of some that are named and may not exist, and of some that match and exist."""
        merges = await self.merges.names({*named, *matching})
        return MergedContacts(merges, await self.keys_of_contacts({*named, *merges.all}))

    async def members(self, cohort: Cohort, after: str, size: int) -> list[str]:
        """Return the first `size` identities of a cohort with ids after `after`, by id."""
        return await self._find_ids({cohort.field: cohort.value}, size, {"_id": {"$gt": after}}, by="_id")

    async def members_of_any(self, cohorts: Sequence[Cohort], size: int) -> list[str]:
        """Return up to `size` identities that are in one of these cohorts, which have the same field."""
        found: dict[str, None] = {}
        for group in in_groups(cohort.value for cohort in cohorts):
            found |= dict.fromkeys(await self._find_ids({cohorts[0].field: {"$in": group}}, size))
            if len(found) >= size:
                break
        return [*found][:size]

    async def count_members(self, cohort: Cohort, limit: int | None = None) -> int:
        """Return the number of identities of a cohort, at most `limit`."""
        return await self._count({cohort.field: cohort.value}, limit)

    async def _count(self, where: Mapping[str, Any], limit: int | None, rest: Mapping[str, Any] | None = None) -> int:
        stages: list[Mapping[str, Any]] = [{"$match": where}, {"$match": rest or {}}]
        if limit:
            stages.append({"$limit": limit})
        stages.append({"$count": "all"})
        async with _translating_errors():
            counts = await all_of(self._identities.aggregate, stages)
        return sum(count["all"] for count in counts)  # none of no documents

    async def count_shared(self, max_devices: int, limit: int) -> int:
        """Return the number of identities used on more devices on one of their latest days, at most `limit`."""
        return await self._count({"device_peak": {"$gt": max_devices}}, limit)

    async def count_givers(self, keys: Iterable[str], limit: int) -> dict[str, Givers]:
        """Return how many identities give each of these match keys: the exact number if it is below `limit`."""
        found = await asyncio.gather(*(self._count_givers(group, limit) for group in in_groups(keys, _KEYS_PER_QUERY)))
        return {key: givers for part in found for key, givers in part.items()}

    async def _count_givers(self, keys: Sequence[str], limit: int) -> dict[str, Givers]:
        size = min(limit * len(keys), _READ_TO_COUNT)
        query = self._identities.find({"keys": {"$in": keys}}, {"keys": 1, "proven_keys": 1}).limit(size)
        async with _translating_errors():
            documents = await query.to_list(None)
        if len(documents) < size:
            total = Counter(key for document in documents for key in document["keys"])
            proven = Counter(key for document in documents for key in document.get("proven_keys", ()))
            return {key: Givers(total[key], proven[key]) for key in keys}
        fields = [{field: key} for key in keys for field in ("keys", "proven_keys")]
        counts = await asyncio.gather(*(self._count(query, limit) for query in fields))
        return {key: Givers(*counts[2 * place : 2 * place + 2]) for place, key in enumerate(keys)}

    async def all_identities(self, size: int) -> AsyncIterator[list[IdentityRecord]]:
        """Yield all identities, by id, `size` at a time."""
        async for documents in _read_by_id(self._identities.find({}), size):
            yield _writer(documents, ())

    async def link_rules(self) -> tuple[LinkRules | None, str | None]:
        """Return the rules by which all identities were judged last, and the revision of this mark.

        None for the rules, too, if the records were written by an earlier version, which has derived less.
        """
        async with _translating_errors():
            document = await self._marks.find_one({"_id": _LINK_RULES}) or {}
        is_judged = document.get("record_form") == RECORD_FORM
        return (msgspec.convert(document, LinkRules) if is_judged else None), document.get("rev")

    async def put_link_rules(self, rules: LinkRules, before_rev: str | None) -> bool:
        """Note by which rules all identities are judged; return False if the mark has changed since a revision."""
        condition = {"_id": _LINK_RULES, "rev": before_rev}
        document = {"rev": uuid4().hex, "record_form": RECORD_FORM} | msgspec.to_builtins(rules)
        async with _translating_errors():
            try:
                await self._marks.replace_one(condition, document, upsert=True)
            except DuplicateKeyError:
                return False
        return True

    async def forget_link_rules(self) -> None:
        """Note that identities may have been judged by other rules than the last ones."""
        async with _translating_errors():
            await self._marks.replace_one({"_id": _LINK_RULES}, {"rev": uuid4().hex}, upsert=True)

    async def due(self, size: int) -> list[str]:
        """Return up to `size` identities that are marked for linking, after an interruption."""
        return await self._find_ids({"is_due": True}, size)

    async def stale_contacts(self, size: int, before_ms: int) -> list[ContactRecord]:
        """Return up to `size` contacts that were written before a time and whose identities have to be linked again."""
        stale, before = {"search_keys": STALE_KEY}, {"update_ms": {"$lt": before_ms}}
        async with _translating_errors():
            documents = await all_of(open_with, self._contacts, stale, before, limit=size)
        return [msgspec.convert(document, ContactRecord) for document in documents]

    async def unmark_contacts(self, contacts: Iterable[tuple[ContactRecord, Collection[str]]]) -> None:
        """Note that contacts are no longer stale, with the `pending_keys` of each; remove those that are deleted.

        Their `rev` stays, because a writer that has read the mark only has more linked again than necessary. Contacts
        that have changed meanwhile stay as they are.
        """
        writes: list[DeleteOne | UpdateOne] = []
        for contact, pending_keys in contacts:
            condition = {"_id": contact.contact_id, "rev": contact.rev}
            unset = {"is_stale": "", "stale_keys": ""} | ({} if pending_keys else {"pending_keys": ""})
            change: dict[str, Any] = {"$unset": unset, "$pull": {"search_keys": STALE_KEY}}
            if pending_keys:
                change["$set"] = {"pending_keys": sorted(pending_keys)}
            writes.append(DeleteOne(condition) if contact.is_deleted else UpdateOne(condition, change))
        if writes:
            async with _translating_errors():
                await self._contacts.bulk_write(writes, ordered=False)

    async def _find_ids(
        self, where: dict[str, Any], limit: int = 0, rest: Mapping[str, Any] | None = None, *, by: str = ""
    ) -> list[str]:
        """Return the first identities that `open_with` finds, all with `limit` 0."""
        async with _translating_errors():
            found = await all_of(open_with, self._identities, where, rest, {"_id": 1}, by=by, limit=limit)
        return [document["_id"] for document in found]

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
        await self._client.close()


async def _read_by_id(query: Any, size: int) -> AsyncIterator[list[dict[str, Any]]]:
    """Yield what a query finds. One query, because SecantusDB examines all documents for each range of ids.

    SecantusDB reads all that a query finds before its first answer, so the time limit is not that of other commands.
    """
    cursor = query.sort("_id", 1).batch_size(size)
    while True:
        async with _translating_errors():
            with pymongo.timeout(_LONG_READ_S):
                documents = await cursor.to_list(size)
        if not documents:
            return
        yield documents


def _changing_contacts(
    pairs: "Iterable[tuple[IdentityRecord | None, IdentityRecord]]",
) -> Iterator[ChangingContact]:
    """Yield the identities whose contact, its status or number of candidates a write changes."""
    for before, after in pairs:
        known = KnownContact.of_record(before)
        if known != KnownContact.of_record(after):
            yield ChangingContact(after.identity_id, known.contact_id, after.last_visit_ids)


def _matches_in(contacts: Sequence[Mapping[str, Any]], key: str) -> Matches:
    """Return those of all contacts with some match keys that have this one."""
    found = sorted(contact["_id"] for contact in contacts if key in contact["keys"])
    return Matches(tuple(found), len(found))


def _of_doubt(doubt: Doubt, after: str = "") -> dict[str, Any]:
    after_all = f"{doubt.value};"  # the character that follows the colon
    return {"doubt": {"$gt": doubt_key(doubt, after), "$lt": after_all}}


def _site_filter(sites: Sequence[str]) -> dict[str, Any]:
    """Return the filter for identities that an event of these sites has named."""
    return {"presences.site": {"$in": [*sites]}} if sites else {}


def _writer(documents: Iterable[dict[str, Any]], sites: Sequence[str]) -> list[IdentityRecord]:
    records = [msgspec.convert(document, IdentityRecord) for document in documents]
    return [part for record in records if (part := restricted_to_sites(record, sites))] if sites else records


@asynccontextmanager
async def _translating_errors(limit_s: float | None = None) -> AsyncIterator[None]:
    """Convert transient errors of MongoDB in the block into RequestError (UNAVAILABLE); other errors pass unchanged.

    The block may take `limit_s`, and in a call as long as its caller waits.
    """
    try:
        async with asyncio.timeout(limit_s), asyncio.timeout(time_left()):
            yield
    except (PyMongoError, TimeoutError) as error:
        # Other failures in the same bulk write do not matter here: what was not confirmed has to be repeated anyway.
        if not (isinstance(error, (*TRANSIENT_STORE_ERRORS, TimeoutError)) or is_transient(error)):
            raise
        _unavailable.failed("MongoDB", error=type(error).__name__, code=str(getattr(error, "code", "") or ""))
        # The driver has waited for a server, and has repeated what can be repeated.
        raise RequestError.unavailable(
            "MongoDB, the store of identities, is not available; try again", _RETRY_MS, repeats=False
        ) from None
    else:
        _unavailable.worked("MongoDB")
