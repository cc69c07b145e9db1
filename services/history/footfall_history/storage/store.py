"""History's MongoDB collections: the only module that knows a driver (docs/adr/0005).

Collections with a document for each event, visit and interaction: `events`, `visits`, `interactions`. Others:
`history_tombstones` (one per erased identity), `history_marks` (a single one, see `Store.journal`),
`history_checkpoints` (one per partition of the event log) and `history_gaps` (one per part of the log that was lost).
For scorecards: `history_scorecards` (one per site and day), `history_scorecard_days` (one per counted day; a lease).
All reads go to the primary, because attribution relies on reading what was written before. Only a store that is opened
with `prefers_secondaries` reads elsewhere.
"""

import asyncio
import inspect
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial, wraps
from types import MappingProxyType
from typing import Any, Final, NamedTuple, ParamSpec, Self, TypeVar

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from footfall_eventlog.checkpoint_store import CheckpointStore
from footfall_eventlog.events import PAGE_ENTERED, PAGE_EXITED
from footfall_eventlog.settings import mongo_url_check
from footfall_eventlog.store_reports import mongo_problem, mongo_report
from footfall_servicekit import metrics
from footfall_servicekit.background import NotReadyError
from footfall_servicekit.failure_log import FailureLog
from footfall_servicekit.indexes import Indexes, IndexMissingError
from footfall_servicekit.mongo_errors import is_transient
from footfall_timeline import order_key
from pymongo import (
    ASCENDING,
    DESCENDING,
    AsyncMongoClient,
    DeleteMany,
    ReadPreference,
    ReplaceOne,
    ReturnDocument,
    UpdateMany,
    UpdateOne,
)
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from pymongo.uri_parser import parse_uri
from pymongo.write_concern import WriteConcern

from footfall_history.storage.documents import DEVICE_FIELDS, NO_REVISION, Document, erasable, ignored_in
from footfall_history.storage.event_cursor import EventCursor
from footfall_history.storage.indexes import INDEXES, Need, index_names, match_stages
from footfall_history.storage.interactions import subject


class TemporaryRefusalError(PyMongoError):
    """MongoDB refuses a command for a reason that may pass: its disk is full, it has no time, or it was interrupted."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"MongoDB refuses or does not confirm it for now, with code {code}")
        self.code = code


TRANSIENT_STORE_ERRORS: Final = (ConnectionFailure, WriteConcernError, TemporaryRefusalError, IndexMissingError)
"""What every method may raise: MongoDB does not answer, refuses for now, does not confirm a write, or still builds an
index that a query needs. A later attempt may succeed."""

_DUPLICATE_KEY: Final = 11000
# SecantusDB's server compares each document that it finds with each id of an `$in`. Measured with all fields: 15 µs per
# id in a group of 50, 20 in one of 1,000.
_IDS_PER_QUERY: Final = 50
_IDS_PER_RARE_QUERY: Final = 1_000
"""Of which hardly any document meets the other conditions."""
# Bulk writes may take long, but a frozen server must not block a caller for longer.
_SOCKET_TIMEOUT_MS: Final = 30_000
# For building an index, which may take hours. The time to connect is also that for heartbeats: when one is late, the
# driver closes the connection.
_WITHOUT_TIME_LIMIT: Final[Mapping[str, Any]] = {"connectTimeoutMS": 30_000, "socketTimeoutMS": None, "timeoutMS": None}
_RETRY_S: Final = 0.5
# Documents per answer, as far as they fit into 16 MB. The default is 101.
_LARGE_BATCH: Final = 100_000
# Measured in SecantusDB's server: 10 ms for so many operations of one event, or for so many events of five operations.
_UPDATES_PER_COMMAND: Final = 50
_EVENTS_PER_COMMAND: Final = 250

_INGESTED_FIELDS: Final = (
    *("rev", "timeline", "identities", "start_key", "site_key", "touched_ms", "truncated", "staff", "marks"),
)
_ANY: Final[Mapping[str, Any]] = MappingProxyType({})
_LEASE: Final = "lease"

REATTRIBUTION_FIELDS: Final = ("order_key", "event_type", "erased")
"""The fields of an event that its attribution depends on."""

_unavailable = FailureLog("MongoDB does not answer", "store")

Answer = TypeVar("Answer")
Item = TypeVar("Item")
Class = TypeVar("Class")
Given = ParamSpec("Given")


class Refusals(NamedTuple):
    """Documents that a bulk write did not store: ids that exist already, and by id why the server refused others."""

    duplicates: set[str]
    refused: dict[str, str]


class Reattribution(NamedTuple):
    """Sets and removes fields of events of a visit whose attribution is of an earlier revision than that in `fields`.

    `keys`: their order keys, as they were read. An event whose key has changed since is left to the writer that changed
    it. `erases`: the events lose content.
    """

    visit_id: str
    keys: Sequence[str]
    fields: Document
    removed: Collection[str]
    erases: bool = False


class EventQuery(NamedTuple):
    """Events that can be read in order.

    - `parent`: an equality on a field that an index has before `order_key`.
    - `conditions`: further conditions, on other fields.
    - `start_ms` and `end_ms`: the times of the first and the last of them as far as known, in milliseconds since the
      epoch.
    - `newest_first`: from the last one to the first.
    """

    parent: Document
    conditions: Document
    start_ms: int | None
    end_ms: int | None = None
    newest_first: bool = False


class PageKeys(NamedTuple):
    """The order keys of a page's first PageEntered and of its last PageExited (empty when there is none)."""

    entered: str
    exited: str


check_url = mongo_url_check(parse_uri, PyMongoError)


def _classified(method: Callable[..., Awaitable[Answer]]) -> Callable[..., Coroutine[Any, Any, Answer]]:
    """A method that raises TemporaryRefusalError in place of a refusal by the server that may pass."""

    @wraps(method)
    async def call(*arguments: Any, **options: Any) -> Answer:
        try:
            return await method(*arguments, **options)
        except OperationFailure as error:
            if is_transient(error):
                raise TemporaryRefusalError(error.code) from error
            raise

    return call


def _with_classified_errors(store: type[Class]) -> type[Class]:
    """A class whose coroutine methods are `_classified`."""
    for name, method in [*vars(store).items()]:
        if inspect.iscoroutinefunction(method):
            setattr(store, name, _classified(method))
    return store


class _Stopwatch(CommandListener):
    """Measures the commands of a client."""

    def started(self, event: CommandStartedEvent) -> None:
        """Nothing is measured yet."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        metrics.store_seconds("mongodb", event.command_name).observe(event.duration_micros / 1_000_000)

    def failed(self, event: CommandFailedEvent) -> None:
        metrics.store_seconds("mongodb", event.command_name).observe(event.duration_micros / 1_000_000)


@_with_classified_errors
class Store:
    """History's part of one MongoDB database. Methods raise TRANSIENT_STORE_ERRORS."""

    def __init__(
        self,
        client: "AsyncMongoClient[Any]",
        open_builder: "Callable[[], AsyncMongoClient[Any]]",
        database: str,
        *,
        prefers_secondaries: bool = False,
    ) -> None:
        self._client = client
        self._open_builder = open_builder
        preference = ReadPreference.SECONDARY_PREFERRED if prefers_secondaries else ReadPreference.PRIMARY
        self._database = client.get_database(database, read_preference=preference)
        self.events: AsyncCollection[Any] = self._database["events"]
        self.visits: AsyncCollection[Any] = self._database["visits"]
        self.interactions: AsyncCollection[Any] = self._database["interactions"]
        self.indexes = Indexes(INDEXES)
        journaled = WriteConcern(**{**self._database.write_concern.document, "j": True})
        self._marks = self._database.get_collection("history_marks", write_concern=journaled)
        self._tombstones = self._database.get_collection("history_tombstones", write_concern=journaled)
        self._scorecards = self._database["history_scorecards"]
        self._scorecard_days = self._database["history_scorecard_days"]
        self.checkpoints = CheckpointStore(
            self._database.get_collection("history_checkpoints", write_concern=journaled),
            self._database.get_collection("history_gaps", write_concern=journaled),
        )

    @classmethod
    def open(
        cls,
        url: str,
        database: str,
        timeout_ms: int,
        listeners: Sequence[CommandListener] = (),
        *,
        prefers_secondaries: bool = False,
    ) -> Self:
        """The store at a MongoDB URL. Connects on first use, and waits `timeout_ms` at most for a usable server.

        `prefers_secondaries`: read from secondaries if there are any, for work that may see an earlier state.
        """
        options: Any = {"serverSelectionTimeoutMS": timeout_ms, "event_listeners": [*listeners, _Stopwatch()]}
        client: AsyncMongoClient[Any] = AsyncMongoClient(
            url, connectTimeoutMS=timeout_ms, socketTimeoutMS=_SOCKET_TIMEOUT_MS, **options
        )
        open_builder = partial(AsyncMongoClient, url, **_WITHOUT_TIME_LIMIT, **options)
        return cls(client, open_builder, database, prefers_secondaries=prefers_secondaries)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def prepare(self) -> None:
        """Make the indexes, and return when all exist. Until then, a query whose index is missing is refused.

        Processes that do so together build each index once: MongoDB lets the second one wait for the build.
        """
        async with self._open_builder() as builder:

            async def create(name: str) -> None:
                index = INDEXES[name]
                collection = builder[self._database.name][index.collection]
                await collection.create_index(index.keys, **index.options)

            await self.indexes.make(create)

    async def list_indexes(self) -> dict[str, bool]:
        """Each index with whether MongoDB lists it. MongoDB also lists indexes that are being built."""
        found = {
            (collection, tuple(field for field, _ in about["key"]))
            for collection in {index.collection for index in INDEXES.values()}
            for about in (await self._database[collection].index_information()).values()
        }
        return {name: (index.collection, index.fields) in found for name, index in INDEXES.items()}

    async def report(self) -> str:
        """A line about MongoDB and its indexes. Raises RefusalError and NotReadyError."""
        try:
            version = (await self._client.server_info())["version"]
            indexes = await self.list_indexes()
        except (*TRANSIENT_STORE_ERRORS, PyMongoError) as error:
            raise mongo_problem(error) from None
        return mongo_report(version, [name for name, exists in indexes.items() if not exists])

    async def is_ready(self) -> bool:
        """Whether MongoDB answers. Raises NotReadyError while an index is missing that most queries need."""
        needed = {*index_names(Need.LOG, Need.READY)}
        if missing := [name for name in self.indexes.missing if name in needed]:
            raise NotReadyError(f"indexes are being built: {', '.join(missing)}")
        return bool((await self._database.command("ping"))["ok"])

    def _require_index(self, collection: "AsyncCollection[Any]", where: Iterable[str]) -> None:
        """Raise IndexMissingError if the index that serves this filter does not exist yet."""
        field = next(iter(where), "_id")
        if field != "_id":
            self.indexes.require(f"{collection.name}.{field}")

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
        return await _find_by(self.visits, "_id", visit_ids, _INGESTED_FIELDS)

    async def changed_visits(self, visit_ids: Iterable[str]) -> list[Document]:
        """Those of these visits that are no longer of revision 0, as `read_visits`. Hardly any should be."""
        changed = {"rev": {"$gt": 0}}
        return await _find_by(
            self.visits, "_id", visit_ids, _INGESTED_FIELDS, where=changed, group_size=_IDS_PER_RARE_QUERY
        )

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
            return (await self.visits.bulk_write(operations, ordered=False)).matched_count, {}
        except BulkWriteError as error:
            if is_transient(error):
                raise
            refused = {changes[problem["index"]][0]: _reason(problem) for problem in error.details["writeErrors"]}
            return error.details["nMatched"], refused

    async def move_visits(
        self,
        starts: Mapping[str, Mapping[str, Any]],
        touched: Collection[str],
        touched_ms: int,
        origins: Mapping[str, Mapping[str, Any]] = _ANY,
        of_staff: Collection[str] = (),
    ) -> None:
        """Set an earlier start or origin of visits, if it is earlier, and the time of the last receipt of others.

        `of_staff` are marked as visits of staff. Erased visits do not get fields about the browser.
        """
        operations: list[UpdateOne | UpdateMany] = []
        for visit_id, start in starts.items():
            bare = {name: value for name, value in start.items() if name not in DEVICE_FIELDS}
            is_earlier = {"$gt": ["$start_key", start["start_key"]]}
            is_of_device = {"$and": [is_earlier, {"$ne": ["$forgotten", True]}]}
            # After the first change, the start is not earlier any more.
            change = _change_if(is_of_device, start) + _change_if(is_earlier, bare)
            operations.append(UpdateOne({"_id": visit_id}, change))
        operations += [
            UpdateOne({"_id": visit_id}, _change_if({"$gt": ["$site_key", origin["site_key"]]}, origin))
            for visit_id, origin in origins.items()
        ]
        if touched:
            operations.append(UpdateMany({"_id": {"$in": [*touched]}}, {"$max": {"touched_ms": touched_ms}}))
        if of_staff:
            operations.append(UpdateMany({"_id": {"$in": [*of_staff]}}, {"$set": {"staff": True}}))
        if operations:
            await self.visits.bulk_write(operations, ordered=False)

    async def note_last_keys(self, keys: Mapping[str, str]) -> None:
        """Note an event's key for each visit, if it is later than the noted one. See `last_keys`."""
        if keys:
            operations = [UpdateOne({"_id": visit_id}, {"$max": {"last_key": key}}) for visit_id, key in keys.items()]
            await self.visits.bulk_write(operations, ordered=False)

    async def add_marks(self, visits: Mapping[str, Sequence[str]]) -> None:
        """Add marks to visits: by mark, the visits that get it."""
        operations = [
            UpdateMany({"_id": {"$in": group}}, {"$addToSet": {"marks": mark}})
            for mark, ids in visits.items()
            for group in _groups(ids)
        ]
        if operations:
            await self.visits.bulk_write(operations, ordered=False)

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
            UpdateOne({"_id": id_}, _change_if({"$gt": ["$order_key", key]}, {"order_key": key, "rev": NO_REVISION}))
            for id_, key in keys.items()
        ]
        if operations:
            await self.events.bulk_write(operations, ordered=False)

    async def invalidate_attributions(self, ids: Iterable[str]) -> None:
        """Let every revision of their timelines attribute these events again."""
        for group in _groups([*ids]):
            await self.events.update_many({"_id": {"$in": group}}, {"$set": {"rev": NO_REVISION}})

    async def outdated_events(self, visit_ids: Iterable[str], from_key: str, rev: int, limit: int) -> list[Document]:
        """Events of these visits from a key on that an earlier revision attributed, as REATTRIBUTION_FIELDS.

        At most `limit` per group of 50 visits.
        """
        self._require_index(self.events, ["visit_id"])
        outdated = {"order_key": {"$gte": from_key}, "rev": {"$lt": rev}}
        fields = ["visit_id", "rev", *REATTRIBUTION_FIELDS]
        return await _find_by(self.events, "visit_id", visit_ids, fields, where=outdated, limit=limit)

    async def reattribute(self, reattributions: Iterable[Reattribution]) -> int:
        """Attribute events again whose attribution is of an earlier revision. Returns how many there were.

        Writes commands of a bounded size. What one has done remains when a later one fails, and is not done twice.
        """
        self._require_index(self.events, ["visit_id"])
        count = 0
        for operations in _update_commands(reattributions):
            count += (await self.events.bulk_write(operations, ordered=False)).modified_count
        return count

    async def erase_naming(self, ids: Sequence[str]) -> int:
        """Erase these events, which name an identity. Returns how many of them no other process has erased."""
        removed = erasable(of_system=True)  # only system events name identities
        change = {"$set": {"erased": True}, "$unset": dict.fromkeys(removed, "")}
        count = 0
        for group in _groups(ids):
            count += (await self.events.update_many({"_id": {"$in": group}}, change)).modified_count
        return count

    async def visits_naming(self, names_hash: str, upper_key: str) -> list[tuple[str, str]]:
        """The visits with events below a key that name the identity with this hash, each with that identity."""
        self._require_index(self.events, ["names_hash"])
        stages = [
            *match_stages(self.events.name, {"names_hash": names_hash, "order_key": {"$lt": upper_key}}),
            {"$group": {"_id": "$visit_id", "name": {"$first": "$names_identity_id"}}},
        ]
        found = await _all_of(self.events.aggregate, stages)
        return [(group["_id"], group["name"]) for group in found]

    async def flag_conflicts(self, ids: Collection[str]) -> None:
        """Mark events under whose id an event with other content arrived."""
        if ids:
            await self.events.update_many({"_id": {"$in": [*ids]}}, {"$set": {"conflict": True}})

    # Interactions

    async def read_interaction(self, key: str) -> Document | None:
        """The interaction with this key."""
        found: Document | None = await self.interactions.find_one({"_id": key})
        return found

    async def write_interaction(self, document: Document) -> bool:
        """Store the next revision of an interaction; False if the stored one is not the revision before.

        Revision 0 is a new interaction; False if there is one.
        """
        if document["rev"] == 0:
            try:
                await self.interactions.insert_one(document)
            except DuplicateKeyError:
                return False
            return True
        where = {"_id": document["_id"], "rev": document["rev"] - 1}
        return bool((await self.interactions.replace_one(where, document)).matched_count)

    async def remove_interactions(self, where: Document) -> int:
        """Remove the matching interactions. Returns how many there were."""
        self._require_index(self.interactions, where)
        return (await self.interactions.delete_many(where)).deleted_count

    async def read_interactions(self, keys: Iterable[str]) -> list[Document]:
        """Those of these interactions that exist."""
        return await _find_by(self.interactions, "_id", keys)

    async def find_interactions(
        self, where: Document, limit: int, fields: Sequence[str] | None = None, *, newest_first: bool = False
    ) -> list[Document]:
        """The first matching interactions in order, or the last ones from the last on: all fields or these."""
        self._require_index(self.interactions, where)
        return await _first(self.interactions, "order_key", where, limit, fields, newest_first=newest_first)

    async def each_interaction(self, where: Document) -> AsyncIterator[Document]:
        """All matching interactions in order, fetched as they are needed."""
        self._require_index(self.interactions, where)
        order = {"order_key": ASCENDING}
        async for group in _in_groups(self.interactions, where, _IDS_PER_QUERY, order=order):
            for interaction in group:
                yield interaction

    # Tombstones

    async def tombstones(self, marks: Collection[str]) -> dict[str, int]:
        """Those of these marks that a tombstone has, with the time erased up to."""
        found = await self._tombstones.find({"_id": {"$in": [*marks]}}, ["erase_time_ms"]).to_list(None)
        return {tombstone["_id"]: tombstone["erase_time_ms"] for tombstone in found}

    async def put_tombstone(self, mark: str, erase_time_ms: int, key_check: str, sealed: str = "") -> None:
        """Store a tombstone. It is on disk when this returns."""
        change = {"$max": {"erase_time_ms": erase_time_ms}, "$set": {"key_check": key_check, "sealed": sealed}}
        await self._tombstones.update_one({"_id": mark}, change, upsert=True)

    async def count_erased(self, mark: str, erasure_id: str, counted: Mapping[str, int]) -> dict[str, int]:
        """Add to the counts of an erasure, and return their sums, by name."""
        counts = {f"erasures.{erasure_id}.{name}": count for name, count in counted.items()}
        tombstone: Any = await self._tombstones.find_one_and_update(
            {"_id": mark}, {"$inc": counts}, return_document=ReturnDocument.AFTER
        )
        sums: dict[str, int] = tombstone["erasures"][erasure_id]
        return sums

    async def has_tombstones_of_other_keys(self, key_check: str) -> bool:
        """Whether a tombstone was made with another key than that with this check. Waits until MongoDB answers."""
        other = {"key_check": {"$ne": key_check}}
        return await _retried(lambda: self._tombstones.find_one(other, ["_id"])) is not None

    # Retention

    async def remove_before(self, at_ms: int) -> int:
        """Remove events dated before a time, and visits without events that were last touched before it.

        With a visit go its interactions: without the timeline, an erasure could not determine whose they are.

        Returns the number of events. Visits are removed last, so that an interrupted sweep finds them again.
        """
        self._require_index(self.visits, ["start_key"])
        self._require_index(self.interactions, ["subject"])
        upper = {"$lt": order_key(at_ms, "")}
        removed = 0
        fields = ["_id", "touched_ms", "last_key"]
        expired = self.visits.find({"start_key": upper}, fields, batch_size=_IDS_PER_QUERY)
        while visits := await expired.to_list(_IDS_PER_QUERY):
            ids = [visit["_id"] for visit in visits]
            old_events = [DeleteMany({"visit_id": visit_id, "order_key": upper}) for visit_id in ids]
            removed += (await self.events.bulk_write(old_events, ordered=False)).deleted_count
            in_use = await self.last_keys(visits)
            over = [visit["_id"] for visit in visits if visit["_id"] not in in_use and visit["touched_ms"] < at_ms]
            if over:
                await self.interactions.delete_many({"subject": {"$in": [subject("visit_id", one) for one in over]}})
                await self.visits.delete_many({"_id": {"$in": over}, "touched_ms": {"$lt": at_ms}})
        return removed

    # Scorecards

    async def lease_counting(self, holder: str, now_ms: int, until_ms: int) -> bool:
        """Let one process count scorecards, until a time; False while another process does."""
        change = {"$set": {"holder": holder, "until_ms": until_ms}}
        if (await self._scorecard_days.update_one({"_id": _LEASE, "holder": holder}, change)).matched_count:
            return True
        try:
            await self._scorecard_days.update_one({"_id": _LEASE, "until_ms": {"$lt": now_ms}}, change, upsert=True)
        except DuplicateKeyError:
            return False
        return True

    async def scorecard_days(self, from_day: str) -> list[Document]:
        """What is known of the days from one on, in no order.

        `counted_ms`: when the last count of the day began. `changed_ms`: when visits of the day were imported.
        """
        # A day begins with a digit, unlike the lease.
        return await self._scorecard_days.find({"_id": {"$gte": from_day, "$lt": ":"}}).to_list(None)

    async def note_changed_days(self, days: Iterable[str], changed_ms: int) -> None:
        """Let these days be counted again: their visits have changed outside of the usual time."""
        change = {"$max": {"changed_ms": changed_ms}}
        operations = [UpdateOne({"_id": day}, change, upsert=True) for day in days]
        if operations:
            await self._scorecard_days.bulk_write(operations, ordered=False)

    async def write_scorecards(self, day: str, counted_ms: int, documents: Iterable[Document]) -> None:
        """Store all scorecards of a day, in place of earlier ones."""
        operations = [ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in documents]
        if operations:
            await self._scorecards.bulk_write(operations, ordered=False)
        earlier = {"_id": {"$gte": f"{day}/", "$lt": f"{day}~"}, "counted_ms": {"$lt": counted_ms}}
        await self._scorecards.delete_many(earlier)
        await self.note_counted_days([day], counted_ms)

    async def note_counted_days(self, days: Iterable[str], counted_ms: int) -> None:
        """Note that the visits of these days have been counted, from a time on."""
        change = {"$set": {"counted_ms": counted_ms}}
        operations = [UpdateOne({"_id": day}, change, upsert=True) for day in days]
        if operations:
            await self._scorecard_days.bulk_write(operations, ordered=False)

    async def find_scorecards(self, where: Document, limit: int) -> list[Document]:
        """The first matching scorecards by `_id`, which is day and site; all of them if `limit` is 0."""
        self._require_index(self._scorecards, where)
        return await _first(self._scorecards, "_id", where, limit, None)

    async def remove_scorecards(self, before_day: str) -> None:
        """Remove the scorecards of the days before one."""
        for collection in (self._scorecards, self._scorecard_days):
            await collection.delete_many({"_id": {"$lt": before_day}})

    # Queries

    async def find_visits(
        self, where: Document, limit: int, fields: Sequence[str] | None = None, *, newest_first: bool = False
    ) -> list[Document]:
        """The first matching visits in order, or the last ones from the last on: all fields or these."""
        self._require_index(self.visits, where)
        return await _first(self.visits, "start_key", where, limit, fields, newest_first=newest_first)

    async def each_visit(self, where: Document) -> AsyncIterator[Document]:
        """All matching visits in order, fetched as they are needed."""
        async for group in self.visit_groups(where, _IDS_PER_QUERY):
            for visit in group:
                yield visit

    def visit_groups(self, where: Document, size: int) -> AsyncIterator[list[Document]]:
        """All matching visits in order, in groups of up to `size`, fetched as they are needed."""
        self._require_index(self.visits, where)
        return _in_groups(self.visits, where, size, order={"start_key": ASCENDING})

    def touched_visits(self, since_ms: int, size: int, newest: int = 0) -> AsyncIterator[list[Document]]:
        """The visits last touched at or after a time, in groups of up to `size`, fetched as they are needed.

        With `newest`, only so many, the latest first. Without, none is missed that is touched meanwhile.
        """
        self._require_index(self.visits, ["touched_ms"])
        order = {"touched_ms": DESCENDING} if newest else _ANY
        return _in_groups(self.visits, {"touched_ms": {"$gte": since_ms}}, size, order=order, limit=newest)

    async def last_events(
        self, visit_ids: Iterable[str], where: Mapping[str, Any], fields: Sequence[str]
    ) -> dict[str, Document]:
        """The last matching event of each of these visits that has one."""
        self._require_index(self.events, ["visit_id"])
        ids = [*visit_ids]
        queries = [
            _first(self.events, "order_key", {"visit_id": visit_id, **where}, 1, fields, newest_first=True)
            for visit_id in ids
        ]
        return {id_: found[0] for id_, found in zip(ids, await asyncio.gather(*queries), strict=True) if found}

    async def ignored_events(
        self, visit_id: str, conditions: Document, limit: int, fields: Sequence[str]
    ) -> list[Document]:
        """The first events of a visit whose user ids name no person and that meet further conditions."""
        where: Document = {"names_hash": ignored_in(visit_id)} | conditions
        self._require_index(self.events, where)
        return await _first(self.events, "order_key", where, limit, fields)

    def visits_in_order(
        self, where: Document, lower: str, upper: str, fields: Sequence[str] | None = None
    ) -> EventCursor:
        """The matching visits by start, between a key and another if it is not empty: all fields or these."""
        self._require_index(self.visits, ["start_key"])

        @_classified
        async def read(keys: Document, limit: int) -> list[Document]:
            return await _first(self.visits, "start_key", {"start_key": keys} | where, limit, fields)

        return EventCursor(read, lower, upper, None, key="start_key")

    def events_of(
        self, visit_ids: Iterable[str], where: Mapping[str, Any], fields: Sequence[str] | None, size: int
    ) -> AsyncIterator[list[Document]]:
        """The matching events of a few visits, by visit id and order key.

        They come with all fields or these in groups of up to `size`, fetched as they are needed.
        """
        self._require_index(self.events, ["visit_id"])
        where = {"visit_id": _one_of([*visit_ids]), **where}
        order = {"visit_id": ASCENDING, "order_key": ASCENDING}
        return _in_groups(self.events, where, size, fields, order=order)

    async def first_start_key(self, where: Document) -> str | None:
        """The start key of the first matching visit."""
        found = await self.find_visits(where, 1, ["start_key"])
        return found[0]["start_key"] if found else None

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
        self._require_index(self.events, ["visit_id"])
        where = {"visit_id": visit_id, "order_key": {"$gte": from_key}}
        found = await self.events.find_one(where, ["order_key"], sort=[("order_key", DESCENDING)])
        return found["order_key"] if found else None

    def events_in_order(
        self, query: EventQuery, lower: str, upper: str, fields: Sequence[str] | None = None
    ) -> EventCursor:
        """The events of a query in its order, between a key and another if it is not empty: all fields or these."""
        self._require_index(self.events, query.parent)

        @_classified
        async def read(keys: Document, limit: int) -> list[Document]:
            where = query.parent | {"order_key": keys} | query.conditions
            return await _first(self.events, "order_key", where, limit, fields, newest_first=query.newest_first)

        return EventCursor(read, lower, upper, query.start_ms, query.end_ms, newest_first=query.newest_first)

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
        self._require_index(self.events, [field])
        queries = [
            _all_of(
                self.events.aggregate,
                [*match_stages(self.events.name, {field: _one_of(part), **where}), {"$group": group}],
            )
            for part in _groups([*values])
        ]
        return [row for answer in await asyncio.gather(*queries) for row in answer]

    async def first_received(self, where: Document) -> Document | None:
        """The matching event that was received first."""
        self._require_index(self.events, where)
        found = await _first(self.events, "received_ms", where, 1, None)
        return found[0] if found else None

    async def identity_ids(self, where: Document, from_id: str, limit: int) -> list[str]:
        """The first identities of matching visits in order, from an id on."""
        self._require_index(self.visits, where)
        stages = [
            *match_stages(self.visits.name, where),
            {"$unwind": "$identities"},
            {"$match": {"identities": {"$gte": from_id}}},
            {"$group": {"_id": "$identities"}},
            {"$sort": {"_id": ASCENDING}},
            {"$limit": limit},
        ]
        found = await _all_of(self.visits.aggregate, stages)
        return [group["_id"] for group in found]

    async def visits_with(self, field: str, values: Iterable[str], where: Document, limit: int) -> list[Document]:
        """The matching visits with one of these values in a field; at most `limit` per group of 50 values."""
        self._require_index(self.visits, [field])
        return await _find_by(self.visits, field, values, where=where, limit=limit)

    async def origins(self, visit_ids: Iterable[str], where: Document) -> dict[str, str]:
        """The `site_key` of those of these visits that match, by visit: it sorts visits by their first receipt."""
        found = await _find_by(self.visits, "_id", visit_ids, ["site_key"], where=where)
        return {document["_id"]: document.get("site_key", "") for document in found}

    async def events_with(
        self, field: str, values: Iterable[str], where: Document, fields: Sequence[str] | None, limit: int
    ) -> list[Document]:
        """The matching events with one of these values in a field; at most `limit` per group of 50 values."""
        self._require_index(self.events, [field])
        return await _find_by(self.events, field, values, fields, where=where, limit=limit)


async def _in_groups(
    collection: "AsyncCollection[Any]",
    where: Mapping[str, Any],
    size: int,
    fields: Sequence[str] | None = None,
    *,
    order: Mapping[str, int] = _ANY,
    limit: int = 0,
) -> AsyncIterator[list[Document]]:
    """The matching documents in an order, in groups of up to `size`, fetched as they are needed."""
    open_cursor = _classified(_cursor)
    read = _classified((await open_cursor(collection, where, fields, order=order, limit=limit, size=size)).to_list)
    while group := await read(size):
        yield group


async def _first(
    collection: "AsyncCollection[Any]",
    key: str,
    where: Document,
    limit: int,
    fields: Sequence[str] | None,
    *,
    newest_first: bool = False,
) -> list[Document]:
    """The first matching documents in the order of a key, or the last ones from the last on."""
    order = {key: DESCENDING if newest_first else ASCENDING}
    return await _all_of(_cursor, collection, where, fields, order=order, limit=limit)


async def _all_of(
    open_cursor: Callable[Given, Awaitable[Any]], *args: Given.args, **kwargs: Given.kwargs
) -> list[Document]:
    """All documents of the cursor that a function opens."""
    found: list[Document] = await (await open_cursor(*args, **kwargs)).to_list(None)
    return found


async def _cursor(
    collection: "AsyncCollection[Any]",
    where: Mapping[str, Any],
    fields: Sequence[str] | None = None,
    *,
    order: Mapping[str, int] = _ANY,
    limit: int = 0,
    size: int = _LARGE_BATCH,
) -> Any:
    """A cursor over the matching documents in an order: all fields or these."""
    stages = match_stages(collection.name, where)
    stages += [{"$sort": order}] if order else []
    stages += [{"$limit": limit}] if limit else []
    stages += [{"$project": dict.fromkeys(fields, 1)}] if fields else []
    return await collection.aggregate(stages, batchSize=size)


def _one_of(values: Sequence[str]) -> Any:
    """A condition on a field. Of a single value, an index also serves a condition on the next field."""
    return values[0] if len(values) == 1 else {"$in": values}


def _change_if(condition: Document, fields: Mapping[str, Any], removed: Iterable[str] = ()) -> list[Document]:
    """An update that sets and removes fields if a condition holds, and else changes nothing.

    In the filter, the condition would keep SecantusDB's server from using an index.
    """
    values = {name: {"$literal": value} for name, value in fields.items()} | dict.fromkeys(removed, "$$REMOVE")
    return [{"$set": {name: {"$cond": [condition, value, f"${name}"]} for name, value in values.items()}}]


async def _retried(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    while True:
        try:
            answer = await _classified(ask)()
        except TRANSIENT_STORE_ERRORS as error:
            _unavailable.failed("MongoDB", error=type(error).__name__, code=str(getattr(error, "code", "") or ""))
            await asyncio.sleep(_RETRY_S)
        else:
            _unavailable.worked("MongoDB")
            return answer


async def _insert(
    collection: "AsyncCollection[Any]", documents: Sequence[Document], per_command: int | None = None
) -> Refusals:
    refusals = Refusals(set(), {})
    for part in _groups(documents, per_command or len(documents)):
        try:
            await collection.insert_many(part, ordered=False)
        except BulkWriteError as error:
            if is_transient(error):
                raise
            for problem in error.details["writeErrors"]:
                document_id = part[problem["index"]]["_id"]
                if problem["code"] == _DUPLICATE_KEY:
                    refusals.duplicates.add(document_id)
                else:
                    refusals.refused[document_id] = _reason(problem)
    return refusals


def _update_commands(reattributions: Iterable[Reattribution]) -> Iterator[list[UpdateMany]]:
    """The operations of each command."""
    part: list[UpdateMany] = []
    count = 0
    for visit_id, keys, fields, removed, _ in reattributions:
        change = _change_if({"$lt": ["$rev", fields["rev"]]}, fields, removed)
        for group in _groups(keys):
            if len(part) == _UPDATES_PER_COMMAND or count + len(group) > _EVENTS_PER_COMMAND:
                yield part
                part, count = [], 0
            part.append(UpdateMany({"visit_id": visit_id, "order_key": {"$in": group}}, change))
            count += len(group)
    if part:
        yield part


def _reason(problem: Mapping[str, Any]) -> str:
    """Why the server refused, without its message, which quotes the document."""
    return f"MongoDB refuses it with code {problem['code']}"


async def _find_by(
    collection: "AsyncCollection[Any]",
    field: str,
    values: Iterable[str],
    fields: Sequence[str] | None = None,
    *,
    where: Mapping[str, Any] = _ANY,
    limit: int = 0,
    group_size: int = _IDS_PER_QUERY,
) -> list[Document]:
    """The documents with one of these values in a field that also meet other conditions."""
    queries = [
        _all_of(_cursor, collection, {field: _one_of(group), **where}, fields, limit=limit)
        for group in _groups([*values], group_size)
    ]
    return [document for found in await asyncio.gather(*queries) for document in found]


def _groups(items: Sequence[Item], size: int = _IDS_PER_QUERY) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size or 1)]
