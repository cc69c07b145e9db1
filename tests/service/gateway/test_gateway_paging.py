"""Paging: all pages together are the collection, also while events are being written."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

PERSON = f"a#1#/{uuid.uuid4()} é+ü%"
MAX_READ = 30
PATHS = [
    "/visits/{visit}/events",
    "/visits/{visit}/pages",
    "/visits/{visit}/sessions",
    "/visits/{visit}/identities",
    "/identities/{person}/visits",
    "/identities/{person}/events",
    "/identities/{person}/pages",
    "/identities/{person}/sessions",
    "/identities",
    "/identities?userAgent={agent}",
]


@pytest.fixture(scope="module")
async def http(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    async with suite.http() as client:
        yield client


@pytest.fixture(scope="module")
async def names(http: httpx.AsyncClient) -> dict[str, str]:
    """Three visits in each of which PERSON and two others sign in after one another; some in the same millisecond."""
    visits, agent = [str(uuid.uuid4()) for _ in range(3)], f"Agent {uuid.uuid4()}"
    started = now_ms() - 60_000
    events: list[dict[str, Any]] = []
    for visit in visits:
        for number, person in enumerate((PERSON, f"b{PERSON}", PERSON, f"c{PERSON}")):
            at_ms = started + number * 1000
            page = uuid.uuid4().hex
            events.append(event("SignIn", visit, at_ms, person, pageID=page))
            events += [event(name, visit, at_ms + 1, pageID=page) for name in ("PageEntered", "Click", "PageExited")]
    body = {"sentAt": now_ms(), "events": events}
    assert (await http.post("/beacon", json=body, headers={"User-Agent": agent})).status_code == 204
    names = {"visit": visits[0], "person": quote(PERSON, safe=""), "agent": quote(agent)}

    async def is_stored() -> bool:
        answers = [await http.get("/server/data" + path.format(**names)) for path in PATHS]
        counts = [len(answer.json()) if answer.status_code == 200 else 0 for answer in answers]
        return counts[:8] == [16, 4, 4, 3, 3, 24, 6, 6] and counts[9] == 3

    await eventually(is_stored)
    return names


async def parts(http: httpx.AsyncClient, path: str, size: int) -> AsyncIterator[list[dict[str, Any]]]:
    """Read a collection page by page, as a client does: `Paging-Next` is the next `page_start`."""
    cursor = ""
    while True:
        separator = "&" if "?" in path else "?"
        start = f"&page_start={quote(cursor, safe='')}" if cursor else ""
        answer = await http.get(f"/server/data{path}{separator}page_size={size}{start}")
        assert answer.status_code == 200, answer.text
        yield answer.json()
        cursor = answer.headers.get("Paging-Next", "")
        if not cursor:
            return


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [1, 2, 3])
async def test_all_pages_together_are_the_collection(
    http: httpx.AsyncClient, names: dict[str, str], path: str, size: int
) -> None:
    path = path.format(**names)
    read = []
    async for part in parts(http, path, size):
        read.append(part)
        if len(read) * size >= MAX_READ:  # other tests have filled the collection of all identities
            break
    whole = (await http.get(f"/server/data{path}")).json()[: len(read) * size]
    assert [one for part in read for one in part] == whole
    assert [len(part) for part in read] == [size] * (len(whole) // size) + [len(whole) % size] * (len(whole) % size > 0)


async def test_a_cursor_has_the_documented_form_and_names_the_first_item_of_the_next_page(
    http: httpx.AsyncClient, names: dict[str, str]
) -> None:
    path = f"/server/data/visits/{names['visit']}/events"
    whole = (await http.get(path)).json()
    cursor = (await http.get(path, params={"page_size": 2})).headers["Paging-Next"]
    assert cursor == f"{names['visit']}#{whole[2]['timestamp']}#{whole[2]['eventID']}"


async def test_large_events_come_in_shorter_pages(http: httpx.AsyncClient) -> None:
    visit, started = str(uuid.uuid4()), now_ms() - 60_000
    for start in range(0, 90, 15):
        events = [event("Click", visit, started + start + n, data={"text": "x" * 60_000}) for n in range(15)]
        assert (await http.post("/beacon", json={"sentAt": now_ms(), "events": events})).status_code == 204

    async def all_are_read() -> None:
        read = [part async for part in parts(http, f"/visits/{visit}/events", 1000)]
        assert [one["timestamp"] for part in read for one in part] == [started + n for n in range(90)]
        assert len(read) > 2

    await eventually(all_are_read)
    whole = await http.get(f"/server/data/visits/{visit}?include_events=true&include_events_detail=true")
    assert len(whole.json()["events"]) == 90


async def test_a_cursor_of_another_collection_is_refused(http: httpx.AsyncClient, names: dict[str, str]) -> None:
    cursor = (await http.get(f"/server/data/visits/{names['visit']}/events?page_size=1")).headers["Paging-Next"]
    answer = await http.get(f"/server/data/identities/{names['person']}/events", params={"page_start": cursor})
    assert answer.status_code == 400


async def test_a_reader_neither_skips_nor_repeats_while_events_are_written(http: httpx.AsyncClient) -> None:
    chance = random.Random(7)  # noqa: S311 - repeatable, not secret
    visit, started = str(uuid.uuid4()), now_ms() - 600_000

    async def write(count: int) -> None:
        events = [event("Click", visit, started + chance.randrange(2_000)) for _ in range(count)]
        answer = await http.post("/beacon", json={"sentAt": now_ms(), "events": events})
        assert answer.status_code == 204

    await write(60)
    path = f"/visits/{visit}/events"

    async def first() -> list[str]:
        answer = await http.get(f"/server/data{path}")
        found = [one["eventID"] for one in answer.json()] if answer.status_code == 200 else []
        assert len(found) == 60
        return found

    there_at_the_start = await eventually(first)
    stop = asyncio.Event()

    async def keep_writing() -> None:
        for _ in range(200):  # has an end, or a reader slower than the writer would never reach one
            if stop.is_set():
                return
            await write(3)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keep_writing())
        read = []
        async for part in parts(http, path, 4):
            read += part
        stop.set()
    ids = [one["eventID"] for one in read]
    keys = [(one["timestamp"], one["eventID"]) for one in read]
    assert len(ids) == len(set(ids))
    assert set(there_at_the_start) <= set(ids)
    assert keys == sorted(keys)
