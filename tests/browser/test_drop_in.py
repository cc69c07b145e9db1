"""Pages made for GWE, with only the host names changed: how they load the script, and the commands they use."""

from functools import partial

import pytest
from playwright.async_api import Browser, Page

from tests.browser.fault_proxy import FaultProxy, running_fault_proxy, to_gateway
from tests.browser.visitor import Event, Visitor, ids, names_on_the_wire, queue_is_empty, sent_at_once, visiting
from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.variants import further

# Loaders like those of GWE.
LOAD = """
  (function (id) {
    if (document.getElementById(id)) return;
    var s = document.createElement('script');
    s.id = id;
    s.src = '{gateway}%s';
    (document.getElementsByTagName('head')[0] || document.body).appendChild(s);
  })('_gt');
"""
SNIPPET_8_5 = (
    """
  var _gt = _gt || [];
  _gt.push(['config', {
    dslResource: '{gateway}/server/resources/dsl/domain-model.xml',
    debug: false,
    httpEndpoint: '{gateway}',
    httpsEndpoint: 'https://gwe.example.com:9443'
  }]);
"""
    + LOAD % "/server/resources/js/build/GPE.min.js"
)
SNIPPET_8_1 = (
    """
  var _gt = _gt || [];
  _gt.push(['config', {
    dslResource: '{gateway}/frontend/resources/dsl/domain-model.xml',
    httpEndpoint: '{gateway}',
    httpsEndpoint: 'https://gwe.example.com:9443',
    disableWebSockets: true
  }]);
"""
    + LOAD % "/frontend/resources/js/build/GTC.js?v=8.1.200.40"
)
# A bundle of chat widgets: their `gwe` settings as they are, and what it asks of the tracker for its chat.
BUNDLE = (
    """
  window._gt = window._gt || [];
  var settings = %s, attached, disposition = { actionID: 1, engagementID: 2, result: 'accept', media: 'chat' };
  _gt.push(['config', settings]);
  _gt.push(['getIDs', function (ids) { attached = { visitID: ids.visitID, pageID: ids.pageID, alias: ids.alias }; }]);
  _gt.push(['on', 'notificationMessage', function (message) { throw new Error('unexpected: ' + message); }]);
"""
    + LOAD % "%s/server/resources/js/build/GTCJ.min.js"
)


def bundle(path_prefix: str, dsl: str) -> str:
    """Such a bundle for a gateway behind a path prefix."""
    endpoint = "{gateway}" + path_prefix
    return BUNDLE % (f"{{ httpEndpoint: '{endpoint}', dslResource: '{endpoint}{dsl}', debug: true }}", path_prefix)


SIGN_IN_8_5 = "_gt.push(['event', 'SignIn', { data: { userID: 'dana' } }])"
SIGN_IN_8_1 = "_gt.push(['sendSignIn', { userID: 'dana' }])"
BUSINESS_8_5 = "_gt.push(['event', 'Disposition', { data: { result: 'accept' } }])"
BUSINESS_8_1 = "_gt.push(['event', { eventName: 'Disposition', result: 'accept' }])"
PAGES = {
    "the snippet of 8.5": (SNIPPET_8_5, BUSINESS_8_5, SIGN_IN_8_5),
    "the snippet of 8.1": (SNIPPET_8_1, BUSINESS_8_1, SIGN_IN_8_1),
    "a bundle of widgets": (bundle("", "/server/resources/dsl/domain-model.xml"), BUSINESS_8_5, SIGN_IN_8_5),
    "a bundle behind a path": (
        bundle("/onlinechat", "/server/resources/dsl/domain-model.xml?_=1"), BUSINESS_8_5, SIGN_IN_8_5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [one if one == "the snippet of 8.5" else further(one) for one in PAGES])
async def test_events_rules_and_states(browser: Browser, suite: Suite, name: str) -> None:
    script, business, sign_in = PAGES[name]
    html = f"<!doctype html><title>Loans</title><script>{script}</script><body>Loans"
    async with visiting(browser, suite, {"/": html}) as visitor:
        await visitor.page.clock.install()
        async with visitor.page.expect_response("**/domain-model.xml*"):
            await visitor.open()
        await visitor.page.wait_for_timeout(100)
        visit_id = (await ids(visitor.page))["visitID"]
        names = ["VisitStarted", "PageEntered", "Timeout-30", "Disposition", "SignIn"]
        await names_on_the_wire(visitor, names[:2])
        await eventually(lambda: queue_is_empty(visitor.page), timeout=20)
        await visitor.page.clock.fast_forward("00:31")
        await names_on_the_wire(visitor, names[:3])
        await visitor.page.evaluate(f"{business}; {sign_in};")
        await names_on_the_wire(visitor, names)
        assert await scopes(visitor, visit_id) == [("dana", "Authenticated")]
        await visitor.page.evaluate("_gt.push(['event', 'SignOut', { data: {} }])")
        await names_on_the_wire(visitor, [*names, "SignOut"])
        assert await scopes(visitor, visit_id, "Recognized") == [("dana", "Recognized")]
        # By name: the clock of the page leaps, so each beacon is corrected by its own delay.
        stored = await eventually(partial(all_stored, visitor, visit_id, len(names) + 1))
        events = {event["eventName"]: event for event in stored}
        types = {"Timeout-30": "BUSINESS", "Disposition": "BUSINESS"}
        assert {name: event["eventType"] for name, event in events.items()} == {
            name: types.get(name, "SYSTEM") for name in (*names, "SignOut")
        }
        assert events["Disposition"]["data"] == {"result": "accept"}
        if "bundle" in name:
            page_id = events["PageEntered"]["browserPageID"]
            assert await visitor.page.evaluate("attached") == {"visitID": visit_id, "pageID": page_id, "alias": ""}
        assert visitor.page_errors == []


async def all_stored(visitor: Visitor, visit_id: str, count: int) -> list[Event]:
    events = await visitor.stored(visit_id)
    assert len(events) == count
    return events


async def scopes(visitor: Visitor, visit_id: str, scope: str = "Authenticated") -> list[tuple[str, str]]:
    """The identities of a visit in History, once one has this scope."""

    async def found() -> list[tuple[str, str]]:
        answer = await visitor.history.get(f"/server/data/visits/{visit_id}/identities")
        assert answer.status_code == 200
        identities = [(identity["identityId"], identity["visitScope"]) for identity in answer.json()]
        assert scope in {scope for _, scope in identities}
        return identities

    return await eventually(found, timeout=20)


@pytest.mark.parametrize(
    "path",
    [
        "/tracker.js",
        further("/onlinechat/tracker.js?v=/server/resources/"),
        "/onlinechat/server/resources/js/build/GPEJ.min.js?_=1",
        further("/frontend/resources/js/build/GTC.js?a/b"),
    ],
)
async def test_without_an_endpoint_events_go_to_the_host_of_the_script(
    browser: Browser, suite: Suite, path: str
) -> None:
    html = "<!doctype html><title>T</title><script src='{gateway}" + path + "'></script>"
    async with visiting(browser, suite, {"/": html}) as visitor:
        prefix = "/onlinechat" if path.startswith("/onlinechat") else ""
        async with visitor.page.expect_response(f"{visitor.proxy.url}{prefix}/beacon"):
            await visitor.open()
            await sent_at_once(visitor.page)
        await names_on_the_wire(visitor, ["VisitStarted", "PageEntered"])


# The chat of GWE, as a bank configures it beside GPE.min.js.
CHAT = """
  var _gwc = {
    widgetUrl: '{gateway}/server/resources/chatWidget.html',
    serverUrl: '{gateway}/server/cometd',
    autoRestore: true,
    onReady: [function (chatApi) { chatApi.onSession(function () {}); }]
  };
"""
ENGAGEMENT = """async (gateway) => {
  _gt.push(['on', 'notificationMessage', () => {}], ['on', 'notificationMessage', () => {}]);
  const invites = new XMLHttpRequest();
  invites.open('GET', gateway + '/server/data/invites?result=cancel&media=chat&alias=', true);
  invites.withCredentials = true;
  await new Promise((resolve, reject) => { invites.onload = resolve; invites.onerror = reject; invites.send(); });
  const handshake = await fetch(gateway + '/server/cometd/handshake', {
    method: 'POST',
    credentials: 'include',
    headers: { 'Content-Type': 'application/json;charset=UTF-8' },
    body: JSON.stringify([{ id: '1', channel: '/meta/handshake', version: '1.0' }]),
  });
  return [invites.status, await handshake.json()];
}"""


@pytest.mark.parametrize("debug", ["true", "false"])
async def test_missing_engagement_causes_one_debug_message_and_no_error(
    browser: Browser, suite: Suite, debug: str
) -> None:
    script = SNIPPET_8_5.replace("debug: false", f"debug: {debug}") + CHAT
    html = f"<!doctype html><link rel=icon href='data:,'><title>Loans</title><script>{script}</script><body>Loans"
    async with visiting(browser, suite, {"/": html}) as visitor:
        lines: list[tuple[str, str]] = []
        visitor.page.on("console", lambda message: lines.append((message.type, message.text)))
        await visitor.open()
        status, [refusal] = await visitor.page.evaluate(ENGAGEMENT, visitor.proxy.url)
        assert status == 204
        assert (refusal["successful"], refusal["advice"]) == (False, {"reconnect": "none"})
        await visitor.page.evaluate("_gt.push(['event', 'Later'])")
        await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "Later"])
        messages = [text for _, text in lines if "_gwc" in text]
        assert messages == ["[_gt] no chat, callback or notifications (_gwc, on) here"] * (debug == "true")
        assert [text for kind, text in lines if kind in {"error", "warning"}] == []
        assert visitor.page_errors == []


# The script beside that of GWE: its snippet names the global `_ft`.
BESIDE = """
  var _ft = _ft || [];
  _ft.push(['config', { httpEndpoint: '%s', dslResource: '%s/server/resources/dsl/domain-model.xml' }]);
  (function (id) {
    if (document.getElementById(id)) return;
    var s = document.createElement('script');
    s.id = id;
    s.src = '%s/tracker.js';
    s.setAttribute('data-global', id);
    document.head.appendChild(s);
  })('_ft');
"""


async def test_two_trackers_on_one_page_are_independent(browser: Browser, suite: Suite) -> None:
    async with running_fault_proxy(to_gateway(suite.url)) as new:
        script = SNIPPET_8_5 + BESIDE % (new.url, new.url, new.url)
        html = f"<!doctype html><title>Loans</title><script>{script}</script><body>Loans"
        async with visiting(browser, suite, {"*": html}) as visitor:
            tab, old = visitor.page, visitor.proxy
            await tab.clock.install()
            await tab.add_init_script("window.before = new Set([...Object.keys(window), 'before'])")
            loaded: list[str] = []
            tab.on("requestfinished", lambda request: loaded.append(request.url))
            await visitor.open()
            await eventually(lambda: sum(url.endswith("/domain-model.xml") for url in loaded) == 2, timeout=20)
            assert await tab.evaluate("Object.keys(window).filter((name) => !before.has(name))") == ["_gt", "_ft"]
            await tab.wait_for_timeout(100)
            await tab.clock.fast_forward("00:31")
            await tab.evaluate("_gt.push(['event', 'Old']); _ft.push(['event', 'New'])")
            await tab.evaluate("history.pushState({}, '', '/b')")
            await tab.clock.fast_forward("00:01")
            seen = []
            for proxy, name in ((old, "Old"), (new, "New")):
                expected = ["VisitStarted", "PageEntered", "Timeout-30", name, "PageExited", "PageEntered"]
                events = await events_on_the_wire(tab, proxy, expected)
                seen.append({events[0]["visitID"], events[0]["globalVisitID"]})
                assert {event["visitID"] for event in events} < seen[-1], "one visit"
            assert seen[0].isdisjoint(seen[1])
            await eventually(lambda: holds(tab, "localStorage.length === 0"), timeout=20)
            assert await cookies(tab) == {"_gt_gvid", "_gt_vid", "_ft_gvid", "_ft_vid"}
            # The end of the one is nothing to the other.
            await tab.evaluate("_gt.push(['consent', false]); _ft.push(['event', 'After'])")
            assert await cookies(tab) == {"_ft_gvid", "_ft_vid"}
            assert {key[:4] for key in await tab.evaluate("Object.keys(localStorage)")} == {"_ft_"}
            await sent_at_once(tab)
            await eventually(lambda: len(new.sent("After")) == 1, timeout=20)
            assert visitor.page_errors == []


async def holds(tab: Page, condition: str) -> bool:
    return bool(await tab.evaluate(condition))


async def cookies(tab: Page) -> set[str]:
    return {cookie["name"] for cookie in await tab.context.cookies()}


async def events_on_the_wire(tab: Page, proxy: FaultProxy, expected: list[str]) -> list[Event]:
    async def check() -> None:
        await sent_at_once(tab)
        assert [event["eventName"] for event in proxy.events()] == expected

    await eventually(check, timeout=20)
    return proxy.events()
