"""The tracker causes no error in a page whose browser, policy or sandbox lacks a feature."""

import pytest
from playwright.async_api import Browser

from tests.browser.visitor import names_on_the_wire, visiting
from tests.browser.website import page, running_website
from tests.tools.suite import Suite

pytestmark = pytest.mark.long

ENTERED = ["VisitStarted", "PageEntered"]


@pytest.mark.parametrize(
    "missing",
    [
        "delete Navigator.prototype.locks",
        "delete Navigator.prototype.sendBeacon",
        "delete History.prototype.replaceState",
        "delete window.sessionStorage",
        "Object.defineProperty(Document.prototype, 'visibilityState', { value: undefined })",
    ],
)
async def test_optional_browser_features_may_be_missing(browser: Browser, suite: Suite, missing: str) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.context.add_init_script(missing)
        await visitor.open()
        await names_on_the_wire(visitor, ENTERED)
        assert visitor.page_errors == []


@pytest.mark.parametrize("missing", ["Blob", "crypto", "screen", "JSON", "Promise"])
async def test_a_missing_required_feature_causes_no_error(browser: Browser, suite: Suite, missing: str) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.context.add_init_script(
            f"Object.defineProperty(window, '{missing}', {{ value: undefined, configurable: true }})"
        )
        await visitor.page.goto(visitor.origin)
        await visitor.page.evaluate("() => { _gt.push(['event', 'A']); dispatchEvent(new Event('online')); }")
        await visitor.page.goto(visitor.origin + "/next")
        assert visitor.page_errors == []


async def test_a_sandboxed_frame_is_a_visitor_without_storage(browser: Browser, suite: Suite) -> None:
    pages = {"/": '<iframe sandbox="allow-scripts" src="/framed"></iframe>', "/framed": page("{gateway}")}
    async with visiting(browser, suite, pages) as visitor:
        await visitor.page.goto(visitor.origin)
        frame = visitor.page.frames[1]
        await frame.evaluate("dispatchEvent(new Event('online'))")
        await frame.wait_for_function("typeof _gt === 'object'")
        await names_on_the_wire(visitor, ENTERED)
        assert visitor.page_errors == []


async def test_a_policy_that_forbids_connections_causes_no_error(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        policy = f"default-src 'none'; script-src 'unsafe-inline' {visitor.proxy.url}"
        html = page(visitor.proxy.url)
        async with running_website({"*": html}, content_security_policy=policy) as origin:
            await visitor.page.goto(origin)
            await visitor.page.evaluate("_gt.push(['sendSignIn', { userID: 'dana' }])")
            await visitor.page.goto(origin + "/next")
        assert visitor.page_errors == []
        assert visitor.proxy.beacons == []


async def test_a_policy_that_allows_the_host_suffices(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        gateway = visitor.proxy.url
        policy = f"default-src 'self'; script-src 'self' {gateway}; connect-src {gateway}"
        pages = {
            "/": f"<title>T</title><script src=/settings.js></script><script src={gateway}/tracker.js></script>",
            "/settings.js": f"var _gt = _gt || []; _gt.push(['config', {{ httpEndpoint: '{gateway}' }}]);",
        }
        async with running_website(pages, content_security_policy=policy) as origin:
            await visitor.page.goto(origin)
            await names_on_the_wire(visitor, ENTERED)
        assert visitor.page_errors == []
