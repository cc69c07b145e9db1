"""The trackers of other makers, as their makers publish them, before the gateway.

Page, event, identify and reset come out of history as the expected events, with the expected states.
"""

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import grpc
import pytest
from footfall.history.v1 import history_service_pb2, history_service_pb2_grpc
from footfall_gateway.trackers.translation import as_uuid
from footfall_timeline import State
from playwright.async_api import Browser, Page

from deploy.embedded import ROOT
from tests.browser.website import running_website
from tests.tools.eventually import eventually
from tests.tools.suite import Suite

TRACKERS = ROOT / ".venv" / "trackers" / "node_modules"  # of deploy/install-node

Seen = tuple[str, str, str]
"""Name of an event, and state and identity of the visitor then."""


@asynccontextmanager
async def page_with(browser: Browser, script: str, *, is_module: bool = False) -> AsyncIterator[Page]:
    """A page of a website that carries a script of the makers; a module is `sdk` there."""
    module = "<script type=module>import * as sdk from '/sdk.js'; window.sdk = sdk</script>"
    tag = module if is_module else "<script src=/sdk.js></script>"
    files = {
        "/": f"<!doctype html><meta charset=utf-8><title>Shop</title>{tag}<h1>Shop</h1>",
        "/sdk.js": (TRACKERS / script).read_text(),
    }
    async with running_website(files) as origin:
        context = await browser.new_context(locale="en-US")
        page = await context.new_page()
        await page.goto(origin)
        yield page
        await context.close()


async def stored(suite: Suite, visit_id: str) -> list[Seen]:
    """The events of a visit in history, in order; none of a visit that is not known."""
    async with suite.channel("history") as channel:
        stub = history_service_pb2_grpc.HistoryServiceStub(channel)
        request = history_service_pb2.ListEventsRequest(visit_id=visit_id, page_size=100)
        try:
            answer = await stub.ListEvents(request, timeout=5)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return []
    return [(one.event.event_name, State(one.stamp.state).name, one.stamp.identity_id) for one in answer.events]


async def comes_out(suite: Suite, visit_id: str, *expected: Seen) -> None:
    """Wait until history has exactly these events of a visit."""

    async def check() -> None:
        assert await stored(suite, visit_id) == list(expected)

    await eventually(check, timeout=30)


def of_session(device: str, session: str) -> str:
    """The visit of a session that has no UUID."""
    return str(uuid.uuid5(uuid.UUID(device), session))


def of_day(device: str) -> str:
    """The visit of a device without sessions. A test that runs over midnight in UTC fails."""
    return of_session(device, datetime.now(UTC).date().isoformat())


BEFORE = [("PageEntered", "ANONYMOUS", ""), ("AddToCart", "ANONYMOUS", "")]
"""What each test does first; then it identifies, orders, logs out, and enters a page as somebody else."""


def after(user: str, *identified: str) -> list[Seen]:
    """The events after a user is identified, in a visit that names no token: the visitor stays Recognized."""
    return [(name, "RECOGNIZED", user) for name in (*identified, "SignOut")]


async def test_segment(browser: Browser, suite: Suite) -> None:
    user = f"dana-{uuid.uuid4()}"
    script = """async ([gateway, user]) => {
      const analytics = AnalyticsNext.AnalyticsBrowser.load(
        { writeKey: 'shop', cdnURL: gateway },
        { integrations: { 'Segment.io': { apiHost: gateway.replace('http://', '') + '/v1', protocol: 'http' } } });
      const device = async () => (await analytics.user()).anonymousId();
      await analytics.page('Home');
      await analytics.track('AddToCart', { sku: 'A-1' });
      analytics.identify(user, { email: 'dana@shop.example' });
      await analytics.track('Ordered');
      await analytics.track('Signed Out');
      const devices = [await device()];
      await analytics.reset();
      await analytics.page('Home');
      await MIDDLEWARE
      await analytics.page('Home');
      return [...devices, await device(), localStorage.getItem('visit').split('.')[0]];
    }"""
    text = (ROOT / "docs" / "site" / "migration.md").read_text()
    middleware = text[text.index("analytics.addSourceMiddleware(") :].partition("```")[0]
    async with page_with(browser, "@segment/analytics-next/dist/umd/index.js") as page:
        known, unknown, session = await page.evaluate(script.replace("MIDDLEWARE", middleware), [suite.url, user])
    await comes_out(suite, of_day(known), *BEFORE, *after(user, "UserInfo", "Ordered"))
    await comes_out(suite, of_day(unknown), BEFORE[0])
    await comes_out(suite, of_session(unknown, session), BEFORE[0])


@pytest.mark.long
async def test_rudderstack(browser: Browser, suite: Suite) -> None:
    user = f"dana-{uuid.uuid4()}"
    script = """async ([gateway, user]) => {
      const sdk = new rudderanalytics.RudderAnalytics();
      const visit = () => [sdk.getAnonymousId(), String(sdk.getSessionId())];
      await new Promise((resolve) => sdk.load('shop', gateway, { configUrl: gateway, onLoaded: resolve }));
      const pause = () => new Promise((resolve) => setTimeout(resolve, 5));
      sdk.page('Home');
      await pause();
      sdk.track('AddToCart', { sku: 'A-1' });
      await pause();
      sdk.identify(user, { email: 'dana@shop.example' });
      sdk.track('Ordered');
      await pause();
      sdk.track('Signed Out');
      const visits = [visit()];
      await pause();
      sdk.reset();
      sdk.page('Home');
      return [...visits, visit()];
    }"""
    async with page_with(browser, "@rudderstack/analytics-js/dist/npm/legacy/bundled/umd/index.js") as page:
        known, unknown = await page.evaluate(script, [suite.url, user])
        await comes_out(suite, of_session(*known), *BEFORE, *after(user, "UserInfo", "Ordered"))
        await comes_out(suite, of_session(*unknown), BEFORE[0])


@pytest.mark.long
async def test_posthog(browser: Browser, suite: Suite) -> None:
    user = f"dana-{uuid.uuid4()}"
    script = """async ([gateway, user]) => {
      const posthog = sdk.default;
      const pause = () => new Promise((resolve) => setTimeout(resolve, 5));
      // A browser that is driven by a program is a robot to it.
      posthog.init('shop', { api_host: gateway, capture_pageview: false, opt_out_useragent_filter: true });
      posthog.capture('$pageview');
      await pause();
      posthog.capture('AddToCart', { sku: 'A-1' });
      await pause();
      posthog.identify(user, { email: 'dana@shop.example' });
      posthog.capture('Ordered');
      await pause();
      posthog.capture('logout');
      const visits = [posthog.get_session_id()];
      await pause();
      posthog.reset();
      posthog.capture('$pageview');
      return [...visits, posthog.get_session_id()];
    }"""
    async with page_with(browser, "posthog-js/dist/module.no-external.js", is_module=True) as page:
        known, unknown = await page.evaluate(script, [suite.url, user])
        await comes_out(suite, known, *BEFORE, *after(user, "UserInfo", "Ordered"))
        await comes_out(suite, unknown, BEFORE[0])


@pytest.mark.long
async def test_snowplow(browser: Browser, suite: Suite) -> None:
    user = f"dana-{uuid.uuid4()}"
    script = """async ([gateway, user]) => {
      const sdk = snowplowBrowserTracking;
      const pause = () => new Promise((resolve) => setTimeout(resolve, 5));
      const tracker = sdk.newTracker('sp', gateway, { appId: 'shop' });
      const session = () => tracker.getDomainUserInfo()[6];
      sdk.trackPageView();
      await pause();
      sdk.trackSelfDescribingEvent({
        event: { schema: 'iglu:example.shop/AddToCart/jsonschema/1-0-0', data: { sku: 'A-1' } } });
      await pause();
      sdk.setUserId(user);
      sdk.trackStructEvent({ category: 'shop', action: 'Ordered' });
      await pause();
      sdk.trackStructEvent({ category: 'user', action: 'log-out' });
      const visits = [session()];
      await pause();
      sdk.setUserId(null);
      sdk.newSession();
      sdk.trackPageView();
      return [...visits, session()];
    }"""
    async with page_with(browser, "@snowplow/browser-tracker/dist/index.umd.js") as page:
        known, unknown = await page.evaluate(script, [suite.url, user])
        await comes_out(suite, known, *BEFORE, *after(user, "UserInfo", "Ordered"))
        await comes_out(suite, unknown, BEFORE[0])


@pytest.mark.long
async def test_matomo(suite: Suite) -> None:
    """With Matomo's tracker for Node: no package has the script for browsers."""
    user, device = f"dana-{uuid.uuid4()}", uuid.uuid4().hex[:16]
    script = """
      const [gateway, user, device] = process.argv.slice(1);
      const tracker = new (require('matomo-tracker'))('shop', `${gateway}/matomo.php`);
      tracker.on('error', (status) => { throw new Error(status); });
      const page = { url: 'https://shop.example/', action_name: 'Home', _id: device };
      const event = (name, more) => ({ url: page.url, e_c: 'shop', e_a: name, _id: device, ca: 1, ...more });
      const send = (...requests) => new Promise((resolve) => tracker.trackBulk(requests, resolve));
      (async () => {
        await send(page);
        await send(event('AddToCart', { e_n: 'A-1' }));
        await send(event('Ordered', { uid: user }));
        await send(event('Logout'));
        tracker.track({ ...page, new_visit: 1 });
      })();
    """
    node = shutil.which("node") or str(ROOT / ".venv" / "bin" / "node")
    command = [node, "-e", script, suite.url, user, device]
    process = await asyncio.create_subprocess_exec(*command, cwd=TRACKERS.parent)
    assert await process.wait() == 0
    page = [(name, "RECOGNIZED", user) for name in ("SignOut", "PageEntered")]
    await comes_out(suite, of_day(as_uuid(device)), *BEFORE, *after(user, "UserInfo", "Ordered"), *page)
