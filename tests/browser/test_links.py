"""Visits that links and forms carry to another domain of the owner, and those that they must not carry."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.browser.test_domains import come, without_page
from tests.browser.visitor import Visitor, ids, names_on_the_wire, sent_at_once, visiting
from tests.browser.website import page
from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.variants import further

SHOP, PAY = "www.shop.example", "pay.example"
LINKED = "{ linkDomains: ['shop.example', 'pay.example'] }"
WAYS_OUT = """<script>
  const pay = 'http://pay.example:' + location.port, secure = 'http://secure.pay.example:' + location.port;
  document.write(`
    <a id=link href="${pay}/cart?size=2&name=a%20b+c#top">Pay</a>
    <a id=below href="${secure}/"><b>Pay</b></a>
    <a id=elsewhere href="${pay.replace('pay', 'notpay')}/">Elsewhere</a>
    <a id=within href="http://secure.shop.example:${location.port}/">Within</a>
    <a id=hidden rel=noreferrer href="${pay}/">Pay</a>
    <a id=named href="${pay}/?_gt_link=1&size=2">Pay</a>
    <form id=get action="${pay}/cart?dropped=1"><input name=action value=1><button>Get</button></form>
    <form id=post method=post action="${pay}/cart?size=2"><button>Post</button></form>
    <form id=button><button formmethod=post formaction="${pay}/cart">Other</button></form>`);
</script>"""
SITE = {
    "/plain": "<title>Plain</title>" + WAYS_OUT,
    "/unlinked": page("{gateway}"),
    "/asks": page("{gateway}", config=LINKED.replace("{", "{ consent: 'required',"), body=WAYS_OUT),
    "/at-once": "<script>var _gt = [['config', " + LINKED + "]];</script><script src='{gateway}/tracker.js'></script>"
    "<script>window.seen = location.href</script><title>Pay</title>",
    "*": page("{gateway}", config=LINKED, body=WAYS_OUT),
}


def address(visitor: Visitor, host: str, path: str = "/") -> str:
    return f"http://{host}:{visitor.origin.rpartition(':')[2]}{path}"


async def set_out(visitor: Visitor) -> dict[str, str]:
    """Come to a page whose links can take the visit along; its ids."""
    answer = await come(visitor, SHOP)
    is_loaded = "performance.getEntriesByType('resource').some(({ name }) => name.includes('/tracker-links.js'))"
    await visitor.page.wait_for_function(is_loaded)
    return answer


async def arrived(tab: Page) -> dict[str, str]:
    """The ids of a page of another host that the tab is at, or about to come to."""
    await tab.wait_for_url(lambda url: "shop.example" not in url and "about:" not in url, wait_until="commit")
    return await ids(tab)


async def click(tab: Page, selector: str, **how: Any) -> Page:
    await tab.click(selector, **how)
    return tab


OPENS_TAB = """() => ['click', 'auxclick'].forEach((name) => addEventListener(name, (click) => {
  click.preventDefault();
  open(click.target.href, '_blank', 'noopener');
}))"""
"""The headless shell opens no tab, so the page does: as late as a browser would, with the address at that moment."""


async def click_for_a_tab(tab: Page, selector: str, **how: Any) -> Page:
    await tab.evaluate(OPENS_TAB)
    async with tab.context.expect_page() as opened:
        await tab.click(selector, **how)
    return await opened.value


async def press_enter(tab: Page, selector: str) -> Page:
    await tab.press(selector, "Enter")
    return tab


@pytest.mark.parametrize(
    ("go", "rest"),
    [
        (lambda tab: click(tab, "#link"), "/cart?size=2&name=a%20b+c#top"),
        further(lambda tab: press_enter(tab, "#link"), "/cart?size=2&name=a%20b+c#top"),
        further(lambda tab: click_for_a_tab(tab, "#link", button="middle"), "/cart?size=2&name=a%20b+c#top"),
        further(lambda tab: click_for_a_tab(tab, "#link", modifiers=["Control"]), "/cart?size=2&name=a%20b+c#top"),
        (lambda tab: click(tab, "#below b"), "/"),
        further(lambda tab: click(tab, "#named"), "/?size=2"),
        further(lambda tab: click(tab, "#get button"), "/cart?action=1"),
        (lambda tab: click(tab, "#post button"), "/cart?size=2"),
        further(lambda tab: click(tab, "#button button"), "/cart"),
    ],
    ids=["click", "key", "middle click", "control", "sub-domain", "named already", "get", "post", "formaction"],
)
async def test_a_link_carries_the_visit(
    suite: Suite, shop_browser: Browser, go: Callable[[Page], Awaitable[Page]], rest: str
) -> None:
    async with visiting(shop_browser, suite, SITE) as visitor:
        before = await set_out(visitor)
        tab = await go(visitor.page)
        after = await arrived(tab)
        assert without_page(after) == without_page(before)
        assert await tab.evaluate("location.href.replace(location.origin, '')") == rest
        assert before["pageID"] != after["pageID"]

        async def both_pages() -> None:
            for each in {visitor.page, tab}:
                await sent_at_once(each)
            entered = [event for event in visitor.proxy.events() if event["eventName"] == "PageEntered"]
            assert [event["visitID"] for event in entered] == [before["visitID"]] * 2
            assert tab.url in {event["url"] for event in entered}

        await eventually(both_pages, timeout=20)
        assert [event["eventName"] for event in visitor.proxy.events()].count("VisitStarted") == 1
        assert "_gt_link" not in str(visitor.proxy.beacons)


async def test_nothing_is_left_in_the_page(suite: Suite, shop_browser: Browser) -> None:
    async with visiting(shop_browser, suite, SITE) as visitor:
        await set_out(visitor)
        before = await visitor.page.content()
        await visitor.page.evaluate(
            "addEventListener('click', (e) => { clicked = e.target.href; e.preventDefault(); })"
        )
        await visitor.page.evaluate("addEventListener('submit', (e) => e.preventDefault())")
        for selector in ("#link", "#get button", "#post button", "#button button"):
            await visitor.page.click(selector)
        assert await visitor.page.content() == before
        await visitor.page.click("#link")
        assert "&_gt_link=" in await visitor.page.evaluate("clicked")
        for selector in ("#elsewhere", "#within"):
            await visitor.page.click(selector)
            assert "_gt_link" not in await visitor.page.evaluate("clicked")
        await visitor.page.evaluate("_gt.push(['consent', false])")
        await visitor.page.click("#link")
        assert "_gt_link" not in await visitor.page.evaluate("clicked")


async def test_back_and_forth_is_one_visit(suite: Suite, shop_browser: Browser) -> None:
    async with visiting(shop_browser, suite, SITE) as visitor:
        first = await set_out(visitor)
        await click(visitor.page, "#link")
        assert without_page(await arrived(visitor.page)) == without_page(first)
        # Here the visit has gone idle, there it has not.
        await visitor.context.clear_cookies(domain=".shop.example")
        await visitor.page.evaluate(
            "document.body.innerHTML = `<a href='http://www.shop.example:${location.port}/'>Back</a>`"
        )
        await click(visitor.page, "a")
        await visitor.page.wait_for_url("**/www.shop.example*/**")
        assert without_page(await ids(visitor.page)) == without_page(first)


async def name_of(visitor: Visitor, host: str = SHOP, age_ms: int = 0) -> str:
    """What a link from this host would have in its address, for a visitor of another browser."""
    answer = await come(visitor, host)
    return f"{answer['visitID']}.{answer['globalVisitID']}.{await visitor.page.evaluate('Date.now()') - age_ms}"


async def follow(tab: Page, visitor: Visitor, host: str, to: str) -> None:
    """Follow a link that stands on a page without the tracker."""
    await tab.goto(address(visitor, host, "/plain"))
    await tab.evaluate("(to) => { document.body.innerHTML = `<a href='${to}'>Pay</a>` }", to)
    await tab.click("a")


@pytest.mark.parametrize(
    ("host", "age_ms", "path", "is_taken"),
    [
        (SHOP, 0, "/cart", True),
        further(SHOP, 110_000, "/cart", True),
        (SHOP, 130_000, "/cart", False),
        further(SHOP, -130_000, "/cart", False),
        ("evil.example", 0, "/cart", False),
        further("shop.example.evil.example", 0, "/cart", False),
        (SHOP, 0, "/unlinked", False),
    ],
)
async def test_what_is_taken_comes_from_a_linked_domain_and_is_fresh(
    suite: Suite, shop_browser: Browser, host: str, age_ms: int, path: str, *, is_taken: bool
) -> None:
    async with visiting(shop_browser, suite, SITE) as visitor, visiting(shop_browser, suite, SITE) as other:
        name = await name_of(visitor, age_ms=age_ms)
        await follow(other.page, other, host, address(other, PAY, f"{path}?_gt_link={name}"))
        answer = await arrived(other.page)
        assert (answer["visitID"] == name[:36]) is is_taken
        assert (answer["globalVisitID"] == name[37:73]) is is_taken
        assert (await other.page.evaluate("location.search")) == ""


async def test_a_link_that_was_sent_to_somebody_brings_nobody_along(suite: Suite, shop_browser: Browser) -> None:
    async with visiting(shop_browser, suite, SITE) as visitor, visiting(shop_browser, suite, SITE) as friend:
        name = await name_of(visitor)
        await friend.page.goto(address(friend, PAY, f"/?_gt_link={name}"))
        assert (await ids(friend.page))["visitID"] != name[:36]


async def test_a_link_brings_a_visit_once(suite: Suite, shop_browser: Browser) -> None:
    async with visiting(shop_browser, suite, SITE) as visitor:
        name = await name_of(visitor)
        for is_first in (True, False):
            async with visiting(shop_browser, suite, SITE) as other:
                await follow(other.page, other, SHOP, address(other, PAY, f"/?_gt_link={name}"))
                assert ((await arrived(other.page))["visitID"] == name[:36]) is is_first


async def test_a_visit_that_runs_there_goes_on(suite: Suite, shop_browser: Browser) -> None:
    async with visiting(shop_browser, suite, SITE) as visitor:
        own = await come(visitor, PAY)
        other = await set_out(visitor)
        assert not {*without_page(own)} & {*without_page(other)}
        await click(visitor.page, "#link")
        assert without_page(await arrived(visitor.page)) == without_page(own)
        assert await visitor.page.evaluate("location.search") == "?size=2&name=a%20b+c"


async def test_without_referrer_or_response_the_page_begins_soon(suite: Suite, shop_browser: Browser) -> None:
    async with visiting(shop_browser, suite, SITE) as visitor:
        first = await set_out(visitor)
        await click(visitor.page, "#hidden")
        assert without_page(await arrived(visitor.page)) != without_page(first)
    async with visiting(shop_browser, suite, SITE) as visitor:
        first = await set_out(visitor)
        for path in ("**/tracker-links.js*", "**/link?*"):
            await visitor.context.clear_cookies(domain=f".{PAY}")
            await set_out(visitor)
            await visitor.context.route(path, lambda _: None)
            await click(visitor.page, "#link")
            assert without_page(await arrived(visitor.page)) != without_page(first)
            await visitor.context.unroute(path)
        await visitor.page.goto("about:blank")


async def test_scripts_of_the_page_see_the_clean_address(suite: Suite, shop_browser: Browser) -> None:
    async with visiting(shop_browser, suite, SITE) as visitor:
        name = await name_of(visitor)
        to = address(visitor, PAY, "/at-once?a=1&")
        await follow(visitor.page, visitor, SHOP, f"{to}_gt_link={name}&b=2#c")
        answer = await arrived(visitor.page)
        assert await visitor.page.evaluate("seen") == f"{to}b=2#c"
        assert answer["visitID"] == name[:36]


async def test_a_page_that_waits_for_consent_continues_the_visit_afterwards(
    suite: Suite, shop_browser: Browser
) -> None:
    async with visiting(shop_browser, suite, SITE) as visitor:
        first = await set_out(visitor)
        await visitor.page.evaluate("document.querySelector('#link').pathname = '/asks'")
        await click(visitor.page, "#link")
        await visitor.page.wait_for_url("**/asks?*")
        await visitor.page.wait_for_function("!location.search.includes('_gt_link')")
        assert await visitor.page.evaluate("[document.cookie, Object.keys(localStorage).join()]") == ["", ""]
        await visitor.page.evaluate("_gt.push(['consent', true])")
        assert without_page(await ids(visitor.page)) == without_page(first)


async def test_pages_without_linkdomains_load_no_links_script(suite: Suite, shop_browser: Browser) -> None:
    async with visiting(shop_browser, suite, SITE) as visitor:
        asked: list[str] = []
        visitor.page.on("request", lambda request: asked.append(request.url))
        await come(visitor, SHOP, "/unlinked")
        await names_on_the_wire(visitor, ["VisitStarted", "PageEntered"])
        assert not [url for url in asked if "links" in url]
        await come(visitor, SHOP)
        assert len([url for url in asked if "tracker-links.js?v=" in url]) == 1
