"""The console with 5,000 visitors and 300 events a second: it stays fluent, small and exact, and costs no beacon."""

import asyncio
import itertools
import json
import os
import random
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.test_console import console
from tests.browser.test_console_stories import clicks_at
from tests.browser.test_console_visit import FIRST_SCREEN, entered, on, send
from tests.tools.eventually import eventually
from tests.tools.suite import Suite, running_suite
from tests.tools.visits import now_ms

VISITORS = 5_000
SITES = tuple(f"site-{number}" for number in range(5))
EVENTS_PER_SECOND = 300
BEACONS_PER_SECOND = 3
SECONDS = 60
LONGEST_TASK_MS = 200
MOST_GROWTH = 1.3
SAME = 1.25
"""How much processor time of the collector an event may differ by, on a machine that does other things too."""
MINUTE_MS = 60_000


def visitors() -> Iterator[dict[str, Any]]:
    """The page entries of all visitors but one."""
    for number in range(VISITORS - 1):
        yield entered(str(uuid.uuid4()), f"Page {number % 50}", now_ms() - MINUTE_MS, site=SITES[number % len(SITES)])


def happenings(pages: list[dict[str, Any]], chance: random.Random) -> Iterator[list[dict[str, Any]]]:
    """What visitors do next, endlessly: mostly events of a page, sometimes the next page, seldom a sign-in."""
    for number in itertools.count():
        place = chance.randrange(len(pages))
        page, at, draw = pages[place], now_ms(), chance.random()
        site = {"site": page["site"]}
        if draw < 0.2:
            pages[place] = entered(page["visitID"], f"Page {number % 50}", at, **site)
            yield [on(page, "PageExited", at) | site, pages[place]]
        elif draw < 0.23:
            yield [on(page, "SignIn", at, f"user-{place}@example.com") | site]
        else:
            yield [on(page, "ProductViewed", at, sku=f"item-{number % 100}", price=12.5) | site]


async def load(suite: Suite, http: httpx.AsyncClient, happening: Iterator[list[dict[str, Any]]], seconds: int) -> float:
    """Send so many events a second; the collector's processor time for an event."""
    count, started, before = 0, time.monotonic(), processor_s(suite)
    for number in range(seconds * BEACONS_PER_SECOND):
        beacon: list[dict[str, Any]] = []
        while len(beacon) < EVENTS_PER_SECOND / BEACONS_PER_SECOND:
            beacon += next(happening)
        await send(http, *beacon)
        count += len(beacon)
        await asyncio.sleep(max(0, started + (number + 1) / BEACONS_PER_SECOND - time.monotonic()))
    return (processor_s(suite) - before) / count


def processor_s(suite: Suite) -> float:
    """The processor time that the collector has used."""
    fields = Path(f"/proc/{suite.pid('collector')}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def task_ms(trace: bytes) -> list[int]:
    """The processor time of each task of the page, shortest first. How long it took says more about a busy machine."""
    events = json.loads(trace)["traceEvents"]
    main = {
        (one["pid"], one["tid"])
        for one in events
        if one["name"] == "thread_name" and one["args"]["name"] == "CrRendererMain"
    }
    tasks = (one for one in events if one.get("tdur") and one["name"].endswith("RunTask"))
    return sorted(one["tdur"] // 1_000 for one in tasks if (one["pid"], one["tid"]) in main)


async def heap_bytes(page: Page) -> int:
    """The memory of the page's objects, without what is no longer used."""
    session = await page.context.new_cdp_session(page)
    await session.send("HeapProfiler.collectGarbage")
    used: int = (await session.send("Runtime.getHeapUsage"))["usedSize"]
    await session.detach()
    return used


@asynccontextmanager
async def full_suite(folder: Path) -> AsyncIterator[tuple[Suite, httpx.AsyncClient, list[dict[str, Any]], str]]:
    """A suite of its own with all visitors; their pages, and the visit that is stuck on a payment."""
    with running_suite(folder) as suite:
        async with suite.http() as http:
            pages = list(visitors())
            for start in range(0, len(pages), 200):
                await send(http, *pages[start : start + 200])
            stuck = entered(str(uuid.uuid4()), "Payment", now_ms() - 25 * MINUTE_MS, site=SITES[3])
            await send(http, stuck)

            async def all_are_here() -> None:
                counts = (await http.get("/api/v1/visitors/counts")).json()
                assert counts["total"]["here"] == VISITORS

            await eventually(all_are_here, timeout=60)
            yield suite, http, pages, stuck["visitID"]


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_five_thousand_visitors_and_three_hundred_events_a_second(browser: Browser, tmp_path: Path) -> None:
    async with full_suite(tmp_path) as (suite, http, pages, stuck):
        happening = happenings(pages, random.Random(1))  # noqa: S311 - no secrets
        alone = await load(suite, http, happening, SECONDS // 3)
        async with console(browser, suite) as page:
            await page.set_viewport_size(FIRST_SCREEN)
            clicks = await clicks_at(page)
            await expect(page.locator("#count")).to_contain_text("5,000 visitors")
            # What only the first use needs is no growth: the code of a visit, and room for each visitor's last event.
            await page.locator("#visitors tr").first.click()
            await load(suite, http, happening, SECONDS // 3)
            await page.keyboard.press("Escape")
            heap, clicks[:] = await heap_bytes(page), []
            await browser.start_tracing(page=page, categories=["toplevel"])
            loading = asyncio.create_task(load(suite, http, happening, SECONDS))
            await asyncio.sleep(SECONDS / 2)

            # Half way through, the visitor who is stuck is found.
            await page.locator("#needs button", has_text="long on payment").click()
            await expect(page.locator("#visitors tr")).to_have_count(1)
            await page.locator("#visitors tr").click()
            opened = page.get_by_role("region", name="Visit", exact=True)
            await expect(opened.locator(".now")).to_contain_text(re.compile(r"Payment for 2\d min"))
            assert f"/console/visit/{stuck}" in page.url
            assert len(clicks) == 2
            await page.keyboard.press("Escape")
            await page.locator("#needs button", has_text="long on payment").click()

            watched = await loading
            tasks = task_ms(await browser.stop_tracing())
            grown = await heap_bytes(page) / heap
            numbers = [
                *await page.locator("#totals .total:first-child").all_inner_texts(),
                await page.inner_text("#others"),
            ]
        here = [int(re.findall(r"([\d,]+) here", words)[0].replace(",", "")) for words in numbers]
        assert sum(here) == VISITORS, numbers
        assert tasks[-1] <= LONGEST_TASK_MS, tasks[-20:]
        assert grown < MOST_GROWTH
        assert watched < alone * SAME, (watched, alone)
