"""Pages that change, lack or forbid browser features, or push unusual data, lose no event."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.browser.fault_proxy import Fault
from tests.browser.visitor import Event, Visitor, ids, queue_is_empty, sent_at_once, visiting
from tests.browser.website import page, serving
from tests.tools.eventually import eventually
from tests.tools.suite import Suite

pytestmark = pytest.mark.long

ENTERED = ["VisitStarted", "PageEntered"]


async def stored_as(visitor: Visitor, visit_id: str, expected: list[str]) -> list[Event]:
    """Wait until History has exactly these events of the visit; give them."""

    async def check() -> None:
        assert [event["eventName"] for event in await visitor.stored(visit_id)] == expected

    await eventually(check, timeout=20)
    return await visitor.stored(visit_id)


def deep(levels: int) -> Any:
    """Objects and lists in each other."""
    return {"inside": [deep(levels - 2)]} if levels else "[object]"


# The data as the page pushes them, and as they arrive.
DATA: list[tuple[str, Any]] = [
    ("(() => { const a = { n: 1 }; a.self = a; a.list = [a]; return a; })()",
     {"n": 1, "self": "[object]", "list": ["[object]"]}),
    ("(() => { const a = { n: 1 }; return { a, b: a }; })()", {"a": {"n": 1}, "b": {"n": 1}}),
    ("{ n: 10n, list: [1n, 2] }", {"n": "[bigint]", "list": ["[bigint]", 2]}),
    ("{ get n() { throw new Error('no'); }, m: 1 }", {"n": "[undefined]", "m": 1}),
    ("{ n: { toJSON() { throw new Error('no'); } }, m: 1 }", {"n": "[object]", "m": 1}),
    ("{ at: new Date(0), o: { toJSON: (key) => ({ key }) }, l: { toJSON: () => [{ n: 1 }] } }",
     {"at": "1970-01-01T00:00:00.000Z", "o": {"key": "o"}, "l": [{"n": 1}]}),
    ("{ a: undefined, b() {}, c: Symbol(), d: NaN, e: [,undefined, null], f: new String('x'), g: new Map() }",
     {"d": None, "e": [None, None, None], "f": "x", "g": {}}),
    ("Object.assign(Object.create(null), { n: 1 })", {"n": 1}),
    ("JSON.parse('{\"__proto__\": { \"n\": 1 }, \"constructor\": 2}')", {"__proto__": {"n": 1}, "constructor": 2}),
    ("{ half: '\\ud83d' }", {"half": "\ufffd"}),
    ("[1, 2]", {"value": [1, 2]}),
    ("'hello'", {"value": "hello"}),
    ("0", {"value": 0}),
    ("''", {"value": ""}),
    ("() => 1", {}),
    ("{ ['k'.repeat(257)]: 1, ['k'.repeat(256)]: 2 }", {"k" * 256: 2}),
    ("Object.assign({}, Array(1500).fill(0))", {str(n): 0 for n in range(1000)}),
    ("{ text: 'ß'.repeat(40000) }", {"_dropped": "too large"}),
    ("Array(40).fill().reduce((inside, _, n) => (n % 2 ? [inside] : { inside }), 1)", {"value": [deep(30)]}),
]  # fmt: skip
OLDER_FORM = "{ eventName: 'Probe', get n() { throw new Error('no'); }, m: 1 }"


async def test_data_arrive_as_far_as_json_allows(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite, {"/": page("{gateway}", config="{ debug: true }")}) as visitor:
        lines: list[str] = []
        visitor.page.on("console", lambda message: lines.append(message.text))
        await visitor.open()
        visit_id = (await ids(visitor.page))["visitID"]
        pushed = [f"_gt.push(['event', 'Probe', {{ data: {data} }}]);" for data, _ in DATA]
        await visitor.page.evaluate(
            "".join([*pushed, f"_gt.push(['event', {OLDER_FORM}], ['event', 'Last', document])"])
        )
        await sent_at_once(visitor.page)
        events = await stored_as(visitor, visit_id, [*ENTERED, *["Probe"] * len(DATA), "Probe", "Last"])
        found = [event["data"] for event in events if event["eventName"] == "Probe"]
        assert found == [*(data for _, data in DATA), {"n": "[undefined]", "m": 1}]
        assert all("dropped" not in beacon for beacon in visitor.proxy.beacons)
        assert sum(line.startswith("[_gt] data") for line in lines) >= 500, "the console shows it"
        assert visitor.page_errors == []


@dataclass(frozen=True)
class Hostile:
    """How a page differs from a plain one."""

    before: str = ""
    """Runs before everything else of the page."""
    body: str = "<h1>Shop</h1>"
    html: str = ""
    """The whole page, if not the usual one."""
    kind: str = "text/html; charset=utf-8"
    address: str = "/"
    policy: str = ""
    """Its Content-Security-Policy."""
    entered: dict[str, Any] = field(default_factory=lambda: {"title": "Café", "referrer": ""})
    """The data of its PageEntered."""


PROTOTYPE_JS = """
  Array.from = (list) => { const copy = []; for (let n = 0; n < list.length; n++) copy[n] = list[n]; return copy; };
  Array.prototype.reduce = function () { return this.length > 1 ? this : this[0]; };
  Array.prototype.toJSON = function () { return '[' + this.join(', ') + ']'; };
  Array.prototype.each = function (act) { this.forEach(act); };
  String.prototype.toJSON = function () { return '"' + this + '"'; };
  Object.keys = (object) => { const keys = []; for (const key in object) keys.push(key); return keys; };
"""
IN_XHTML = """<?xml version="1.0"?>
<html xmlns="http://www.w3.org/1999/xhtml"><head><title>Café</title>
<script>var _gt = _gt || []; _gt.push(['config', { httpEndpoint: '{gateway}' }]);</script>
<script id="_gt" src="{gateway}/tracker.js"></script></head><body>{pushes}</body></html>"""
WITH_NONCE = """<!doctype html><title>Café</title><script nonce="n1">
  var _gt = _gt || [];
  _gt.push(['config', { httpEndpoint: '{gateway}' }]);
  var s = document.createElement('script'); s.src = '{gateway}/tracker.js'; document.head.appendChild(s);
  _gt.push(['event', 'A', { data: { list: [1, 'x'] } }], ['sendSignIn', { userID: 'dana' }]);
</script>"""
POLICY = "script-src 'nonce-n1' 'strict-dynamic'; connect-src {gateway}; object-src 'none'"
FULL = """
  for (let size = 1 << 22, n = 0; size; n++) {
    try { localStorage.setItem('own' + n, 'x'.repeat(size)); } catch (full) { size >>= 1; }
  }
"""
NO_COOKIES = "Object.defineProperty(document, 'cookie', { get() { throw new Error(); } });"
NAMED = "<img name=cookie><img name=head><form name=body></form><form name=createElement></form>"
PAGES = {
    "Prototype.js": Hostile(before=PROTOTYPE_JS),
    "an extended Object.prototype": Hostile(before="Object.prototype.each = () => 1; Object.prototype.n = 'x';"),
    "a base": Hostile(before="document.write('<base href=https://elsewhere.example/deep/>');"),
    "a policy of nonces": Hostile(html=WITH_NONCE, policy=POLICY),
    "quirks and windows-1252": Hostile(
        html="<title>Café</title><script src={gateway}/tracker.js></script>{pushes}",
        kind="text/html; charset=windows-1252",
    ),
    "XHTML": Hostile(html=IN_XHTML, kind="application/xhtml+xml"),
    "half an emoji in its title": Hostile(
        body="<script>document.title = 'Shop \\ud83d';</script>", entered={"title": "Shop \ufffd", "referrer": ""}
    ),
    "a long title and address": Hostile(
        address="/?" + "x" * 17_000,
        body="<script>document.title = 'Shop'.repeat(5000);</script>",
        entered={"title": "Shop" * 5000, "referrer": ""},
    ),
    "a huge title": Hostile(
        body="<script>document.title = 'Shop'.repeat(20000);</script>", entered={"_dropped": "too large"}
    ),
    "a full store and cookies that throw": Hostile(before=FULL + NO_COOKIES),
    "elements named as properties": Hostile(body=NAMED),
    "settings of other types": Hostile(before="var _gt = [['config', { languageCode: 7, domain: {} }]];"),
}


# All by the page itself: what such a page has changed would break the test's own scripts in it.
PUSHES = "<script>_gt.push(['event', 'A', { data: { list: [1, 'x'] } }], ['sendSignIn', { userID: 'dana' }]);</script>"


@pytest.mark.parametrize("hostile", PAGES.values(), ids=PAGES.keys())
async def test_a_page_is_tracked_with(browser: Browser, suite: Suite, hostile: Hostile) -> None:
    async with visiting(browser, suite) as visitor:
        usual = (
            f"<!doctype html><script>{hostile.before}</script>{page('{gateway}', title='Café')}{hostile.body}{PUSHES}"
        )
        html = (hostile.html or usual).replace("{gateway}", visitor.proxy.url).replace("{pushes}", PUSHES)
        body = html.replace("<meta charset=utf-8>", "").encode(hostile.kind.partition("charset=")[2] or "utf-8")
        headers = {"content-type": hostile.kind, "content-length": len(body), "connection": "close"}
        if hostile.policy:
            headers["content-security-policy"] = hostile.policy.replace("{gateway}", visitor.proxy.url)

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            writer.write(f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode() + body)
            await writer.drain()

        async with serving(handle) as port:
            await visitor.page.goto(f"http://127.0.0.1:{port}{hostile.address}")
            await eventually(lambda: len(visitor.proxy.events()) >= 4)
            events = await stored_as(visitor, visitor.proxy.events()[0]["visitID"], [*ENTERED, "A", "SignIn"])
            assert events[2]["data"] == {"list": [1, "x"]}
            assert events[1]["data"] == hostile.entered
            assert visitor.page_errors == []


@pytest.mark.parametrize(
    "fetch",
    [
        "undefined",
        "() => { throw new Error('no'); }",
        "() => undefined",
        "async () => new Response('{}')",
        "() => new Promise(() => {})",
    ],
)
async def test_events_are_sent_by_xmlhttprequest_where_fetch_is_broken(
    browser: Browser, suite: Suite, fetch: str
) -> None:
    async with visiting(browser, suite) as visitor:
        visitor.proxy.fault = Fault.LOST_ANSWER
        await visitor.page.clock.install()
        await visitor.page.add_init_script(f"window.fetch = {fetch};")
        await visitor.open()
        visit_id = (await ids(visitor.page))["visitID"]
        await visitor.page.clock.run_for(2_100)

        async def sent() -> None:
            await visitor.page.clock.run_for(8_000)
            assert visitor.proxy.beacons

        await eventually(sent)
        assert not await queue_is_empty(visitor.page)
        visitor.proxy.fault = Fault.NONE

        async def confirmed() -> bool:
            await visitor.page.clock.run_for(8_000)
            return await queue_is_empty(visitor.page)

        await eventually(confirmed)
        await stored_as(visitor, visit_id, ENTERED)
        assert visitor.page_errors == []


async def test_events_in_a_sandbox_are_one_visit(browser: Browser, suite: Suite) -> None:
    pages = {"/": '<iframe sandbox="allow-scripts" src="/framed"></iframe>', "/framed": page("{gateway}")}
    async with visiting(browser, suite, pages) as visitor:
        await visitor.page.goto(visitor.origin)
        frame = visitor.page.frames[1]
        await frame.wait_for_function("typeof _gt === 'object'")
        found = await frame.evaluate("new Promise((resolve) => _gt.push(['getIDs', resolve]))")
        await frame.evaluate("_gt.push(['event', 'A'], ['sendSignIn', { userID: 'dana' }], ['event', 'B'])")
        await frame.evaluate("history.replaceState({}, '', '/framed?2'); _gt.push(['sendSignOut'])")
        await stored_as(
            visitor, found["visitID"], [*ENTERED, "A", "SignIn", "B", "PageExited", "PageEntered", "SignOut"]
        )
        assert {event["globalVisitID"] for event in visitor.proxy.events()} == {found["globalVisitID"]}
        assert visitor.page_errors == []


async def test_a_frame_of_the_same_site_shares_the_visit(browser: Browser, suite: Suite) -> None:
    framing = page("{gateway}", body="<iframe src=/framed></iframe>")
    async with visiting(browser, suite, {"/": framing, "/framed": page("{gateway}")}) as visitor:
        await visitor.open()
        visit_id = (await ids(visitor.page))["visitID"]
        await visitor.page.frames[1].wait_for_function("typeof _gt === 'object'")
        await visitor.page.frames[1].evaluate("_gt.push(['sendSignIn', { userID: 'dana' }])")
        await stored_as(visitor, visit_id, [*ENTERED, "PageEntered", "SignIn"])


async def test_a_cloned_session_storage_loses_and_doubles_no_event(browser: Browser, suite: Suite) -> None:
    # Only the store of a quiet visitor is one that `window.open` clones, with the events that wait in it.
    quiet = page("{gateway}", config="{ privacySignals: true }")
    async with visiting(browser, suite, {"*": quiet}) as visitor:
        await visitor.context.add_init_script(
            "Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', { value: true });"
        )
        await visitor.open()
        visit_id = (await ids(visitor.page))["visitID"]
        async with visitor.context.expect_page() as opening:
            await visitor.page.evaluate("_gt.push(['event', 'A']); window.open('/clone'); 0")
        clone = await opening.value
        assert (await ids(clone))["visitID"] == visit_id
        await clone.evaluate("_gt.push(['event', 'B'])")
        for tab in (visitor.page, clone):
            await sent_at_once(tab)
        await stored_as(visitor, visit_id, [*ENTERED, "A", "PageEntered", "B"])
