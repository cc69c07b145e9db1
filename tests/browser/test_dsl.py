"""Business events from a domain-model.xml, by mouse and keyboard, with the page's jQuery and without."""

from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser

from tests.browser.rules import CLICK_MORE, FORM, on_page, raised, rule, rules
from tests.browser.visitor import sent_at_once, visiting
from tests.browser.website import page, running_website
from tests.tools.eventually import eventually
from tests.tools.suite import Suite

SAMPLES = rules(
    '<event name="AddToCart"><trigger name="a" element=".buy" action="click" url="" count="1">'
    "<val name=\"productName\" value=\"$(event.target).parents('div.hproduct').find('h3.name a').text()\"/>"
    "<val name=\"productSKU\" value=\"$(event.target).parents('div.hproduct').find('span.sku')\"/>"
    "<val name=\"id\" value=\"$(event.target).closest('.hproduct').attr('data-id')\"/>"
    '<val name="html" value="$(\'h3.name\').html()"/><val name="none" value="$(\'h9\').length"/>'
    "</trigger></event>",
    '<event name="Search"><trigger name="b" element="td#gobutton input" action="click" url="" count="1"/>'
    '<val name="searchString" value="$(\'input.searchfield:text\').val();"/></event>',
).replace("<properties>", "<!DOCTYPE properties SYSTEM 'domain-model.dtd'><properties>")


# What the library of that name does to arrays.
PROTOTYPE_JS = """
  Array.from = (list) => { const copy = []; for (let n = 0; n < list.length; n++) copy[n] = list[n]; return copy; };
  Array.prototype.reduce = function () { return this.length > 1 ? this : this[0]; };
"""


@pytest.mark.parametrize(("jquery", "script"), [(None, ""), ("3.7.1", ""), (None, PROTOTYPE_JS)])
async def test_the_documented_samples(browser: Browser, suite: Suite, jquery: str | None, script: str) -> None:
    async with on_page(browser, suite, SAMPLES, jquery=jquery, script=script) as visitor:
        await visitor.page.click(".buy i")
        await visitor.page.click("td#gobutton input")
        cart = {"productName": "Sony", "productSKU": "JVB72", "id": "7", "html": "<a>Sony</a>", "none": 0}
        await raised(visitor, cart, name="AddToCart")
        await raised(visitor, {"searchString": "loans"}, name="Search")


@pytest.mark.parametrize("jquery", [None, "3.7.1"])
async def test_elements_added_later_and_events_that_are_stopped(
    browser: Browser, suite: Suite, jquery: str | None
) -> None:
    xml = rules(rule(CLICK_MORE, "More"), rule('element=".late" action="click"', "Late"))
    async with on_page(browser, suite, xml, jquery=jquery) as visitor:
        await visitor.page.click("#more")
        await visitor.page.click(".late")
        await raised(visitor, {}, name="More")
        await raised(visitor, {}, name="Late")


@pytest.mark.parametrize("jquery", [None, "3.7.1"])
async def test_keyboard_focus_and_pointer(browser: Browser, suite: Suite, jquery: str | None) -> None:
    xml = rules(
        rule('element="input.searchfield" action="enterkey"', "Enter"),
        rule('element="form" action="submit"', "Submit"),
        rule('element="input.searchfield" action="focus"', "Focus"),
        rule('element=".hproduct" action="mouseenter"', "Over"),
        rule('element="form" action="change"', "Change", '<val name="to" value="event.target.value"/>'),
    )
    script = "addEventListener('submit', (event) => event.preventDefault());"
    async with on_page(browser, suite, xml, script=script, jquery=jquery) as visitor:
        await visitor.page.focus("input.searchfield")
        await visitor.page.keyboard.type("car ")
        await visitor.page.keyboard.press("Enter")
        await visitor.page.hover(".hproduct .sku")
        await visitor.page.hover(".hproduct h3")
        for name in ("Enter", "Submit", "Focus", "Over"):
            await raised(visitor, {}, name=name)
        await raised(visitor, {"to": "car loans"}, name="Change")


async def test_events_of_the_page_itself(browser: Browser, suite: Suite) -> None:
    xml = rules(
        rule('element="" action="ready"', "Ready"),
        rule('element="" action="load"', "Load"),
        rule('element="" action="scroll"', "Scroll"),
        rule('element="" action="unload"', "Unload"),
    )
    async with on_page(browser, suite, xml, body=FORM + "<p style='height: 9999px'>") as visitor:
        await visitor.page.mouse.wheel(0, 100)
        for name in ("Ready", "Load"):
            await raised(visitor, {}, name=name)

        async def scrolled() -> bool:
            await sent_at_once(visitor.page)
            return len(visitor.proxy.sent("Scroll")) > 0

        await eventually(scrolled, timeout=20)
        assert visitor.proxy.sent("Unload") == []
        await visitor.page.goto("about:blank")
        await eventually(lambda: len(visitor.proxy.sent("Unload")) == 1, timeout=20)


async def test_timers(browser: Browser, suite: Suite) -> None:
    xml = rules(
        rule('element="" action="timer:30000" type="timeout" count="1"', "Once"),
        rule('element="" action="timer:10000" type="timeout" count="3"', "ThirdTime"),
        rule('element="" action="timer:60000" type="nomove"', "Still"),
        rule('element="" action="timer:10000" type="timeout"', "Unfocused", postcondition="document.hasFocus() === 7"),
    )
    async with on_page(browser, suite, xml, has_clock=True) as visitor:
        await visitor.page.clock.fast_forward("00:45")
        for name in ("Once", "ThirdTime"):
            await raised(visitor, {}, name=name)
        await visitor.page.mouse.move(10, 10)
        await visitor.page.clock.fast_forward("00:40")
        await raised(visitor, name="Still")
        await visitor.page.clock.fast_forward("00:40")
        for name in ("Still", "Once", "ThirdTime"):
            await raised(visitor, {}, name=name)
        await raised(visitor, name="Unfocused")


async def test_the_default_file(browser: Browser, suite: Suite) -> None:
    config = "{ dslResource: '{gateway}/server/resources/dsl/domain-model.xml' }"
    async with visiting(browser, suite, {"/": page("{gateway}", config=config)}) as visitor:
        await visitor.page.clock.install()
        async with visitor.page.expect_response("**/domain-model.xml"):
            await visitor.open()
        await visitor.page.wait_for_timeout(100)
        await visitor.page.clock.fast_forward("00:29")
        await raised(visitor, name="Timeout-30")
        await visitor.page.clock.fast_forward("00:02")
        await raised(visitor, {}, name="Timeout-30")


async def test_url(browser: Browser, suite: Suite) -> None:
    meant = {
        "Any": "", "Exact": "{origin}/", "NoSlash": "{origin}", "Case": "HTTP://{host}", "Below": "{origin}/*",
        "Pattern": "*://127.0.0.*/",
    }  # fmt: skip
    not_meant = {"Elsewhere": "{origin}/loans", "Longer": "{origin}/loans/*", "Dot": "http://127a0.0.1*"}
    async with visiting(browser, suite) as visitor:
        pages = {"/": page(visitor.proxy.url, config="{ dslResource: '/rules.xml' }", body=FORM)}
        async with running_website(pages) as origin:
            pages["/rules.xml"] = rules(*(
                rule(f'element="#more" action="click" url="{url}"', name)
                for name, url in {**meant, **not_meant}.items()
            )).format(origin=origin, host=origin.removeprefix("http://"))  # fmt: skip
            async with visitor.page.expect_response("**/rules.xml"):
                await visitor.page.goto(origin + "/#top")
            await visitor.page.wait_for_timeout(100)
            await visitor.page.click("#more")
            for name in meant:
                await raised(visitor, {}, name=name)
            for name in not_meant:
                await raised(visitor, name=name)


async def test_count_and_several_triggers(browser: Browser, suite: Suite) -> None:
    xml = rules(
        rule('element="#more" action="click" count="3"', "Third"),
        '<event name="Both"><trigger name="a" element="#more" action="click"><val name="what" value="event.target.id"/>'
        '</trigger><trigger name="b" element=".sku" action="click"/><val name="n" value="40 + 2"/></event>',
    )
    async with on_page(browser, suite, xml) as visitor:
        for _ in range(6):
            await visitor.page.click("#more")
        await raised(visitor, {}, {}, name="Third")
        await raised(visitor, name="Both")
        await visitor.page.click(".sku")
        await visitor.page.click(".sku")
        await raised(visitor, {"what": "more", "n": 42}, name="Both")


async def test_conditions(browser: Browser, suite: Suite) -> None:
    xml = rules(
        rule(CLICK_MORE, "Installed", condition="$('h3.name').text() == 'Sony'"),
        rule(CLICK_MORE, "NotInstalled", condition="$('h1').length > 0"),
        rule(CLICK_MORE, "BrokenCondition", condition="nothing.like.this"),
        rule(CLICK_MORE, "Sent", postcondition="event.target.id === 'more'"),
        rule(CLICK_MORE, "NotSent", postcondition="false"),
        rule(CLICK_MORE, "BrokenValue", '<val name="a" value="nothing.here"/><val name="b" value="\'there\'"/>'),
    )
    async with on_page(browser, suite, xml) as visitor:
        await visitor.page.click("#more")
        for name in ("Installed", "Sent"):
            await raised(visitor, {}, name=name)
        await raised(visitor, {"b": "there"}, name="BrokenValue")
        for name in ("NotInstalled", "BrokenCondition", "NotSent"):
            await raised(visitor, name=name)


async def test_a_policy_without_eval_disables_expressions_only(browser: Browser, suite: Suite) -> None:
    xml = rules(
        rule(CLICK_MORE, "Click", '<val name="a" value="1 + 1"/>'),
        rule('element="" action="timer:50" type="timeout"', "Timer"),
        rule(CLICK_MORE, "Conditional", condition="true"),
    )
    async with visiting(browser, suite) as visitor:
        gateway = visitor.proxy.url
        policy = f"default-src 'self'; script-src 'self' {gateway}; connect-src 'self' {gateway}"
        config = f"{{ httpEndpoint: '{gateway}', dslResource: '/rules.xml' }}"
        pages = {
            "/": f"<title>T</title><script src=/settings.js></script><script src={gateway}/tracker.js></script>{FORM}",
            "/settings.js": f"var _gt = _gt || []; _gt.push(['config', {config}]);",
            "/rules.xml": xml,
        }
        warnings: list[str] = []
        visitor.page.on("console", lambda m: warnings.append(m.text) if m.type == "warning" else None)
        async with running_website(pages, content_security_policy=policy) as origin:
            async with visitor.page.expect_response("**/rules.xml"):
                await visitor.page.goto(origin)
            await visitor.page.wait_for_timeout(200)
            await visitor.page.click("#more")
            await raised(visitor, {}, name="Click")
            await raised(visitor, {}, name="Timer")
            await raised(visitor, name="Conditional")
        assert visitor.page_errors == []
        assert len([line for line in warnings if "1 + 1" in line and "true" in line]) == len(warnings) == 1


@pytest.mark.parametrize("xml", ["", "<properties>", "no xml", "<properties><events><event/></events></properties>"])
async def test_a_malformed_file_causes_no_error_in_the_page(browser: Browser, suite: Suite, xml: str) -> None:
    async with on_page(browser, suite, xml) as visitor:
        await visitor.page.click("#more")


async def test_pages_without_a_dsl_load_nothing_more(browser: Browser, suite: Suite) -> None:
    async with visiting(browser, suite) as visitor:
        asked: list[str] = []
        visitor.page.on("request", lambda request: asked.append(request.url))
        await visitor.open()
        await visitor.page.wait_for_timeout(300)
        assert {urlsplit(url).path for url in asked} <= {"/", "/tracker.js", "/beacon", "/favicon.ico"}
