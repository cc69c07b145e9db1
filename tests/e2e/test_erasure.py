"""A person is erased while they and others go on: then no byte of them is in any store, but where the docs say so."""

import asyncio
import json
import os
import random
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import bson
import httpx
import pytest
from footfall_history.erasure.verify_command import search_pattern
from footfall_timeline import partition
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from tests.tools.batches import batch
from tests.tools.eventually import eventually
from tests.tools.history import logged
from tests.tools.suite import ON_CLUSTER, Suite
from tests.tools.visits import Event, event, new_id, now_ms

OTHERS = 12


class Dana(NamedTuple):
    """A person whose every word holds a mark, so that a search finds this person only."""

    mark: str
    email: str
    phone: str
    visit_id: str
    device: str

    @classmethod
    def new(cls) -> "Dana":
        mark, phone = uuid.uuid4().hex, f"+4915{random.randrange(10**9):09}"  # noqa: S311
        return cls(mark, f'dana "{mark}"@example.com', phone, str(uuid.uuid4()), str(uuid.uuid4()))

    @property
    def words(self) -> list[str]:
        return [self.mark, self.phone, self.phone[1:], self.device, self.device.replace("-", "")]

    def event(self, name: str, at_ms: int, user: str | None = None) -> Event:
        data = {"title": self.mark, "referrer": f"https://search.example/?q={self.mark}", "phone": self.phone}
        about = {"url": f"https://shop.example/?email={quote(self.email)}", "category": f"{self.mark};b"}
        return event(name, self.visit_id, at_ms, user, data=data, globalVisitID=self.device, pageID=new_id(), **about)


@pytest.fixture
async def http(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    async with suite.http() as client:
        yield client


async def places_of(suite: Suite, words: list[str]) -> set[str]:
    """Where in Redis and MongoDB any of these words is, in names, values, dumps and documents; the log aside."""
    wanted, places = [word.encode() for word in words], set()
    async with Redis.from_url(suite.redis_url) as redis:
        async for key in redis.scan_iter(count=1_000):
            if not key.startswith(b"log:"):
                held = key + (await redis.dump(key) or b"") + repr(await value_of(redis, key)).encode()
                places |= {key.decode() for word in wanted if word in held}
    client: Any = AsyncMongoClient(suite.mongo_url)
    database = client[suite.environment.get("MONGO_DATABASE", "footfall")]
    for name in await database.list_collection_names():
        async for document in database[name].find():
            places |= {name for word in wanted if word in bson.encode(document)}
    await client.close()
    return places


async def value_of(redis: Any, key: bytes) -> Any:
    ranges = {b"zset": redis.zrange, b"list": redis.lrange}
    read = {b"hash": redis.hgetall, b"stream": redis.xrange, b"string": redis.get}
    kind = await redis.type(key)
    if kind in ranges:
        return await ranges[kind](key, 0, -1)
    return await read[kind](key) if kind in read else None  # None: it has expired


async def verified(suite: Suite, identity: str) -> tuple[int | None, list[str]]:
    """The exit code and the lines of `footfall-history verify-erasure`."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).parent / "footfall-history", "verify-erasure", "-",
        env={**os.environ, **suite.environment},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate(f"{identity}\n".encode())
    return process.returncode, out.decode().splitlines()


@pytest.mark.skipif(ON_CLUSTER, reason="reads Redis by one client")
async def test_who_is_erased_under_load_is_in_no_store(suite: Suite, http: httpx.AsyncClient) -> None:
    dana, start_ms = Dana.new(), now_ms() - 60_000
    browser = {"User-Agent": f"Browser-{dana.mark}/1.0"}
    story = [
        dana.event("VisitStarted", start_ms),
        dana.event("PageEntered", start_ms + 1),
        dana.event(f"Compared{dana.mark}", start_ms + 2),
        dana.event("SignIn", start_ms + 3, dana.email),
        dana.event("PageEntered", start_ms + 4),
        dana.event(f"Bought{dana.mark}", start_ms + 5),
    ]
    assert (await http.post("/beacon", json=story, headers=browser)).status_code == 204
    await put_aside(suite, dana, start_ms + 6)
    identity = f"/api/v1/identities/{quote(dana.email, safe='')}"

    async def is_everywhere() -> bool:
        places = {place.partition(":")[0] for place in await places_of(suite, dana.words)}
        return {"events", "visits", "identities", "visit", "aside"} <= places

    await eventually(is_everywhere)
    exit_code, lines = await verified(suite, dana.email)
    assert (exit_code, {line.split("\t")[0] for line in lines}) == (1, {"left", "listed"})

    others = {f"other {uuid.uuid4()}@example.com": str(uuid.uuid4()) for _ in range(OTHERS)}
    is_over = asyncio.Event()

    async def go_on(make: Any, headers: dict[str, str]) -> int:
        count = 0
        while not is_over.is_set():
            sent = make()
            assert (await http.post("/beacon", json=sent, headers=headers)).status_code == 204
            count += len(sent)
            await asyncio.sleep(0.02)
        return count

    def of_others() -> list[Event]:
        return [event(name, visit, now_ms(), who) for who, visit in others.items() for name in ("SignIn", "Seen")]

    def of_dana() -> list[Event]:
        """Retries, stragglers of before and after the sign-in, and what the open page still sends."""
        late = [dana.event(f"Late{dana.mark}", start_ms + offset) for offset in (-1, 2, 7)]
        return [*story, *late, dana.event("PageEntered", now_ms())]

    async with asyncio.TaskGroup() as tasks:
        counts = [tasks.create_task(go_on(of_others, {})), tasks.create_task(go_on(of_dana, browser))]
        await asyncio.sleep(0.3)
        assert (await http.delete(identity)).status_code in {200, 202}
        await asyncio.sleep(0.7)
        is_over.set()

    async def all_are_stored() -> bool:
        found = [len(await events_of(http, visit_id)) for visit_id in (*others.values(), dana.visit_id)]
        new_of_dana = counts[1].result() // len(of_dana()) * (len(of_dana()) - len(story))
        return sum(found) == counts[0].result() + new_of_dana + len(story)

    async def is_nowhere() -> bool:
        return await places_of(suite, dana.words) == set()

    await eventually(all_are_stored)
    await eventually(is_nowhere)
    exit_code, lines = await verified(suite, dana.email)
    assert (exit_code, {line.partition("\t")[0] for line in lines}) == (0, {"listed"})
    assert all("redis log:" in line for line in lines)
    [first, *_] = await events_of(http, dana.visit_id)
    assert (first["url"], first["category"], first["data"], first["globalVisitID"]) == (None, "", {}, None)


async def events_of(http: httpx.AsyncClient, visit_id: str) -> list[Any]:
    found: list[Any] = (await http.get(f"/server/data/visits/{visit_id}/events")).json()
    return found


async def put_aside(suite: Suite, dana: Dana, at_ms: int) -> None:
    """Let the log have an event of the visit that history cannot store."""
    unfit = logged(dana.event(f"Unfit{dana.mark}", at_ms), transition=9)
    number = partition(dana.visit_id, int(suite.environment.get("PARTITIONS", "1")))
    async with Redis.from_url(suite.redis_url) as redis:
        await redis.xadd(f"log:{{p{number:02d}}}", {"b": batch(unfit).SerializeToString()})


@pytest.mark.parametrize(
    ("identity", "text", "is_found"),
    [
        ("o'neil/çelik #7", "https://shop.example/o%27neil%2F%C3%A7elik%20%237", True),
        ("o'neil/çelik #7", "o%27neil%2f%c3%a7elik+%237", True),
        ("o'neil/çelik #7", json.dumps({"who": "o'neil/çelik #7"}), True),
        ('say "dana"', json.dumps('say "dana"'), True),
        ("dana@example.com", "xdana@example.comx", True),
        ("42", '"userID": "42"', True),
        ("42", "8f42c1d0-4200", False),
    ],
)
def test_an_id_is_found_in_all_its_forms(identity: str, text: str, *, is_found: bool) -> None:
    assert bool(search_pattern(identity).search(text.encode())) == is_found
