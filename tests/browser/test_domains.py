"""The hosts of one owner share cookies on the widest domain that the browser accepts."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.browser.visitor import Visitor, ids, names_on_the_wire, sent_at_once, visiting
from tests.browser.website import page
from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.variants import further

PLAIN = {"/plain": "<title>Plain</title>", "*": page("{gateway}")}
HOST_ONLY = {"/plain": "<title>Plain</title>", "/host": page("{gateway}", config="{ domain: 'host' }")} | PLAIN


async def come(visitor: Visitor, host: str, path: str = "/", tab: Page | None = None) -> dict[str, str]:
    """The ids that a page of this host has."""
    tab = tab or visitor.page
    await tab.goto(f"http://{host}:{visitor.origin.rpartition(':')[2]}{path}")
    return await ids(tab)


async def cookie_places(visitor: Visitor) -> Counter[tuple[str, str]]:
    """How many cookies there are of each name and domain."""
    return Counter((cookie["name"], cookie["domain"]) for cookie in await visitor.context.cookies())


def ours(domain: str) -> Counter[tuple[str, str]]:
    return Counter([("_gt_vid", domain), ("_gt_gvid", domain)])


def without_page(answer: dict[str, str]) -> tuple[str, str]:
    return answer["visitID"], answer["globalVisitID"]


@pytest.mark.parametrize(
    ("first", "second", "domain"),
    [
        ("www.shop.example", "secure.shop.example", ".shop.example"),
        further("shop.example", "a.b.shop.example", ".shop.example"),
        ("www.shop.co.uk", "shop.co.uk", ".shop.co.uk"),
        further("alice.github.io", "www.alice.github.io", ".alice.github.io"),
        further("www.shop.localhost", "secure.shop.localhost", ".shop.localhost"),
    ],
)
async def test_sub_domains_are_one_visit(
    suite: Suite, shop_browser: Browser, first: str, second: str, domain: str
) -> None:
    async with visiting(shop_browser, suite, PLAIN) as visitor:
        answers = [await come(visitor, host) for host in (first, second, first)]
        assert len({without_page(answer) for answer in answers}) == 1
        assert await cookie_places(visitor) == ours(domain), "and nothing of the search is left"
        events = await names_on_the_wire(
            visitor, ["VisitStarted", "PageEntered", "PageExited", "PageEntered", "PageExited", "PageEntered"]
        )
        times = [event["timestamp"] for event in events]
        assert times == sorted(set(times))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("shop.co.uk", "other.co.uk"),
        further("alice.github.io", "bob.github.io"),
        ("127.0.0.1", "localhost"),
        further("shop", "www.shop.example"),
    ],
)
async def test_hosts_of_different_owners_share_nothing(
    suite: Suite, shop_browser: Browser, first: str, second: str
) -> None:
    async with visiting(shop_browser, suite, PLAIN) as visitor:
        answers = [await come(visitor, host) for host in (first, second)]
        assert not {*without_page(answers[0])} & {*without_page(answers[1])}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "shop"])
async def test_hosts_without_a_domain_have_cookies_of_their_own(suite: Suite, shop_browser: Browser, host: str) -> None:
    async with visiting(shop_browser, suite, PLAIN) as visitor:
        await come(visitor, host)
        assert await cookie_places(visitor) == ours(host)


@pytest.mark.parametrize(
    ("config", "domain"),
    [
        ("{ domain: 'host' }", "www.eu.shop.example"),
        ("{ domain: 'eu.shop.example' }", ".eu.shop.example"),
        further("{ cookieDomain: '.eu.shop.example' }", ".eu.shop.example"),
        further("{ domainName: 'eu.shop.example' }", ".eu.shop.example"),
        further("{ cookieDomain: 'other.example' }", "www.eu.shop.example"),
    ],
)
async def test_the_domain_may_be_configured(suite: Suite, shop_browser: Browser, config: str, domain: str) -> None:
    async with visiting(shop_browser, suite, {"*": page("{gateway}", config=config)}) as visitor:
        first = await come(visitor, "www.eu.shop.example")
        assert await cookie_places(visitor) == ours(domain)
        assert without_page(await come(visitor, "www.eu.shop.example")) == without_page(first)


async def test_each_host_finds_the_domain_once(suite: Suite, shop_browser: Browser) -> None:
    async with visiting(shop_browser, suite, PLAIN) as visitor:
        await visitor.context.add_init_script("""
          const { set, get } = Object.getOwnPropertyDescriptor(Document.prototype, 'cookie');
          window.tried = [];
          Object.defineProperty(Document.prototype, 'cookie', {
            get,
            set(text) { if (!/^_gt_g?vid=./.test(text)) window.tried.push(text); set.call(this, text); },
          });
        """)
        await come(visitor, "www.shop.co.uk")
        assert "Domain=co.uk" in str(await visitor.page.evaluate("tried")), "the widest first"
        await come(visitor, "www.shop.co.uk")
        assert await visitor.page.evaluate("tried") == []


async def old_cookies(visitor: Visitor, host: str) -> dict[str, str]:
    """A visit by an earlier version of the script, which has set its cookies for the host only."""
    answer = await come(visitor, host, "/host")
    await visitor.page.goto("about:blank")
    return answer


async def test_ids_of_an_earlier_script_version_are_kept(suite: Suite, shop_browser: Browser) -> None:
    async with visiting(shop_browser, suite, HOST_ONLY) as visitor:
        before = await old_cookies(visitor, "www.shop.example")
        after = await come(visitor, "www.shop.example")
        assert without_page(before) == without_page(after)
        assert await cookie_places(visitor) == ours(".shop.example")
        expiry = {cookie["name"]: cookie["expires"] for cookie in await visitor.context.cookies()}
        assert expiry["_gt_vid"] == -1
        assert expiry["_gt_gvid"] > await visitor.page.evaluate("Date.now() / 1000") + 300 * 86_400
        assert without_page(await come(visitor, "secure.shop.example")) == without_page(before)


async def test_of_two_hosts_of_an_earlier_version_the_first_gives_the_ids(suite: Suite, shop_browser: Browser) -> None:
    async with visiting(shop_browser, suite, HOST_ONLY) as visitor:
        secure, www = [await old_cookies(visitor, f"{name}.shop.example") for name in ("secure", "www")]
        assert without_page(secure) != without_page(www)
        for host in ("www.shop.example", "secure.shop.example", "www.shop.example", "secure.shop.example"):
            assert without_page(await come(visitor, host)) == without_page(www)
        assert await cookie_places(visitor) == ours(".shop.example")


async def test_an_open_page_with_an_earlier_script_causes_no_harm(suite: Suite, shop_browser: Browser) -> None:
    # A browser may have the old script for another hour. It writes cookies of the host beside those of the domain.
    async with visiting(shop_browser, suite, HOST_ONLY) as visitor:
        first = await come(visitor, "www.shop.example")
        old = await visitor.new_tab()
        await come(visitor, "www.shop.example", "/host", old)
        for host in ("www.shop.example", "secure.shop.example"):
            await old.evaluate("_gt.push(['event', 'Old'])")
            assert without_page(await come(visitor, host)) == without_page(first)


async def test_tabs_of_two_hosts_that_begin_together_start_one_visit(suite: Suite, shop_browser: Browser) -> None:
    # Both look for a visit before either has written one: making an id takes long here, and both begin on the minute.
    # The moment in which they see each other is longer by as much, so that a busy machine does not decide.
    html = page("{gateway}", config="{ consent: 'required' }")
    async with visiting(shop_browser, suite, {"*": html}) as visitor:
        await visitor.context.add_init_script("""
          const make = crypto.getRandomValues;
          crypto.getRandomValues = (bytes) => {
            for (const until = Date.now() + 20; Date.now() < until;);
            return make.call(crypto, bytes);
          };
          const later = window.setTimeout;
          window.setTimeout = (act, ms, ...more) => later(act, ms === 50 ? 1000 : ms, ...more);
        """)
        tabs = [visitor.page, await visitor.new_tab()]
        for host, tab in zip(("www", "secure"), tabs, strict=True):
            await tab.goto(f"http://{host}.shop.example:{visitor.origin.rpartition(':')[2]}/")
            await tab.wait_for_function("_gt.push !== Array.prototype.push")
        at = await visitor.page.evaluate("Date.now() + 200")
        begin = f"setTimeout(() => _gt.push(['consent', true]), {at} - Date.now())"
        await asyncio.gather(*(tab.evaluate(begin) for tab in tabs))
        await asyncio.gather(*map(ids, tabs))  # both have begun
        await asyncio.gather(*(tab.evaluate("_gt.push(['event', 'A'])") for tab in tabs))
        assert len({without_page(await ids(tab)) for tab in tabs}) == 1

        async def all_of_it() -> None:
            await asyncio.gather(*(sent_at_once(tab) for tab in tabs))
            events = visitor.proxy.events()
            agreed = next((event["visitID"] for event in events if event["eventName"] == "A"), "")
            found = sorted(event["eventName"] for event in events if event["visitID"] == agreed)
            assert found == ["A", "A", "PageEntered", "PageEntered", "VisitStarted"]
            # On a busy machine a tab may have begun a visit of its own, and left it.
            others = sorted(event["eventName"] for event in events if event["visitID"] != agreed)
            assert others in ([], ["PageEntered", "PageExited", "VisitStarted"])

        await eventually(all_of_it, timeout=20)


async def test_a_page_that_is_left_before_hosts_agree_counts(suite: Suite, shop_browser: Browser) -> None:
    leaving = "<title>Away</title><script src='{gateway}/tracker.js'></script><script>location.href = '/next'</script>"
    async with visiting(shop_browser, suite, {"/away": leaving, "*": page("{gateway}")}) as visitor:
        await visitor.page.goto(f"http://www.shop.example:{visitor.origin.rpartition(':')[2]}/away")
        await visitor.page.wait_for_url("**/next")
        await ids(visitor.page)
        events = await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "PageExited", "PageEntered"])
        assert len({event["visitID"] for event in events}) == 1


async def test_tracking_ends_for_all_hosts_of_the_domain(suite: Suite, shop_browser: Browser) -> None:
    pages = PLAIN | {"/asks": page("{gateway}", config="{ consent: 'required' }")}
    async with visiting(shop_browser, suite, pages) as visitor:
        first = await come(visitor, "www.shop.example")
        await visitor.page.evaluate("_gt.push(['consent', false])")
        assert await cookie_places(visitor) == Counter()
        assert await visitor.page.evaluate("Object.keys(localStorage)") == []
        await visitor.page.goto(f"http://secure.shop.example:{visitor.origin.rpartition(':')[2]}/asks")
        assert await cookie_places(visitor) == Counter()
        second = await come(visitor, "secure.shop.example")
        assert not {*without_page(first)} & {*without_page(second)}


async def test_a_visitor_who_objects_gets_no_cookie_on_any_domain(suite: Suite, shop_browser: Browser) -> None:
    pages = PLAIN | {"/quiet": page("{gateway}", config="{ privacySignals: true }")}
    async with visiting(shop_browser, suite, pages) as visitor:
        await come(visitor, "www.shop.example")
        await visitor.context.add_init_script(
            "Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', { value: true });"
        )
        await come(visitor, "secure.shop.example", "/quiet")
        assert await cookie_places(visitor) == Counter()


async def test_a_sign_out_on_one_host_is_one_on_all(suite: Suite, shop_browser: Browser) -> None:
    async with visiting(shop_browser, suite, PLAIN) as visitor:
        visit = (await come(visitor, "www.shop.example"))["visitID"]
        await visitor.page.evaluate("_gt.push(['event', 'SignIn', { data: { userID: 'dana' } }])")
        await come(visitor, "secure.shop.example")

        async def state() -> Any:
            return (await visitor.history.get(f"/api/v1/visits/{visit}/visitor")).json().get("state")

        async def is_authenticated() -> bool:
            return bool(await state() == "AUTHENTICATED")

        async def is_recognized() -> bool:
            return bool(await state() == "RECOGNIZED")

        await eventually(is_authenticated, timeout=20)
        await visitor.page.evaluate("_gt.push(['event', 'SignOut', { data: {} }])")
        await eventually(is_recognized, timeout=20)
