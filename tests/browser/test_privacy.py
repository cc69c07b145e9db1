"""The data that the tracker stores in a browser, and visitors who do not want to be tracked."""

import re
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.browser.visitor import ids, names_on_the_wire, queue_is_empty, sent_at_once, visiting
from tests.browser.website import page
from tests.tools.suite import Suite

ENTERED = ["VisitStarted", "PageEntered"]
YEAR_S = 365 * 24 * 60 * 60
REFUSE_COOKIES = """
  Object.defineProperty(Document.prototype, 'cookie', { get: () => '', set: () => {} });
"""
REFUSE_STORAGE = """
  for (const name of ['localStorage', 'sessionStorage']) {
    Object.defineProperty(window, name, { get() { throw new DOMException('denied', 'SecurityError'); } });
  }
"""
GPC = "Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', { value: true });"
DNT = "Object.defineProperty(Navigator.prototype, 'doNotTrack', { value: '1' });"


async def stored_keys(tab: Page) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = await tab.evaluate(
        "({ local: Object.keys(localStorage), session: Object.keys(sessionStorage) })"
    )
    return keys


async def cookies(tab: Page) -> dict[str, Any]:
    return {cookie["name"]: cookie for cookie in await tab.context.cookies()}


async def test_only_first_party_cookies_remain_once_all_is_sent(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.open()
        started, _ = await names_on_the_wire(visitor, ENTERED)
        found = await cookies(visitor.page)
        assert sorted(found) == ["_gt_gvid", "_gt_vid"]
        assert found["_gt_gvid"]["value"] == started["globalVisitID"]
        assert re.fullmatch(rf"{started['visitID']}\.\d{{13}}", found["_gt_vid"]["value"])
        now_s = await visitor.page.evaluate("Date.now() / 1000")
        assert found["_gt_gvid"]["expires"] == pytest.approx(now_s + YEAR_S, abs=60)
        assert found["_gt_vid"]["expires"] == -1, "until the browser is closed"
        for cookie in found.values():
            assert (cookie["path"], cookie["sameSite"], cookie["httpOnly"]) == ("/", "Lax", False)
        await visitor.page.wait_for_function("Object.keys(localStorage).length === 0")


@pytest.mark.parametrize("refusal", [REFUSE_COOKIES, REFUSE_STORAGE, REFUSE_COOKIES + REFUSE_STORAGE])
async def test_a_browser_that_refuses_storage_loses_no_event(browser: Browser, suite: Suite, refusal: str) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.context.add_init_script(refusal)
        await visitor.open()
        first = await ids(visitor.page)
        await visitor.page.evaluate("_gt.push(['event', 'A'])")
        await names_on_the_wire(visitor, [*ENTERED, "A"])
        await visitor.open("/next")
        second = await ids(visitor.page)
        both_refused = refusal == REFUSE_COOKIES + REFUSE_STORAGE
        assert (first["visitID"] == second["visitID"]) is not both_refused
        assert visitor.page_errors == []


async def test_a_full_disk_loses_no_event(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.context.add_init_script("Storage.prototype.setItem = () => { throw new Error('full'); };")
        await visitor.open()
        await visitor.page.evaluate("_gt.push(['event', 'A'])")
        await names_on_the_wire(visitor, [*ENTERED, "A"])


async def test_a_gateway_under_the_domain_sets_the_cookie_by_http(suite: Suite, shop_browser: Browser) -> None:
    # The script's own cookie is refused, so what is there afterwards has come by HTTP.
    config = "{ httpEndpoint: '{gateway}'.replace('127.0.0.1', 'visits.shop.test') }"
    async with visiting(shop_browser, suite, {"*": page("{gateway}", config=config)}) as visitor:
        await visitor.context.add_init_script("""
          const { get, set } = Object.getOwnPropertyDescriptor(Document.prototype, 'cookie');
          const refuse = (text) => text.replace(/^_gt_gvid=.*/, '');
          Object.defineProperty(Document.prototype, 'cookie', { get, set(text) { set.call(this, refuse(text)); } });
        """)
        async with visitor.page.expect_event("requestfinished", lambda request: "/cookie?" in request.url):
            await visitor.page.goto(f"http://www.shop.test:{visitor.origin.rpartition(':')[2]}/")
        cookie = (await cookies(visitor.page))["_gt_gvid"]
        assert cookie["value"] == (await ids(visitor.page))["globalVisitID"]
        assert (cookie["domain"], cookie["sameSite"], cookie["httpOnly"]) == (".shop.test", "Lax", False)
        assert cookie["expires"] > await visitor.page.evaluate("Date.now() / 1000") + YEAR_S - 60
        await names_on_the_wire(visitor, ENTERED)


@pytest.mark.parametrize(
    ("origin", "domain", "visitor"),
    [
        ("https://evil.example", "shop.test", "81b5f6c2-9d0f-4b52-9f6c-0f4d8f9d3f11"),
        ("https://www.shop.test", "test", "81b5f6c2-9d0f-4b52-9f6c-0f4d8f9d3f11"),
        ("https://www.shop.test", "other.test", "81b5f6c2-9d0f-4b52-9f6c-0f4d8f9d3f11"),
        ("https://www.shop.test", "shop.test; HttpOnly", "81b5f6c2-9d0f-4b52-9f6c-0f4d8f9d3f11"),
        ("https://www.shop.test", "shop.test", "x; Domain=evil.example"),
        ("https://[", "shop.test", "81b5f6c2-9d0f-4b52-9f6c-0f4d8f9d3f11"),
        ("", "shop.test", "81b5f6c2-9d0f-4b52-9f6c-0f4d8f9d3f11"),
    ],
)
async def test_cookies_are_set_only_for_a_shared_domain(suite: Suite, origin: str, domain: str, visitor: str) -> None:
    async with suite.http() as http:
        answer = await http.post(
            "/cookie", params={"domain": domain, "id": visitor}, headers={"Host": "visits.shop.test", "Origin": origin}
        )
    assert answer.status_code == 400
    assert "set-cookie" not in answer.headers


async def test_the_cookie_by_http_has_the_name_of_the_requesting_tracker(suite: Suite) -> None:
    asked = "/cookie?domain=shop.test&id=81b5f6c2-9d0f-4b52-9f6c-0f4d8f9d3f11"
    headers = {"Host": "visits.shop.test", "Origin": "https://www.shop.test"}
    async with suite.http() as http:
        for name, cookie in ("", "_gt_gvid="), ("&global=_ft", "_ft_gvid="):
            answer = await http.post(asked + name, headers=headers)
            assert answer.headers["Set-Cookie"].startswith(f"{cookie}81b5f6c2-")
        for name in ("", "a%3Db%3B%20x", "_ft%0A", "%C3%A9"):
            answer = await http.post(f"{asked}&global={name}", headers=headers)
            assert (answer.status_code, "Set-Cookie" in answer.headers) == (400, False)


async def test_two_tabs_without_web_locks_take_turns(suite: Suite, shop_browser: Browser) -> None:
    # A plain http: host is no secure context: browsers offer it no Web Locks.
    async with visiting(shop_browser, suite) as visitor:
        shop = f"http://www.shop.test:{visitor.origin.rpartition(':')[2]}/"
        second = await visitor.new_tab()
        for tab in (visitor.page, second):
            await tab.goto(shop)
            await ids(tab)
        assert not await second.evaluate("'locks' in navigator")
        for tab in (visitor.page, second):
            await tab.evaluate("_gt.push(['event', 'A'])")
        await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "PageEntered", "A", "A"])
        await second.wait_for_function("Object.keys(localStorage).join() === '_gt_domain.'")
        assert len(visitor.proxy.sent()) == 5, "each event sent once"


async def test_nothing_is_sent_or_stored_before_consent(browser: Browser, suite: Suite) -> None:
    html = page("{gateway}", config="{ consent: 'required' }", script="_gt.push(['event', 'Early']);")
    async with visiting(browser, suite, {"*": html}) as visitor:
        await visitor.page.goto(visitor.origin)
        await visitor.page.goto(visitor.origin)
        await visitor.page.wait_for_timeout(300)
        assert visitor.proxy.beacons == []
        assert await cookies(visitor.page) == {}
        assert await stored_keys(visitor.page) == {"local": [], "session": []}
        await visitor.page.evaluate("_gt.push(['consent', true])")
        await names_on_the_wire(visitor, [*ENTERED, "Early"])


async def test_withdrawn_consent_leaves_no_trace(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite, {"/": page("{gateway}"), "/plain": "<title>Plain</title>"}) as visitor:
        await visitor.open()
        await visitor.page.evaluate("_gt.push(['consent', false], ['event', 'Late'])")
        await visitor.page.goto(visitor.origin + "/plain")
        assert visitor.proxy.beacons == []
        assert await cookies(visitor.page) == {}
        assert await stored_keys(visitor.page) == {"local": [], "session": []}


async def test_consent_given_again_starts_a_new_visit_of_an_unknown_browser(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.open()
        before = await ids(visitor.page)
        await visitor.page.evaluate("_gt.push(['consent', false], ['consent', true])")
        after = await ids(visitor.page)
        assert set(before.values()) & set(after.values()) == {""}, "the alias"
        await names_on_the_wire(visitor, ENTERED)


@pytest.mark.parametrize("signal", [GPC, DNT])
async def test_privacy_signals_are_honoured_when_configured(browser: Browser, suite: Suite, signal: str) -> None:
    pages = {"/": page("{gateway}"), "/quiet": page("{gateway}", config="{ privacySignals: true }")}
    async with visiting(browser, suite, pages) as visitor:
        await visitor.context.add_init_script(signal)
        await visitor.open("/")
        assert len(await cookies(visitor.page)) == 2, "not configured"
        await visitor.open("/quiet")
        first = await ids(visitor.page)
        await visitor.open("/quiet")
        assert first["globalVisitID"] == ""
        assert (await ids(visitor.page))["visitID"] == first["visitID"], "one visit in one tab"
        assert await cookies(visitor.page) == {}, "earlier ones are gone"
        assert (await stored_keys(visitor.page))["local"] == []
        other_tab = await visitor.open("/quiet", await visitor.new_tab())
        assert (await ids(other_tab))["visitID"] != first["visitID"], "no id across visits"
        await sent_at_once(visitor.page)
        assert await queue_is_empty(visitor.page)
