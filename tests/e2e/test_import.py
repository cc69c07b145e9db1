"""`footfall-import` copies a suite to the byte, although it is killed on the way, and old servers; nothing is live."""

import asyncio
import json
import random
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from redis.asyncio import Redis

from tests.tools.eventually import eventually
from tests.tools.original import PASSWORD, USER, OldVisit, running_original
from tests.tools.suite import Suite, running_suite
from tests.tools.visits import event, new_id, now_ms, random_visit

pytestmark = pytest.mark.long

DATA = "/server/data"
HOUR_MS = 3_600_000
COMMAND = Path(sys.executable).with_name("footfall-import")
CONTACT = {"emailAddresses": ["ann@shop.example"], "firstName": "Ann"}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    with running_suite(tmp_path_factory.mktemp("old")) as suite:
        yield suite


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    with running_suite(tmp_path_factory.mktemp("new")) as suite:
        yield suite


async def fill(suite: Suite) -> int:
    """Let visitors come, one of them with a clock that is wrong by hours; return how many visits there are."""
    chance = random.Random(15)  # noqa: S311 - no secret
    anonymous, long, shy = str(uuid.uuid4()), str(uuid.uuid4()), str(uuid.uuid4())
    at_ms, page = now_ms(), new_id()
    visits = [
        *(random_visit(chance) for _ in range(3)),
        [event("PageEntered", anonymous, at_ms, pageID=page), event("PageExited", anonymous, at_ms + 9, pageID=page)],
        [event("Click", long, at_ms + number, data={"n": number}) for number in range(1_010)],
        [event("SignOut", shy, at_ms), event("UserInfo", shy, at_ms + 1, "ann@shop.example", data={"email": "a@b.c"})],
    ]
    async with suite.http() as http:
        for number, events in enumerate(visits):
            headers = {"User-Agent": f"Mozilla/5.0 (Windows NT 10.0) Chrome/142.0.0.{number}"} if number % 2 else {}
            for at in range(0, len(events), 500):
                answer = await http.post("/beacon", json=events[at : at + 500], headers=headers)
                assert answer.status_code == 204, answer.text
        wrong, wrong_ms = str(uuid.uuid4()), now_ms() - 5 * HOUR_MS
        for name, user in ("VisitStarted", None), ("PageEntered", None), ("SignIn", "bob"), ("Click", None):
            wrong_ms += 40
            body = {"sentAt": wrong_ms + 30, "events": [event(name, wrong, wrong_ms, user)]}
            assert (await http.post("/beacon", json=body)).status_code == 204
        created = {"userAgent": "Kiosk/1", "startDate": now_ms() - 20 * 24 * HOUR_MS}
        assert (await http.post(f"{DATA}/visits", json=created)).status_code == 200
        total = sum(map(len, visits)) + 5

        async def all_stored() -> None:
            ids = [visit["visitId"] for visit in (await http.get(f"{DATA}/visits")).json()]
            assert len(ids) == len(visits) + 2
            events = [await http.get(f"{DATA}/visits/{id_}?include_events=true") for id_ in ids]
            assert sum(len(answer.json()["eventIds"]) for answer in events) == total

        await eventually(all_stored, timeout=20)
    return len(visits) + 2


def credentials_of(suite: Suite, file: Path) -> Path:
    """A file that holds them, as the command takes it."""
    file.write_text(f"{suite.credentials.user}:{suite.credentials.password}\n")
    return file


async def begun(suite: Suite, *arguments: object) -> asyncio.subprocess.Process:
    """The command on its way into a suite."""
    return await asyncio.create_subprocess_exec(
        COMMAND, *map(str, arguments), env=suite.environment, stderr=asyncio.subprocess.PIPE
    )


async def done(suite: Suite, *arguments: object) -> tuple[int | None, str]:
    """Exit code of the command, and what it has said."""
    process = await begun(suite, *arguments)
    said = (await process.communicate())[1].decode()
    return process.returncode, said


def from_suite(old: Suite, folder: Path) -> list[object]:
    """The arguments with which the command copies a suite."""
    authority = ["--ca", old.authority.file] if old.authority else []
    credentials = credentials_of(old, folder / "old")
    return ["server", old.url, "--credentials", credentials, "--progress", folder / "progress", *authority]


async def resources(suite: Suite) -> dict[str, bytes]:
    """Every resource of the History API and every collection, by path, as answered."""
    found: dict[str, bytes] = {}
    async with suite.http() as http:

        async def pages(path: str) -> AsyncIterator[httpx.Response]:
            start = ""
            while True:
                answer = await http.get(
                    f"{DATA}{path}", params={"page_size": 200} | ({"page_start": start} if start else {})
                )
                assert answer.status_code in {200, 204}, (path, answer.text)
                start = answer.headers.get("Paging-Next", "")
                found[f"{path} to {start}"] = answer.content
                yield answer
                if not start:
                    return

        async def ids(path: str, name: str) -> list[str]:
            return [item[name] async for answer in pages(path) if answer.content for item in answer.json()]

        async def whole(*paths: str) -> None:
            for path in paths:
                answer = await http.get(f"{DATA}{path}")
                found[path] = answer.content + str(answer.status_code).encode()

        async def visit(id_: str) -> None:
            path = f"/visits/{id_}"
            await whole(
                path, f"{path}/userAgent", f"{path}?include_events=true&include_pages=true&include_sessions=true"
            )
            await ids(f"{path}/identities", "identityId")
            await whole(*(f"/events/{one}" for one in (await ids(f"{path}/events", "eventID"))[:3]))
            for one in await ids(f"{path}/pages", "pageId"):
                await whole(f"/pages/{one}", f"/pages/{one}/events")
            for one in await ids(f"{path}/sessions", "sessionId"):
                await whole(f"/sessions/{one}", f"/sessions/{one}/events", f"/sessions/{one}/pages")

        for id_ in await ids("/visits", "visitId"):
            await visit(id_)
        for id_ in await ids("/identities", "identityId"):
            path = f"/identities/{quote(id_, safe='')}"
            await whole(path, *(f"{path}/{kind}" for kind in ("visits", "pages", "sessions", "events")))
    return found


async def test_a_suite_is_copied_to_the_byte_with_a_kill_on_the_way(old: Suite, new: Suite, tmp_path: Path) -> None:
    count = await fill(old)
    async with old.http() as http, new.http() as other:
        for each in (http, other):
            assert (await each.put("/api/v1/contacts/C-1", json=CONTACT)).status_code == 200
        slow = await begun(new, *from_suite(old, tmp_path), "--rate", 60)

        async def some_are_there() -> None:
            visits = await other.get(f"{DATA}/visits")
            assert visits.status_code == 200
            assert 0 < len(visits.json()) < count

        await eventually(some_are_there, timeout=20)
        slow.kill()
        await slow.wait()
    assert (tmp_path / "progress").exists()

    code, said = await done(new, *from_suite(old, tmp_path), "--rate", 2000)
    assert code == 0, said
    assert not (tmp_path / "progress").exists()
    before, after = await asyncio.gather(resources(old), resources(new))
    assert len(before) > 100
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == set()
    assert b'"entityInCS":"C-1"' in after["/identities/ann%40shop.example"]

    async with new.http() as http:
        assert (await http.get("/api/v1/visitors")).json()["visitors"] == []
    async with Redis.from_url(new.redis_url) as redis:
        keys = [key.decode() async for key in redis.scan_iter()]
        live = [key for key in keys if key.split(":")[0] in {"visit", "live", "person", "changes"}]
        assert {*live} <= {"changes:{p00}:reported"}  # a time
        assert sum([await redis.xlen(key) for key in keys if key.startswith("log:{p")]) == 0

    code, said = await done(new, *from_suite(old, tmp_path), "--rate", 2000)
    assert (code, said.startswith("0 events stored")) == (0, True), said
    assert await compared(new, *both(old, new, tmp_path)) == (0, [])


async def compared(suite: Suite, *arguments: object, hours_ago: int = 1) -> tuple[int | None, list[str]]:
    """Exit code and lines of the comparison with a suite of a day."""
    day = datetime.now(UTC) - timedelta(hours=hours_ago)
    command = [COMMAND, "compare", "--new", suite.url, "--rate", 2000, "--day", f"{day:%Y-%m-%d}", *arguments]
    process = await asyncio.create_subprocess_exec(*map(str, command), stdout=asyncio.subprocess.PIPE)
    said = (await process.communicate())[0].decode()
    return process.returncode, said.splitlines()


def both(old: Suite, new: Suite, folder: Path) -> list[object]:
    """The arguments for the comparison of two suites."""
    named = {"--old-credentials": old, "--new-credentials": new}
    credentials = [word for name, suite in named.items() for word in (name, credentials_of(suite, folder / name[2:]))]
    if old.authority and new.authority:
        ca = folder / "authorities"
        ca.write_bytes(old.authority.file.read_bytes() + new.authority.file.read_bytes())
        credentials += ["--ca", ca]
    return ["--old", old.url, *credentials]


async def test_what_two_servers_say_differently_is_told(old: Suite, new: Suite, tmp_path: Path) -> None:
    visit, before = str(uuid.uuid4()), now_ms() - HOUR_MS
    async with old.http() as http, new.http() as other:
        beacon = [event("SignIn", visit, before, "carol"), event("SignOut", visit, before + 1)]
        for each in (http, other):
            assert (await each.post("/beacon", json=beacon)).status_code == 204
            await eventually(partial(has_events, each, visit, 2), timeout=20)
        at_both = {line.split("\t")[0] for line in (await compared(new, *both(old, new, tmp_path)))[1]}
        more = [event("Bought", visit, before + 2), event("PageEntered", str(uuid.uuid4()), before, url="https://new/")]
        assert (await other.post("/beacon", json=more)).status_code == 204
        await eventually(partial(has_events, other, visit, 3), timeout=20)
        await eventually(partial(has_events, other, more[1]["visitID"], 1), timeout=20)
    code, lines = await compared(new, *both(old, new, tmp_path))
    assert code == 1
    assert at_both == {"bytes of"}
    assert {"events by name\tBought\t0\t1", "pages entered by url\thttps://new/\t0\t1"} <= set(lines)
    assert {f"bytes of\t/visits/{visit}/events\tdiffer", f"visit\t{more[1]['visitID']}\t0\t1"} <= set(lines)
    assert any(line.startswith("visits by state\tAnonymous\t") for line in lines)


async def has_events(http: httpx.AsyncClient, visit: str, count: int) -> None:
    answer = await http.get(f"{DATA}/visits/{visit}/events")
    assert answer.status_code == 200
    assert len(answer.json()) == count


async def test_an_old_server_is_brought_along_with_its_ids_and_times(new: Suite, tmp_path: Path) -> None:
    started, person = now_ms() - 3 * 24 * HOUR_MS, "dana@example.com"
    ann = OldVisit(
        started,
        [
            ("VisitStarted", 0, {"timezoneOffset": 60}),
            ("PageEntered", 3, {"title": "Login"}),
            ("SignIn", 61_000, {"userID": person, "name": "Dana", "age": 41}),
            ("AddToCart", 62_000, {"sku": "A-1", "price": 12.50}),
        ],
        **{person: "Authenticated"},
    )
    bob = OldVisit(started, [("UserInfo", 0, {"userID": "kim"}), ("Odd", 1, {})], kim="Recognized")
    bob.events[1]["eventID"] = "no uuid"
    nobody = OldVisit(started, [("VisitStarted", 0, {})])
    ids, credentials, wrong = (tmp_path / name for name in ("ids", "credentials", "wrong"))
    ids.write_text(f"{nobody.id}\n{uuid.uuid4()}\n")
    credentials.write_text(f"{USER}:{PASSWORD}")
    wrong.write_text(f"{USER}:wrong")
    async with running_original(ann, bob, nobody) as original, new.http() as http:
        command = ["server", original.url, "--rate", 2000, "--progress", tmp_path / "progress", "--credentials"]
        code, said = await done(new, *command, wrong)
        assert (code, "refuses these credentials" in said, "Traceback" in said) == (1, True, False), said
        original.failures = 2
        code, said = await done(new, *command, credentials)
        assert (code, "by identity alone" in said) == (1, True), said
        assert "skipped: event no uuid of visit" in said
        assert said.splitlines()[-1].startswith(
            "5 events stored, 0 there before, 0 older than EVENT_RETENTION_DAYS, 1 records"
        )

        stored = (await http.get(f"{DATA}/visits/{ann.id}/events")).json()
        assert stored == [{**each, "languageCode": None} for each in ann.events]
        visit = (await http.get(f"{DATA}/visits/{ann.id}")).json()
        same = ("visitId", "startDate", "globalVisitID", "userAgentId")
        assert {name: visit[name] for name in same} == {name: ann.resource[name] for name in same}
        [page] = (await http.get(f"{DATA}/visits/{ann.id}/pages")).json()
        assert (page["pageId"], page["title"]) == (ann.events[0]["pageID"], "Login")
        [identity] = (await http.get(f"{DATA}/visits/{ann.id}/identities")).json()
        assert (identity["identityId"], identity["visitScope"]) == (person, "Authenticated")
        assert (await http.get(f"{DATA}/identities/kim")).json()["visitScope"] == "Recognized"
        exported = (await http.get(f"/api/v1/identities/{person}/export")).text
        assert exported.count('"imported":true') == len(ann.events)

        assert (await http.get(f"{DATA}/visits/{nobody.id}")).status_code == 404
        code, said = await done(new, *command, credentials, "--visit-ids", ids)
        assert (code, "the server does not know it" in said) == (1, True)
        assert (await http.get(f"{DATA}/visits/{nobody.id}")).json()["startDate"] == started

        two = ["--old", original.url, "--old-credentials", credentials]
        two += both(new, new, tmp_path)[4:]
        code, lines = await compared(new, *two, hours_ago=3 * 24)
        assert (code, "events by name\tOdd\t1\t0" in lines) == (1, True), lines
        assert {line.split("\t")[0] for line in lines} == {"events by hour", "events by name"}, lines

        assert (await http.delete(f"/api/v1/identities/{person}")).status_code == 200
        await done(new, *command, credentials)
        assert (await http.get(f"{DATA}/identities/{person}")).status_code == 404
        stored = (await http.get(f"{DATA}/visits/{ann.id}/events")).json()
        assert [each["data"] for each in stored] == [{}] * len(ann.events)


async def test_a_file_is_brought_line_by_line(new: Suite, tmp_path: Path) -> None:
    started = now_ms() - 2 * 24 * HOUR_MS
    one = OldVisit(started, [("VisitStarted", 0, {}), ("SignIn", 1_000, {"userID": "erin"}), ("Click", 2_000, {})])
    two = OldVisit(started, [("Click", 0, {"n": 1})])
    old = OldVisit(now_ms() - 40 * 24 * HOUR_MS, [("VisitStarted", 0, {})])
    visit = {**two.resource, "events": two.events, "userAgent": "Kiosk/1"}
    lines = [
        *one.events[:2],
        visit,
        {"visitId": 7},
        {**two.events[0], "visitID": "x"},
        one.events[2],
        one.events[2],
        *old.events,
    ]
    file = tmp_path / "visits.jsonl"
    file.write_text("nonsense\n" + "".join(f"{json.dumps(line)}\n" for line in lines))
    command = ["file", file, "--site", "shop", "--progress", tmp_path / "progress"]
    code, said = await done(new, *command)
    assert code == 1
    assert "4 events stored, 1 there before, 1 older than EVENT_RETENTION_DAYS, 3 records skipped" in said
    async with new.http() as http:
        names = [each["eventName"] for each in (await http.get(f"{DATA}/visits/{one.id}/events?site=shop")).json()]
        assert names == ["VisitStarted", "SignIn", "Click"]
        session = (await http.get(f"{DATA}/visits/{one.id}")).json()["activeSessionId"]
        assert (await http.get(f"{DATA}/sessions/{session}")).json()["identityId"] == "erin"
        agent = (await http.get(f"{DATA}/visits/{two.id}/userAgent")).json()
        assert (agent["userAgent"], agent["userAgentId"]) == ("Kiosk/1", two.resource["userAgentId"])
