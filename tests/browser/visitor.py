"""A visitor of a website that carries the tracker: a browser context, its page, and the outcomes of its events."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from playwright.async_api import Browser, BrowserContext, Page

from tests.browser.fault_proxy import FaultProxy, running_fault_proxy, to_gateway
from tests.browser.website import page as website_page
from tests.browser.website import running_website
from tests.tools.eventually import eventually
from tests.tools.suite import Suite

Event = dict[str, Any]


@dataclass(slots=True)
class Visitor:
    """One browser context on a website of its own, behind a fault proxy of its own before the real gateway."""

    context: BrowserContext
    page: Page
    origin: str
    proxy: FaultProxy
    history: httpx.AsyncClient
    page_errors: list[str] = field(default_factory=list)

    async def open(self, path: str = "/", page: Page | None = None) -> Page:
        """Open a page of the website and wait until the tracker has begun."""
        page = page or self.page
        await page.goto(self.origin + path)
        await ids(page)
        return page

    async def new_tab(self) -> Page:
        """Another tab of the same browser."""
        page = await self.context.new_page()
        page.on("pageerror", lambda error: self.page_errors.append(str(error)))
        return page

    async def stored(self, visit_id: str) -> list[Event]:
        """The events of a visit in History, in its order."""
        answer = await self.history.get(f"/server/data/visits/{visit_id}/events")
        return list(answer.json()) if answer.status_code == 200 else []


@asynccontextmanager
async def visiting(
    browser: Browser, suite: Suite, pages: Mapping[str, str] | None = None, **context_options: Any
) -> AsyncIterator[Visitor]:
    """A visitor; `pages` are made with `{gateway}` for the proxy's address, by default one page for every path."""
    async with running_fault_proxy(to_gateway(suite.url)) as proxy, suite.http() as history:
        made = {path: html.replace("{gateway}", proxy.url) for path, html in (pages or PLAIN).items()}
        async with running_website(made) as origin:
            context = await browser.new_context(**context_options)
            visitor = Visitor(context, await context.new_page(), origin, proxy, history)
            visitor.page.on("pageerror", lambda error: visitor.page_errors.append(str(error)))
            try:
                yield visitor
            finally:
                await context.close()


PLAIN = {"*": website_page("{gateway}")}


async def ids(page: Page) -> dict[str, str]:
    """The result of `getIDs`: visitID, globalVisitID, pageID."""
    answer: dict[str, str] = await page.evaluate("new Promise((resolve) => _gt.push(['getIDs', resolve]))")
    return answer


async def queue_is_empty(page: Page) -> bool:
    """Whether every event of this website has been confirmed."""
    return bool(await page.evaluate("!Object.keys(localStorage).some((key) => key.startsWith('_gt_e'))"))


async def raise_events(page: Page, count: int, name: str = "Probe") -> None:
    """Raise business events numbered from 0."""
    await page.evaluate(
        "([count, name]) => { for (let n = 0; n < count; n++) _gt.push(['event', name, { data: { n } }]); }",
        [count, name],
    )


async def sent_at_once(page: Page) -> None:
    """Make the tracker send waiting events immediately, as when the network is back."""
    await page.evaluate("dispatchEvent(new Event('online'))")


async def names_on_the_wire(visitor: Visitor, expected: list[str]) -> list[Event]:
    """Wait until exactly these events, by their time, have been sent at least once; give them."""

    async def check() -> list[Event]:
        await sent_at_once(visitor.page)
        assert [event["eventName"] for event in visitor.proxy.events()] == expected
        return visitor.proxy.events()

    return await eventually(check, timeout=20, every=0.05)
