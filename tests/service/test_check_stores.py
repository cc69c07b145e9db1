"""`check --stores` of each service says what its stores hold, before anything of them is used or changed."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

import pytest
from footfall_history.storage.store import Store
from footfall_identity.link_store import LinkStore

from tests.arch.house import SERVICES
from tests.tools.ports import free_ports

STORES = {"collector": 1, "identity": 2, "history": 2, "gateway": 1}
Check = Callable[[str], Awaitable[int]]


@pytest.fixture
def check(
    redis_database_url: str, mongo_url: str, mongo_database: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Awaitable[int]]:
    """Runs `check --stores` of a service, and gives its exit code."""
    names = {"REDIS_URL": redis_database_url, "MONGO_URL": mongo_url, "MONGO_DATABASE": mongo_database}
    for name, value in (names | {"ERASURE_KEY": "erasure key of the tests"}).items():
        monkeypatch.setenv(name, value)
    for service in SERVICES:
        monkeypatch.setenv(f"{service.upper()}_PORT", "0")

    def run(service: str) -> int:
        monkeypatch.setattr(sys, "argv", ["anything", "check", "--stores"])
        with pytest.raises(SystemExit) as ended:
            import_module(f"footfall_{service}.__main__").main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    async def check(service: str) -> int:
        return await asyncio.to_thread(run, service)

    return check


@pytest.mark.parametrize("service", SERVICES)
async def test_stores_that_can_be_used_are_described_and_not_changed(
    check: Check, service: str, redis: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await check(service) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "The settings are right."
    assert len(lines) == 1 + STORES[service]
    assert await redis.dbsize() == 0


async def test_indexes_that_the_start_would_make_are_named(
    check: Check, mongo_url: str, mongo_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for service, index in (("history", "events.visit_id"), ("identity", "contacts.search_keys._id")):
        assert await check(service) == 0
        assert f"the start makes these indexes: {index}" in capsys.readouterr().err
    store = Store.open(mongo_url, mongo_database, 20_000)
    links = LinkStore(mongo_url, mongo_database, timeout_ms=20_000, erasure_secret="")
    for one in (store, links):
        await one.prepare()
        await one.close()
    for service in ("history", "identity"):
        assert await check(service) == 0
        assert "answers; all indexes exist." in capsys.readouterr().err


@pytest.mark.parametrize("service", ["collector", "identity", "history"])
async def test_another_number_of_partitions_is_wrong(
    check: Check, service: str, redis: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    await redis.set("log:partitions", 4)
    assert await check(service) == 2
    assert "PARTITIONS is 1, but the data in this Redis was made with 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("service", "setting", "scheme"),
    [
        *((service, "REDIS_URL", "redis") for service in SERVICES),
        *((service, "MONGO_URL", "mongodb") for service in ("identity", "history")),
    ],
)
async def test_a_store_that_does_not_answer_is_named(
    check: Check,
    service: str,
    setting: str,
    scheme: str,
    *,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    [unused_port] = free_ports(1)
    monkeypatch.setenv(setting, f"{scheme}://127.0.0.1:{unused_port}")
    monkeypatch.setenv(f"{service.upper()}_MONGO_TIMEOUT_MS", "200")
    monkeypatch.setattr("footfall_eventlog.store_reports._TIMEOUT_S", 0.2)
    assert await check(service) == 1
    assert f"{setting}: " in capsys.readouterr().err


@pytest.mark.parametrize("service", ["identity", "history"])
async def test_another_erasure_key_is_wrong(
    check: Check, service: str, mongo_url: str, mongo_database: str, *, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(mongo_url, mongo_database, 20_000)
    tombstone = {"_id": "1", "hash": "2", "erase_time_ms": 1, "actor": "", "key_check": "of another key"}
    await store.events.database[f"{service}_tombstones"].insert_one(tombstone)
    await store.close()
    assert await check(service) == 2
    assert "ERASURE_KEY: identities were erased in this database with another key" in capsys.readouterr().err
