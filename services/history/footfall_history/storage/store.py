"""Turns what history keeps and asks into commands to MongoDB: the one file that knows the driver.

Collections: `events` (a document an event), `visits` (one a visit), `history_tombstones` (one an erased identity) and
`history_marks` (one in all, see `Store.journal`).
Everything is read from the primary: the stamping protocol rests on reading what was written before.
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
from footfall_timeline import order_key
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo import ASCENDING, DESCENDING, ReadPreference, ReturnDocument, UpdateMany, UpdateOne
from pymongo.errors import BulkWriteError, ConnectionFailure, PyMongoError, WriteConcernError
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from footfall_history.storage.documents import DEVICE_FIELDS, NO_REVISION, PAGE_ENTERED, PAGE_EXITED, Document, erasable
from footfall_history.storage.event_cursor import Walk

Unavailable = (ConnectionFailure, WriteConcernError)
"""What every method raises when MongoDB does not answer, or does not confirm what it was given to write."""

_DUPLICATE_KEY: Final = 11000
# Ids are asked for in groups of this many, side by side. SecantusDB compares each document with each id of an `$in`:
# measured there, a group of 50 costs 0.1 ms an id, one of 500 costs 0.7 ms.
_IDS_A_QUERY: Final = 50
# For an answer once asked: long, because a bulk write may take long; not for ever, because a server may freeze.
_SOCKET_TIMEOUT_MS: Final = 30_000
_RETRY_S: Final = 0.5
_ONE_ANSWER: Final = 100_000
"""Documents that the server may answer with at once, as far as they fit into 16 MB; by default it is 101."""

_ANY: Final[Mapping[str, Any]] = MappingProxyType({})
# So that a command is done well within the time limits, and nobody waits long behind it. Measured in SecantusDB on a
# busy machine: 2 ms an operation and 0.3 ms an id.
_RESTAMPS_A_COMMAND: Final = 50
_RESTAMPED_A_COMMAND: Final = 250

STAMPED_BY: Final = ("order_key", "event_type", "erased")
"""What is to be known of an event to stamp it anew."""

_log = structlog.get_logger()

Answer = TypeVar("Answer")
Index = tuple[list[tuple[str, int]], dict[str, Any]]


def _index(*fields: str, **options: Any) -> Index:
    return [(field, ASCENDING) for field in fields], options


INDEXES: Final[dict[str, list[Index]]] = {
    "events": [
        # The events of a visit in order; the ranges that are stamped anew.
        _index("visit_id", "order_key"),
        # The events of an identity in order. Most events belong to nobody and stay out of it.
        _index("identity_id", "order_key", partialFilterExpression={"identity_id": {"$gt": ""}}),
        # The events that name somebody who is to be erased.
        _index("names_hash", partialFilterExpression={"names_hash": {"$gt": ""}}),
        # A page with its events in order.
        _index("page_id", "order_key"),
        # An event whose visit is not told: the first received.
        _index("event_id", "received_ms"),
    ],
    "visits": [
        # Visits in order, of all sites or one; what has expired.
        _index("start_key"),
        _index("site", "start_key"),
        # The visits of an identity, of a device, of a user agent, in order.
        _index("identities", "start_key"),
        _index("global_visit_id", "start_key"),
        _index("user_agent", "start_key"),
        # The visit of a session.
        _index("session_ids"),
        # The visits of somebody who is to be erased and known by a keyed hash only.
        _index("identity_hashes"),
    ],
}
"""Every index but those on `_id`. Each costs SecantusDB about 50 µs a document written: none without a query."""


class Refusals(NamedTuple):
    """Which documents of a bulk write were not taken: because the key exists, or for a reason of the server's."""

    duplicates: set[str]
    refused: dict[str, str]


class Restamp(NamedTuple):
    """Events get these fields and lose those, unless their stamp is of as late a revision.

    `keys`: their order keys by document id, as they were looked at: one that has been moved since is its mover's
    business. `erases`: they lose by it what was sent.
    """

    keys: Mapping[str, str]
    fields: Document
    without: Collection[str]
    erases: bool = False


class Series(NamedTuple):
    """Events that can be read in order: by `of`, a field that an index has before `order_key`, and other conditions.

    `start_ms` is when the first of them may have happened, None if that is not known.
    """

    of: Document
    where: Document
    start_ms: int | None


class PageKeys(NamedTuple):
    """The order keys of the event that began a page, and of the one that ended it, empty when none has."""

    entered: str
    exited: str


def check_url(url: str) -> str:
    """Return a URL. Raises ValueError for one that the driver makes nothing of."""
    try:
        parse_uri(url)
    except (PyMongoError, ValueError):
        rule = "must be `mongodb://host:port`, or `mongodb+srv://name` with a name in DNS, and have options of MongoDB"
        raise ValueError(rule) from None
    return url


class Store:
    """History's part of one MongoDB database. Methods raise `Unavailable` when it does not answer."""

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
        """Return the store at a MongoDB URL without connecting yet. It waits so long for a server to ask, no longer."""
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
        """Wait until MongoDB answers, then create the indexes not there yet. Until then queries may be slow."""
        for collection, indexes in INDEXES.items():
            for keys, options in indexes:
                await _when_answering(partial(self._database[collection].create_index, keys, **options))
        self._is_prepared = True

    async def is_ready(self) -> bool:
        """Whether MongoDB answers, and quickly."""
        return self._is_prepared and bool((await self._database.command("ping"))["ok"])

    # Visits, for the consumer

    async def read_visits(self, visit_ids: Iterable[str]) -> list[Document]:
        """The visits with these ids that exist: what the consumer needs of them."""
        fields = ["rev", "timeline", "identities", "start_key", "site_key", "touched_ms", "truncated"]
        return await _by_ids(self.visits, "_id", visit_ids, fields)

    async def begin_visits(self, documents: Sequence[Document]) -> Refusals:
        """Store new visits; duplicates were there already."""
        return await _insert(self.visits, documents)

    async def replace_timelines(self, changes: Sequence[tuple[str, Document]]) -> tuple[int, dict[str, str]]:
        """Write the next revision of timelines, each only where the stored one is the revision before.

        Return how many were written, and by visit why the server refused.
        """
        if not changes:
            return 0, {}
        gone = {"$unset": dict.fromkeys(DEVICE_FIELDS, "")}
        operations = [
            UpdateOne(
                {"_id": visit_id, "rev": fields["rev"] - 1},
                {"$set": fields} | (gone if fields.get("forgotten") else {}),
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
        """Let visits start, or have arrived, earlier, where that is earlier; keep those just touched from expiring.

        A visit that is forgotten by then learns nothing of the browser.
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
        """Note for visits the key of an event, if it is later than what is noted."""
        if keys:
            operations = [UpdateOne({"_id": visit_id}, {"$max": {"last_key": key}}) for visit_id, key in keys.items()]
            await _confirmed(self.visits.bulk_write(operations, ordered=False))

    # Events, for the consumer

    async def insert_events(self, documents: Sequence[Document], at_once: int | None = None) -> Refusals:
        """Store new events, so many a command or all; duplicates were there already and stay as they are."""
        refusals = Refusals(set(), {})
        for start in range(0, len(documents), at_once or len(documents) or 1):
            part = await _insert(self.events, documents[start : start + (at_once or len(documents))])
            refusals.duplicates.update(part.duplicates)
            refusals.refused.update(part.refused)
        return refusals

    async def read_events(self, ids: Iterable[str], fields: Sequence[str] | None = None) -> list[Document]:
        """The events with these document ids, whole or these fields of them."""
        return await _by_ids(self.events, "_id", ids, fields)

    async def move_events(self, keys: Mapping[str, str]) -> None:
        """Let events have happened earlier, by document id; one that is not there yet at that time loses its stamp."""
        operations = [
            UpdateOne({"_id": id_, "order_key": {"$gt": key}}, {"$set": {"order_key": key, "rev": NO_REVISION}})
            for id_, key in keys.items()
        ]
        if operations:
            await _confirmed(self.events.bulk_write(operations, ordered=False))

    async def events_behind(self, visit_ids: Iterable[str], from_key: str, rev: int, limit: int) -> list[Document]:
        """Of events in these visits from a key on and stamped before this revision what says how to stamp them anew.

        At most `limit` of a group of visits.
        """
        where: Document = {"order_key": {"$gte": from_key}, "rev": {"$lt": rev}}
        fields = ["visit_id", "rev", *STAMPED_BY]
        return await _by_ids(self.events, "visit_id", visit_ids, fields, where=where, limit=limit)

    async def restamp(self, restamps: Iterable[Restamp]) -> int:
        """Stamp events anew where their stamp is of an earlier revision; return how many.

        In commands of a bounded size. What one has done stays done when a later one fails, and is not done again.
        """
        matched = 0
        for operations in _restamps_a_command(restamps):
            matched += (await _confirmed(self.events.bulk_write(operations, ordered=False))).matched_count
        return matched

    async def forget_named(self, ids: Sequence[str], identity: str) -> int:
        """Erase these events, if they name this identity; return how many did."""
        gone = erasable(of_system=True)  # no others name anybody
        change = {"$set": {"erased": True}, "$unset": dict.fromkeys(gone, "")}
        count = 0
        for group in _groups(ids):
            where = {"_id": {"$in": group}, "names_identity_id": identity}
            count += (await self.events.update_many(where, change)).modified_count
        return count

    async def visits_naming(self, names_hash: str, upper_key: str) -> list[tuple[str, str]]:
        """The visits with events below a key that name whom a hash stands for, each with the name."""
        found = await self.events.aggregate(
            [
                {"$match": {"names_hash": names_hash, "order_key": {"$lt": upper_key}}},
                {"$group": {"_id": "$visit_id", "name": {"$first": "$names_identity_id"}}},
            ]
        ).to_list(None)
        return [(group["_id"], group["name"]) for group in found]

    async def flag_conflicts(self, ids: Collection[str]) -> None:
        """Note on events that others came under the same id."""
        if ids:
            await self.events.update_many({"_id": {"$in": [*ids]}}, {"$set": {"conflict": True}})

    async def journal(self) -> None:
        """Return only when this and with it every write before it is on disk.

        The server writes one journal, in order, so one small write that waits for it does for a whole batch.
        """
        written_ms = time.time_ns() // 1_000_000
        await self._marks.update_one({"_id": "journal"}, {"$set": {"written_ms": written_ms}}, upsert=True)

    # Tombstones

    async def tombstones(self, hashes: Collection[str]) -> dict[str, int]:
        """Of these keyed hashes those of erased identities, with the moment they were erased up to."""
        found = await self._tombstones.find({"_id": {"$in": [*hashes]}}, ["erase_time_ms"]).to_list(None)
        return {tombstone["_id"]: tombstone["erase_time_ms"] for tombstone in found}

    async def put_tombstone(self, identity_hash: str, erase_time_ms: int, key_check: str) -> None:
        """Remember an erasure. On disk when it returns."""
        change = {"$max": {"erase_time_ms": erase_time_ms}, "$set": {"key_check": key_check}}
        await self._tombstones.update_one({"_id": identity_hash}, change, upsert=True)

    async def count_erased(self, identity_hash: str, erasure_id: str, visits: int, events: int) -> tuple[int, int]:
        """Add to what an erasure has erased, and return the sums."""
        counts = {f"erasures.{erasure_id}.visits": visits, f"erasures.{erasure_id}.events": events}
        tombstone = await self._tombstones.find_one_and_update(
            {"_id": identity_hash}, {"$inc": counts}, return_document=ReturnDocument.AFTER
        )
        sums = tombstone["erasures"][erasure_id]
        return sums["visits"], sums["events"]

    async def has_tombstones_of_other_keys(self, key_check: str) -> bool:
        """Whether anybody has been erased under a key other than that with this check. Waits until MongoDB answers."""
        other = {"key_check": {"$ne": key_check}}
        return await _when_answering(lambda: self._tombstones.find_one(other, ["_id"])) is not None

    async def raw_documents(self) -> AsyncIterator[tuple[str, RawBSONDocument]]:
        """Every document of the database as bytes, whoever owns it, with the name of its collection: to be searched."""
        options = CodecOptions(document_class=RawBSONDocument)
        for name in await self._database.list_collection_names():
            async for document in self._database.get_collection(name, codec_options=options).find():
                yield name, document

    # Retention

    async def remove_before(self, at_ms: int) -> int:
        """Remove events that happened before a moment, and visits that have none left and were touched before it.

        Return how many events. Visits go last, so that a sweep that is cut short finds them again.
        """
        upper = {"$lt": order_key(at_ms, "")}
        removed = 0
        fields = ["_id", "touched_ms", "last_key"]
        expired = self.visits.find({"start_key": upper}, fields, batch_size=_IDS_A_QUERY)
        while visits := await expired.to_list(_IDS_A_QUERY):
            ids = [visit["_id"] for visit in visits]
            removed += (await self.events.delete_many({"visit_id": {"$in": ids}, "order_key": upper})).deleted_count
            in_use = await self.last_keys(visits)
            over = [visit["_id"] for visit in visits if visit["_id"] not in in_use and visit["touched_ms"] < at_ms]
            if over:
                await self.visits.delete_many({"_id": {"$in": over}, "touched_ms": {"$lt": at_ms}})
        return removed

    # Questions

    async def find_visits(self, where: Document, limit: int) -> list[Document]:
        """The first visits in order that match, whole."""
        return await self.visits.find(where, batch_size=limit).sort("start_key", ASCENDING).limit(limit).to_list(None)

    def each_visit(self, where: Document) -> AsyncIterator[Document]:
        """All visits in order that match, whole, fetched as they are needed."""
        cursor: AsyncIterator[Document] = self.visits.find(where).sort("start_key", ASCENDING)
        return cursor

    async def first_start_key(self, where: Document) -> str | None:
        """The start key of the first visit that matches."""
        found = await self.visits.find_one(where, ["start_key"], sort=[("start_key", ASCENDING)])
        return found["start_key"] if found else None

    async def last_keys(self, visits: Sequence[Document]) -> dict[str, str]:
        """By visit, of those given as stored, the order key of its last event; those without events are left out.

        Of a visit of many events it is noted how far it had come, so only those from there on are looked at.
        """
        noted = [visit for visit in visits if "last_key" in visit]
        answers = await asyncio.gather(*[self._last_key(visit["_id"], visit["last_key"]) for visit in noted])
        last = {visit["_id"]: key for visit, key in zip(noted, answers, strict=True) if key}
        # Also what was noted of an event that was then refused, or has expired.
        others = [visit["_id"] for visit in visits if visit["_id"] not in last]
        group = {"$group": {"_id": "$visit_id", "last": {"$max": "$order_key"}}}
        queries = [
            self.events.aggregate([{"$match": {"visit_id": {"$in": ids}}}, group]).to_list(None)
            for ids in _groups(others)
        ]
        return last | {found["_id"]: found["last"] for answer in await asyncio.gather(*queries) for found in answer}

    async def _last_key(self, visit_id: str, from_key: str) -> str | None:
        where = {"visit_id": visit_id, "order_key": {"$gte": from_key}}
        found = await self.events.find_one(where, ["order_key"], sort=[("order_key", DESCENDING)])
        return found["order_key"] if found else None

    def walk(self, series: Series, lower: str, upper: str, fields: Sequence[str] | None = None) -> Walk:
        """The events of a series in order, from a key on and below another if that is given; these fields of them.

        The conditions are two stages, as SecantusDB bounds an index only by a filter that has no others. MongoDB makes
        them one.
        """

        async def read(keys: Document, limit: int) -> list[Document]:
            stages: list[Document] = [{"$match": series.of | {"order_key": keys}}]
            stages += [{"$match": series.where}] if series.where else []
            stages += [{"$sort": {"order_key": ASCENDING}}, {"$limit": limit}]
            stages += [{"$project": dict.fromkeys(fields, 1)}] if fields else []
            return await self.events.aggregate(stages, batchSize=limit).to_list(None)

        return Walk(read, lower, upper, series.start_ms)

    async def page_keys(self, page_ids: Iterable[str], where: Mapping[str, Any] = _ANY) -> dict[str, PageKeys]:
        """By page, of those that have been entered, the keys of its first PageEntered and its last PageExited.

        By events that match.
        """
        names = {"event_name": {"$in": [PAGE_ENTERED, PAGE_EXITED]}, **where}
        by_name = {"page_id": "$page_id", "event_name": "$event_name"}
        group = {"_id": by_name, "first": {"$min": "$order_key"}, "last": {"$max": "$order_key"}}
        queries = [
            self.events.aggregate([{"$match": {"page_id": {"$in": ids}} | names}, {"$group": group}]).to_list(None)
            for ids in _groups([*page_ids])
        ]
        found = [row for answer in await asyncio.gather(*queries) for row in answer]
        keys = {(row["_id"]["event_name"], row["_id"]["page_id"]): row for row in found}
        pages = {}
        for (name, page_id), row in keys.items():
            if name == PAGE_ENTERED:
                exited = keys.get((PAGE_EXITED, page_id), {"last": ""})["last"]
                pages[page_id] = PageKeys(row["first"], exited if exited > row["first"] else "")
        return pages

    async def first_received(self, where: Document) -> Document | None:
        """Of the events that match the one received first."""
        found: Document | None = await self.events.find_one(where, sort=[("received_ms", ASCENDING)])
        return found

    async def identity_ids(self, where: Document, from_id: str, limit: int) -> list[str]:
        """The first identities in order, from an id on, of the visits that match."""
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

    async def visits_with(
        self, field: str, values: Iterable[str], limit: int, where: Mapping[str, Any] = _ANY
    ) -> list[Document]:
        """The visits that match and have any of these values in a field, whole; `limit` of a group at most."""
        return await _by_ids(self.visits, field, values, where={**where}, limit=limit)

    async def origins(self, visit_ids: Iterable[str], where: Mapping[str, Any]) -> dict[str, str]:
        """Of these visits those that match, each with what sorts it by its arrival."""
        found = await _by_ids(self.visits, "_id", visit_ids, ["site_key"], where={**where})
        return {document["_id"]: document.get("site_key", "") for document in found}

    async def events_with(
        self,
        field: str,
        values: Iterable[str],
        where: Document,
        *,
        fields: Sequence[str] | None = None,
        limit: int = 0,
    ) -> list[Document]:
        """The events that have any of these values in a field and match; at most `limit` of a group of values."""
        return await _by_ids(self.events, field, values, fields, where=where, limit=limit)


async def _when_answering(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    while True:
        try:
            return await ask()
        except Unavailable as error:
            _log.warning("MongoDB does not answer", error=type(error).__name__)
            await asyncio.sleep(_RETRY_S)


async def _insert(collection: "AsyncIOMotorCollection[Any]", documents: Sequence[Document]) -> Refusals:
    refusals = Refusals(set(), {})
    if not documents:
        return refusals
    try:
        await _confirmed(collection.insert_many(documents, ordered=False))
    except BulkWriteError as error:
        for problem in error.details["writeErrors"]:
            document_id = documents[problem["index"]]["_id"]
            if problem["code"] == _DUPLICATE_KEY:
                refusals.duplicates.add(document_id)
            else:
                refusals.refused[document_id] = _reason(problem)
    return refusals


def _restamps_a_command(restamps: Iterable[Restamp]) -> Iterator[list[UpdateMany]]:
    """What each command does. By ids: by a range of keys, SecantusDB reads the whole visit for each of them.

    (A filter that has more than what an index begins with is not bounded by it there, but an id always is: measured
    in a visit of 800 events, 1 ms instead of 200.)
    """
    part: list[UpdateMany] = []
    count = 0
    for keys, fields, without, _ in restamps:
        where: Document = {"rev": {"$lt": fields["rev"]}}
        change = {"$set": fields} | ({"$unset": dict.fromkeys(without, "")} if without else {})
        for group in _groups([*keys]):
            if len(part) == _RESTAMPS_A_COMMAND or count + len(group) > _RESTAMPED_A_COMMAND:
                yield part
                part, count = [], 0
            there = {"_id": {"$in": group}, "order_key": {"$in": [keys[id_] for id_ in group]}}
            part.append(UpdateMany(there | where, change))
            count += len(group)
    if part:
        yield part


async def _confirmed(write: Awaitable[Answer]) -> Answer:
    """The answer to a bulk write. Raises Unavailable when the server does not say that it will keep what it took.

    Also when it refused some besides: of those it took nobody knows. What else it refused BulkWriteError says.
    """
    try:
        return await write
    except BulkWriteError as error:
        if error.details["writeConcernErrors"]:
            raise WriteConcernError("a bulk write is not confirmed") from error
        raise


def _reason(problem: Mapping[str, Any]) -> str:
    """Why the server refused, without its text, which quotes the document."""
    return f"MongoDB refuses it with code {problem['code']}"


async def _by_ids(
    collection: "AsyncIOMotorCollection[Any]",
    field: str,
    ids: Iterable[str],
    fields: Sequence[str] | None = None,
    *,
    where: Document | None = None,
    limit: int = 0,
) -> list[Document]:
    queries = [
        collection.find({field: {"$in": group}} | (where or {}), fields, batch_size=_ONE_ANSWER)
        .limit(limit)
        .to_list(None)
        for group in _groups([*ids])
    ]
    return [document for found in await asyncio.gather(*queries) for document in found]


def _groups(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[start : start + _IDS_A_QUERY] for start in range(0, len(ids), _IDS_A_QUERY)]
