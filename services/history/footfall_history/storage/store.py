"""History's MongoDB collections: the only module that knows the driver (docs/adr/0005).

Collections: `events` (a document per event), `visits` (one per visit), `history_tombstones` (one per erased identity)
and `history_marks` (a single one, see `Store.journal`).
All reads go to the primary: attribution relies on reading what was written before.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self, TypeVar

import structlog
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from footfall_eventlog.events import PAGE_ENTERED, PAGE_EXITED
from footfall_timeline import order_key
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo import ASCENDING, DESCENDING, ReadPreference, ReturnDocument, UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, ConnectionFailure, PyMongoError, WriteConcernError
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from footfall_history.storage.documents import DEVICE_FIELDS, NO_REVISION, Document, erasable
from footfall_history.storage.event_cursor import EventCursor
from footfall_history.storage.indexes import INDEXES

TRANSIENT_STORE_ERRORS: Final = (ConnectionFailure, WriteConcernError)
"""What every method may raise: MongoDB does not answer, or does not confirm a write. A later attempt may succeed."""

_DUPLICATE_KEY: Final = 11000
# SecantusDB compares each document with each id of an `$in`. Measured: 0.1 ms per id in a group of 50, 0.7 ms in one of
# 500. So ids are queried in small groups, concurrently.
_IDS_PER_QUERY: Final = 50
# Bulk writes may take long, but a frozen server must not block a caller for longer.
_SOCKET_TIMEOUT_MS: Final = 30_000
_RETRY_S: Final = 0.5
# Documents per answer, as far as they fit into 16 MB. The default is 101.
_LARGE_BATCH: Final = 100_000
# Commands of others wait behind each bulk write. Measured in SecantusDB on a busy machine: 2 ms per operation and
# 0.3 ms per id.
_UPDATES_PER_COMMAND: Final = 50
_EVENTS_PER_COMMAND: Final = 250

_ANY: Final[Mapping[str, Any]] = MappingProxyType({})

REATTRIBUTION_FIELDS: Final = ("order_key", "event_type", "erased")
"""The fields of an event that its attribution depends on."""

_log = structlog.get_logger()

Answer = TypeVar("Answer")
Item = TypeVar("Item")


class Refusals(NamedTuple):
    """Documents that a bulk write did not store: ids that exist already, and by id why the server refused others."""

    duplicates: set[str]
    refused: dict[str, str]


class Reattribution(NamedTuple):
    """Sets and removes fields of events whose attribution is of an earlier revision than that in `fields`.

    `keys`: order keys by document id, as they were read. An event whose key has changed since is left to the writer
    that changed it. `erases`: the events lose content.
    """

    keys: Mapping[str, str]
    fields: Document
    removed: Collection[str]
    erases: bool = False


class EventQuery(NamedTuple):
    """Events that can be read in order.

    - `parent`: an equality on a field that an index has before `order_key`.
    - `conditions`: further conditions.
    - `start_ms`: the time of the first of them as far as known, in milliseconds since the epoch.
    """

    parent: Document
    conditions: Document
    start_ms: int | None


class PageKeys(NamedTuple):
    """The order keys of a page's first PageEntered and of its last PageExited (empty when there is none)."""

    entered: str
    exited: str


def check_url(url: str) -> str:
    """Return a URL. Raises ValueError for one that the driver does not accept."""
    try:
        parse_uri(url)
    except (PyMongoError, ValueError):
        rule = "must be `mongodb://host:port`, or `mongodb+srv://name` with a name in DNS, and valid options of MongoDB"
        raise ValueError(rule) from None
    return url


class Store:
    """History's part of one MongoDB database. Methods raise TRANSIENT_STORE_ERRORS."""

    def __init__(self, client: "AsyncIOMotorClient[Any]", database: str) -> None:
        self._client = client
        self._database = client.get_database(database, read_preference=ReadPreference.PRIMARY)
        self.events: AsyncIOMotorCollection[Any] = self._database["events"]
        self.visits: AsyncIOMotorCollection[Any] = self._database["visits"]
        self._is_prepared = False
        journaled = WriteConcern(**{**self._database.write_concern.document, "j": True})
        self._marks = self._database.get_collection("history_marks", write_concern=journaled)
        self._tombstones = self._database.get_collection("history_tombstones", write_concern=journaled)

    @classmethod
    def open(cls, url: str, database: str, timeout_ms: int) -> Self:
        """The store at a MongoDB URL. Connects on first use, and waits `timeout_ms` at most for a usable server."""
        client: AsyncIOMotorClient[Any] = AsyncIOMotorClient(
            url,
            serverSelectionTimeoutMS=timeout_ms,
            connectTimeoutMS=timeout_ms,
            socketTimeoutMS=_SOCKET_TIMEOUT_MS,
        )
        return cls(client, database)

    async def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def prepare(self) -> None:
        """Wait until MongoDB answers, then create missing indexes. Until then queries may be slow."""
        for collection, indexes in INDEXES.items():
            for keys, options in indexes:
                await _retried(partial(self._database[collection].create_index, keys, **options))
        self._is_prepared = True

    async def is_ready(self) -> bool:
        """Whether MongoDB answers and all indexes exist."""
        return self._is_prepared and bool((await self._database.command("ping"))["ok"])

    async def journal(self) -> None:
        """Return when all earlier writes are on disk.

        The server writes one journal in order, so a single small journaled write confirms a whole batch.
        """
        written_ms = time.time_ns() // 1_000_000
        await self._marks.update_one({"_id": "journal"}, {"$set": {"written_ms": written_ms}}, upsert=True)

    async def raw_documents(self) -> AsyncIterator[tuple[str, RawBSONDocument]]:
        """Every document of the database, also of other services, as bytes, with the name of its collection."""
        options = CodecOptions(document_class=RawBSONDocument)
        for name in await self._database.list_collection_names():
            async for document in self._database.get_collection(name, codec_options=options).find():
                yield name, document

    # Visits, for ingestion and erasure

    async def read_visits(self, visit_ids: Iterable[str]) -> list[Document]:
        """The visits with these ids that exist, without the fields that only queries need."""
        fields = ["rev", "timeline", "identities", "start_key", "site_key", "touched_ms", "truncated"]
        return await _find_by(self.visits, "_id", visit_ids, fields)

    async def begin_visits(self, documents: Sequence[Document]) -> Refusals:
        """Store new visits."""
        return await _insert(self.visits, documents)

    async def replace_timelines(self, changes: Sequence[tuple[str, Document]]) -> tuple[int, dict[str, str]]:
        """Write the next revision of timelines, each only if the stored one is the revision before.

        Returns how many were written, and by visit why the server refused.
        """
        if not changes:
            return 0, {}
        removed = {"$unset": dict.fromkeys(DEVICE_FIELDS, "")}
        operations = [
            UpdateOne(
                {"_id": visit_id, "rev": fields["rev"] - 1},
                {"$set": fields} | (removed if fields.get("forgotten") else {}),
            )
            for visit_id, fields in changes
        ]
        try:
            return (await _confirmed(self.visits.bulk_write(operations, ordered=False))).matched_count, {}
        except BulkWriteError as error:
            refused = {changes[problem["index"]][0]: _reason(problem) for problem in error.details["writeErrors"]}
            return error.details["nMatched"], refused

    async def move_visits(
        self,
        starts: Mapping[str, Mapping[str, Any]],
        touched: Collection[str],
        touched_ms: int,
        origins: Mapping[str, Mapping[str, Any]] = _ANY,
    ) -> None:
        """Set an earlier start or origin of visits, if it is earlier, and the time of the last receipt of others.

        Erased visits do not get fields about the browser.
        """
        operations: list[UpdateOne | UpdateMany] = []
        for visit_id, start in starts.items():
            bare = {name: value for name, value in start.items() if name not in DEVICE_FIELDS}
            where: Document = {"_id": visit_id, "start_key": {"$gt": start["start_key"]}}
            operations += [
                UpdateOne(where | {"forgotten": {"$ne": True}}, {"$set": start}),
                UpdateOne(where | {"forgotten": True}, {"$set": bare}),
            ]
        operations += [
            UpdateOne({"_id": visit_id, "site_key": {"$gt": origin["site_key"]}}, {"$set": origin})
            for visit_id, origin in origins.items()
        ]
        if touched:
            operations.append(UpdateMany({"_id": {"$in": [*touched]}}, {"$max": {"touched_ms": touched_ms}}))
        if operations:
            await _confirmed(self.visits.bulk_write(operations, ordered=False))

    async def note_last_keys(self, keys: Mapping[str, str]) -> None:
        """Note an event's key for each visit, if it is later than the noted one. See `last_keys`."""
        if keys:
            operations = [UpdateOne({"_id": visit_id}, {"$max": {"last_key": key}}) for visit_id, key in keys.items()]
            await _confirmed(self.visits.bulk_write(operations, ordered=False))

    # Events, for ingestion and erasure

    async def insert_events(self, documents: Sequence[Document], per_command: int | None = None) -> Refusals:
        """Store new events, `per_command` at a time or all together. Duplicates stay as they are."""
        return await _insert(self.events, documents, per_command)

    async def read_events(self, ids: Iterable[str], fields: Sequence[str] | None = None) -> list[Document]:
        """The events with these document ids: all fields or these."""
        return await _find_by(self.events, "_id", ids, fields)

    async def move_events(self, keys: Mapping[str, str]) -> None:
        """Set an earlier order key of events, by document id. An event that is moved loses its attribution."""
        operations = [
            UpdateOne({"_id": id_, "order_key": {"$gt": key}}, {"$set": {"order_key": key, "rev": NO_REVISION}})
            for id_, key in keys.items()
        ]
        if operations:
            await _confirmed(self.events.bulk_write(operations, ordered=False))

    async def outdated_events(self, visit_ids: Iterable[str], from_key: str, rev: int, limit: int) -> list[Document]:
        """Events of these visits from a key on that an earlier revision attributed, as REATTRIBUTION_FIELDS.

        At most `limit` per group of 50 visits.
        """
        where: Document = {"order_key": {"$gte": from_key}, "rev": {"$lt": rev}}
        fields = ["visit_id", "rev", *REATTRIBUTION_FIELDS]
        return await _find_by(self.events, "visit_id", visit_ids, fields, where=where, limit=limit)

    async def reattribute(self, reattributions: Iterable[Reattribution]) -> int:
        """Attribute events again whose attribution is of an earlier revision. Returns how many there were.

        Writes commands of a bounded size. What one has done remains when a later one fails, and is not done twice.
        """
        matched = 0
        for operations in _update_commands(reattributions):
            matched += (await _confirmed(self.events.bulk_write(operations, ordered=False))).matched_count
        return matched

    async def erase_naming(self, ids: Sequence[str], identity: str) -> int:
        """Erase those of these events that name this identity. Returns how many there were."""
        removed = erasable(of_system=True)  # only system events name identities
        change = {"$set": {"erased": True}, "$unset": dict.fromkeys(removed, "")}
        count = 0
        for group in _groups(ids):
            where = {"_id": {"$in": group}, "names_identity_id": identity}
            count += (await self.events.update_many(where, change)).modified_count
        return count

    async def visits_naming(self, names_hash: str, upper_key: str) -> list[tuple[str, str]]:
        """The visits with events below a key that name the identity with this hash, each with that identity."""
        found = await self.events.aggregate(
            [
                {"$match": {"names_hash": names_hash, "order_key": {"$lt": upper_key}}},
                {"$group": {"_id": "$visit_id", "name": {"$first": "$names_identity_id"}}},
            ]
        ).to_list(None)
        return [(group["_id"], group["name"]) for group in found]

    async def flag_conflicts(self, ids: Collection[str]) -> None:
        """Mark events under whose id an event with other content arrived."""
        if ids:
            await self.events.update_many({"_id": {"$in": [*ids]}}, {"$set": {"conflict": True}})

    # Tombstones

    async def tombstones(self, hashes: Collection[str]) -> dict[str, int]:
        """Those of these keyed hashes that have a tombstone, with the time erased up to."""
        found = await self._tombstones.find({"_id": {"$in": [*hashes]}}, ["erase_time_ms"]).to_list(None)
        return {tombstone["_id"]: tombstone["erase_time_ms"] for tombstone in found}

    async def put_tombstone(self, identity_hash: str, erase_time_ms: int, key_check: str) -> None:
        """Store a tombstone. It is on disk when this returns."""
        change = {"$max": {"erase_time_ms": erase_time_ms}, "$set": {"key_check": key_check}}
        await self._tombstones.update_one({"_id": identity_hash}, change, upsert=True)

    async def count_erased(self, identity_hash: str, erasure_id: str, visits: int, events: int) -> tuple[int, int]:
        """Add to the counts of an erasure, and return their sums."""
        counts = {f"erasures.{erasure_id}.visits": visits, f"erasures.{erasure_id}.events": events}
        tombstone = await self._tombstones.find_one_and_update(
            {"_id": identity_hash}, {"$inc": counts}, return_document=ReturnDocument.AFTER
        )
        sums = tombstone["erasures"][erasure_id]
        return sums["visits"], sums["events"]

    async def has_tombstones_of_other_keys(self, key_check: str) -> bool:
        """Whether a tombstone was made with another key than that with this check. Waits until MongoDB answers."""
        other = {"key_check": {"$ne": key_check}}
        return await _retried(lambda: self._tombstones.find_one(other, ["_id"])) is not None

    # Retention

    async def remove_before(self, at_ms: int) -> int:
        """Remove events dated before a time, and visits without events that were last touched before it.

        Returns the number of events. Visits are removed last, so that an interrupted sweep finds them again.
        """
        upper = {"$lt": order_key(at_ms, "")}
        removed = 0
        fields = ["_id", "touched_ms", "last_key"]
        expired = self.visits.find({"start_key": upper}, fields, batch_size=_IDS_PER_QUERY)
        while visits := await expired.to_list(_IDS_PER_QUERY):
            ids = [visit["_id"] for visit in visits]
            removed += (await self.events.delete_many({"visit_id": {"$in": ids}, "order_key": upper})).deleted_count
            in_use = await self.last_keys(visits)
            over = [visit["_id"] for visit in visits if visit["_id"] not in in_use and visit["touched_ms"] < at_ms]
            if over:
                await self.visits.delete_many({"_id": {"$in": over}, "touched_ms": {"$lt": at_ms}})
        return removed

    # Queries

    async def find_visits(self, where: Document, limit: int) -> list[Document]:
        """The first matching visits in order."""
        return await self.visits.find(where, batch_size=limit).sort("start_key", ASCENDING).limit(limit).to_list(None)

    def each_visit(self, where: Document) -> AsyncIterator[Document]:
        """All matching visits in order, fetched as they are needed."""
        cursor: AsyncIterator[Document] = self.visits.find(where).sort("start_key", ASCENDING)
        return cursor

    async def visit_groups(self, where: Document, size: int) -> AsyncIterator[list[Document]]:
        """All matching visits in order, in groups of up to `size`, fetched as they are needed."""
        cursor = self.visits.find(where).sort("start_key", ASCENDING)
        while group := await cursor.to_list(size):
            yield group

    async def first_start_key(self, where: Document) -> str | None:
        """The start key of the first matching visit."""
        found = await self.visits.find_one(where, ["start_key"], sort=[("start_key", ASCENDING)])
        return found["start_key"] if found else None

    async def last_keys(self, visits: Sequence[Document]) -> dict[str, str]:
        """The order key of the last event of these visits, by visit; visits without events are absent.

        Long visits have a key noted (`ingest.last_keys`), so that only later events are read.
        """
        noted = [visit for visit in visits if "last_key" in visit]
        answers = await asyncio.gather(*[self._last_key(visit["_id"], visit["last_key"]) for visit in noted])
        last = {visit["_id"]: key for visit, key in zip(noted, answers, strict=True) if key}
        # A noted event may have been refused, or have expired since.
        others = [visit["_id"] for visit in visits if visit["_id"] not in last]
        found = await self._grouped("visit_id", others, _ANY, {"_id": "$visit_id", "last": {"$max": "$order_key"}})
        return last | {row["_id"]: row["last"] for row in found}

    async def _last_key(self, visit_id: str, from_key: str) -> str | None:
        where = {"visit_id": visit_id, "order_key": {"$gte": from_key}}
        found = await self.events.find_one(where, ["order_key"], sort=[("order_key", DESCENDING)])
        return found["order_key"] if found else None

    def events_in_order(
        self, query: EventQuery, lower: str, upper: str, fields: Sequence[str] | None = None
    ) -> EventCursor:
        """The events of a query in order, from a key on and below another if it is not empty: all fields or these."""

        async def read(keys: Document, limit: int) -> list[Document]:
            # In two stages: SecantusDB bounds an index only by a filter without other conditions. MongoDB joins them.
            stages: list[Document] = [{"$match": query.parent | {"order_key": keys}}]
            stages += [{"$match": query.conditions}] if query.conditions else []
            stages += [{"$sort": {"order_key": ASCENDING}}, {"$limit": limit}]
            stages += [{"$project": dict.fromkeys(fields, 1)}] if fields else []
            return await self.events.aggregate(stages, batchSize=limit).to_list(None)

        return EventCursor(read, lower, upper, query.start_ms)

    async def page_keys(self, page_ids: Iterable[str], where: Mapping[str, Any] = _ANY) -> dict[str, PageKeys]:
        """The keys of those of these pages that have a PageEntered, by page. Only matching events count."""
        names = {"event_name": {"$in": [PAGE_ENTERED, PAGE_EXITED]}, **where}
        by_name = {"page_id": "$page_id", "event_name": "$event_name"}
        group = {"_id": by_name, "first": {"$min": "$order_key"}, "last": {"$max": "$order_key"}}
        found = await self._grouped("page_id", page_ids, names, group)
        keys = {(row["_id"]["event_name"], row["_id"]["page_id"]): row for row in found}
        pages = {}
        for (name, page_id), row in keys.items():
            if name == PAGE_ENTERED:
                exited = keys.get((PAGE_EXITED, page_id), {"last": ""})["last"]
                pages[page_id] = PageKeys(row["first"], exited if exited > row["first"] else "")
        return pages

    async def _grouped(
        self, field: str, values: Iterable[str], where: Mapping[str, Any], group: Document
    ) -> list[Document]:
        """Groups of the matching events with one of these values in a field. A group must have a single value."""
        queries = [
            self.events.aggregate([{"$match": {field: {"$in": part}, **where}}, {"$group": group}]).to_list(None)
            for part in _groups([*values])
        ]
        return [row for answer in await asyncio.gather(*queries) for row in answer]

    async def first_received(self, where: Document) -> Document | None:
        """The matching event that was received first."""
        found: Document | None = await self.events.find_one(where, sort=[("received_ms", ASCENDING)])
        return found

    async def identity_ids(self, where: Document, from_id: str, limit: int) -> list[str]:
        """The first identities of matching visits in order, from an id on."""
        found = await self.visits.aggregate(
            [
                {"$match": where},
                {"$unwind": "$identities"},
                {"$match": {"identities": {"$gte": from_id}}},
                {"$group": {"_id": "$identities"}},
                {"$sort": {"_id": ASCENDING}},
                {"$limit": limit},
            ]
        ).to_list(None)
        return [group["_id"] for group in found]

    async def visits_with(self, field: str, values: Iterable[str], where: Document, limit: int) -> list[Document]:
        """The matching visits with one of these values in a field; at most `limit` per group of 50 values."""
        return await _find_by(self.visits, field, values, where=where, limit=limit)

    async def origins(self, visit_ids: Iterable[str], where: Document) -> dict[str, str]:
        """The `site_key` of those of these visits that match, by visit: it sorts visits by their first receipt."""
        found = await _find_by(self.visits, "_id", visit_ids, ["site_key"], where=where)
        return {document["_id"]: document.get("site_key", "") for document in found}

    async def events_with(
        self, field: str, values: Iterable[str], where: Document, fields: Sequence[str] | None, limit: int
    ) -> list[Document]:
        """The matching events with one of these values in a field; at most `limit` per group of 50 values."""
        return await _find_by(self.events, field, values, fields, where=where, limit=limit)


async def _retried(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    while True:
        try:
            return await ask()
        except TRANSIENT_STORE_ERRORS as error:
            _log.warning("MongoDB does not answer", error=type(error).__name__)
            await asyncio.sleep(_RETRY_S)


async def _insert(
    collection: "AsyncIOMotorCollection[Any]", documents: Sequence[Document], per_command: int | None = None
) -> Refusals:
    refusals = Refusals(set(), {})
    for part in _groups(documents, per_command or len(documents)):
        try:
            await _confirmed(collection.insert_many(part, ordered=False))
        except BulkWriteError as error:
            for problem in error.details["writeErrors"]:
                document_id = part[problem["index"]]["_id"]
                if problem["code"] == _DUPLICATE_KEY:
                    refusals.duplicates.add(document_id)
                else:
                    refusals.refused[document_id] = _reason(problem)
    return refusals


def _update_commands(reattributions: Iterable[Reattribution]) -> Iterator[list[UpdateMany]]:
    """The operations of each command. Events are addressed by id: SecantusDB always bounds an index on `_id`.

    For a range of keys with further conditions it would read the whole visit for each operation. Measured in a visit of
    800 events: 1 ms instead of 200 ms.
    """
    part: list[UpdateMany] = []
    count = 0
    for keys, fields, removed, _ in reattributions:
        where: Document = {"rev": {"$lt": fields["rev"]}}
        change = {"$set": fields} | ({"$unset": dict.fromkeys(removed, "")} if removed else {})
        for group in _groups([*keys]):
            if len(part) == _UPDATES_PER_COMMAND or count + len(group) > _EVENTS_PER_COMMAND:
                yield part
                part, count = [], 0
            unmoved = {"_id": {"$in": group}, "order_key": {"$in": [keys[id_] for id_ in group]}}
            part.append(UpdateMany(unmoved | where, change))
            count += len(group)
    if part:
        yield part


async def _confirmed(write: Awaitable[Answer]) -> Answer:
    """The answer to a bulk write.

    Raises:
        WriteConcernError: the server does not confirm what it accepted, whether or not it also refused documents.
        BulkWriteError: the server refused some documents and confirms the others.

    """
    try:
        return await write
    except BulkWriteError as error:
        if error.details["writeConcernErrors"]:
            raise WriteConcernError("a bulk write is not confirmed") from error
        raise


def _reason(problem: Mapping[str, Any]) -> str:
    """Why the server refused, without its message, which quotes the document."""
    return f"MongoDB refuses it with code {problem['code']}"


async def _find_by(
    collection: "AsyncIOMotorCollection[Any]",
    field: str,
    values: Iterable[str],
    fields: Sequence[str] | None = None,
    *,
    where: Document | None = None,
    limit: int = 0,
) -> list[Document]:
    queries = [
        collection.find({field: {"$in": group}} | (where or {}), fields, batch_size=_LARGE_BATCH)
        .limit(limit)
        .to_list(None)
        for group in _groups([*values])
    ]
    return [document for found in await asyncio.gather(*queries) for document in found]


def _groups(items: Sequence[Item], size: int = _IDS_PER_QUERY) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size or 1)]
