"""Pages with a DSL of their own, and the events that its rules raise."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from playwright.async_api import Browser

from deploy.embedded import ROOT
from tests.browser.visitor import Visitor, sent_at_once, visiting
from tests.browser.website import page
from tests.tools.eventually import eventually
from tests.tools.suite import Suite

# Of what the gateway serves, and of what deploy/install-jquery takes from other packages.
JQUERIES = {
    "1.12.4": ".venv/jquery/1.12.4/jquery/static/js/jquery.js",
    "2.2.4": ".venv/jquery/2.2.4/jquery/static/js/jquery.js",
    "3.7.1": str(resources.files("xstatic.pkg.jquery") / "data/jquery.js"),
    "4.0.0": ".venv/jquery/4.0.0/moin/static/js/jquery.min.js",
}
FORM = """
  <table><tr><td id="gobutton"><input type="button" value="Go"></td></tr></table>
  <form><input class="searchfield" value="loans"><input type="checkbox" class="searchfield"></form>
  <div class="hproduct" data-id="7"><h3 class="name"><a>Sony</a></h3><span class="sku">JVB72</span>
    <p><b class="buy">Add <i>now</i></b></p></div>
  <button id="more" onclick="event.stopPropagation();
    document.body.insertAdjacentHTML('beforeend', '<button class=late>Later</button>')">More</button>
"""


# What rules say in jQuery, as one finds it.
SELECTORS = [
    "li:contains(two)", "p:visible, h2:visible", "li:first", "li:eq(1)", "li:lt(2)", "li:even", ":input", ":button",
    ":header", "li[id!=one]", "i:hidden", ":text.searchfield", ":checkbox:enabled", "div:has(button:last)",
    "#list > li:not(:first) b",
]  # fmt: skip

EXPRESSIONS = [
    "$('h3.name').text()", "$('h3.name').html()", "$('input.searchfield:text').val()", "$('.hproduct').attr('data-id')",
    "$('li').length", "$('li').first().text()", "$('li').last().text()", "$('li').eq(1).text()",
    "$(event.target).parent().attr('id')", "$(this).attr('id')", "$('ul').children().length",
    "$(event.target).siblings('.sku').text()", "$('.hproduct').data('id')", "$('.hproduct').data('price').amount",
    "$('#product').hasClass('hproduct')", "$('#agree').is(':checked')", "$('#agree').prop('checked')",
    "$('li').map(function () { return this.id; }).get().join('|')", "$('form').serialize()", "$.trim($('.sku').text())",
    "$('#size option:selected').text()", "jQuery('#size').val()",
    "$(event.target).closest('.hproduct').find('.sku').text()", "$(event.target).parents('div').length",
    "$('li:contains(two)').index()", "$('li:gt(0)')",
]  # fmt: skip

# What check-dsl finds good, and what it says of others.
GOOD_SELECTORS = [
    *SELECTORS, "td#gobutton input", "a:contains(Price: 5 €)", "a:contains(it's)", "[data-x=1]", "[a!='b:c)']", "> li",
    "div:has(> a, :not(.b, :eq(1)))", "#1a.2b", r"#a\:b\[1\]", "a:nth-child(2n + 1 of .a)",
    "input[type=text ], a::before",
]  # fmt: skip
BAD_SELECTORS = {
    "a[": "brackets do not match",
    "li:contains(two": "brackets do not match",
    "a,": "is not a selector: expected a compound selector, got EOF",
    "$('a')": "is not a selector: expected a compound selector, got literal",
    "[href=http://a]": "is not a selector: expected ], got literal",
    "a:visibel": ":visibel is neither in CSS nor in jQuery",
    "div:not(a:fist)": ":fist is neither in CSS nor in jQuery",
}


def rules(*events: str) -> str:
    return f"<?xml version='1.0' encoding='utf-8'?><properties><events>{''.join(events)}</events></properties>"


def rule(trigger: str, name: str = "Raised", values: str = "", **attributes: str) -> str:
    more = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f'<event id="{name}" name="{name}"{more}><trigger name="t" {trigger}/>{values}</event>'


CLICK_MORE = 'element="#more" action="click" url="" count="1"'


def jquery_source(version: str) -> str:
    return (ROOT / JQUERIES[version]).read_text()


@asynccontextmanager
async def on_page(
    browser: Browser,
    suite: Suite,
    xml: str,
    *,
    body: str = FORM,
    script: str = "",
    jquery: str | None = None,
    has_clock: bool = False,
) -> AsyncIterator[Visitor]:
    """A visitor on a page whose configuration names this DSL; its events are installed."""
    config = "{ dslResource: location.origin + '/rules.xml' }"
    tag = "<script src=/jquery.js></script>" if jquery else ""
    pages = {
        "/": page("{gateway}", config=config, script=script, body=tag + body),
        "/rules.xml": xml,
        "/jquery.js": jquery_source(jquery) if jquery else "",
    }
    async with visiting(browser, suite, pages) as visitor:
        if has_clock:
            await visitor.page.clock.install()
        async with visitor.page.expect_response("**/rules.xml"):
            await visitor.open()
        await visitor.page.wait_for_function("document.readyState === 'complete'")
        await visitor.page.wait_for_timeout(50)
        yield visitor
        assert visitor.page_errors == []


async def raised(visitor: Visitor, *expected: dict[str, Any], name: str = "Raised") -> None:
    """Wait until the rules have raised exactly these events, each given by its data."""

    async def check() -> None:
        await sent_at_once(visitor.page)
        assert [event["data"] for event in visitor.proxy.events() if event["eventName"] == name] == list(expected)

    await eventually(check, timeout=20)
