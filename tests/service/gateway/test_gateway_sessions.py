"""Sessions of the console: a cookie that signs in, at every gateway, until it has ended."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from footfall_eventlog.keys import Key, KeyFile, KeyScope, new_token
from footfall_gateway.auth import sessions
from footfall_gateway.auth.sessions import SESSION_COOKIE, SESSION_HEADER, session_cookie

from tests.service.gateway.conftest import running_gateway
from tests.tools.visits import now_ms

Running = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
SESSION = "/api/v1/session"
VISIT = "/server/data/visits/not-a-uuid"
"""Answered 404 by the gateway itself to who may read."""
BY_COOKIE = {SESSION_HEADER: "1"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def gateway(file: Path, redis_database_url: str) -> Running:
    return partial(running_gateway, keys_file=file, REDIS_URL=redis_database_url)


def made_key(file: Path, *scopes: KeyScope, sites: tuple[str, ...] = ()) -> str:
    """The token of a new key."""
    token, key_id, token_hash = new_token()
    with KeyFile(file).changing() as keys:
        keys[key_id] = Key(
            id=key_id, name="desk", hash=token_hash, scopes=list(scopes), sites=list(sites), create_ms=now_ms()
        )
    return token


@asynccontextmanager
async def browser_at(http: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """A client that keeps cookies, and has no credentials of its own."""
    async with httpx.AsyncClient(base_url=http.base_url, timeout=60) as browser:
        yield browser


async def signed_in(browser: httpx.AsyncClient, **credentials: Any) -> httpx.Response:
    answer = await browser.post(SESSION, **({"auth": ("tester", "secret")} | credentials))
    assert answer.status_code == 200, answer.text
    return answer


async def status(browser: httpx.AsyncClient, path: str = VISIT) -> int:
    return (await browser.get(path, headers=BY_COOKIE)).status_code


async def test_a_cookie_signs_in_and_no_script_and_no_other_site_has_it(gateway: Running) -> None:
    async with gateway() as http, browser_at(http) as browser:
        assert await status(browser) == 401
        answer = await signed_in(browser, headers={"Origin": "https://footfall.example", "Host": "footfall.example"})
        assert answer.json() == {
            "name": "tester",
            "scopes": ["read", "ingest", "contacts", "erase"],
            "sites": [],
            "idleSeconds": 1800,
        }
        token, *attributes = answer.headers["set-cookie"].split("; ")
        assert len(token.removeprefix(f"{SESSION_COOKIE}=")) == 43
        assert {*attributes} == {"Path=/", "HttpOnly", "SameSite=Strict", "Secure"}
        browser.cookies.set(*token.split("=", 1))
        assert await status(browser) == 404
        assert (await browser.get(SESSION, headers=BY_COOKIE)).json() == answer.json()


async def test_without_its_header_a_cookie_is_no_credential(gateway: Running) -> None:
    async with gateway() as http, browser_at(http) as browser:
        await signed_in(browser)
        refused = await browser.get(VISIT)
        assert refused.status_code == 401
        assert "Basic" in refused.headers["www-authenticate"]
        other = {**BY_COOKIE, "Origin": "https://evil.example"}
        assert (await browser.request("DELETE", SESSION, headers=other)).status_code == 403
        assert await status(browser) == 404


async def test_a_page_gets_no_window_of_the_browser_to_sign_in(gateway: Running) -> None:
    async with gateway() as http, browser_at(http) as browser:
        for refused in (
            await browser.get(SESSION, headers=BY_COOKIE),
            await browser.post(SESSION, headers=BY_COOKIE, auth=("tester", "wrong")),
        ):
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == 'Session realm="Footfall"'


async def test_a_session_is_known_to_every_gateway_and_ends_at_all(gateway: Running) -> None:
    async with gateway() as one, gateway() as other, browser_at(one) as browser, browser_at(other) as elsewhere:
        await signed_in(browser)
        elsewhere.cookies.set(SESSION_COOKIE, browser.cookies[SESSION_COOKIE])
        assert await status(elsewhere) == 404
        stolen = browser.cookies[SESSION_COOKIE]
        ended = await browser.delete(SESSION, headers=BY_COOKIE)
        assert (ended.status_code, SESSION_COOKIE in browser.cookies) == (204, False)
        for client in (browser, elsewhere):
            client.cookies.set(SESSION_COOKIE, stolen)
            assert await status(client) == 401


async def test_a_stream_learns_that_its_session_has_ended_at_another_gateway(
    redis_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_ASK_AGAIN_S", 0.2)
    one, other = (
        sessions.Sessions(redis_database_url, idle_s=600, longest_s=600, most=10, link_s=60) for _ in range(2)
    )
    token = await one.begin("", "secret")
    session = await other.find(token)
    assert session
    assert await other.goes_on(session.id)
    await one.end(token)
    assert not await one.goes_on(session.id)
    await asyncio.sleep(0.2)
    assert not await other.goes_on(session.id)
    for each in (one, other):
        await each.close()


async def test_a_session_has_what_its_key_has_and_ends_with_it(gateway: Running, file: Path) -> None:
    token = made_key(file, KeyScope.READ, sites=("shop",))
    async with gateway() as http, browser_at(http) as browser:
        answer = await signed_in(browser, auth=None, headers={"Authorization": f"Bearer {token}"})
        assert (answer.json()["scopes"], answer.json()["sites"]) == (["read"], ["shop"])
        assert await status(browser, "/server/data/identities") == 403
        contact = await browser.put("/api/v1/contacts/x", headers=BY_COOKIE, json={})
        assert contact.status_code == 403
        with KeyFile(file).changing() as keys:
            [(key_id, key)] = keys.items()
            keys[key_id] = Key(**{name: getattr(key, name) for name in key.__struct_fields__} | {"hash": "sha256:x"})
        assert await status(browser) == 401


async def test_it_ends_without_its_user_and_goes_on_with_one(gateway: Running, redis: Any) -> None:
    async with gateway(session_idle_minutes=10, max_session_hours=1) as http, browser_at(http) as browser:
        await signed_in(browser)
        [key] = [name async for name in redis.scan_iter("{session}:*") if not name.endswith(b":ends")]
        await redis.pexpire(key, 60_000)
        assert await status(browser) == 404
        assert (await browser.get(SESSION, headers=BY_COOKIE)).status_code == 200
        assert await redis.pttl(key) <= 60_000, "what a page reads by itself is no activity"
        again = await browser.post(SESSION, headers=BY_COOKIE)
        assert (again.status_code, "set-cookie" in again.headers) == (200, False)
        assert await redis.pttl(key) > 500_000

        record = json.loads(await redis.get(key))
        await redis.set(key, json.dumps(record | {"last_ms": now_ms() + 5_000}))
        await browser.post(SESSION, headers=BY_COOKIE)
        assert 0 < await redis.pttl(key) <= 5_000, "at the end of the shift it ends in any case"
        await redis.pexpire(key, 0)

        assert await status(browser) == 401


async def test_the_number_of_sessions_is_bounded_and_who_was_idle_longest_makes_room(
    gateway: Running, redis: Any
) -> None:
    async with gateway(max_sessions=2) as http:
        cookies = []
        async with browser_at(http) as browser:
            for _ in range(2):
                browser.cookies.clear()
                await signed_in(browser)
                cookies.append(browser.cookies[SESSION_COOKIE])
            browser.cookies.clear()
            browser.cookies.set(SESSION_COOKIE, cookies[0])
            assert (await browser.post(SESSION, headers=BY_COOKIE)).status_code == 200
            browser.cookies.clear()
            await signed_in(browser)
            cookies.append(browser.cookies[SESSION_COOKIE])
            found = []
            for cookie in cookies:
                browser.cookies.clear()
                browser.cookies.set(SESSION_COOKIE, cookie)
                found.append(await status(browser))
        assert found == [404, 401, 404]
        names = [name async for name in redis.scan_iter("*session*")]
        assert len(names) == 3
        assert all([0 < await redis.pttl(name) <= 1_800_000 for name in names])


async def test_who_reads_and_writes_redis_becomes_no_one(gateway: Running, redis: Any) -> None:
    async with gateway() as http, browser_at(http) as browser:
        await signed_in(browser)
        token = browser.cookies[SESSION_COOKIE]
        [key] = [name async for name in redis.scan_iter("{session}:*") if not name.endswith(b":ends")]
        kept = await redis.get(key)
        assert token.encode() not in kept + key
        assert b"secret" not in kept

        # A record of the writer's own, for a token of its own: the proof needs the password.
        mine = "A" * 43
        await redis.set("{session}:" + hashlib.sha256(mine.encode()).hexdigest(), kept)
        browser.cookies.clear()
        browser.cookies.set(SESSION_COOKIE, mine)
        assert await status(browser) == 401


@pytest.mark.parametrize("value", ["", "x", "A" * 43, "é" * 43, "A" * 5_000, '"; x=y'])
async def test_a_cookie_that_is_none_is_401(gateway: Running, value: str) -> None:
    async with gateway() as http, browser_at(http) as browser:
        cookie = f"other=1; {SESSION_COOKIE}={value}".encode("latin-1")
        answer = await browser.get(VISIT, headers={**BY_COOKIE, "Cookie": cookie})  # type: ignore[arg-type]
        assert answer.status_code == 401


async def test_without_redis_credentials_work_and_sessions_are_503(gateway: Running) -> None:
    async with gateway(REDIS_URL="redis://127.0.0.1:1") as http, browser_at(http) as browser:
        assert (await http.get(VISIT)).status_code == 404
        refused = await http.post(SESSION)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        browser.cookies.set(SESSION_COOKIE, "A" * 43)
        assert await status(browser) == 503


async def test_with_open_access_no_session_is_needed(gateway: Running) -> None:
    async with gateway(allow_anonymous=True) as http, browser_at(http) as browser:
        answer = await browser.post(SESSION, headers=BY_COOKIE)
        assert (answer.status_code, answer.json()["idleSeconds"], "set-cookie" in answer.headers) == (200, None, False)
        assert (await browser.delete(SESSION, headers=BY_COOKIE)).status_code == 204


LINKS = f"{SESSION}/links"


async def used(http: httpx.AsyncClient, token: str) -> httpx.Response:
    """Use a link, as the page in a frame does: without credentials and cookies."""
    async with browser_at(http) as frame:
        return await frame.post(f"{LINKS}/use", json={"token": token})


async def test_a_link_begins_one_session_that_reads_what_its_key_reads(gateway: Running, file: Path) -> None:
    token = made_key(file, KeyScope.READ, KeyScope.CONTACTS, sites=("shop",))
    async with gateway() as http, browser_at(http) as desktop, browser_at(http) as frame:
        desktop.headers["Authorization"] = f"Bearer {token}"
        link = (await desktop.post(LINKS)).json()
        assert link["validSeconds"] == 60
        begun = await used(http, link["token"])
        assert (begun.status_code, "set-cookie" in begun.headers) == (200, False)
        session = begun.json().pop("session")
        assert begun.json() | {"session": session} == {
            "name": "desk", "scopes": ["read"], "sites": ["shop"], "idleSeconds": 1800, "session": session,
        }  # fmt: skip
        assert (await used(http, link["token"])).status_code == 404, "once"

        frame.headers[SESSION_HEADER] = session
        assert (await frame.get(VISIT)).status_code == 404
        assert (await frame.get("/server/data/identities")).status_code == 403
        assert (await frame.put("/api/v1/contacts/x", json={})).status_code == 403
        assert (await frame.post(SESSION)).status_code == 200
        refused = await frame.post(LINKS)
        assert (refused.status_code, "session" in refused.json()["detail"]) == (403, True)
        assert (await frame.delete(SESSION)).status_code == 204
        assert (await frame.get(VISIT)).status_code == 401


async def test_a_link_that_has_expired_or_whose_key_has_changed_begins_nothing(gateway: Running, redis: Any) -> None:
    async with gateway(session_link_seconds=20) as http:
        token = (await http.post(LINKS)).json()["token"]
        [key] = [name async for name in redis.scan_iter("{session}:link:*")]
        assert token.encode() not in key + await redis.get(key)
        assert 0 < await redis.pttl(key) <= 20_000
        kept = json.loads(await redis.get(key))
        await redis.set(key, json.dumps(kept | {"is_reader": False}))
        assert (await used(http, token)).status_code == 404, "what it may is proven too"
        assert (await used(http, token)).status_code == 404
        assert (await used(http, "A" * 43)).status_code == 404
        assert (await used(http, "")).status_code == 404
    async with gateway(allow_anonymous=True) as http:
        assert (await http.post(LINKS)).json() == {"token": None, "validSeconds": 0}
        assert (await used(http, "A" * 43)).status_code == 404


def test_the_cookie_of_a_page_without_https_is_sent_without_it() -> None:
    assert session_cookie("x", is_secure=False) == f"{SESSION_COOKIE}=x; Path=/; HttpOnly; SameSite=Strict"
    assert session_cookie("", is_secure=True).endswith("; SameSite=Strict; Max-Age=0; Secure")
