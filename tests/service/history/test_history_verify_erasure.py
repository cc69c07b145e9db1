"""`footfall-history verify-erasure` reports what remains of an identity, and whether it may remain there."""

import asyncio
from typing import Any

import pytest
from footfall_history.erasure.verify_command import run_verify_erasure
from footfall_history.ingest.attribution import Attributor
from footfall_history.storage.store import Store
from structlog.testing import capture_logs

from tests.service.history.conftest import ERASURE_KEY
from tests.tools.history import entry
from tests.tools.ports import free_ports
from tests.tools.stories import Story
from tests.tools.visits import event

PERSON = "dana@shop.example"


@pytest.fixture(autouse=True)
def _settings(redis_database_url: str, mongo_url: str, mongo_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the command."""
    names = {"REDIS_URL": redis_database_url, "MONGO_URL": mongo_url, "MONGO_DATABASE": mongo_database}
    for name, value in (names | {"ERASURE_KEY": ERASURE_KEY}).items():
        monkeypatch.setenv(name, value)


async def verified() -> int:
    with capture_logs():  # the command silences its process, which in a test it may not
        return await asyncio.to_thread(run_verify_erasure, [PERSON])


async def test_documented_remains_are_listed_and_are_no_failure(
    store: Store, attributor: Attributor, redis: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await verified() == 0
    assert capsys.readouterr().out == ""
    story = Story("ann")
    said = event("Wrote", story.visit_id, story.at_ms + 3_500, data={"to": PERSON})
    passed = event(
        "PageEntered", Story("unknown person").visit_id, story.at_ms, url="https://shop.example/?m=dana%40shop.example"
    )
    await attributor.store([story.entry(), entry([said, passed])])
    await store.events.database["contacts"].insert_one({"_id": "C-1", "email_addresses": [PERSON]})
    await store.events.database["generic_values"].insert_one({"_id": f"email:{PERSON}"})
    await redis.xadd("log:{p00}", {"b": f'{{"userID":"{PERSON}"}}'})
    await redis.hset("aside:{p00}:entry/1-0", mapping={"b": PERSON})
    await redis.rpush("slow:{p00}:visit", *(["something else " * 9] * 20), f"waits: {PERSON}")
    assert await verified() == 0
    kinds = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert {kind for kind, *_ in kinds} == {"listed"}
    assert sorted(place.split(" ")[1] for _, place, _ in kinds) == sorted(
        ["log:{p00}", "slow:{p00}:visit", "aside:{p00}:entry/1-0", "events", "events", "contacts", "generic_values"]
    )


async def test_other_remains_are_reported_and_are_a_failure(
    store: Store, attributor: Attributor, redis: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    await attributor.store([Story(PERSON).entry()])
    await store.events.database["identities"].insert_one({"_id": PERSON, "left_keys": [f"email:{PERSON}"]})
    await redis.hset("visit:{p00}:1", mapping={"1": f"1795872185686|2|1|{PERSON}"})
    await redis.hset("aside:{p00}:1/2", mapping={"b": PERSON})
    assert await verified() == 1
    lines = capsys.readouterr().out.splitlines()
    assert {line.partition("\t")[0] for line in lines} == {"left"}
    places = {line.split("\t")[1].split(" ")[1] for line in lines}
    assert places == {"events", "visits", "identities", "visit:{p00}:1", "aside:{p00}:1/2"}


async def test_without_a_store_the_search_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [unused_port] = free_ports(1)
    monkeypatch.setenv("MONGO_URL", f"mongodb://127.0.0.1:{unused_port}")
    monkeypatch.setenv("HISTORY_MONGO_TIMEOUT_MS", "200")
    assert await verified() == 1
    assert "nothing is known" in capsys.readouterr().err


def test_an_empty_id_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        run_verify_erasure([""])
    assert refused.value.code == 2
    assert "must not be empty" in capsys.readouterr().err
