"""The tracker and the gateway's responses: confirmed and rejected events leave the queue, others are sent again."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.browser.fault_proxy import FaultProxy, Request
from tests.browser.visitor import Visitor, ids, queue_is_empty, raise_events, sent_at_once, visiting
from tests.tools.eventually import eventually
from tests.tools.suite import Suite

Answer = tuple[str, dict[str, Any] | str]


def answering(proxy: FaultProxy, answer: Callable[[list[dict[str, Any]]], Answer | None], **headers: str) -> None:
    """Respond to beacons by their events, instead of the gateway; None: the gateway responds."""
    gateway = proxy.forward
    extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())

    async def forward(request: Request) -> bytes:
        made = answer(json.loads(request.body)["events"]) if request.target == "/beacon" else None
        if made is None:
            return await gateway(request)
        status, content = made
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        return (
            f"HTTP/1.1 {status}\r\naccess-control-allow-origin: {request.headers['origin']}\r\n{extra}"
            f"access-control-expose-headers: retry-after\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        ).encode() + body

    proxy.forward = forward


def rejecting(*, retry: bool) -> Callable[[list[dict[str, Any]]], Answer | None]:
    """Reject events named Bad; a retryable one only the first time."""
    seen: set[str] = set()

    def answer(events: list[dict[str, Any]]) -> Answer | None:
        bad = [index for index, e in enumerate(events) if e["eventName"] == "Bad" and e["eventID"] not in seen]
        if not bad:
            return None
        seen.update(events[index]["eventID"] for index in bad)
        more = {"retry": True} if retry else {}
        rejected = [{"index": index, "eventID": events[index]["eventID"], "reason": "because", **more} for index in bad]
        status = "200 OK" if len(bad) < len(events) else "400 Bad Request"
        return status, {"accepted": len(events) - len(bad), "rejected": rejected}

    return answer


async def all_settled(visitor: Visitor) -> None:
    async def check() -> bool:
        await sent_at_once(visitor.page)
        return await queue_is_empty(visitor.page)

    await eventually(check, timeout=20, every=0.1)


async def probes_stored(visitor: Visitor, expected: int) -> None:
    """Wait until History has so many probes of the running visit, each once."""
    visit_id = (await ids(visitor.page))["visitID"]

    async def check() -> None:
        numbers = [e["data"]["n"] for e in await visitor.stored(visit_id) if e["eventName"] == "Probe"]
        assert len(numbers) == expected

    await eventually(check, timeout=20)


FULL_FOR_THE_COUNT = """() => {
  setItem = Storage.prototype.setItem;
  Storage.prototype.setItem = function (key, value) {
    if (key === '_gt_lost') throw new Error('full');
    setItem.call(this, key, value);
  };
}"""


@pytest.mark.parametrize("is_full", [False, True])
async def test_a_rejected_event_is_dropped_and_reported_once(browser: Browser, suite: Suite, is_full: bool) -> None:
    async with visiting(browser, suite) as visitor:
        answering(visitor.proxy, rejecting(retry=False))
        await visitor.open()
        if is_full:
            await visitor.page.evaluate(FULL_FOR_THE_COUNT)
        await raise_events(visitor.page, 2, "Bad")
        await all_settled(visitor)
        if is_full:
            await visitor.page.evaluate("() => { Storage.prototype.setItem = setItem; }")
        for _ in range(2):
            await raise_events(visitor.page, 1)
            await all_settled(visitor)
        assert [beacon.get("dropped") for beacon in visitor.proxy.beacons] == [None, 2, None]
        assert len(visitor.proxy.sent("Bad")) == 2


async def test_a_beacon_without_accepted_events(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.open()
        await all_settled(visitor)
        answering(visitor.proxy, rejecting(retry=False))
        await raise_events(visitor.page, 3, "Bad")
        await all_settled(visitor)
        assert len(visitor.proxy.sent("Bad")) == 3


async def test_a_retryable_event_is_sent_again(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        answering(visitor.proxy, rejecting(retry=True))
        await visitor.open()
        await raise_events(visitor.page, 2, "Bad")
        await raise_events(visitor.page, 1)
        await all_settled(visitor)
        assert len(visitor.proxy.sent("Bad")) == 4
        assert len(visitor.proxy.sent("Probe")) == 1
        assert visitor.proxy.beacons[-1].get("dropped") is None


async def test_a_batch_too_large_is_split(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        answering(visitor.proxy, lambda events: ("413 Payload Too Large", "") if len(events) > 5 else None)
        await visitor.open()
        await raise_events(visitor.page, 18)
        await all_settled(visitor)
        await probes_stored(visitor, 18)


async def test_an_event_that_makes_every_batch_fail_is_dropped(browser: Browser, suite: Suite) -> None:
    def refuse_whole(events: list[dict[str, Any]]) -> Answer | None:
        is_spoilt = any(event["eventName"] == "Bad" for event in events)
        return ("400 Bad Request", {"accepted": 0, "rejected": [], "message": "nested"}) if is_spoilt else None

    async with visiting(browser, suite) as visitor:
        answering(visitor.proxy, refuse_whole)
        await visitor.open()
        await raise_events(visitor.page, 5)
        await raise_events(visitor.page, 1, "Bad")
        await raise_events(visitor.page, 5)
        await all_settled(visitor)
        await probes_stored(visitor, 10)
        assert [beacon["dropped"] for beacon in visitor.proxy.beacons if "dropped" in beacon][-1:] in ([], [1])


async def test_a_response_of_another_server_confirms_nothing(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        forward = visitor.proxy.forward
        for status, body in (
            ("200 OK", "<title>Welcome to our wireless network</title>"),
            ("200 OK", {"status": "ok"}),
            ("400 Bad Request", "<title>Bad Request</title>"),
            ("404 Not Found", ""),
        ):
            answering(visitor.proxy, lambda _, answer=(status, body): answer)  # type: ignore[misc]
            await visitor.open()
            await raise_events(visitor.page, 1)
            before = len(visitor.proxy.beacons)
            await sent_at_once(visitor.page)
            await eventually(lambda before=before: len(visitor.proxy.beacons) > before, timeout=20)  # type: ignore[misc]
            visitor.proxy.forward = forward
        await all_settled(visitor)
        await probes_stored(visitor, 4)


async def test_retry_after_applies_to_all_pages(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        answering(visitor.proxy, lambda _: ("429 Too Many Requests", ""), retry_after="2")
        await visitor.open()
        begun = time.monotonic()  # before the refusal: what sees it may see it late
        await visitor.page.evaluate("_gt.push(['sendSignIn', { userID: 'dana' }])")
        await eventually(lambda: len(visitor.proxy.beacons) == 1, timeout=20)
        await visitor.page.wait_for_function("localStorage._gt_pause")
        second = await visitor.open("/second", await visitor.new_tab())
        await second.evaluate("_gt.push(['sendSignIn', { userID: 'dana' }])")
        await eventually(lambda: len(visitor.proxy.beacons) > 1, timeout=20)
        assert time.monotonic() - begun > 1.9


async def test_large_events_go_in_several_requests_that_outlive_the_page(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.open()
        visit_id = (await ids(visitor.page))["visitID"]
        await visitor.page.evaluate(
            "for (let n = 0; n < 4; n++) _gt.push(['event', 'Probe', { data: { n, text: '漢'.repeat(9000) } }])"
        )
        await visitor.open("/next")
        await all_settled(visitor)
        await probes_stored(visitor, 4)
        events = await visitor.stored(visit_id)
        assert [event["data"]["n"] for event in events if event["eventName"] == "Probe"] == [0, 1, 2, 3]


async def test_the_queue_is_bounded_in_size_and_age(browser: Browser, suite: Suite) -> None:
    fill = """(visitID) => {
      const item = (time, name) => {
        const eventID = crypto.randomUUID();
        const text = JSON.stringify({ eventName: name, eventID, visitID, timestamp: time, data: {} });
        localStorage.setItem(['_gt_e', time, eventID, text.length, ''].join('.'), text);
      };
      const now = Date.now();
      for (let n = 0; n < 5; n++) item(now - 8 * 24 * 3600 * 1000 + n, 'Old');
      for (let n = 0; n < 1100; n++) item(now - 60000 + n, n < 102 ? 'Surplus' : 'Probe');
      const foreign = 'the site\\'s own';
      localStorage.setItem('own', foreign);
    }"""
    async with visiting(browser, suite) as visitor:
        await visitor.open()
        await all_settled(visitor)
        await visitor.page.evaluate(fill, (await ids(visitor.page))["visitID"])
        await raise_events(visitor.page, 2)
        await all_settled(visitor)
        assert visitor.proxy.sent("Old") == []
        assert visitor.proxy.sent("Surplus") == []
        assert len(visitor.proxy.sent("Probe")) == 1000
        assert visitor.proxy.beacons[1]["dropped"] == 107
        assert max(len(beacon["events"]) for beacon in visitor.proxy.beacons) == 100
        assert await visitor.page.evaluate("localStorage.own") == "the site's own"
