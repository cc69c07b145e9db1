"""The live stream: events arrive as they happen, and a client that connects again resumes where it was."""

import asyncio
import json
import re
import uuid
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from footfall_gateway.auth.sessions import SESSION_HEADER
from footfall_gateway.commands import keys as keys_command

from tests.service.gateway.conftest import before, running_gateway
from tests.tools.eventually import eventually
from tests.tools.suite import ON_CLUSTER, Program, Suite
from tests.tools.visits import Event, event, now_ms

LIVE = "/api/v1/live"


@dataclass
class Watcher:
    """What one client has received, over all its connections; it knows what EventSource knows."""

    http: httpx.AsyncClient
    query: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    last_id: str = ""
    told: list[tuple[str, Any]] = field(default_factory=list)
    beats: int = 0

    @asynccontextmanager
    async def watching(self) -> AsyncIterator["asyncio.Task[None]"]:
        """One connection, from where the last one ended; given once it stands. The task ends with the stream."""
        before, self.last_id = self.last_id, ""
        headers = self.headers | ({"Last-Event-ID": before} if before else {})
        async with self._answer(headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            reading = asyncio.create_task(self._read(answer))
            try:
                await eventually(lambda: bool(self.last_id) or reading.done())
                self.last_id = self.last_id or before
                yield reading
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    @asynccontextmanager
    async def _answer(self, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
        """Call again while a service does not answer, up to ten times, as a client does."""
        for left in range(9, -1, -1):
            async with self.http.stream("GET", LIVE, params=self.query, headers=headers, timeout=None) as answer:
                if answer.status_code != 503 or not left:
                    yield answer
                    return
            await asyncio.sleep(1)

    async def _read(self, answer: httpx.Response) -> None:
        message: dict[str, str] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if line:
                message[name] = value
                continue
            self.last_id = message.get("id", self.last_id)
            self.beats += ":" in message
            if "event" in message:
                self.told.append((message["event"], json.loads(message["data"])))
            message = {}

    async def has(self, events: int, transitions: int) -> None:
        """Wait until it has received so much, and no more."""

        def is_told() -> None:
            assert (len(self.events()), len(self.transitions())) == (events, transitions)

        await eventually(is_told)

    def events(self) -> list[str]:
        """The ids of the events, in the order they came."""
        return [data["event"]["eventID"] for name, data in self.told if name == "event"]

    def changes(self, visit: str) -> list[list[str]]:
        """The changes of a visit, in the order they came."""
        own = [data for name, data in self.told if name == "transition" and data["visitor"]["visitId"] == visit]
        return [data["changes"] for data in own]

    def transitions(self) -> list[tuple[str, str, str]]:
        """The visit of each change of a state, with the state before and after."""
        return [
            (data["visitor"]["visitId"], data["previousState"], data["visitor"]["state"])
            for name, data in self.told
            if name == "transition" and "STATE" in data["changes"]
        ]


@pytest.fixture
def site() -> str:
    """The name of a website that no other test uses."""
    return f"shop-{uuid.uuid4().hex[:12]}"


def gateway_of(suite: Suite, **settings: Any) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    """A gateway of the test's own in front of the suite's services."""
    return running_gateway(**before(suite) | settings)


async def happens(http: httpx.AsyncClient, site: str, name: str, visit: str, user: str | None = None) -> str:
    """One event, sent by itself; its id as it is streamed."""
    sent = event(name, visit, now_ms(), user, site=site, eventID=str(uuid.uuid4()))
    await arrives(http, sent)
    return str(sent["eventID"])


async def arrives(http: httpx.AsyncClient, *events: Event) -> None:
    answer = await http.post("/beacon", json=list(events))
    assert answer.status_code == 204, answer.text


async def watchers(suite: Suite) -> tuple[float, ...]:
    """How many streams identity and history serve."""
    async with httpx.AsyncClient() as http:
        pages = [(await http.get(url)).text for url in suite.metrics_urls()[2:]]
    return tuple(float(re.findall(r"^\w+_(?:event|watch)_streams (.+)$", page, re.MULTILINE)[0]) for page in pages)


async def test_what_happens_is_told_in_order_and_as_the_other_resources_say_it(suite: Suite, site: str) -> None:
    visit = str(uuid.uuid4())
    async with suite.http() as http:
        watcher = Watcher(http, {"site": site})
        async with watcher.watching():
            sent = [
                await happens(http, site, *what)
                for what in (("PageEntered", visit), ("SignIn", visit, "dana"), ("SignOut", visit), ("Click", visit))
            ]
            await watcher.has(events=4, transitions=2)
        assert watcher.events() == sent
        assert watcher.transitions() == [(visit, "ANONYMOUS", "AUTHENTICATED"), (visit, "AUTHENTICATED", "RECOGNIZED")]

        async def is_stored() -> Any:
            answer = await http.get(f"/server/data/events/{sent[1]}")
            assert answer.status_code == 200
            return answer.json()

        signed_in = next(data for name, data in watcher.told if name == "event" and data["event"]["eventID"] == sent[1])
        assert signed_in["event"] == await eventually(is_stored)
        visitor = {"state": "AUTHENTICATED", "identityId": "dana"}
        assert (signed_in["site"], signed_in["visitor"] | visitor) == (site, signed_in["visitor"])
        last = [data for name, data in watcher.told if name == "transition"][-1]
        now = (await http.get(f"/api/v1/visits/{visit}/visitor")).json()
        assert {**last["visitor"], "lastEventTime": 0} == {**now, "lastEventTime": 0}


async def test_who_comes_again_misses_nothing_and_is_told_nothing_twice(suite: Suite, site: str) -> None:
    visits = [str(uuid.uuid4()) for _ in range(6)]
    async with suite.http() as http:
        watcher = Watcher(http, {"site": site})
        sent = []
        for number, visit in enumerate(visits):
            # At first it leaves before it has received anything, then after an event, then after both.
            async with watcher.watching():
                if number == 1:
                    sent.append(await happens(http, site, "PageEntered", visit))
                if number > 1:
                    sent.append(await happens(http, site, "UserInfo", visit, "dana"))
                await watcher.has(len(sent), max(0, 2 * number - 1))
            sent.append(await happens(http, site, "SignIn", visit, "dana"))
        async with watcher.watching():
            await watcher.has(len(sent), 2 * len(visits) - 2)
        # Of visits in different partitions no order is promised.
        in_order = sorted if ON_CLUSTER else list
        assert in_order(watcher.events()) == in_order(sent)
        assert len(set(watcher.transitions())) == len(watcher.transitions())


async def test_only_the_site_asked_for_is_told_and_the_id_moves_on_with_the_others(suite: Suite, site: str) -> None:
    async with gateway_of(suite, live_heartbeat_ms=100) as http:
        watcher = Watcher(http, {"site": site})
        async with watcher.watching():
            before = watcher.last_id.split("~")
            await happens(http, "elsewhere", "SignIn", str(uuid.uuid4()), "dana")

            def both_have_moved() -> bool:
                return all(old != new for old, new in zip(before, watcher.last_id.split("~"), strict=True))

            await eventually(both_have_moved)
            ours = await happens(http, site, "PageEntered", str(uuid.uuid4()))
            await watcher.has(events=1, transitions=0)
        assert watcher.events() == [ours]


async def test_filters_choose_changes_and_events_of_a_visitor(suite: Suite, site: str) -> None:
    visit, other = str(uuid.uuid4()), str(uuid.uuid4())
    async with suite.http() as http:
        await happens(http, site, "SignIn", other, "dana")
        await asyncio.sleep(1)  # until the streams are past it
        chosen: list[dict[str, Any]] = [{"visitId": visit}, {"identityId": site}]
        chosen.append({"state": "AUTHENTICATED", "site": [site, "x"]})
        watchers = [Watcher(http, query) for query in chosen]
        everything, none = Watcher(http, {"site": site, "pages": "true"}), Watcher(http, {"contactId": site})
        async with AsyncExitStack() as watching:
            for watcher in (everything, none, *watchers):
                await watching.enter_async_context(watcher.watching())
            await happens(http, site, "PageEntered", visit)
            signed_in = await happens(http, site, "SignIn", visit, site)
            await arrives(http, event("PageEntered", visit, now_ms(), site=site, url="https://shop.example/other"))
            await eventually(lambda: everything.changes(visit) == [["ARRIVED"], ["STATE", "IDENTITY"], ["PAGE"]])
            for watcher in watchers:
                await eventually(lambda: bool(signed_in in watcher.events() and watcher.transitions()))  # noqa: B023
                assert {one for one, _, _ in watcher.transitions()} == {visit}
            assert none.told == []
        assert (await http.get(LIVE, params={"visitId": "x"})).status_code == 400


async def test_silence_is_broken_by_comments(suite: Suite, site: str) -> None:
    async with gateway_of(suite, live_heartbeat_ms=100) as http:
        watcher = Watcher(http, {"site": site})
        async with watcher.watching():
            await eventually(lambda: watcher.beats >= 3)
        assert watcher.told == []


async def test_data_with_line_ends_is_one_message(suite: Suite, site: str) -> None:
    sent = event("PageEntered", str(uuid.uuid4()), now_ms(), site=site, data={"a": ["\n\nevent: x\n\n", "\r"]})
    body = json.dumps(sent, indent=1).replace("\n", "\n\n\r")
    async with suite.http() as http:
        watcher = Watcher(http, {"site": site})
        async with watcher.watching():
            assert (await http.post("/beacon", content=body, headers={"Content-Type": "text/plain"})).status_code == 204
            await watcher.has(events=1, transitions=0)
        [arrived] = [data for name, data in watcher.told if name == "event"]
        assert arrived["event"]["data"] == sent["data"]


async def test_it_is_for_clients_that_may_read_and_may_see_the_site(
    suite: Suite, site: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.json"

    def key(*options: str) -> dict[str, str]:
        assert keys_command.run(["create", "desk", *options], file) == 0
        return {"Authorization": f"Bearer {capsys.readouterr().out.split()[-1]}"}

    limited, writer = key("--scope", "read", "--site", site), key("--scope", "contacts")
    async with gateway_of(suite, keys_file=file) as owner, httpx.AsyncClient(base_url=owner.base_url) as http:
        assert (await http.get(LIVE)).status_code == 401
        assert (await http.get(LIVE, headers=writer)).status_code == 403
        assert (await http.get(LIVE, headers=limited, params={"site": "elsewhere"})).status_code == 403
        watcher = Watcher(http, headers=limited)
        async with watcher.watching() as stream:
            await happens(http, "elsewhere", "PageEntered", str(uuid.uuid4()))
            ours = await happens(http, site, "PageEntered", str(uuid.uuid4()))
            await watcher.has(events=1, transitions=0)
            assert watcher.events() == [ours]
            assert keys_command.run(["revoke", limited["Authorization"].split("_")[1]], file) == 0
            await happens(http, site, "PageEntered", str(uuid.uuid4()))
            await asyncio.wait_for(stream, 10)
        assert watcher.events() == [ours]
        assert (await http.get(LIVE, headers=limited)).status_code == 401


async def test_it_ends_with_the_session_of_its_page(suite: Suite, site: str) -> None:
    page = {SESSION_HEADER: "1"}
    async with (
        gateway_of(suite, REDIS_URL=suite.redis_url) as owner,
        httpx.AsyncClient(base_url=owner.base_url) as http,
    ):
        assert (await http.post("/api/v1/session", auth=("tester", "secret"))).status_code == 200
        watcher = Watcher(http, {"site": site}, headers=page)
        async with watcher.watching() as stream:
            ours = await happens(owner, site, "PageEntered", str(uuid.uuid4()))
            await watcher.has(events=1, transitions=0)
            assert (await http.delete("/api/v1/session", headers=page)).status_code == 204
            await happens(owner, site, "PageEntered", str(uuid.uuid4()))
            await asyncio.wait_for(stream, 10)
        assert watcher.events() == [ours]


@pytest.mark.parametrize("last_id", ["x", "~", "0-0~?", "?~MD0wLTAvMA==", "0-0.0-0~MD0wLTAvMA==", "é~é"])
async def test_an_id_that_is_none_is_refused_by_the_name_of_its_header(suite: Suite, last_id: str) -> None:
    async with suite.http() as http:
        answer = await http.get(LIVE, headers={b"Last-Event-ID": last_id.encode()})
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["detail"].startswith("Last-Event-ID: ")


@pytest.mark.parametrize("theirs", [0, 1])
async def test_an_id_of_another_deployment_is_refused_with_what_to_do(suite: Suite, site: str, theirs: int) -> None:
    async with suite.http() as http:
        watcher = Watcher(http, {"site": site})
        async with watcher.watching():
            pass
        positions = watcher.last_id.split("~")
        later = [re.sub(r"\d+-\d+", "9" * 13 + "-0", text) for text in (positions[0], b64decode(positions[1]).decode())]
        positions[theirs] = (later[0], b64encode(later[1].encode()).decode())[theirs]
        answer = await http.get(LIVE, headers={"Last-Event-ID": "~".join(positions)})
    assert answer.status_code == 409
    detail = answer.json()["detail"]
    assert detail.startswith("Last-Event-ID: messages after it are not kept; list the visitors")
    assert detail.endswith("(RESUME_TOKEN_EXPIRED)")


async def test_streams_are_bounded_and_one_that_is_left_ends_at_both_services(suite: Suite, site: str) -> None:
    async def none_is_left() -> None:
        assert await watchers(suite) == (0, 0)

    await eventually(none_is_left)  # of other tests
    async with gateway_of(suite, max_live_streams=1) as http:
        async with Watcher(http).watching():
            assert await watchers(suite) == (1, 1)
            full = await http.get(LIVE)
            assert (full.status_code, full.headers["Retry-After"]) == (503, "10")

        await eventually(none_is_left)
        async with Watcher(http).watching():
            pass
        assert (await http.head(LIVE)).status_code == 200
        assert "\nfootfall_gateway_live_streams 0.0\n" in (await http.get("/metrics")).text


@pytest.mark.parametrize("program", ["identity", "history"])
async def test_a_killed_neighbour_ends_the_stream_and_nothing_is_missed(
    suite: Suite, site: str, program: Program
) -> None:
    visits = [str(uuid.uuid4()) for _ in range(3)]
    async with suite.http() as http:
        watcher = Watcher(http, {"site": site})
        async with watcher.watching() as stream:
            sent = [await happens(http, site, "SignIn", visits[0], "dana")]
            await watcher.has(events=1, transitions=1)
            suite.kill(program)
            await asyncio.wait_for(stream, 10)
        sent.append(await happens(http, site, "SignIn", visits[1], "dana"))

        async def goes_on() -> None:
            async with watcher.watching() as stream:  # as EventSource does, which comes again after a 200 only
                await eventually(lambda: len(watcher.told) >= 4 or stream.done())
                assert not stream.done()

        await eventually(goes_on, timeout=30, every=0.2)
        async with watcher.watching():
            sent.append(await happens(http, site, "SignIn", visits[2], "dana"))
            await watcher.has(events=3, transitions=3)
    assert watcher.events() == sent
    assert [visit for visit, _, _ in watcher.transitions()] == visits


async def test_without_a_neighbour_whoever_comes_again_is_told_to_come_again(suite: Suite) -> None:
    async with gateway_of(suite) as http:
        watcher = Watcher(http)
        async with watcher.watching():
            pass
    async with gateway_of(suite, IDENTITY_TARGET="127.0.0.1:1") as http:
        assert (await http.get(LIVE)).status_code == 503
        again = await http.get(LIVE, headers={"Last-Event-ID": watcher.last_id})
    assert (again.status_code, again.headers["Content-Type"]) == (200, "text/event-stream")
    assert again.text == "retry: 2000\n\n"


async def test_streams_do_not_hold_up_a_gateway_that_stops(suite: Suite) -> None:
    async with AsyncExitStack() as closing:
        http = await closing.enter_async_context(gateway_of(suite, stop_grace_ms=60_000))
        async with Watcher(http).watching() as stream:
            async with asyncio.timeout(10):
                await closing.aclose()
            await stream


async def test_a_client_that_does_not_read_is_cut_off(suite: Suite, site: str) -> None:
    text = "x" * 60_000
    async with gateway_of(suite, client_timeout_ms=500) as http, suite.http() as shop:
        user = b64encode(b"tester:secret").decode()
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port, limit=1)
        writer.write(f"GET {LIVE}?site={site} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {user}\r\n\r\n".encode())
        assert await reader.readexactly(12) == b"HTTP/1.1 200"
        before = await watchers(suite)

        async def is_cut_off() -> None:
            visit = str(uuid.uuid4())
            await arrives(shop, *(event("Click", visit, now_ms(), site=site, data={"text": text}) for _ in range(15)))
            assert [then - now for then, now in zip(before, await watchers(suite), strict=True)] == [1, 1]

        await eventually(is_cut_off, timeout=30, every=0.1)
        writer.close()
