"""Engagement requests of pages made for GWE: responses without errors and without retries."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.service.gateway.conftest import running_gateway

ORIGIN = {"Origin": "https://shop.example"}


@pytest.fixture(scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with running_gateway() as client:
        client.auth = httpx.Auth()  # no credentials
        yield client


def may_be_read_with_credentials(answer: httpx.Response) -> bool:
    headers = answer.headers
    return (headers["Access-Control-Allow-Origin"], headers["Access-Control-Allow-Credentials"], headers["Vary"]) == (
        "https://shop.example",
        "true",
        "origin",
    )


@pytest.mark.parametrize("server", ["server", "frontend", "backend"])
async def test_the_disposition_of_an_invitation_is_accepted(http: httpx.AsyncClient, server: str) -> None:
    query = "result=pageExit&media=chat&visitID=1&pageID=2&alias=&engagementID=3&webengagement="
    answer = await http.get(f"/{server}/data/invites?{query}", headers=ORIGIN)
    assert (answer.status_code, answer.content) == (204, b"")
    assert may_be_read_with_credentials(answer)


HANDSHAKE = {
    "id": "1", "version": "1.0", "minimumVersion": "1.0", "channel": "/meta/handshake",
    "supportedConnectionTypes": ["websocket", "long-polling", "callback-polling"],
    "advice": {"timeout": 60000, "interval": 0},
}  # fmt: skip


@pytest.mark.parametrize("path", ["/server/cometd", "/server/cometd/handshake", "/backend/cometd", "/frontend/cometd"])
async def test_a_chat_client_is_asked_not_to_retry(http: httpx.AsyncClient, path: str) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    preflight = await http.options(path, headers=ORIGIN | asked)
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Headers"]) == (
        204,
        "content-type, content-encoding, traceparent",
    )
    assert may_be_read_with_credentials(preflight)
    answer = await http.post(path, json=[HANDSHAKE], headers=ORIGIN)
    assert may_be_read_with_credentials(answer)
    [refusal] = answer.json()
    assert refusal.pop("error").startswith("404::")
    assert refusal == {
        "channel": "/meta/handshake", "id": "1", "successful": False, "advice": {"reconnect": "none"},
    }  # fmt: skip


@pytest.mark.parametrize(("body", "status", "count"), [([], 200, 0), ([{}] * 1_000, 200, 10), ({"channel": 7}, 400, 2)])
async def test_unusual_chat_messages(http: httpx.AsyncClient, body: Any, status: int, count: int) -> None:
    answer = await http.post("/server/cometd", json=body, headers=ORIGIN)
    assert answer.status_code == status
    assert len(answer.json()) == count or status == 400


async def test_a_web_socket_causes_no_server_error(http: httpx.AsyncClient) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    assert (await http.get("/server/cometd", headers=ORIGIN | upgrade)).status_code == 405
