"""`footfall-ops backup` and `restore`: all comes back, and what would lose something is refused."""

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from footfall_eventlog.stream import mark_key
from footfall_history.dead_letters.queue import DeadLetter, DeadLetterQueue
from footfall_history.ingest.attribution import Attributor
from footfall_history.ingest.slow_visits import SlowVisits
from footfall_history.storage.store import Store
from footfall_identity.visitor_store import VisitorStore
from footfall_ops import stores

from tests.service.ops.conftest import Ops
from tests.service.ops.test_ops_verify import merge
from tests.tools.stories import Story

LOG = "log:{p00}"


@pytest.fixture
async def backup(
    ops: Ops,
    store: Store,
    attributor: Attributor,
    live: VisitorStore,
    *,
    redis: Any,
    slow: SlowVisits,
    dead_letters: DeadLetterQueue,
    tmp_path: Path,
) -> Path:
    """A backup of a visit that is stored, one in the log, one that is slow, and one that is a dead letter."""
    stored, logged, waiting, dead = (Story(name) for name in ("stored", "logged", "waiting", "dead"))
    await attributor.store([stored.entry()])
    await merge(live, stored)
    await redis.set("log:partitions", 1)
    await redis.xadd(LOG, {"b": b"removed"}, id="1-1")
    await redis.xadd(LOG, {"b": logged.entry().SerializeToString()}, id="5-1")
    await redis.xdel(LOG, "1-1")
    await redis.hset(mark_key(LOG, "history"), "epoch", "1-a")
    await slow.put(0, [(waiting.visit_id, waiting.entry())])
    batch = dead.entry()
    del batch.events[1:]
    letter = DeadLetter(0, f"{dead.visit_id}/{dead.event_id(0)}", 1_900_000_000_000, "why", batch.SerializeToString())
    await dead_letters.put_back(letter)
    checkpoint = {"_id": "0/1", "epoch": "1-a", "id": "1-1", "ordinal": 1}
    for name in ("history_checkpoints", "identity_checkpoints"):
        await store.events.database[name].insert_one(checkpoint)
    folder = tmp_path / "backup"
    assert await ops("backup", folder) == 0
    return folder


async def emptied(store: Store, redis: Any) -> None:
    await redis.flushdb()
    for name in await store.events.database.list_collection_names():
        await store.events.database.drop_collection(name)


async def test_all_of_a_backup_comes_back(
    ops: Ops, backup: Path, store: Store, redis: Any, dead_letters: DeadLetterQueue
) -> None:
    async def contents() -> tuple[Any, ...]:
        events = await store.events.find({}).sort("_id", 1).to_list(None)
        visits = await store.visits.find({}).to_list(None)
        keys = [key async for key in redis.scan_iter("visit:*")]
        hashes = [await redis.hgetall(key) for key in keys]
        lives = [await redis.pttl(key) > 0 for key in keys]
        letters = [letter async for letter in dead_letters.in_partition(0)]
        return events, visits, keys, hashes, lives, letters, await redis.zrange("live:{p00}:known", 0, -1)

    [waiting] = [await redis.lrange(key, 0, -1) async for key in redis.scan_iter("slow:{p00}:*-*")]
    log, before = await redis.xrange(LOG), await contents()
    await emptied(store, redis)
    assert await ops("restore", backup) == 0
    assert await contents() == before
    restored = await redis.xrange(LOG)
    assert restored[:1] == log
    assert [fields[b"b"] for _, fields in restored[1:]] == waiting, "history reads it from the log again"
    about = await redis.xinfo_stream(LOG)
    assert (about["entries-added"], about["length"]) == (3, 2), "it says how many entries were removed"
    assert await redis.get("log:partitions") == b"1"
    assert await ops("verify") == 0


async def test_attributions_of_a_visit_that_changed_during_the_backup_are_corrected(
    ops: Ops, backup: Path, store: Store, redis: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    await emptied(store, redis)
    file = backup / "mongodb" / "events.bson.gz"
    documents = file.read_bytes()
    plain = gzip.decompress(documents)
    state = plain.index(b"\x10state\0") + len(b"\x10state\0")
    file.write_bytes(gzip.compress(plain[:state] + b"\x03" + plain[state + 1 :]))
    assert await ops("restore", backup) == 1
    assert "is damaged" in capsys.readouterr().err
    assert await redis.dbsize() == 0

    manifest = json.loads((backup / "manifest.json").read_bytes())
    manifest["files"]["mongodb/events.bson.gz"]["sha256"] = sha256(file)
    (backup / "manifest.json").write_text(json.dumps(manifest))
    assert await ops("restore", backup) == 0
    assert "1 differences are corrected" in capsys.readouterr().err
    assert await ops("verify") == 0


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


async def test_stores_with_data_are_kept_unless_they_are_to_be_replaced(
    ops: Ops, backup: Path, store: Store, redis: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await ops("restore", backup) == 1
    assert "--replace" in capsys.readouterr().err
    await redis.set("visit:{p00}:of another", "x")
    await store.events.insert_one({"_id": "other"})
    assert await ops("restore", backup, "--replace") == 0
    assert not await redis.exists("visit:{p00}:of another")
    assert await store.events.find_one({"_id": "other"}) is None


async def test_a_mongodb_that_is_older_than_the_log_is_refused(
    ops: Ops, backup: Path, store: Store, redis: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log goes on after the backup and is trimmed, then MongoDB alone is lost."""
    for number in range(2, 5):
        await redis.xadd(LOG, {"b": b"later"}, id=f"{number * 10}-1")
    await redis.xtrim(LOG, minid="40-1", approximate=False)
    await store.events.database.client.drop_database(store.events.database.name)
    assert await ops("restore", backup, "--only", "mongodb") == 1
    said = capsys.readouterr().err
    assert "MongoDB would be older than the event log" in said
    assert "partition 0: 3 entries since 1970-01-01" in said
    assert await store.events.find_one({}) is None

    await redis.hset(mark_key(LOG, "history"), "epoch", "2-b")
    assert await ops("restore", backup, "--only", "mongodb") == 1
    assert "partition 0: entries from 1970-01-01T00:00:00+00:00 to" in capsys.readouterr().err
    assert await ops("restore", backup, "--only", "mongodb", "--accept-gap") == 0
    assert await store.events.find_one({})


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [("ERASURE_KEY", "another key of some length", "ERASURE_KEY"), ("PARTITIONS", "2", "repartition")],
)
async def test_other_settings_than_those_of_the_backup_are_refused(
    ops: Ops,
    backup: Path,
    store: Store,
    redis: Any,
    *,
    setting: str,
    value: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await emptied(store, redis)
    monkeypatch.setenv(setting, value)
    assert await ops("restore", backup) == 1
    assert said in capsys.readouterr().err


async def test_nothing_is_restored_while_a_service_runs(
    ops: Ops, backup: Path, redis: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores, "_READS_EVERY_MS", 60_000)
    await redis.xgroup_create(LOG, "history", id="0")
    await redis.xreadgroup("history", "a reader", {LOG: ">"})
    assert await ops("restore", backup, "--replace") == 1
    assert "stop collector, identity and history" in capsys.readouterr().err


def modes(folder: Path) -> set[int]:
    return {file.stat().st_mode & 0o777 for file in folder.rglob("*") if file.is_file()}


async def test_a_backup_is_written_into_a_new_folder_and_has_the_keys(
    ops: Ops, backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await ops("backup", backup) == 1
    assert "must be a new or an empty folder" in capsys.readouterr().err
    assert (backup / "keys" / "secrets.env").read_text() == "ERASURE_KEY=erasure key of the tests\n"
    assert modes(backup) == {0o600}
    assert await ops("restore", tmp_path / "nothing") == 1
    assert "is no complete backup" in capsys.readouterr().err

    (tmp_path / "key.pem").write_text("the key of a site")
    (sites := tmp_path / "sites.toml").write_text(
        '[[site]]\nname = "shop"\nkeys = [{ id = "1", algorithm = "EdDSA", public_key_file = "key.pem" }]\n'
    )
    monkeypatch.setenv("SITES_FILE", str(sites))
    assert await ops("backup", tmp_path / "second") == 0
    copies = tmp_path / "second" / "keys" / "SITES_FILE"
    assert {file.name: file.read_text() for file in copies.iterdir()} == {
        "sites.toml": sites.read_text(),
        "key.pem": "the key of a site",
    }
    assert await ops("backup", tmp_path / "third", "--no-keys") == 0
    assert not (tmp_path / "third" / "keys").exists()
