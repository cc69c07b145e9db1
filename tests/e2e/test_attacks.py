"""Attacks on a running suite that no other test shows to fail; docs/security.md has the table of all."""

import base64
import http.client
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from footfall_gateway.commands import keys as keys_command

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import event, live_state, new_id, now_ms

EVIL = "https://evil.example"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
async def owner(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    async with suite.http() as client:
        yield client


@pytest.fixture(scope="module")
async def stranger(suite: Suite) -> AsyncIterator[httpx.AsyncClient]:
    async with suite.http(auth=None) as client:
        yield client


@pytest.fixture(scope="module")
async def victim(owner: httpx.AsyncClient) -> dict[str, Any]:
    """The sign-in of somebody whom history knows; `globalVisitID` is what the tracker's cookie holds."""
    person, visit = f"victim-{uuid.uuid4().hex[:8]}@example.com", str(uuid.uuid4())
    sent = event("SignIn", visit, now_ms(), person, site="shop", globalVisitID=str(uuid.uuid4()))
    assert (await owner.post("/beacon", json=sent)).status_code == 204

    async def is_known() -> bool:
        return (await owner.get(f"/server/data/visits/{visit}/identities")).status_code == 200

    await eventually(is_known)
    return sent


async def test_a_stolen_cookie_opens_nothing_and_signs_nobody_in(
    owner: httpx.AsyncClient, stranger: httpx.AsyncClient, victim: dict[str, Any]
) -> None:
    cookie = {"Cookie": f"_gt_gvid={victim['globalVisitID']}"}
    for path in (f"/server/data/visits/{victim['visitID']}", f"/api/v1/visits/{victim['visitID']}/visitor"):
        assert (await stranger.get(path, headers=cookie)).status_code == 401
    mine = event("PageEntered", str(uuid.uuid4()), now_ms(), globalVisitID=victim["globalVisitID"])
    answer = await stranger.post("/beacon", json=mine, headers=cookie)
    assert (answer.status_code, answer.content) == (204, b"")
    visitor = await live_state(owner, mine["visitID"])
    assert (visitor["state"], visitor["identityId"]) == ("ANONYMOUS", None)


async def test_no_page_of_another_origin_may_read_or_change_data(
    owner: httpx.AsyncClient, victim: dict[str, Any]
) -> None:
    visit, contact = f"/server/data/visits/{victim['visitID']}", f"/api/v1/contacts/{uuid.uuid4()}"
    for method, path in (("GET", visit), ("GET", f"{visit}/events"), ("GET", "/openapi.json"), ("PUT", contact)):
        asked = await owner.options(path, headers={"Origin": EVIL, "Access-Control-Request-Method": method})
        assert "Access-Control-Allow-Methods" not in asked.headers
        assert "Access-Control-Allow-Credentials" not in asked.headers
    read = await owner.get(visit, headers={"Origin": EVIL})
    assert read.status_code == 200
    assert not [name for name in read.headers if name.startswith("access-control")]


async def test_what_a_browser_sends_for_a_page_of_another_origin_changes_nothing(owner: httpx.AsyncClient) -> None:
    contact, changed = f"/api/v1/contacts/{uuid.uuid4()}", {"firstName": "Mallory"}
    ours = str(owner.base_url).rstrip("/")
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": ours},
        {"Origin": EVIL},  # browsers leave Sec-Fetch-Site out towards plain HTTP
        {"Origin": f"{ours}1"},  # another port is another origin
        {"Origin": "null"},
    ):
        assert (await owner.put(contact, json=changed, headers=headers)).status_code == 403
        assert (await owner.delete(contact, headers=headers)).status_code == 403
        assert (await owner.post("/server/data/visits", json={}, headers=headers)).status_code == 403
    assert (await owner.get(contact)).status_code == 404
    for headers in ({"Sec-Fetch-Site": "same-origin", "Origin": EVIL}, {"Origin": ours}, {}):
        assert (await owner.put(contact, json=changed, headers=headers)).status_code == 200


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_a_body_that_any_page_may_send_changes_nothing(owner: httpx.AsyncClient, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    visit = str(uuid.uuid4())
    for method, path in (
        ("POST", "/server/data/visits"),
        ("POST", f"/backend/data/visits/{visit}/events"),
        ("PUT", f"/api/v1/contacts/{visit}"),
    ):
        answer = await owner.request(method, path, content=b'{"visitId":"%b"}' % visit.encode(), headers=headers)
        assert (answer.status_code, "Content-Type: must be" in answer.text) == (415, True)
    assert (await owner.get(f"/server/data/visits/{visit}")).status_code == 404


async def test_who_guesses_an_id_cannot_tell_what_is_hidden_from_what_is_not_there(
    owner: httpx.AsyncClient, suite: Suite, victim: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    visit = victim["visitID"]
    file = Path(suite.data_dir / "keys.json")
    assert keys_command.run(["create", "blog", "--site", f"blog-{new_id()}"], file) == 0
    token = capsys.readouterr().out.split()[-1]
    events = (await owner.get(f"/server/data/visits/{visit}/events")).json()
    sessions = (await owner.get(f"/server/data/visits/{visit}/sessions")).json()
    async with suite.http(auth=None, headers={"Authorization": f"Bearer {token}"}) as guesser:
        for path, there in (
            ("/server/data/visits/{}", visit),
            ("/server/data/visits/{}/events", visit),
            ("/server/data/visits/{}/userAgent", visit),
            ("/server/data/events/{}", events[0]["eventID"]),
            ("/server/data/sessions/{}", sessions[0]["sessionId"]),
            ("/server/data/pages/{}", events[0]["pageID"]),
            ("/api/v1/visits/{}/visitor", visit),
            ("/api/v1/visits/{}/explain", visit),
        ):
            hidden, missing = await guesser.get(path.format(there)), await guesser.get(path.format(NOBODY))
            assert (hidden.status_code, hidden.content) == (missing.status_code, missing.content), path
            assert hidden.status_code == 404


def test_an_id_is_no_path(suite: Suite) -> None:
    """By a client that sends paths as they are."""
    authorization = base64.b64encode(":".join(suite.credentials).encode()).decode()
    host, tls = suite.url.rpartition("/")[2], suite.tls
    https, plain = http.client.HTTPSConnection, http.client.HTTPConnection
    with closing(https(host, timeout=10, context=tls) if tls else plain(host, timeout=10)) as connection:
        for name in (
            "..",
            "../../etc/passwd",
            "..%2f..%2fetc%2fpasswd",
            "%2e%2e/%2e%2e/etc/passwd",
            "..%5c..%5c",
            "%00",
        ):
            for folder in ("/server/data/visits", "/server/data/identities", "/docs", "/demo", "/api/v1/contacts"):
                connection.request("GET", f"{folder}/{name}", headers={"Authorization": f"Basic {authorization}"})
                answer = connection.getresponse()
                assert answer.status == 404, (folder, name)
                assert b"root:" not in answer.read()


async def test_what_is_sent_is_never_a_line_of_the_log(suite: Suite, owner: httpx.AsyncClient) -> None:
    line = '{"event": "forged-%s", "level": "error"}' % new_id()  # noqa: UP031 - braces
    forged = f"\r\n{line}\n"
    log = suite.data_dir / "log" / "gateway.log"
    size = log.stat().st_size
    marker = f"last-{new_id()}"
    await owner.get("/server/data/identities", params={"location": forged})
    await owner.get(f"/server/data/identities/{forged.encode().hex(' ').replace(' ', '%')}")
    await owner.get("/server/data/identities", headers={"X-Request-Id": line, "User-Agent": line})
    await owner.get("/healthz", auth=(line, line))
    await owner.get("/server/data/visits/x", auth=(line, line))
    await owner.post("/beacon", json=event(forged, forged, now_ms(), forged, eventID=forged))
    await owner.get("/server/data/identities", params={"page_size": 1}, headers={"X-Request-Id": marker})

    def is_written() -> bytes:
        with log.open("rb") as written:
            written.seek(size)
            lines = written.read()
        assert marker.encode() in lines
        return lines

    lines = await eventually(is_written)
    assert b"forged-" not in lines
    assert all(isinstance(json.loads(one), dict) for one in lines.splitlines())


async def test_nothing_of_what_was_sent_comes_back_as_a_page(owner: httpx.AsyncClient) -> None:
    script = "<script>alert(1)</script>"
    answers = [
        await owner.post("/beacon", json=event(script, script, now_ms(), eventID=script)),
        await owner.get(f"/{script}"),
        await owner.get(f"/server/data/visits/{script}"),
        await owner.get(f"/api/v1/contacts/{script}"),
        await owner.get("/server/data/identities", params={script: script, "page_start": script}),
        await owner.post("/cookie", params={"id": script, "domain": script}),
        await owner.get("/beacon.gif", params={"e": script}),
    ]
    for answer in answers:
        assert answer.status_code in {400, 404}, answer.url
        assert answer.headers["Content-Type"].partition(";")[0] in {"application/json", "application/problem+json"}
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert script not in "".join(f"{name}: {value}" for name, value in answer.headers.items())
