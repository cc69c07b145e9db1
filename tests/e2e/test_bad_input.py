"""Bad input gets a clear answer that names the field and the rule, and costs nothing of the good input beside it."""

import base64
import json
import uuid
from typing import Any

import pytest

from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import Event, event, live_state, now_ms

DAY_MS = 86_400_000


def page(**more: Any) -> Event:
    """An event of a visit of its own, valid unless `more` makes it invalid."""
    return event("PageEntered", str(uuid.uuid4()), now_ms(), **more)


def without(key: str) -> Event:
    return {k: v for k, v in page().items() if k != key}


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe", "text/plain", 400),
        (b"[]", "application/json", 400),
        (b'{"events":[]}', "application/json", 400),
        (b"null", "application/json", 400),
        (b"7", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b" " * 3_000_000, "application/json", 413),
        (json.dumps([{}] * 1001).encode(), "application/json", 413),
        (b"<event/>", "application/xml", 415),
        (json.dumps(page()).encode(), "", 415),
    ],
)
async def test_a_beacon_that_is_none_is_refused_as_a_whole(
    suite: Suite, body: bytes, content_type: str, status: int
) -> None:
    async with suite.http() as http:
        headers = {"Content-Type": content_type} if content_type else {}
        answer = await http.post("/beacon", content=body, headers=headers)
    assert answer.status_code == status
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (page(eventID="not-an-id"), "invalid_event_id"),
        (without("eventID"), "invalid_event_id"),
        (page(visitID="../../etc/passwd"), "invalid_visit_id"),
        (without("visitID"), "invalid_visit_id"),
        (page(globalVisitID="x"), "invalid_global_visit_id"),
        (without("eventName"), "invalid_event_name"),
        (page(eventName="n" * 257), "invalid_event_name"),
        (without("timestamp"), "invalid_timestamp"),
        (page(timestamp=-1), "invalid_timestamp"),
        (page(timestamp="yesterday"), "malformed"),
        (page(eventName=7), "malformed"),
        (page(url="https://shop.example/" + "u" * 9_000), "invalid_url"),
        (page(data={"text": "x" * 100_000}), "too_large"),
        (event("SignIn", str(uuid.uuid4()), now_ms()), "invalid_user_id"),
        (event("UserInfo", str(uuid.uuid4()), now_ms(), "u" * 513), "invalid_user_id"),
        ("an event", "malformed"),
        (None, "malformed"),
    ],
)
async def test_one_bad_event_is_named_and_the_good_ones_are_stored(suite: Suite, bad: Any, reason: str) -> None:
    visit_id = str(uuid.uuid4())
    good = [event(name, visit_id, now_ms() + i) for i, name in enumerate(["PageEntered", "PageExited"])]
    async with suite.http() as http:
        answer = await http.post("/beacon", json=[good[0], bad, good[1]])
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["accepted"] == 2
        [rejected] = body["rejected"]
        assert (rejected["index"], rejected["reason"]) == (1, reason)
        assert rejected["message"]
        await eventually(lambda: has_events(http, visit_id, 2))
        alone = await http.post("/beacon", json=[bad])
        assert (alone.status_code, alone.json()["accepted"]) == (400, 0)


@pytest.mark.parametrize(
    ("timestamp_ago", "sent_ago", "event_ago"),
    [
        pytest.param(3 * DAY_MS, 0, 3 * DAY_MS, id="three-day-old queue, right clock"),
        pytest.param(5 * DAY_MS, 2 * DAY_MS, 3 * DAY_MS, id="three-day-old queue, clock two days slow"),
        pytest.param(20_000 * DAY_MS, 20_000 * DAY_MS - 5_000, 5_000, id="clock in 1970"),
        pytest.param(-27_000 * DAY_MS, -27_000 * DAY_MS - 5_000, 5_000, id="clock in 2100"),
        pytest.param(20_000 * DAY_MS, None, 0, id="timestamp in 1970, no sentAt"),
        pytest.param(-27_000 * DAY_MS, None, 0, id="timestamp in 2100, no sentAt"),
    ],
)
async def test_a_wrong_clock_is_corrected_at_admission(
    suite: Suite, timestamp_ago: int, sent_ago: int | None, event_ago: int
) -> None:
    now = now_ms()
    sent = event("UserInfo", str(uuid.uuid4()), now - timestamp_ago, "dana")  # live state forgets anonymous visits soon
    envelope: dict[str, Any] = {"events": [sent]}
    if sent_ago is not None:
        envelope["sentAt"] = now - sent_ago
    async with suite.http() as http:
        assert (await http.post("/beacon", json=envelope)).status_code == 204
        visitor = await live_state(http, sent["visitID"])
        assert abs(visitor["lastEventTime"] - (now - event_ago)) < 60_000
        await eventually(lambda: has_events(http, sent["visitID"], 1))
        [stored] = (await http.get(f"/server/data/visits/{sent['visitID']}/events")).json()
        assert stored["timestamp"] == now - timestamp_ago  # kept as sent


async def test_what_is_older_than_a_week_is_rejected(suite: Suite) -> None:
    envelope = {"sentAt": now_ms(), "events": [page(timestamp=now_ms() - 8 * DAY_MS)]}
    async with suite.http() as http:
        answer = await http.post("/beacon", json=envelope)
    assert answer.status_code == 400
    assert answer.json()["rejected"][0]["reason"] == "too_old"


async def test_the_pixel_answers_a_picture_or_the_same_errors(suite: Suite) -> None:
    def encoded(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    async with suite.http() as http:
        good = await http.get("/beacon.gif", params={"e": encoded(page())})
        assert (good.status_code, good.headers["content-type"]) == (200, "image/gif")
        assert good.content.startswith(b"GIF89a")
        assert (await http.get("/beacon.gif", params={"e": encoded(page(visitID="x"))})).status_code == 400
        assert (await http.get("/beacon.gif", params={"e": "%%%"})).status_code == 400
        assert (await http.get("/beacon.gif")).status_code == 400


async def has_events(http: Any, visit_id: str, count: int) -> bool:
    answer = await http.get(f"/server/data/visits/{visit_id}/events")
    return answer.status_code == 200 and len(answer.json()) == count
