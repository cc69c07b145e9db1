"""Writes a backup while the services run.

Each part is read before the parts that its contents go to: live state, then the log and what waits beside it, then
MongoDB, there events before visits. An event that was confirmed before the log is read is in it, or history has stored
it before. So nothing that is confirmed by then is missing. What changes during the backup may be in it in part:
`restore` corrects the attributions of visits that changed.
"""

import os
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from footfall_eventlog.checkpoint_store import order_of
from footfall_eventlog.log import HISTORY_GROUP, STREAM_PREFIX, stream_key
from footfall_eventlog.partitions import PartitionedRedis
from footfall_eventlog.store_reports import redis_report
from footfall_eventlog.stream import mark_key
from footfall_history.dead_letters import DeadLetterQueue

from footfall_ops import redis_copy
from footfall_ops.folder import (
    KEYS_FOLDER,
    REDIS_FILE,
    Folder,
    LogStart,
    Manifest,
    SavedDeadLetter,
    SavedEntry,
    SavedFile,
    SavedKey,
    SavedSlowBatch,
    Writer,
    file_of,
)
from footfall_ops.mongo_copy import Database
from footfall_ops.progress import Progress, say
from footfall_ops.stores import OpsSettings, Stores, dead_letters_of, now_ms, opened, opened_database, slow_visits_of

_NOT_LIVE_STATE: Final = (STREAM_PREFIX.encode(), b"checkpoint:", b"slow:", b"aside:", b"moving:", b"moved:")
"""What begins so is written by entry, or means nothing in a restored Redis."""
_FIRST: Final = ("history_checkpoints", "identity_checkpoints", "events", "visits", "identities")
"""Checkpoints before what they say is stored; events before their visits; identities before their contacts."""
_SECRETS: Final = ("ERASURE_KEY", "GATEWAY_AUDIT_KEY")
_FILES: Final = ("SITES_FILE", "IDENTITY_POLICY_FILE", "CATEGORIES_FILE", "DSL_FILE", "GATEWAY_KEYS_FILE")


async def backup(settings: OpsSettings, path: Path, *, with_keys: bool) -> int:
    """Write a backup into a new folder. Returns the exit code."""
    folder, files = Folder(path), dict[str, SavedFile]()
    async with opened(settings) as stores:
        await redis_report(stores.redis)
        await stores.store.report()
        folder.create()
        if with_keys:
            _write_keys(folder, os.environ)
        began_ms = now_ms()
        unstored_since_ms = await _unstored_since_ms(settings, stores, began_ms)
        moment_ms, log = await _write_redis(settings, stores, folder, files)
        async with opened_database(settings) as database:
            await _write_mongo(database, folder, files)
        manifest = Manifest(
            version=version("footfall-ops"),
            moment=datetime.fromtimestamp(moment_ms / 1000, UTC).isoformat(timespec="milliseconds"),
            began_ms=began_ms,
            unstored_since_ms=unstored_since_ms,
            partitions=len(stores.redis.numbers),
            erasure_key_check=stores.tombstones.key_check,
            log=log,
            files=files,
        )
    folder.write_manifest(manifest)
    records = sum(one.records for one in files.values())
    seconds = (now_ms() - began_ms) / 1000
    say(f"{path}: {records:,} records in {seconds:,.1f} s. Every event confirmed before {manifest.moment} is in it.")
    if with_keys:
        say(f"{path / KEYS_FOLDER} holds secrets. Without ERASURE_KEY no erased person is recognised after a restore.")
    return 0


async def _unstored_since_ms(settings: OpsSettings, stores: Stores, now: int) -> int:
    """When the oldest entry that history may still store was appended; 0: it is not known, for slow visits."""
    slow, since_ms = slow_visits_of(settings, stores.log), now
    for number in stores.redis.numbers:
        if not await slow.is_empty(number):
            return 0
        since_ms = min(since_ms, await stores.log.oldest_unhandled_ms(number) or now)
    return since_ms


async def _write_redis(
    settings: OpsSettings, stores: Stores, folder: Folder, files: dict[str, SavedFile]
) -> tuple[int, list[LogStart]]:
    """Write what is in Redis. Returns the moment up to which all is in the backup, and where the log begins."""
    redis, starts = stores.redis, list[LogStart]()
    letters, slow = dead_letters_of(settings, stores.log), slow_visits_of(settings, stores.log)
    with folder.written(REDIS_FILE, files) as file:
        progress = Progress(lambda: f"Redis: {file.records:,} records")
        async for keys in redis_copy.keys_like(redis):
            of_live_state = [key for key in keys if not key.startswith(_NOT_LIVE_STATE)]
            client = redis[redis_copy.number_in(keys[0])]
            for value in await redis_copy.dump(client, of_live_state):
                file.add(SavedKey(*value))
            progress.report()
        # Before the log, to which a dead letter that is replayed goes, and after it, from which new ones come.
        await _write_dead_letters(redis, letters, file)
        moment_ms = now_ms()
        for number in redis.numbers:
            starts.append(start := await log_start(redis, number))
            async for entry_id, payload in redis_copy.entries(redis[number], stream_key(number), start.last_id):
                file.add(SavedEntry(number, entry_id, payload))
                progress.report()
        for number in redis.numbers:
            async for payload in slow.waiting(number):
                file.add(SavedSlowBatch(number, payload))
                progress.report()
        await _write_dead_letters(redis, letters, file)
    return moment_ms, starts


async def _write_dead_letters(redis: PartitionedRedis, letters: DeadLetterQueue, file: Writer) -> None:
    for number in redis.numbers:
        async for letter in letters.in_partition(number):
            file.add(SavedDeadLetter(number, letter.id, letter.created_ms, letter.reason, letter.payload))


async def log_start(redis: PartitionedRedis, number: int) -> LogStart:
    """Where the log of a partition begins and ends now."""
    about = await redis_copy.about_log(redis, number)
    epoch = await redis[number].hget(mark_key(stream_key(number), HISTORY_GROUP), "epoch")
    first, last = about["first-entry"], about["last-generated-id"].decode()
    return LogStart(
        partition=number,
        epoch=epoch.decode() if epoch else "",
        removed=about["entries-added"] - about["length"],
        added=about["entries-added"],
        oldest_ms=order_of(first[0].decode() if first else last)[0],
        last_id=last,
    )


async def _write_mongo(database: Database, folder: Folder, files: dict[str, SavedFile]) -> None:
    names = await database.names()
    for name in [*(name for name in _FIRST if name in names), *(name for name in names if name not in _FIRST)]:
        with folder.written(file_of(name), files) as file:
            progress = Progress(partial(_documents_line, name, file))
            async for document in database.documents(name):
                file.add_bytes(document)
                progress.report()


def _documents_line(name: str, file: Writer) -> str:
    return f"MongoDB: {name}: {file.records:,} documents"


def _write_keys(folder: Folder, environment: Mapping[str, str]) -> None:
    """Write the secrets of the environment, and copy the files that it names."""
    secrets = [f"{name}={environment[name]}\n" for name in _SECRETS if environment.get(name)]
    folder.write_text(f"{KEYS_FOLDER}/secrets.env", "".join(secrets))
    for setting in _FILES:
        if value := environment.get(setting):
            for file in _with_others(setting, Path(value)):
                copy = folder.path / KEYS_FOLDER / setting / file.name
                copy.parent.mkdir(mode=0o700, exist_ok=True)
                shutil.copyfile(file, copy)
                copy.chmod(0o600)


def _with_others(setting: str, file: Path) -> Iterator[Path]:
    """A file with those that belong to it: the audit of keys, and the keys that a sites file names."""
    if file.exists():
        yield file
    if setting == "GATEWAY_KEYS_FILE" and (audit := file.with_suffix(".audit")).exists():
        yield audit
    if setting == "SITES_FILE":
        for named in _named_files(tomllib.loads(file.read_text(encoding="utf-8"))):
            yield file.parent / named


def _named_files(value: Any) -> Iterable[str]:
    """The values of `secret_file` and `public_key_file` anywhere in a sites file."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in {"secret_file", "public_key_file"} and isinstance(inner, str):
                yield inner
            else:
                yield from _named_files(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named_files(inner)
