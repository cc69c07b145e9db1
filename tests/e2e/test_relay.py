"""The relay beside the suite: receivers get each change at least once, signed, in order, also while they fail."""

import asyncio
import itertools
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pyarrow import parquet

from tests.tools.eventually import eventually
from tests.tools.receiver import HANG, SECRET, Receiver
from tests.tools.relay import (
    Outlets,
    assert_ordered,
    pages,
    running_receiver,
    running_relay,
    send,
    until_received,
)
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
async def outlets(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Outlets]:
    """Those of a relay that all tests share."""
    async with running_relay(suite, tmp_path_factory.mktemp("relay"), RELAY_MISSING_WAIT_S=5) as (outlets, process):
        yield outlets
        assert SECRET.removeprefix("whsec_") not in process.output()
        assert '"background work failed' not in process.output()


@pytest.fixture
async def http(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    async with suite.http() as client:
        yield client


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as receiver:
        yield receiver


@pytest.fixture
def name() -> str:
    """The name of an outlet and of its site, so that it gets the events of its test alone."""
    return f"out-{next(_numbers)}-{uuid.uuid4().hex[:8]}"


async def test_a_receiver_that_fails_hangs_and_restarts_gets_each_change_signed_and_in_order(
    outlets: Outlets, http: httpx.AsyncClient, receiver: Receiver, name: str
) -> None:
    outlets.webhook(name, receiver, sites=[name])
    visits = [str(uuid.uuid4()) for _ in range(3)]
    sent = []

    async def visit(count: int) -> None:
        for visit_id in visits:
            for one in pages(visit_id, count):
                one["timestamp"] = now_ms()
                await send(http, name, [one])
                sent.append(one)

    await visit(2)
    await until_received(receiver, sent)
    statuses = itertools.cycle([500, 204, 429, HANG, 301])
    receiver.headers = ["Location: http://127.0.0.1:9/", "Retry-After: 0"]
    receiver.answer = lambda _: next(statuses)
    await visit(3)
    await until_received(receiver, sent)
    await receiver.stop()
    await visit(3)  # a beacon is stored immediately, also while the receiver does not listen
    await asyncio.sleep(1)
    receiver.answer = lambda _: 204
    await receiver.start()
    await until_received(receiver, sent)
    assert_ordered(receiver.messages)
    assert receiver.attempts > len(sent)
    outlets.remove(name)


async def test_a_late_sign_in_revises_the_events_after_it_that_went_out_before(
    outlets: Outlets, http: httpx.AsyncClient, receiver: Receiver, name: str
) -> None:
    outlets.webhook(name, receiver, sites=[name])
    visit_id, start_ms, person = str(uuid.uuid4()), now_ms() - 60_000, f"dana-{name}"
    first, second, third = pages(visit_id, 3, start_ms)
    await send(http, name, [first, second])
    await send(http, name, [third])
    await until_received(receiver, [first, second, third])
    assert {message["data"]["visitor"]["state"] for message in receiver.events} == {"ANONYMOUS"}
    before = len(receiver.events)
    late = event("SignIn", visit_id, start_ms + 500, person)
    await send(http, name, [late])

    def revised() -> list[dict[str, Any]]:
        found = [message for message in receiver.events[before:] if message["revised"]]
        assert len(found) == 2
        return found

    found = await eventually(revised)
    assert [message["data"]["eventTime"] for message in found] == [second["timestamp"], third["timestamp"]]
    for message in found:
        visitor = message["data"]["visitor"]
        assert (visitor["state"], visitor["identityId"]) == ("AUTHENTICATED", person)
    [sign_in] = [message for message in receiver.events[before:] if not message["revised"]]
    assert sign_in["data"]["previous"] == {"state": "ANONYMOUS", "identityId": None}
    assert sign_in["sequence"] < found[0]["sequence"] < found[1]["sequence"]
    # In order, nothing is revised; a repetition revises nothing either.
    await send(http, name, [late, event("SignOut", visit_id, now_ms())])
    await eventually(lambda: any(one["data"]["eventName"] == "SignOut" for one in receiver.events))
    assert len([message for message in receiver.events if message["revised"]]) == 2
    outlets.remove(name)


async def test_what_goes_out_names_the_contact_and_can_be_limited_to_changes_of_state(
    outlets: Outlets, http: httpx.AsyncClient, receiver: Receiver, name: str
) -> None:
    outlets.webhook(name, receiver, sites=[name], state_changes=["AUTHENTICATED"])
    visit_id, email = str(uuid.uuid4()), f"{name}@mail.example"
    contact = await http.put(f"/api/v1/contacts/{name}", json={"emailAddresses": [email]})
    assert contact.status_code in {200, 201}, contact.text
    start_ms = now_ms() - 60_000
    await send(http, name, [event("UserInfo", visit_id, start_ms, email), *pages(visit_id, 1, start_ms + 1)])
    await send(http, name, [event("SignIn", visit_id, start_ms + 2_000, email)])
    await send(http, name, [event("SignIn", visit_id, start_ms + 3_000, email), event("SignOut", visit_id, now_ms())])

    def signed_in() -> list[dict[str, Any]]:
        assert receiver.events
        return receiver.events

    [message] = await eventually(signed_in)
    assert message["data"]["eventTime"] == start_ms + 2_000
    assert message["data"]["previous"] == {"state": "RECOGNIZED", "identityId": email}
    await send(http, name, [event("SignIn", visit_id, now_ms() + 1, email)])
    await eventually(lambda: len(receiver.events) == 2)
    visitor = receiver.events[1]["data"]["visitor"]
    assert (visitor["contactId"], visitor["contactStatus"]) == (name, "LINKED")
    outlets.remove(name)


async def test_an_erasure_goes_out_after_what_it_erases_and_names_it_by_the_same_hash(
    outlets: Outlets, http: httpx.AsyncClient, receiver: Receiver, name: str
) -> None:
    outlets.webhook(name, receiver, sites=[name], batch=10)
    visit_id, person = str(uuid.uuid4()), f"erased-{name}"
    events = [event("SignIn", visit_id, now_ms() - 2_000, person), *pages(visit_id, 1)]
    await send(http, name, events)
    await until_received(receiver, events)
    hashes = {
        message["data"]["visitor"]["identityHash"] for message in receiver.messages if message["data"].get("visitor")
    }
    answer = await http.delete(f"/api/v1/identities/{person}")
    assert answer.status_code == 200, answer.text

    def erasure() -> dict[str, Any]:
        [found] = [one for one in receiver.messages if one["data"].get("identityHash") in hashes]
        return found

    found = await eventually(erasure)
    assert found["type"] == "footfall.erasure"
    assert found["data"]["eraseTime"] <= now_ms()
    assert person not in json.dumps(found)
    await send(http, name, pages(visit_id, 1))
    await eventually(lambda: receiver.messages[-1]["data"].get("eventName") == "PageEntered")
    assert person not in json.dumps(receiver.messages[-1])
    outlets.remove(name)


async def test_what_a_receiver_refuses_becomes_a_dead_letter_without_content_and_can_be_replayed(
    outlets: Outlets, http: httpx.AsyncClient, receiver: Receiver, name: str
) -> None:
    bad, good = str(uuid.uuid4()), str(uuid.uuid4())
    receiver.answer = lambda request: 422 if bad in request.body.decode() else 204
    outlets.webhook(name, receiver, sites=[name], attempts=2)
    refused, taken = pages(bad, 1), pages(good, 2)
    refused[0]["url"] = f"https://shop.example/{name}"
    await send(http, name, [*refused, *taken])
    await until_received(receiver, taken)
    listed = await eventually_said(outlets, ("dead-letters", "list", name), "1 dead letters.")
    assert f"event {bad}/" in listed
    assert listed.splitlines()[0].endswith(": 422")
    assert name in await outlets.command("outlets")
    said = await outlets.command("dead-letters", "replay", name, code=1)
    assert said == "Delivered 0; 0 are no longer stored; 1 were refused again and stay.\n"
    receiver.answer = lambda _: 204
    assert (await outlets.command("dead-letters", "replay", name)).startswith("Delivered 1;")
    await until_received(receiver, refused)
    assert (await outlets.command("dead-letters", "list", name)) == "0 dead letters.\n"
    outlets.remove(name)


async def test_an_outlet_is_paused_and_goes_on_where_it_was(
    outlets: Outlets, http: httpx.AsyncClient, receiver: Receiver, name: str
) -> None:
    outlets.webhook(name, receiver, sites=[name])
    first, second, third = (pages(str(uuid.uuid4()), 1) for _ in range(3))
    await send(http, name, first)
    await until_received(receiver, first)
    assert "is paused" in await outlets.command("pause", name)
    assert f"{name}: webhook, paused by command" in await outlets.command("outlets")
    await outlets.until_paused(name)
    await send(http, name, second)
    await asyncio.sleep(3)
    assert visits_in(receiver) == {first[0]["visitID"]}
    await outlets.command("resume", name)
    await until_received(receiver, [*first, *second])
    outlets.webhook(name, receiver, sites=[name], paused=True)
    await outlets.until_paused(name)
    await send(http, name, third)
    await asyncio.sleep(3)
    assert third[0]["visitID"] not in visits_in(receiver)
    outlets.webhook(name, receiver, sites=[name])
    await until_received(receiver, third)
    outlets.remove(name)


async def test_an_outlet_that_is_taken_away_and_comes_back_goes_on_where_it_was(
    outlets: Outlets, http: httpx.AsyncClient, receiver: Receiver, name: str
) -> None:
    outlets.webhook(name, receiver, sites=[name])
    visit_id = str(uuid.uuid4())
    sent = pages(visit_id, 20)
    receiver.answer = lambda _: 204 if len(receiver.accepted) < 5 else 500
    await send(http, name, sent)
    await eventually(lambda: len(receiver.accepted) == 5)
    outlets.remove(name)
    await asyncio.sleep(1.5)
    receiver.answer = lambda _: 204
    outlets.webhook(name, receiver, sites=[name])
    await until_received(receiver, sent)
    assert_ordered(receiver.messages)
    outlets.remove(name)


async def test_parquet_files_by_day_and_site_hold_all_events_and_erasures(
    outlets: Outlets, http: httpx.AsyncClient, name: str, tmp_path: Path
) -> None:
    outlets.put("parquet", name, folder=str(tmp_path), sites=[name], max_age_s=1.0)
    visit_id, person = str(uuid.uuid4()), f"row-{name}"
    yesterday = pages(visit_id, 2, now_ms() - 86_400_000)
    today = [event("SignIn", visit_id, now_ms() - 2_000, person), *pages(visit_id, 1)]
    await send(http, name, yesterday)
    await send(http, name, today)

    def rows() -> list[dict[str, Any]]:
        files = sorted(tmp_path.glob("events/day=*/site=*/*.parquet"))
        found = [{**row, "folder": file.parent} for file in files for row in parquet.read_table(file).to_pylist()]
        assert len({row["event_id"] for row in found}) == 4
        return found

    found = await eventually(rows)
    assert {row["folder"].name for row in found} == {f"site={name}"}
    for row in found:
        assert row["folder"].parent.name == f"day={row['event_time']:%Y-%m-%d}"
    assert len({row["folder"] for row in found}) == 2
    [sign_in] = [row for row in found if row["event_name"] == "SignIn"]
    assert (sign_in["state"], sign_in["identity_id"], sign_in["revised"]) == ("AUTHENTICATED", person, False)
    assert json.loads(sign_in["data"]) == {"userID": person}
    assert (await http.delete(f"/api/v1/identities/{person}")).status_code == 200

    def erased() -> bool:
        files = tmp_path.glob("erasures/*.parquet")
        return sign_in["identity_hash"] in {
            row["identity_hash"] for one in files for row in parquet.read_table(one).to_pylist()
        }

    await eventually(erased)
    assert hidden(tmp_path) == []
    outlets.remove(name)


def visits_in(receiver: Receiver) -> set[str]:
    return {one["subject"] for one in receiver.events}


def hidden(folder: Path) -> list[Path]:
    return [*folder.rglob(".*")]


async def eventually_said(outlets: Outlets, arguments: tuple[str, ...], text: str) -> str:
    """What a command prints, once it has this text."""

    async def said() -> str:
        found = await outlets.command(*arguments)
        assert text in found
        return found

    return await eventually(said, every=0.5)
