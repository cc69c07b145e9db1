"""Marks erased persons under a new first value of ERASURE_KEY.

Each tombstone of identity and history has the hash of an identity, sealed under the former value: it is opened and
sealed again. Redis gets the new marks before MongoDB, and loses the former ones after it: an interrupted command can be
run again, or be given up.
"""

from collections.abc import Mapping
from typing import Any, Final

from footfall_eventlog.erasure_keys import OTHER_KEY, ErasureKeys
from footfall_eventlog.partitions import hash_tag
from footfall_eventlog.store_reports import redis_report
from footfall_servicekit.background import RefusalError

from footfall_ops import redis_copy
from footfall_ops.mongo_copy import Database, decoded
from footfall_ops.progress import Progress, say
from footfall_ops.stores import OpsSettings, opened, opened_database, require_stopped

_MARKS: Final = {"identity_tombstones": "hash", "history_tombstones": "_id"}
"""The field with the mark, by collection."""


async def change_erasure_key(settings: OpsSettings) -> int:
    """Seal all tombstones under the first value. Returns the exit code. Raises RefusalError."""
    keys = ErasureKeys(settings.history.erasure_secret)
    async with opened(settings) as stores, opened_database(settings) as database:
        await redis_report(stores.redis)
        await stores.store.report()
        await require_stopped(stores.redis)
        changed = {name: await _changed(database, name, keys) for name in _MARKS}
        marks = {before["hash"]: after["hash"] for before, after in changed["identity_tombstones"]}
        in_redis = [(stores.redis[number], f"tombstones:{hash_tag(number)}") for number in stores.redis.numbers]
        for client, key in in_redis:
            await redis_copy.copy_fields(client, key, marks)
        count, total = 0, sum(map(len, changed.values()))
        progress = Progress(lambda: f"{count:,} of {total:,} marks of erased persons")
        for name, documents in changed.items():
            for before, after in documents:
                await database.replace(name, before["_id"], after)
                count += 1
                progress.report()
        valid = {decoded(document)["hash"] async for document in database.documents("identity_tombstones")}
        for client, key in in_redis:
            await redis_copy.keep_fields(client, key, valid)
    say(f"{total:,} marks of erased persons are changed. Start identity and history with this ERASURE_KEY.")
    return 0


async def _changed(
    database: Database, name: str, keys: ErasureKeys
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The tombstones of a collection that are not of these keys, as they are and as they will be."""
    former = {each.check: each for each in keys.former()}
    found: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
    async for raw in database.documents(name):
        document = decoded(raw)
        if document["key_check"] == keys.check:
            continue
        if document["key_check"] not in former:
            raise RefusalError(OTHER_KEY)
        hashed = former[document["key_check"]].opened(document[_MARKS[name]], document.get("sealed", ""))
        sealed = {"key_check": keys.check, "sealed": keys.sealed(hashed), _MARKS[name]: keys.mark(hashed)}
        found.append((document, {**document, **sealed}))
    return found
