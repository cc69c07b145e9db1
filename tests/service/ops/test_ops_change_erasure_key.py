"""`footfall-ops change-erasure-key`: erased persons are recognised afterwards, and not by who knows the former key."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from footfall_eventlog.erasure_keys import ErasureKeys
from footfall_history.storage import Tombstones
from footfall_history.storage.store import Store
from footfall_identity.erasure import check_key
from footfall_identity.identity_index import IdentityIndex
from footfall_identity.link_store import LinkStore, Tombstone
from footfall_identity.partitions import Partitions
from footfall_ops.mongo_copy import Database, decoded
from footfall_servicekit.background import RefusalError

from tests.service.identity.conftest import TIMEOUT_MS, visitor_store
from tests.service.ops.conftest import Ops
from tests.service.ops.test_ops_verify import merge
from tests.tools.identity import ERASURE_KEY
from tests.tools.stories import Story

NEW = f"a new key of some length,{ERASURE_KEY}"
NEWEST = f"the newest key of all,{NEW}"
NEWEST_AND_FIRST = f"the newest key of all,{ERASURE_KEY}"
ERASED = {"ann": 2_000_000_000_000, "eve": 2_000_000_000_001}


class Marks:
    """What the stores know of erased persons."""

    def __init__(self, store: Store, links: LinkStore, partitions: Partitions, database: Database) -> None:
        self._store = store
        self._links = links
        self._partitions = partitions
        self._database = database

    async def put(self, key: str) -> None:
        """Mark ERASED as identity and history do."""
        keys = ErasureKeys(key)
        for name, ms in ERASED.items():
            hashed = keys.hash(name)
            await Tombstones(self._store, key).put(hashed, ms)
            tombstone = Tombstone(str(uuid.uuid4()), keys.mark(hashed), ms, "", keys.check, keys.sealed(hashed))
            await self._links.put_tombstone(tombstone)
            await self._index(key).erase(0, hashed, ms)

    def _index(self, key: str) -> IdentityIndex:
        return IdentityIndex(self._partitions, visitor_store(self._partitions, erasure_secret=key))

    async def erased(self, key: str) -> list[dict[str, int]]:
        """Who is erased, by history and by live state. Raises RefusalError for another key."""
        tombstones, names = Tombstones(self._store, key), [*ERASED, "bob"]
        await tombstones.check()
        check_key(ErasureKeys(key), await self._links.tombstones())
        return [{**await tombstones.erase_times(names)}, await self.erased_in_live_state(key)]

    async def erased_in_live_state(self, key: str) -> dict[str, int]:
        return await self._index(key).tombstones((str(uuid.uuid4()), name) for name in [*ERASED, "bob"])

    async def everything(self) -> str:
        """All tombstones, as text."""
        found: list[Any] = [await self._partitions.redis[0].hgetall("tombstones:{p00}")]
        for name in ("identity_tombstones", "history_tombstones"):
            found += [decoded(document) async for document in self._database.documents(name)]
        return str(found)


@pytest.fixture
async def marks(store: Store, redis_database_url: str, mongo_url: str, mongo_database: str) -> AsyncIterator[Marks]:
    partitions = Partitions(redis_database_url, 1, timeout_ms=TIMEOUT_MS)
    links = LinkStore(mongo_url, mongo_database, timeout_ms=20_000, erasure_secret=ERASURE_KEY)
    database = Database(mongo_url, mongo_database, 20_000)
    yield Marks(store, links, partitions, database)
    await database.close()
    await links.close()
    await partitions.redis.aclose()


async def test_erased_persons_are_known_by_the_new_key_and_no_hash_of_them_is_left(
    ops: Ops, marks: Marks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await marks.put(ERASURE_KEY)
    hashes = [ErasureKeys(ERASURE_KEY).hash(name) for name in ERASED]
    everything = await marks.everything()
    assert all(hashed in everything for hashed in hashes)
    with pytest.raises(RefusalError, match="change-erasure-key"):
        await marks.erased(NEW)
    for key, former, in_use in ((NEW, ERASURE_KEY, NEW), (NEWEST, NEW, NEWEST_AND_FIRST)):
        monkeypatch.setenv("ERASURE_KEY", key)
        assert await ops("change-erasure-key") == 0
        assert "4 marks of erased persons are changed." in capsys.readouterr().err
        assert await marks.erased(in_use) == [ERASED, ERASED]
        everything = await marks.everything()
        assert not any(hashed in everything for hashed in hashes)
        with pytest.raises(RefusalError, match="another key"):
            await marks.erased(former)
    assert await ops("change-erasure-key") == 0
    assert "0 marks" in capsys.readouterr().err


async def test_an_interrupted_change_is_completed(
    ops: Ops, marks: Marks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await marks.put(ERASURE_KEY)
    replace, left = Database.replace, 3

    async def until_the_third(database: Database, *given: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise RefusalError("interrupted")
        await replace(database, *given)

    monkeypatch.setenv("ERASURE_KEY", NEW)
    monkeypatch.setattr(Database, "replace", until_the_third)
    assert await ops("change-erasure-key") == 1
    for key in (ERASURE_KEY, NEW):
        assert await marks.erased_in_live_state(key) == ERASED
    monkeypatch.setattr(Database, "replace", replace)
    assert await ops("change-erasure-key") == 0
    assert "2 marks of erased persons are changed." in capsys.readouterr().err
    assert await marks.erased(NEW) == [ERASED, ERASED]
    assert await marks.erased_in_live_state(ERASURE_KEY) == {}


async def test_a_key_that_was_not_in_use_is_refused_and_nothing_changes(
    ops: Ops, marks: Marks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await marks.put(ERASURE_KEY)
    before = await marks.everything()
    monkeypatch.setenv("ERASURE_KEY", "a new key of some length,another one of some length")
    assert await ops("change-erasure-key") == 1
    assert "identities were erased in this database with another key" in capsys.readouterr().err
    assert await marks.everything() == before


async def test_a_late_event_of_an_erased_person_is_recognised_by_live_state_under_two_values(
    marks: Marks, redis_database_url: str
) -> None:
    await marks.put(NEW)
    partitions = Partitions(redis_database_url, 1, timeout_ms=TIMEOUT_MS)
    live, stories = visitor_store(partitions, erasure_secret=NEW), [Story("ann"), Story("bob")]
    await merge(live, *stories)
    records = await live.get(story.visit_id for story in stories)
    named = [{each.identity for each in records[story.visit_id].timeline} for story in stories]
    assert ("ann" in named[0], "bob" in named[1]) == (False, True)
    await partitions.redis.aclose()
