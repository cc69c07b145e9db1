"""Every event exactly once in History, under every fault (the cases in which trackers lose events).

The cases wait for seconds each, so all of them run together; each test then looks at the outcome of its own.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from tempfile import TemporaryDirectory

import pytest
from playwright.async_api import Browser

from tests.browser.conftest import browser_session
from tests.browser.fault_proxy import Fault
from tests.browser.visitor import Visitor, ids, queue_is_empty, raise_events, visiting
from tests.tools.eventually import eventually
from tests.tools.suite import Suite

OUTAGE_S = 8.0
# The longest pause after 8 s of failures is 8 s (see MAX_PAUSE in the tracker); then History takes its time.
RECOVERY_S = 30.0

Case = Callable[[Visitor], Awaitable[None]]


async def everything_stored_once(visitor: Visitor, visit_id: str, *, probes: int, within_s: float = RECOVERY_S) -> None:
    async def check() -> None:
        events = await visitor.stored(visit_id)
        counted = Counter(event["data"]["n"] for event in events if event["eventName"] == "Probe")
        assert counted == dict.fromkeys(range(probes), 1)
        assert [event["eventName"] for event in events[:2]] == ["VisitStarted", "PageEntered"]
        # Tabs are processes of their own: within one millisecond of two of them there is no order.
        for page_id in {event["browserPageID"] for event in events}:
            times = [event["timestamp"] for event in events if event["browserPageID"] == page_id]
            assert times == sorted(set(times)), "timestamps increase strictly"

    await eventually(check, timeout=within_s, every=0.2)


async def fired_just_before_leaving(visitor: Visitor) -> None:
    await visitor.open()
    visit_id = (await ids(visitor.page))["visitID"]
    await visitor.page.evaluate("_gt.push(['event', 'Probe', { data: { n: 0 } }]); location.href = 'about:blank'")
    await everything_stored_once(visitor, visit_id, probes=1, within_s=40)


async def outage(visitor: Visitor, fault: Fault) -> None:
    visitor.proxy.fault = fault
    await visitor.open()
    visit_id = (await ids(visitor.page))["visitID"]
    await raise_events(visitor.page, 3)
    await asyncio.sleep(OUTAGE_S)
    assert visitor.proxy.beacons, "it has tried"
    visitor.proxy.fault = Fault.NONE
    await everything_stored_once(visitor, visit_id, probes=3)


async def collector_answers_503_for_8_seconds(visitor: Visitor) -> None:
    await outage(visitor, Fault.UNAVAILABLE)


async def connections_are_reset_for_8_seconds(visitor: Visitor) -> None:
    await outage(visitor, Fault.RESET)


async def tab_closed_while_the_collector_is_down(visitor: Visitor) -> None:
    visitor.proxy.fault = Fault.RESET
    await visitor.open()
    visit_id = (await ids(visitor.page))["visitID"]
    await raise_events(visitor.page, 3)
    await visitor.page.close(run_before_unload=True)
    await asyncio.sleep(1)
    visitor.proxy.fault = Fault.NONE
    await visitor.open(page=await visitor.new_tab())
    await everything_stored_once(visitor, visit_id, probes=3)


async def browser_closed_while_the_collector_is_down(visitor: Visitor) -> None:
    visitor.proxy.fault = Fault.UNAVAILABLE
    with TemporaryDirectory() as profile:
        async with browser_session(profile) as page:
            await visitor.open(page=page)
            visit_id = (await ids(page))["visitID"]
            await raise_events(page, 3)
        visitor.proxy.fault = Fault.NONE
        async with browser_session(profile) as page:
            await visitor.open(page=page)
            assert (await ids(page))["visitID"] != visit_id
            await everything_stored_once(visitor, visit_id, probes=3)


async def answer_lost_after_storing(visitor: Visitor) -> None:
    visitor.proxy.fault = Fault.LOST_ANSWER
    await visitor.open()
    visit_id = (await ids(visitor.page))["visitID"]
    await raise_events(visitor.page, 3)
    await eventually(lambda: len(visitor.proxy.sent("Probe")) >= 6, timeout=20)
    visitor.proxy.fault = Fault.NONE
    await eventually(lambda: queue_is_empty(visitor.page), timeout=20)
    await everything_stored_once(visitor, visit_id, probes=3)
    assert min(Counter(event["eventID"] for event in visitor.proxy.sent("Probe")).values()) >= 3


async def a_burst_of_300(visitor: Visitor) -> None:
    await visitor.open()
    visit_id = (await ids(visitor.page))["visitID"]
    await raise_events(visitor.page, 300)
    await everything_stored_once(visitor, visit_id, probes=300, within_s=20)
    assert max(len(beacon["events"]) for beacon in visitor.proxy.beacons) <= 100


async def two_tabs_at_once(visitor: Visitor) -> None:
    second = await visitor.new_tab()
    await asyncio.gather(visitor.open("/one"), visitor.open("/two", second))
    visit_id = (await ids(visitor.page))["visitID"]
    assert (await ids(second))["visitID"] == visit_id
    raising = "(parity) => { for (let n = parity; n < 60; n += 2) _gt.push(['event', 'Probe', { data: { n } }]); }"
    await asyncio.gather(visitor.page.evaluate(raising, 0), second.evaluate(raising, 1))
    await everything_stored_once(visitor, visit_id, probes=60, within_s=20)
    names = Counter(event["eventName"] for event in await visitor.stored(visit_id))
    assert (names["VisitStarted"], names["PageEntered"]) == (1, 2)


async def offline_and_online_again(visitor: Visitor) -> None:
    await visitor.open()
    visit_id = (await ids(visitor.page))["visitID"]
    await visitor.context.set_offline(True)
    await raise_events(visitor.page, 3)
    await asyncio.sleep(4)
    await visitor.context.set_offline(False)
    await everything_stored_once(visitor, visit_id, probes=3, within_s=40)


CASES: list[Case] = [
    fired_just_before_leaving,
    collector_answers_503_for_8_seconds,
    connections_are_reset_for_8_seconds,
    tab_closed_while_the_collector_is_down,
    browser_closed_while_the_collector_is_down,
    answer_lost_after_storing,
    a_burst_of_300,
    two_tabs_at_once,
    offline_and_online_again,
]


@pytest.fixture(scope="module")
async def outcomes(browser: Browser, suite: Suite) -> AsyncIterator[dict[Case, asyncio.Task[None]]]:
    async def run(case: Case) -> None:
        async with visiting(browser, suite) as visitor:
            await case(visitor)
            assert visitor.page_errors == []

    tasks = {case: asyncio.create_task(run(case)) for case in CASES}
    yield tasks
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_delivered_exactly_once(case: Case, outcomes: dict[Case, asyncio.Task[None]]) -> None:
    await outcomes[case]
