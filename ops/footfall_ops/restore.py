"""Restores a backup into empty stores, while the services are stopped.

Nothing is written before all checks have passed. The services read all of the restored log, and what is stored already
does not change. The marks of checkpoints are left out. So identity takes Redis for one that has gone back, and builds
live state again from history.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from footfall_eventlog.checkpoint_store import checkpoint_key, order_of
from footfall_eventlog.log import HISTORY_GROUP, stream_key
from footfall_eventlog.partitions import PartitionedRedis
from footfall_eventlog.store_reports import redis_report
from footfall_eventlog.stream import PAYLOAD_FIELD
from footfall_history.dead_letters import DeadLetter, DeadLetterQueue
from footfall_history.storage import TOUCH_INTERVAL_MS
from footfall_servicekit.background import RefusalError

from footfall_ops import redis_copy
from footfall_ops.attributions import Attributions
from footfall_ops.backup import log_start
from footfall_ops.folder import (
    Folder,
    LogStart,
    Manifest,
    SavedDeadLetter,
    SavedEntry,
    SavedKey,
    SavedSlowBatch,
)
from footfall_ops.mongo_copy import Database, decoded
from footfall_ops.progress import Progress, say
from footfall_ops.stores import OpsSettings, Stores, dead_letters_of, opened, opened_database, require_stopped

Part = Literal["redis", "mongodb"]
PARTS: Final[tuple[Part, ...]] = ("redis", "mongodb")

_CHECKPOINTS: Final = ("history_checkpoints", "identity_checkpoints")
_RECORDS_PER_CALL: Final = 500
_BYTES_PER_CALL: Final = 1024 * 1024
_CLOCKS_DIFFER_MS: Final = 60_000


async def restore(
    settings: OpsSettings, path: Path, parts: Sequence[Part], *, replaces: bool, accepts_gap: bool
) -> int:
    """Restore a backup, or a part of it. Returns the exit code. Raises RefusalError."""
    folder = Folder(path)
    manifest = folder.read_manifest()
    async with opened(settings) as stores, opened_database(settings) as database:
        await redis_report(stores.redis)
        await stores.store.report()
        _check_settings(settings, stores, manifest)
        await require_stopped(stores.redis)
        await _check_ages(stores, database, folder, manifest, parts, accepts_gap=accepts_gap)
        if not replaces:
            await _require_empty(stores, database, parts)
        say("Checking the files of the backup.")
        folder.check(manifest)
        if "mongodb" in parts:
            await _restore_mongo(database, folder, manifest)
        if "redis" in parts:
            await _restore_redis(settings, stores, folder, manifest)
        if "mongodb" in parts:
            await _correct(stores, manifest)
    say(f"Restored, with every event that was confirmed before {manifest.moment}. Start the services, then `verify`.")
    return 0


def _check_settings(settings: OpsSettings, stores: Stores, manifest: Manifest) -> None:
    if manifest.partitions != settings.history.partitions:
        raise RefusalError(
            f"PARTITIONS is {settings.history.partitions}, but the backup was made with {manifest.partitions}. Set "
            f"PARTITIONS={manifest.partitions}, and change it afterwards by `footfall-ops repartition`."
        )
    if manifest.erasure_key_check != stores.tombstones.key_check:
        raise RefusalError(
            "ERASURE_KEY: is not that of the backup, so erased persons would not be recognised; set that one"
        )


async def _require_empty(stores: Stores, database: Database, parts: Sequence[Part]) -> None:
    if "redis" in parts:
        async for _ in redis_copy.keys_like(stores.redis):
            raise RefusalError("Redis has data of Footfall. With --replace they are removed.")
    if "mongodb" in parts and (names := await database.names()):
        raise RefusalError(f"MongoDB has data in {', '.join(names)}. With --replace they are removed.")


async def _check_ages(
    stores: Stores,
    database: Database,
    folder: Folder,
    manifest: Manifest,
    parts: Sequence[Part],
    *,
    accepts_gap: bool,
) -> None:
    """Refuse a MongoDB that is older than the log: what happened in between would be in neither."""
    if "redis" in parts:
        starts = manifest.log
    else:
        starts = [await log_start(stores.redis, number) for number in stores.redis.numbers]
    checkpoints = dict[str, Mapping[str, Any]]()
    for name in _CHECKPOINTS:
        if "mongodb" in parts:
            documents: Iterable[bytes] = folder.documents(name) if name in folder.collections(manifest) else ()
        else:
            documents = [document async for document in database.documents(name)]
        checkpoints |= {f"{name}/{one['_id']}": one for one in map(decoded, documents)}
    gaps = [
        f"partition {start.partition}: {gap}"
        for start in starts
        for name in _CHECKPOINTS
        if (gap := gap_before(start, checkpoints.get(f"{name}/{checkpoint_key(start.partition, len(starts))}")))
    ]
    if gaps and not accepts_gap:
        raise RefusalError(
            "MongoDB would be older than the event log, and events between the two would be lost:\n"
            + "".join(f"  {gap}\n" for gap in sorted(set(gaps)))
            + "Restore a later MongoDB, or both parts of one backup. With --accept-gap it is restored all the same."
        )


def gap_before(start: LogStart, checkpoint: Mapping[str, Any] | None) -> str:
    """What the log no longer holds and MongoDB does not have yet; empty if there is nothing."""
    if not start.removed:
        return ""
    if checkpoint is None:
        return f"the log no longer holds {start.removed:,} entries, and MongoDB does not say which of them it has"
    if checkpoint["epoch"] == start.epoch:
        missing = start.removed - checkpoint["ordinal"]
        return f"{missing:,} entries since {_time(order_of(checkpoint['id'])[0])}" if missing > 0 else ""
    stored_ms = order_of(checkpoint["id"])[0]
    return f"entries from {_time(stored_ms)} to {_time(start.oldest_ms)}" if stored_ms < start.oldest_ms else ""


async def _restore_mongo(database: Database, folder: Folder, manifest: Manifest) -> None:
    for name in await database.names():
        await database.drop(name)
    for name in folder.collections(manifest):
        count = await database.insert(name, folder.documents(name))
        say(f"MongoDB: {name}: {count:,} documents")


async def _restore_redis(settings: OpsSettings, stores: Stores, folder: Folder, manifest: Manifest) -> None:
    redis, letters = stores.redis, dead_letters_of(settings, stores.log)
    await redis_copy.remove(redis)
    count, writer = 0, _Writer(redis)
    progress = Progress(lambda: f"Redis: {count:,} records")
    for record in folder.records():
        count += 1
        match record:
            case SavedKey():
                await writer.add(redis_copy.number_in(record.key), record)
            case SavedEntry():
                await writer.add(record.partition, record)
            case SavedSlowBatch():
                await writer.add(record.partition, record)
            case SavedDeadLetter():
                await _put_letter(letters, record)
        progress.report()
    await writer.flush()
    for start in manifest.log:
        await _keep_count_of_removed(redis[start.partition], start)
    await redis.note_made_with(str(manifest.partitions))
    say(f"Redis: {count:,} records")


async def _put_letter(letters: DeadLetterQueue, saved: SavedDeadLetter) -> None:
    letter = DeadLetter(saved.partition, saved.id, saved.created_ms, saved.reason, saved.payload)
    await letters.put_back(letter)


async def _keep_count_of_removed(client: Any, start: LogStart) -> None:
    """Let the stream say how many entries were ever appended: a later check of ages compares it."""
    key = stream_key(start.partition)
    await client.xgroup_create(key, HISTORY_GROUP, id="0", mkstream=True)
    about = await client.xinfo_stream(key)
    last_id = about["last-generated-id"] if about["length"] else start.last_id
    await client.execute_command("XSETID", key, last_id, "ENTRIESADDED", start.removed + about["length"])


class _Writer:
    """Writes many records of a partition together, in their order."""

    def __init__(self, redis: PartitionedRedis) -> None:
        self._redis = redis
        self._waiting: dict[int, list[SavedKey | SavedEntry | SavedSlowBatch]] = defaultdict(list)
        self._count = self._size = 0

    async def add(self, number: int, record: SavedKey | SavedEntry | SavedSlowBatch) -> None:
        """Write a record soon."""
        self._waiting[number].append(record)
        self._count += 1
        self._size += len(record.value if isinstance(record, SavedKey) else record.payload)
        if self._size >= _BYTES_PER_CALL or self._count >= _RECORDS_PER_CALL:
            await self.flush()

    async def flush(self) -> None:
        """Write those that wait."""
        for number, records in self._waiting.items():
            pipeline, log = self._redis[number].pipeline(transaction=False), stream_key(number)
            for record in records:
                match record:
                    case SavedKey():
                        redis_copy.put(pipeline, record.key, record.expires_ms, record.value)
                    case SavedEntry():
                        pipeline.xadd(log, {PAYLOAD_FIELD: record.payload}, id=record.id)
                    case SavedSlowBatch():
                        pipeline.xadd(log, {PAYLOAD_FIELD: record.payload})
            await pipeline.execute()
        self._waiting.clear()
        self._count = self._size = 0


async def _correct(stores: Stores, manifest: Manifest) -> None:
    """Correct the attributions of visits that changed while their events and they themselves were read."""
    say("Making the indexes of history.")
    await stores.store.prepare()
    found = Attributions(stores.store, stores.tombstones, lambda _: None, repairs=True, is_alone=True)
    progress = Progress(lambda: f"{found.visits:,} visits verified that changed during the backup")
    since_ms = min(manifest.unstored_since_ms, manifest.began_ms) - TOUCH_INTERVAL_MS - _CLOCKS_DIFFER_MS
    async for _ in found.of_touched(since_ms):
        progress.report()
    say(f"{found.visits:,} visits changed during the backup; {found.differences:,} differences are corrected")


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
