"""The events a page raises by itself: VisitStarted once a visit, PageEntered and PageExited once a page entry."""

import pytest
from playwright.async_api import Browser, async_playwright

from tests.browser.conftest import CHROMIUM, FLAGS
from tests.browser.visitor import Visitor, ids, names_on_the_wire, sent_at_once, visiting
from tests.browser.website import page
from tests.tools.eventually import eventually
from tests.tools.suite import Suite

HIDE = """(isHidden) => {
  Object.defineProperty(document, 'visibilityState', { value: isHidden ? 'hidden' : 'visible', configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""


async def test_pages_of_a_visit(browser: Browser, suite: Suite) -> None:
    pages = {
        "/": page("{gateway}", title="Home", body="<a href=/loans>Loans</a>"),
        "/loans": page("{gateway}", title="Loans", body="<a href=/>Home</a>"),
    }
    async with visiting(browser, suite, pages) as visitor:
        await visitor.open()
        await visitor.page.wait_for_timeout(1_100)
        await visitor.page.click("a")
        await ids(visitor.page)
        await visitor.page.click("a")
        await ids(visitor.page)
        events = await names_on_the_wire(
            visitor,
            ["VisitStarted", "PageEntered", "PageExited", "PageEntered", "PageExited", "PageEntered"],
        )
        assert [e["data"].get("title") for e in events if e["eventName"] == "PageEntered"] == ["Home", "Loans", "Home"]
        assert [e["data"].get("referrer") for e in events if e["eventName"] == "PageEntered"] == [
            "", visitor.origin + "/", visitor.origin + "/loans",
        ]  # fmt: skip
        stayed, hurried = (e["data"]["duration"] for e in events if e["eventName"] == "PageExited")
        assert stayed >= max(1, hurried)
        assert [e["url"].removeprefix(visitor.origin) for e in events] == ["/", "/", "/", "/loans", "/loans", "/"]
        first, second, third = (e["pageID"] for e in events if e["eventName"] == "PageEntered")
        assert len({first, second, third}) == 3
        assert [e["pageID"] for e in events] == [first, first, first, second, second, third]
        assert len({(e["visitID"], e["globalVisitID"]) for e in events}) == 1


APP = page("{gateway}", title="List")


async def has_entered(visitor: Visitor, count: int) -> None:
    """Wait until so many pages have been entered, which each is a little after its address is there."""

    async def check() -> None:
        await sent_at_once(visitor.page)
        assert [event["eventName"] for event in visitor.proxy.events()].count("PageEntered") == count

    await eventually(check)


async def test_single_page_application(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite, {"*": APP}) as visitor:
        await visitor.open("/list")
        await visitor.page.evaluate("history.pushState({}, '', '/item'); document.title = 'Item'")
        await has_entered(visitor, 2)
        await visitor.page.evaluate("history.replaceState({}, '', '/item?size=2'); document.title = 'Item 2'")
        await has_entered(visitor, 3)
        await visitor.page.evaluate("document.title = 'List'; history.back()")
        await has_entered(visitor, 4)
        await visitor.page.evaluate("history.replaceState({ same: 'address' }, ''); location.hash = 'top'")
        await visitor.page.wait_for_timeout(300)
        events = await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", *["PageExited", "PageEntered"] * 3])
        entered = [e for e in events if e["eventName"] == "PageEntered"]
        assert [(e["data"]["title"], e["url"].removeprefix(visitor.origin)) for e in entered] == [
            ("List", "/list"), ("Item", "/item"), ("Item 2", "/item?size=2"), ("List", "/list"),
        ]  # fmt: skip
        assert [e["data"]["referrer"].removeprefix(visitor.origin) for e in entered] == [
            "", "/list", "/item", "/item?size=2",
        ]  # fmt: skip
        assert [e["url"].removeprefix(visitor.origin) for e in events if e["eventName"] == "PageExited"] == [
            "/list", "/item", "/item?size=2",
        ]  # fmt: skip


async def test_with_historyrouting_off_a_single_page_application_is_one_page_entry(
    browser: Browser, suite: Suite
) -> None:
    html = page("{gateway}", config="{ historyRouting: false }")
    async with visiting(browser, suite, {"*": html}) as visitor:
        await visitor.open("/list")
        await visitor.page.evaluate("history.pushState({}, '', '/item'); location.hash = 'top'")
        await visitor.page.wait_for_timeout(300)
        await visitor.page.evaluate("_gt.push(['event', 'Seen'])")
        events = await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "Seen"])
        assert len({event["pageID"] for event in events[1:]}) == 1


async def test_an_event_right_after_an_address_change_belongs_to_the_new_page(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite, {"*": APP}) as visitor:
        await visitor.open("/list")
        await visitor.page.evaluate(
            "history.pushState({}, '', '/gone'); history.replaceState({}, '', '/item'); _gt.push(['event', 'Seen'])"
        )
        await visitor.page.wait_for_timeout(300)
        events = await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "PageExited", "PageEntered", "Seen"])
        assert events[3]["pageID"] == events[4]["pageID"]
        assert [e["url"].removeprefix(visitor.origin) for e in events[2:]] == ["/list", "/item", "/item"]


@pytest.mark.parametrize(
    "change",
    ["location.hash = '/item'", "history.pushState({}, '', '#/item')", "history.replaceState({}, '', '#/item')"],
)
async def test_hash_routing_is_an_option(browser: Browser, suite: Suite, change: str) -> None:
    pages = {"/": page("{gateway}"), "/app": page("{gateway}", config="{ hashRouting: true }")}
    async with visiting(browser, suite, pages) as visitor:
        for path in ("/#/list", "/app#/list"):
            await visitor.open(path)
            await visitor.page.evaluate(change)
            await visitor.page.wait_for_timeout(300)
        events = await names_on_the_wire(
            visitor, ["VisitStarted", "PageEntered", "PageExited", "PageEntered", "PageExited", "PageEntered"]
        )
        entered = [e for e in events if e["eventName"] == "PageEntered"]
        assert [e["url"].removeprefix(visitor.origin) for e in entered] == ["/#/list", "/app#/list", "/app#/item"]
        assert entered[2]["data"]["referrer"] == visitor.origin + "/app#/list"


async def test_hiding_a_tab_sends_events_without_leaving_the_page(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.open()
        await visitor.page.evaluate(HIDE, arg=True)
        await eventually(lambda: [e["eventName"] for e in visitor.proxy.sent()] == ["VisitStarted", "PageEntered"])
        await visitor.page.evaluate(HIDE, arg=False)
        await visitor.page.goto("about:blank")
        await visitor.open("/next")
        await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "PageExited", "PageEntered"])


async def test_a_killed_hidden_tab_was_left_when_it_was_hidden(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.open()
        # A copy of what is stored stands in for the kill: nothing that happens to the page later is in it.
        await visitor.page.evaluate(HIDE, arg=True)
        killed = await visitor.page.evaluate("Object.entries(localStorage).filter(([key]) => key.startsWith('_gt_x'))")
        await visitor.page.goto("about:blank")
        await visitor.page.clock.install()
        await visitor.page.clock.fast_forward("31:00")
        await visitor.page.add_init_script(
            f"if (location.protocol !== 'about:') for (const [k, v] of {killed!r}) localStorage.setItem(k, v);"
        )
        await visitor.open("/next")
        events = await names_on_the_wire(
            visitor, ["VisitStarted", "PageEntered", "PageExited", "PageExited", "VisitStarted", "PageEntered"]
        )
        assert killed[0][0].split(".")[1] == str(events[2]["timestamp"])


async def test_after_half_an_hour_the_next_event_starts_a_visit(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.page.clock.install()
        await visitor.open()
        old = await ids(visitor.page)
        await visitor.page.clock.fast_forward("31:00")
        await visitor.page.evaluate("_gt.push(['event', 'Back'])")
        events = await names_on_the_wire(
            visitor, ["VisitStarted", "PageEntered", "PageExited", "VisitStarted", "PageEntered", "Back"]
        )
        assert {e["visitID"] for e in events[:3]} == {old["visitID"]}
        assert len({e["visitID"] for e in events}) == 2
        assert events[2]["timestamp"] == events[1]["timestamp"] + 1, "left when the visit was last alive"
        assert {e["globalVisitID"] for e in events} == {old["globalVisitID"]}
        assert events[5]["pageID"] == events[4]["pageID"] != events[1]["pageID"]


async def test_reading_for_long_does_not_start_a_visit_when_leaving(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.page.clock.install()
        await visitor.open()
        await visitor.page.clock.fast_forward("45:00")
        await visitor.open("/next")
        events = await names_on_the_wire(
            visitor, ["VisitStarted", "PageEntered", "PageExited", "VisitStarted", "PageEntered"]
        )
        assert events[2]["data"]["duration"] == 45 * 60
        assert events[2]["visitID"] == events[0]["visitID"]


async def test_a_heartbeat_keeps_a_long_read_in_one_visit(browser: Browser, suite: Suite) -> None:
    pages = {"/": page("{gateway}", script="_gt.push(['config', { heartbeat: 600 }]);"), "/next": page("{gateway}")}
    async with visiting(browser, suite, pages) as visitor:
        await visitor.page.clock.install()
        await visitor.open()
        for _ in range(4):
            await visitor.page.clock.run_for("10:00")
        await visitor.page.evaluate("document.hasFocus = () => false")
        await visitor.page.clock.run_for("10:00")
        await visitor.page.evaluate("delete document.hasFocus")
        await visitor.page.clock.fast_forward("31:00")  # the computer sleeps
        await visitor.open("/next")
        events = await names_on_the_wire(
            visitor,
            ["VisitStarted", "PageEntered", *["Heartbeat"] * 4, "PageExited", "VisitStarted", "PageEntered"],
        )
        assert len({e["pageID"] for e in events[:7]}) == 1
        assert events[2]["eventType"] == "BUSINESS"


async def test_a_tab_continues_the_visit_that_another_tab_has_started(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.context.clock.install()
        await visitor.open()
        second = await visitor.open("/second", await visitor.new_tab())
        await visitor.context.clock.fast_forward("31:00")
        await second.evaluate("_gt.push(['event', 'Back'])")
        await visitor.page.evaluate("_gt.push(['event', 'AlsoBack'])")
        new = (await ids(second))["visitID"]
        await sent_at_once(visitor.page)

        def split_cleanly() -> bool:
            events = visitor.proxy.events()
            old_names = sorted(e["eventName"] for e in events if e["visitID"] != new)
            new_names = [e["eventName"] for e in events if e["visitID"] == new]
            return (
                old_names == ["PageEntered", "PageEntered", "PageExited", "PageExited", "VisitStarted"]
                and new_names == ["VisitStarted", "PageEntered", "Back", "PageEntered", "AlsoBack"]
                and len({e["visitID"] for e in events}) == 2
            )

        await eventually(split_cleanly, timeout=20)


async def test_timestamps_increase_though_the_clock_goes_back(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.open()
        await visitor.page.evaluate("const now = Date.now; Date.now = () => now() - 60_000")
        await visitor.page.evaluate("_gt.push(['event', 'A']); _gt.push(['event', 'B'])")
        events = await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "A", "B"])
        times = [e["timestamp"] for e in events]
        assert times == sorted(set(times))


async def test_the_last_events_of_a_page_belong_to_it(browser: Browser, suite: Suite) -> None:
    script = "addEventListener('pagehide', () => _gt.push(['event', 'Bye']));"
    async with visiting(browser, suite, {"*": page("{gateway}", script=script)}) as visitor:
        await visitor.open()
        await visitor.page.goto("about:blank")
        names = ["Bye", "PageEntered", "PageExited", "VisitStarted"]
        await eventually(lambda: sorted(e["eventName"] for e in visitor.proxy.sent()) == names)
        events = visitor.proxy.sent()
        assert len({e["pageID"] for e in events}) == 1


async def test_a_page_left_before_it_was_parsed_counts(browser: Browser, suite: Suite) -> None:
    html = "<!doctype html><script src='{gateway}/tracker.js'></script><script>location.href = '/next'</script>"
    async with visiting(browser, suite, {"/": html, "/next": APP}) as visitor:
        await visitor.page.goto(visitor.origin + "/")
        await visitor.page.wait_for_url("**/next")
        await ids(visitor.page)
        await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "PageExited", "PageEntered"])


async def test_back_forward_cache(suite: Suite) -> None:
    # Playwright turns that cache off in a browser it starts, and the headless shell has it off: this takes another one.
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[*FLAGS, "--enable-bfcache"],
            ignore_default_args=["--disable-back-forward-cache"],
        )
        try:
            await comes_back_from_the_cache(browser, suite)
        finally:
            await browser.close()


async def comes_back_from_the_cache(browser: Browser, suite: Suite) -> None:
    script = "addEventListener('pageshow', (event) => { window.isFromCache = event.persisted; });"
    pages = {"/": page("{gateway}", script=script), "/plain": "<title>Plain</title>"}
    async with visiting(browser, suite, pages) as visitor:
        await visitor.open()
        await visitor.page.goto(visitor.origin + "/plain")
        # `go_back` would wait for a load event, which a page from the cache has not.
        await visitor.page.evaluate("setTimeout(() => history.back())")
        await visitor.page.wait_for_function("window.isFromCache !== undefined")
        assert await visitor.page.evaluate("isFromCache"), "the tracker keeps no page out of the cache"
        events = await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "PageExited", "PageEntered"])
        assert events[1]["pageID"] == events[2]["pageID"] != events[3]["pageID"]


async def test_a_prerendered_page_counts_once_it_is_shown(browser: Browser, suite: Suite) -> None:
    # Playwright forbids the browser to prerender, so the page only believes that it is.
    believing = "Object.defineProperty(document, 'prerendering', { value: true, configurable: true });"
    script = believing + "_gt.push(['event', 'Queued']);"
    async with visiting(browser, suite, {"/": page("{gateway}", script=script)}) as visitor:
        await visitor.page.goto(visitor.origin)
        await sent_at_once(visitor.page)
        await visitor.page.wait_for_timeout(200)
        assert visitor.proxy.beacons == []
        assert await visitor.page.evaluate("document.cookie") == ""
        await visitor.page.evaluate(
            "delete document.prerendering; document.dispatchEvent(new Event('prerenderingchange'))"
        )
        await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "Queued"])
