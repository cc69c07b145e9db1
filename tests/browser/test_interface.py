"""`_gt.push`: every spelling of pages made for GWE, before and after the script is loaded."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from playwright.async_api import Browser

from tests.browser.visitor import ids, names_on_the_wire, queue_is_empty, raise_events, sent_at_once, visiting
from tests.browser.website import page
from tests.tools.eventually import eventually
from tests.tools.suite import Suite

UUID4_HEX = re.compile(r"[0-9A-F]{12}4[0-9A-F]{3}[89AB][0-9A-F]{15}")
UUID4_DASHED = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

SPELLINGS = """
  _gt.push(['event', 'AddToCart']);
  _gt.push(['event', 'AddToCart', { data: { productName: 'Sony', price: 12.5 } }]);
  _gt.push(['event', { eventName: 'AddToCart', productName: 'Sony' }]);
  _gt.push(['event', 'UserInfo', { data: { userID: 'a' } }]);
  _gt.push(['event', 'sendUserInfo', { userID: 'b' }]);
  _gt.push(['event', 'sendSignIn', { data: { userID: 'c' } }]);
  _gt.push(['sendUserInfo', { userID: 'd' }]);
  _gt.push(['sendSignIn', { userID: 'e', name: 'Eve', age: 41 }], ['sendSignOut']);
  _gt.push(['event', 'SignOut', { data: {} }]);
"""
RAISED: list[tuple[str, str, dict[str, Any]]] = [
    ("BUSINESS", "AddToCart", {}),
    ("BUSINESS", "AddToCart", {"productName": "Sony", "price": 12.5}),
    ("BUSINESS", "AddToCart", {"productName": "Sony"}),
    ("SYSTEM", "UserInfo", {"userID": "a"}),
    ("SYSTEM", "UserInfo", {"userID": "b"}),
    ("SYSTEM", "SignIn", {"userID": "c"}),
    ("SYSTEM", "UserInfo", {"userID": "d"}),
    ("SYSTEM", "SignIn", {"userID": "e", "name": "Eve", "age": 41}),
    ("SYSTEM", "SignOut", {}),
    ("SYSTEM", "SignOut", {}),
]
NAMES = [name for _, name, _ in RAISED]


async def test_queued_calls_follow_the_system_events_in_order(browser: Browser, suite: Suite) -> None:
    script = SPELLINGS + "_gt.push(['getIDs', (ids) => { window.answer = ids; }]);"
    async with visiting(browser, suite, {"/": page("{gateway}", script=script)}) as visitor:
        await visitor.open()
        events = await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", *NAMES])
        assert [(e["eventType"], e["eventName"], e["data"]) for e in events[2:]] == RAISED
        answer = await visitor.page.evaluate("answer")
        assert answer == {key: events[0][key] for key in ("visitID", "globalVisitID", "pageID")} | {"alias": ""}


async def test_a_code_for_the_phone_finds_the_visit_from_its_first_moment_on(browser: Browser, suite: Suite) -> None:
    script = "_gt.push(['getVisitCode', (code) => { window.answer = code; }]);"
    async with visiting(browser, suite, {"/": page("{gateway}", script=script)}) as visitor, suite.http() as http:
        await visitor.open()
        await visitor.page.wait_for_function("window.answer")
        answer = await visitor.page.evaluate("answer")
        assert re.fullmatch(r"[0-9]{6}", answer["code"])
        assert 590 <= answer["validSeconds"] <= 600
        again = await visitor.page.evaluate("new Promise((resolve) => _gt.push(['getVisitCode', resolve]))")
        assert again["code"] == answer["code"]
        visit = (await ids(visitor.page))["visitID"]

        async def is_found() -> None:
            found = (await http.get("/api/v1/context", params={"code": answer["code"]})).json()
            assert [one["visitor"]["visitId"] for one in found["visits"]] == [visit]

        await eventually(is_found)  # a part of the context may be late on a busy machine
        assert visitor.page_errors == []


async def test_without_an_answer_the_code_for_the_phone_is_empty(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.open()
        await visitor.page.route("**/visit-code*", lambda route: route.abort())
        answer = await visitor.page.evaluate("new Promise((resolve) => _gt.push(['getVisitCode', resolve]))")
        assert answer == {"code": "", "validSeconds": 0}
        assert visitor.page_errors == []


async def test_calls_after_load_do_the_same(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.open()
        await visitor.page.evaluate(SPELLINGS)
        events = await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", *NAMES])
        assert [(e["eventType"], e["eventName"], e["data"]) for e in events[2:]] == RAISED


async def test_the_envelope(browser: Browser, suite: Suite) -> None:
    html = page("{gateway}", title="Loans", config="{ languageCode: 'en-US', site: 'shop' }")
    async with visiting(browser, suite, {"/loans": html}, locale="de-DE", timezone_id="Asia/Tokyo") as visitor:
        await visitor.page.goto(visitor.origin + "/loans#top", referer="http://search.example/")
        started, entered = await names_on_the_wire(visitor, ["VisitStarted", "PageEntered"])
        assert list(started) == [
            "eventType", "eventName", "eventID", "pageID", "timestamp", "category", "url", "languageCode",
            "globalVisitID", "visitID", "data",
        ]  # fmt: skip
        assert started["url"] == visitor.origin + "/loans#top"
        assert (started["languageCode"], started["category"]) == ("en-US", "")
        assert started["data"] == {"timezoneOffset": -540, "screenResolution": "1280x720", "language": "de-DE"}
        assert entered["data"] == {"title": "Loans", "referrer": "http://search.example/"}
        assert UUID4_HEX.fullmatch(started["eventID"])
        assert UUID4_HEX.fullmatch(started["pageID"])
        assert UUID4_DASHED.fullmatch(started["visitID"])
        assert UUID4_DASHED.fullmatch(started["globalVisitID"])
        assert started["pageID"] == entered["pageID"]
        assert started["timestamp"] < entered["timestamp"]
        [beacon] = visitor.proxy.beacons
        assert beacon["site"] == "shop"
        assert 0 <= beacon["sentAt"] - entered["timestamp"] < 5_000


# An instrumentation script like that of GWE; a site changes only its host names.
INSTRUMENTATION = """
  var _gt = _gt || [];
  _gt.push(['config', { %s
    debug: false,
    disableWebSockets: true,
    httpEndpoint: '{gateway}',
    httpsEndpoint: 'https://gwe.example.com:9443'
  }]);
  (function (gpe) {
    if (document.getElementById(gpe)) return;
    var s = document.createElement('script');
    s.id = gpe;
    s.src = ('https:' == document.location.protocol ? 'https://gwe.example.com:9443' : '{gateway}') +
      '/server/resources/js/build/%s.min.js';
    (document.getElementsByTagName('head')[0] || document.body).appendChild(s);
  })('_gt');
  // Like a loader of GWE: it waits for the object, then uses both forms of `event`.
  var tries = 0, waiting = setInterval(function () {
    if (++tries > 100 || typeof _gt.push == 'function') {
      clearInterval(waiting);
      _gt.push(['event', 'Seen']);
      _gt.push(['event', 'Seen', { data: { n: 1 } }]);
    }
  }, 50);
"""
DSL = "dslResource: '{gateway}/server/resources/dsl/domain-model.xml',"


async def test_existing_instrumentation_with_a_dsl(browser: Browser, suite: Suite) -> None:
    await instrumentation_works(browser, suite, INSTRUMENTATION % (DSL, "GPE"))


async def test_existing_instrumentation_without_a_dsl(browser: Browser, suite: Suite) -> None:
    await instrumentation_works(browser, suite, INSTRUMENTATION % ("", "GTC"))


async def instrumentation_works(browser: Browser, suite: Suite, script: str) -> None:
    html = f"<!doctype html><title>Bank</title><script>{script}</script><body>Loans"
    async with visiting(browser, suite, {"/": html}) as visitor:
        await visitor.open()
        await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "Seen", "Seen"])
        visit_id = (await ids(visitor.page))["visitID"]

        async def stored() -> bool:
            return len(await visitor.stored(visit_id)) == 4

        await eventually(stored, timeout=20)
        assert visitor.page_errors == []


async def test_settings_may_follow_a_script_that_is_already_there(browser: Browser, suite: Suite) -> None:
    html = """<!doctype html><script src="{gateway}/tracker.js"></script>
      <script>_gt.push(['event', 'Early']); _gt.push(['config', { languageCode: 'fr' }]);</script><title>T</title>"""
    async with visiting(browser, suite, {"/": html}) as visitor:
        await visitor.open()
        events = await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "Early"])
        assert {event["languageCode"] for event in events} == {"fr"}
        assert events[1]["data"]["title"] == "T"


async def test_a_script_element_named_like_the_global_and_a_second_copy(browser: Browser, suite: Suite) -> None:
    tag = '<script id="_gt" src="{gateway}/tracker.js"></script>'
    html = f"<!doctype html><title>T</title>{tag}<script>var _gt = _gt || []; _gt.push(['event', 'A']);</script>{tag}"
    async with visiting(browser, suite, {"/": html}) as visitor:
        await visitor.open()
        await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "A"])


async def test_no_global_but_gt(browser: Browser, suite: Suite) -> None:
    html = f"<script>window.before = new Set(Object.keys(window).concat('before'))</script>{page('{gateway}')}"
    async with visiting(browser, suite, {"/": html}) as visitor:
        await visitor.open()
        added = await visitor.page.evaluate("Object.keys(window).filter((name) => !before.has(name))")
        assert added == ["_gt"]


async def test_malformed_calls_are_ignored_without_an_error(browser: Browser, suite: Suite) -> None:
    nonsense = """
      const cycle = {}; cycle.self = cycle;
      for (const call of [undefined, null, 7, 'event', {}, [], ['constructor'], ['event'], ['event', ''], ['event', 5],
        ['event', {}], ['event', null], ['event', 'X', { data: cycle }], ['event', 'X', { data: 10n }], ['config'],
        ['config', null], ['getIDs'], ['sendSignIn', cycle], () => {}]) _gt.push(call);
      _gt.push();
      _gt.push(['event', 'Sane', { data: { half: '\\ud83d' } }]);
    """
    html = page("{gateway}", script=nonsense)
    async with visiting(browser, suite, {"/": html}) as visitor:
        await visitor.open()
        await visitor.page.evaluate(nonsense)
        await sent_at_once(visitor.page)
        await eventually(lambda: len(visitor.proxy.sent("Sane")) == 2, timeout=20)
        assert visitor.page_errors == []


async def test_data_are_copied_when_pushed(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        await visitor.open()
        await visitor.page.evaluate(
            "const cart = { items: 1 }; _gt.push(['event', 'Cart', { data: cart }]); cart.items = 2;"
        )
        events = await names_on_the_wire(visitor, ["VisitStarted", "PageEntered", "Cart"])
        assert events[2]["data"] == {"items": 1}


async def test_debug_writes_to_the_console(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite, {"/": page("{gateway}", config="{ debug: true }")}) as visitor:
        lines: list[str] = []
        visitor.page.on("console", lambda message: lines.append(message.text))
        await visitor.open()
        await eventually(lambda: any(line.startswith("[_gt]") and "VisitStarted" in line for line in lines), timeout=20)


async def test_debug_shows_why_an_event_was_rejected(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite, {"/": page("{gateway}", config="{ debug: true }")}) as visitor:
        lines: list[str] = []
        visitor.page.on("console", lambda message: lines.append(message.text))
        await visitor.open()
        await visitor.page.evaluate("_gt.push(['event', 'SignIn', { data: { name: 'Dana' } }])")

        line = await eventually(lambda: next((line for line in lines if "rejected" in line), False), timeout=20)
        assert isinstance(line, str)
        [refused] = [event for event in visitor.proxy.events() if event["eventName"] == "SignIn"]
        for word in (refused["eventID"], "invalid_user_id", "data.userID: must be a string of 1 to 512 characters"):
            assert word in line

        await visitor.page.evaluate("_gt.push(['event', 'SignIn', { data: { userID: 'undefined' } }])")
        line = await eventually(lambda: next((line for line in lines if "ignored" in line), False), timeout=20)
        assert "the user id is a placeholder" in str(line)


async def test_events_are_sent_in_batches_and_identities_immediately(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        # In a page where no time passes by itself, what is sent is sent immediately.
        await visitor.page.clock.install()
        await visitor.page.clock.pause_at(datetime.now(UTC) + timedelta(seconds=1))
        await visitor.page.goto(visitor.origin)
        await visitor.page.wait_for_function("document.cookie")

        async def sizes(*expected: int) -> None:
            def check() -> None:
                assert [len(beacon["events"]) for beacon in visitor.proxy.beacons] == list(expected)

            await eventually(check, timeout=20)
            # What is raised while an answer is awaited leaves after it, by a timer, and time stands still here.
            await eventually(lambda: queue_is_empty(visitor.page), timeout=20)

        await visitor.page.clock.run_for(1_900)
        assert visitor.proxy.beacons == [], "held back for two seconds"
        await visitor.page.clock.run_for(200)
        await sizes(2)
        await raise_events(visitor.page, 19)
        await visitor.page.evaluate("_gt.push(['sendSignIn', { userID: 'dana' }])")
        await sizes(2, 20)
        await visitor.page.clock.run_for(10)
        await raise_events(visitor.page, 20)
        await sizes(2, 20, 20)
