"""Credentials: Basic, bearer tokens, scopes, and the limits for failed sign-ins."""

import asyncio
import hashlib
import json
import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from argon2 import PasswordHasher
from footfall_eventlog.keys import Key, KeyFile, KeyScope, new_token
from footfall_gateway.auth.authenticator import Authenticator
from footfall_gateway.auth.keys import matches_slow_hash
from footfall_gateway.commands import keys as keys_command
from footfall_gateway.problem import Problem

from tests.service.gateway.conftest import running_gateway
from tests.tools.eventually import eventually
from tests.tools.visits import now_ms

VISIT = "/server/data/visits/not-a-uuid"
"""Answered 404 by the gateway itself when the credentials are valid."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
async def http(file: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        running_gateway(keys_file=file, max_failed_logins_per_minute=5) as client,
        httpx.AsyncClient(base_url=client.base_url) as anonymous,
    ):
        yield anonymous


def command(capsys: pytest.CaptureFixture[str], file: Path, *arguments: str) -> str:
    """The line that a command prints; log lines may come before it."""
    assert keys_command.run([*arguments], file) == 0
    return capsys.readouterr().out.splitlines()[-1]


def old_key(file: Path) -> tuple[str, str]:
    """The token and id of a new key in the format of earlier versions."""
    token, key_id, _ = new_token()
    kept = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(token)
    with KeyFile(file).changing() as keys:
        keys[key_id] = Key(id=key_id, name="old", hash=kept, scopes=[KeyScope.READ], sites=[], create_ms=now_ms())
    return token, key_id


def made_up_for(token: str) -> str:
    """A wrong token with the id of the same key."""
    return token[:-43] + "x" * 43


def authenticator_of(file: Path, max_queued_hashes: int = 20) -> Authenticator:
    return Authenticator(
        user="",
        password="",
        keys_file=file,
        allows_anonymous=False,
        has_sites_file=False,
        max_failures_per_minute=5,
        max_queued_hashes=max_queued_hashes,
    )


async def outcome(authenticator: Authenticator, authorization: str, address: str = "192.0.2.100") -> int:
    """The status of the response to a request with this header."""
    try:
        await authenticator.authenticate(authorization, address)
    except Problem as problem:
        return problem.status
    return 200


class SlowHash:
    """Counts the comparisons with a slow hash, and can block them."""

    def __init__(self) -> None:
        self.hashed: list[str] = []
        self.may_end = threading.Event()
        self.may_end.set()

    def __call__(self, kept: str, token: str) -> bool:
        self.hashed.append(token)
        assert self.may_end.wait(10)
        return matches_slow_hash(kept, token)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowHash:
    counting = SlowHash()
    monkeypatch.setattr("footfall_gateway.auth.authenticator.matches_slow_hash", counting)
    return counting


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_without_credentials_the_data_routes_ask_for_them_and_nothing_else_does(http: httpx.AsyncClient) -> None:
    for path in (VISIT, "/backend/data/identities", "/api/v1/visits/x/visitor"):
        answer = await http.get(path)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith('Basic realm="Footfall"')
    for path in ("/healthz", "/metrics"):
        assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    ["Basic", "Basic !", "Basic dGVzdGVyOndyb25n", "Bearer x", "Bearer ffk_000000000000_" + "x" * 43, "Negotiate x"],
)
async def test_wrong_credentials_are_401(http: httpx.AsyncClient, authorization: str) -> None:
    assert (await http.get(VISIT, headers={"Authorization": authorization})).status_code == 401


async def test_the_user_of_the_settings_holds_every_scope(http: httpx.AsyncClient) -> None:
    assert (await http.get(VISIT, auth=("tester", "secret"))).status_code == 404


async def test_a_token_works_as_bearer_and_as_the_password_of_basic(
    http: httpx.AsyncClient, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = command(capsys, file, "create", "desktop")
    assert (await http.get(VISIT, headers=bearer(token))).status_code == 404
    assert (await http.get(VISIT, auth=("any user", token))).status_code == 404


def test_the_file_holds_no_token_and_is_readable_by_its_owner_only(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = command(capsys, file, "create", "desktop", "--site", "shop", "--days", "30")
    assert token not in file.read_text()
    secret = token.split("_", 2)[2]  # may have a `_` itself
    assert secret not in file.read_text()
    assert hashlib.sha256(token.encode()).hexdigest() in file.read_text()
    for kept in (file, file.with_suffix(".audit"), file.with_suffix(".lock")):
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    listed = command(capsys, file, "list")
    assert "desktop" in listed
    assert "shop" in listed
    assert token not in listed


async def test_a_revoked_or_rotated_token_ends_at_once(
    http: httpx.AsyncClient, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = command(capsys, file, "create", "desktop")
    assert (await http.get(VISIT, headers=bearer(first))).status_code == 404
    second = command(capsys, file, "rotate", first.split("_")[1])
    assert (await http.get(VISIT, headers=bearer(first))).status_code == 401
    assert (await http.get(VISIT, headers=bearer(second))).status_code == 404
    command(capsys, file, "revoke", second.split("_")[1])
    assert (await http.get(VISIT, headers=bearer(second))).status_code == 401


async def test_an_expired_token_is_401(http: httpx.AsyncClient, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = command(capsys, file, "create", "desktop", "--days", "-1")
    assert (await http.get(VISIT, headers=bearer(token))).status_code == 401


async def test_a_token_that_expires_while_it_is_remembered_ends_then(
    http: httpx.AsyncClient, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = command(capsys, file, "create", "desktop", "--days", "1")
    with KeyFile(file).changing() as keys:
        for key in list(keys.values()):
            keys[key.id] = msgspec.structs.replace(key, expire_ms=now_ms() + 1_500)
    assert (await http.get(VISIT, headers=bearer(token))).status_code == 404

    async def is_over() -> None:
        assert (await http.get(VISIT, headers=bearer(token))).status_code == 401

    await eventually(is_over)


async def test_guessing_is_limited_but_does_not_lock_out_who_is_at_work(
    http: httpx.AsyncClient, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = command(capsys, file, "create", "desktop")
    assert (await http.get(VISIT, headers=bearer(token))).status_code == 404
    guesses = [(await http.get(VISIT, auth=("tester", f"guess {n}"))).status_code for n in range(8)]
    assert guesses == [401] * 5 + [429] * 3
    refused = await http.get(VISIT, auth=("tester", "secret"))
    assert (refused.status_code, refused.json()["code"]) == (429, 429)
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert (await http.get(VISIT, headers=bearer(token))).status_code == 404


async def test_an_unusable_key_file_has_no_valid_key_and_api_user_still_works(
    http: httpx.AsyncClient, file: Path
) -> None:
    await asyncio.to_thread(file.write_text, "not JSON")
    assert (await http.get(VISIT, headers=bearer("ffk_000000000000_" + "x" * 43))).status_code == 401
    assert (await http.get(VISIT, auth=("tester", "secret"))).status_code == 404


def test_a_command_for_an_unknown_key_reports_that(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys_command.run(["revoke", "000000000000"], file) == 1
    assert "No key has the id" in capsys.readouterr().err
    assert keys_command.run(["list"], None) == 2


async def test_addresses_of_one_ipv6_network_guess_as_one(file: Path) -> None:
    authenticator = authenticator_of(file)
    network, guess = "2001:db8:1:2", "Basic dGVzdGVyOndyb25n"
    answers = [await outcome(authenticator, guess, f"{network}::{n:x}") for n in range(1, 8)]
    assert answers == [401] * 5 + [429] * 2
    assert await outcome(authenticator, guess, "2001:db8:1:3::1") == 401


async def test_made_up_tokens_cost_no_slow_hash(file: Path, capsys: pytest.CaptureFixture[str], slow: SlowHash) -> None:
    token = command(capsys, file, "create", "desktop")
    old, _ = old_key(file)
    authenticator = authenticator_of(file)
    assert await outcome(authenticator, f"Bearer {old}") == 200
    assert slow.hashed == [old]
    for made_up in ("ffk_000000000000_" + "x" * 43, made_up_for(token), made_up_for(old)):
        assert await outcome(authenticator, f"Bearer {made_up}", made_up) == 401
    assert await outcome(authenticator, f"Bearer {token}") == 200
    assert slow.hashed == [old]


async def test_a_key_of_an_earlier_version_works_and_says_that_it_should_be_rotated(
    http: httpx.AsyncClient, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token, key_id = old_key(file)
    assert (await http.get(VISIT, headers=bearer(made_up_for(token)))).status_code == 401
    for _ in range(2):
        assert (await http.get(VISIT, headers=bearer(token))).status_code == 404
    assert "slow hash" in command(capsys, file, "list")
    new = command(capsys, file, "rotate", key_id)
    assert (await http.get(VISIT, headers=bearer(token))).status_code == 401
    assert (await http.get(VISIT, headers=bearer(new))).status_code == 404
    assert "slow hash" not in command(capsys, file, "list")


async def test_slow_hashes_that_wait_are_bounded_and_nobody_else_waits_for_them(
    file: Path, capsys: pytest.CaptureFixture[str], slow: SlowHash
) -> None:
    token = command(capsys, file, "create", "desktop")
    old, _ = old_key(file)
    authenticator = authenticator_of(file, max_queued_hashes=3)
    slow.may_end.clear()
    guesses = [
        asyncio.create_task(outcome(authenticator, f"Bearer {made_up_for(old)}", f"192.0.2.{n}")) for n in range(5)
    ]
    try:
        assert await outcome(authenticator, f"Bearer {token}") == 200
    finally:
        slow.may_end.set()
    assert sorted(await asyncio.gather(*guesses)) == [401] * 3 + [503] * 2
    assert await outcome(authenticator, f"Bearer {old}") == 200


def test_every_change_of_the_keys_is_recorded(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = command(capsys, file, "create", "desktop", "--site", "shop")
    old = token.split("_")[1]
    new = command(capsys, file, "rotate", old)
    command_line = ["revoke", new.split("_")[1]]
    assert keys_command.run(command_line, file) == 0
    record = file.with_suffix(".audit")
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    expected = [("create", old), (f"rotate {old}", command_line[1]), ("revoke", command_line[1])]
    assert [(line["action"], line["key"]) for line in lines] == expected
    assert {(line["name"], *line["sites"], line["uid"]) for line in lines} == {("desktop", "shop", os.getuid())}
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    assert not [secret for secret in (token, new) if secret.split("_", 2)[2] in record.read_text()]


async def test_anonymous_access_needs_an_explicit_setting() -> None:
    async with running_gateway(allow_anonymous=True) as client:
        assert (await client.get(VISIT, auth=None)).status_code == 404
    async with running_gateway(API_USER="", API_PASSWORD="") as client:
        assert (await client.get(VISIT)).status_code == 401
