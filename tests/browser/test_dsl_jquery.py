"""Rules with jQuery use the page's jQuery, or the gateway's where the page has none."""

import re
from typing import Any

import pytest
from footfall_gateway.browser.dsl import DEFAULT_FILE
from footfall_gateway.browser.tracker_bundle import JQUERY_PATH, SCRIPT_PATHS, load_tracker_files
from playwright.async_api import Browser

from tests.browser.rules import (
    BAD_SELECTORS,
    CLICK_MORE,
    EXPRESSIONS,
    FORM,
    GOOD_SELECTORS,
    JQUERIES,
    SELECTORS,
    jquery_source,
    on_page,
    raised,
    rule,
    rules,
)
from tests.browser.visitor import Visitor, names_on_the_wire, visiting
from tests.browser.website import running_website
from tests.tools.eventually import eventually
from tests.tools.suite import Suite

pytestmark = pytest.mark.long

OURS = "3.7.1"

SHOP = """
  <h2 id=title>Offers</h2>
  <div id=product class=hproduct data-id=7 data-price='{"amount": 9.5}'>
    <h3 id=name class=name><a id=link>Sony</a></h3><span id=sku class=sku> JVB72 </span><button id=buy>Buy</button>
  </div>
  <ul id=list><li id=one>one</li><li id=two>two <b id=bold>!</b></li><li id=three>three</li></ul>
  <p id=gone style="display:none"><i id=inside>hidden</i></p>
  <form id=form><input id=query name=q class=searchfield value=loans><input id=agree name=agree type=checkbox checked>
    <select id=size name=size><option id=small>S</option><option id=large selected>L</option></select>
    <input id=go type=submit value=Go><input id=more type=button value=More><textarea id=note name=note>n</textarea>
  </form>
"""

CLICK_ALL = """
  addEventListener('click', (event) => event.preventDefault());
  [...document.body.querySelectorAll('[id]')].forEach((element) => element.click());
"""

REFERENCE = """([jQuery, selectors, expressions]) => {
  const module = { exports: {} };
  new Function('module', jQuery)(module);
  const $ = module.exports;
  const all = [...document.body.querySelectorAll('[id]')];
  const isIn = (selector, element) => $(selector).is(element) || $(selector).has(element).length > 0;
  const valueOf = (code) => {
    try {
      const evaluate = new Function('$', 'jQuery', 'event', 'return ' + code);
      const value = evaluate.call($('#buy')[0], $, $, { target: $('#buy')[0] });
      return value.jquery ? value.text() : value;
    } catch (missing) {}
  };
  return {
    version: $.fn.jquery,
    targets: selectors.map((selector) => all.filter((element) => isIn(selector, element)).map(({ id }) => ({ id }))),
    data: JSON.parse(JSON.stringify(Object.fromEntries(expressions.map((code, n) => ['v' + n, valueOf(code)])))),
  };
}"""


def escaped(code: str) -> str:
    return code.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


@pytest.mark.parametrize("jquery", [None, *JQUERIES])
async def test_selectors_and_expressions(browser: Browser, suite: Suite, jquery: str | None) -> None:
    assert (len(SELECTORS), len(EXPRESSIONS)) == (15, 26)
    values = "".join(f'<val name="v{n}" value="{escaped(code)}"/>' for n, code in enumerate(EXPRESSIONS))
    xml = rules(
        *(
            rule(f'element="{escaped(selector)}" action="click"', f"S{n}", '<val name="id" value="event.target.id"/>')
            for n, selector in enumerate(SELECTORS)
        ),
        rule('element="#buy" action="click"', "Values", values),
    )
    async with on_page(browser, suite, xml, body=SHOP, jquery=jquery) as visitor:
        arguments = [jquery_source(jquery or OURS), SELECTORS, EXPRESSIONS]
        expected: dict[str, Any] = await visitor.page.evaluate(REFERENCE, arguments)
        assert expected["version"] == (jquery or OURS)
        await visitor.page.evaluate(CLICK_ALL)
        for n, targets in enumerate(expected["targets"]):
            assert 0 < len(targets) < 20, SELECTORS[n]
            await raised(visitor, *targets, name=f"S{n}")
        assert len(expected["data"]) == (25 if jquery == "4.0.0" else 26)  # which has no $.trim
        await raised(visitor, expected["data"], name="Values")


@pytest.mark.parametrize("jquery", JQUERIES)
async def test_jquery_judges_selectors_as_check_dsl_does(browser: Browser, jquery: str) -> None:
    page = await browser.new_page()
    await page.set_content("<a>one</a><div>two</div>")
    await page.add_script_tag(content=jquery_source(jquery))
    refused = (
        "(all) => all.filter((selector) => { try { $(document).find(selector); } catch (error) { return true; } })"
    )
    assert await page.evaluate(refused, [*GOOD_SELECTORS, *BAD_SELECTORS]) == [*BAD_SELECTORS]
    await page.close()


VERSION = '<val name="version" value="$.fn.jquery"/>'
FIRST_BUTTON = rule('element="button:first" action="click"', values=VERSION)


async def clicked(visitor: Visitor, *expected: dict[str, Any]) -> None:
    await visitor.page.click("#more")
    await raised(visitor, *expected)


def requests_of(visitor: Visitor) -> list[str]:
    asked: list[str] = []
    visitor.page.on("request", lambda request: asked.append(request.url.partition("?")[0]))
    return asked


LOADER = """
  var defined = [];
  function define() { defined.push(arguments); }
  define.amd = {};
  var module = { exports: {} }, $ = 'of the page';
  var before = Object.keys(window).length;
"""


async def test_our_jquery_does_not_change_the_page(browser: Browser, suite: Suite) -> None:
    async with on_page(browser, suite, rules(FIRST_BUTTON), script=LOADER) as visitor:
        await clicked(visitor, {"version": OURS})
        seen = "[$, 'jQuery' in window, defined, module.exports, Object.keys(window).length - before]"
        assert await visitor.page.evaluate(seen) == ["of the page", False, [], {}, 0]


@pytest.mark.parametrize(
    ("content", "is_needed"),
    [
        (rule(CLICK_MORE, values='<val name="id" value="event.target.id + document.title"/>'), False),
        (rule('element="td > input[type=button], #more:not(.a)" action="click"', condition="1 &lt; 2"), False),
        (rule('element="" action="timer:50" type="timeout"'), False),
        (rule('element="#more:visible" action="click"'), True),
        (rule(CLICK_MORE, postcondition="$('#more').length"), True),
        (rule(CLICK_MORE, values="<val name='a' value='jQuery.now() &gt; 0'/>"), True),
    ],
)
async def test_our_jquery_is_loaded_when_a_rule_needs_it(
    browser: Browser, suite: Suite, content: str, is_needed: bool
) -> None:
    async with on_page(browser, suite, rules(content)) as visitor:
        asked = requests_of(visitor)
        await visitor.open()
        await visitor.page.wait_for_timeout(100)
        await eventually(lambda: [JQUERY_PATH in url for url in asked].count(True) == is_needed)


async def test_the_jquery_of_the_page_is_used_even_when_it_loads_late(browser: Browser, suite: Suite) -> None:
    async with on_page(browser, suite, rules(FIRST_BUTTON), script="var jQuery = () => 'a loader';") as visitor:
        await clicked(visitor, {"version": OURS})
        await visitor.page.add_script_tag(content=jquery_source("2.2.4"))
        await clicked(visitor, {"version": OURS}, {"version": "2.2.4"})


@pytest.mark.parametrize("name", ["GTCJ.min.js", "GPEJ.js"])
async def test_scripts_with_jquery_load_it_immediately(browser: Browser, suite: Suite, name: str) -> None:
    async with visiting(browser, suite) as visitor:
        config = f"{{ httpEndpoint: '{visitor.proxy.url}', dslResource: '/rules.xml' }}"
        setup = f"var _gt = _gt || []; _gt.push(['config', {config}]);"
        pages = {
            "/": f"<title>T</title><script src=/jquery.js></script><script>{setup}</script>"
            f"<script src=/{name}?v=1></script>{FORM}",
            f"/{name}": load_tracker_files(idle_minutes=30)[SCRIPT_PATHS[0]].body.decode(),
            "/jquery.js": jquery_source("1.12.4"),
            "/rules.xml": rules(rule(CLICK_MORE, values=VERSION)),
        }
        asked = requests_of(visitor)
        async with running_website(pages) as origin:
            async with visitor.page.expect_response(f"**{JQUERY_PATH}?v=*"):
                await visitor.page.goto(origin)
            await visitor.page.wait_for_timeout(100)
            await clicked(visitor, {"version": OURS})
            assert await visitor.page.evaluate("$.fn.jquery") == "1.12.4"
            assert visitor.page_errors == []
        assert [url.partition(visitor.proxy.url)[2] for url in asked if JQUERY_PATH in url] == [JQUERY_PATH]


@pytest.mark.parametrize("is_let_in", [True, False])
async def test_a_policy_of_the_page(browser: Browser, suite: Suite, is_let_in: bool) -> None:
    async with visiting(browser, suite) as visitor:
        gateway = visitor.proxy.url
        sources = "'nonce-abc'" if is_let_in else f"'nonce-no' {gateway}/tracker.js {gateway}/tracker-dsl.js 'self'"
        policy = f"script-src {sources} 'unsafe-eval'"
        pages = {
            "/": "<title>T</title><script nonce=abc src=/settings.js></script>"
            f"<script nonce=abc src={gateway}/tracker.js></script>{FORM}",
            "/settings.js": "var _gt = _gt || []; _gt.push(['config', "
            f"{{ httpEndpoint: '{gateway}', dslResource: '/rules.xml' }}]);",
            "/rules.xml": rules(FIRST_BUTTON, rule(CLICK_MORE, "Plain")),
        }
        async with running_website(pages, content_security_policy=policy) as origin:
            async with visitor.page.expect_response("**/rules.xml"):
                await visitor.page.goto(origin)
            await visitor.page.wait_for_timeout(200)
            await clicked(visitor, *([{"version": OURS}] if is_let_in else []))
            await raised(visitor, {}, name="Plain")
        assert visitor.page_errors == []


TEMPLATE = (
    '<event id="SearchEvent" name="Raised"><trigger name="SearchTrigger" element="" action="click" url="" count="1"/>'
    '<val name="searchString" value=""/></event>'
)


@pytest.mark.parametrize("jquery", [None, OURS])
async def test_an_empty_selector_selects_nothing(browser: Browser, suite: Suite, jquery: str | None) -> None:
    shipped = DEFAULT_FILE.read_text().replace("of the search form.", "-->").replace("</event>\n    -->", "</event>")
    assert 'name="SearchTrigger"' in re.sub("<!--.*?-->", "", shipped, flags=re.DOTALL)
    for xml in rules(TEMPLATE), shipped.replace('name="Search"', 'name="Raised"'):
        async with on_page(browser, suite, xml, jquery=jquery) as visitor:
            await visitor.page.click("#more")
            await visitor.page.click(".late")
            await visitor.page.focus(".searchfield")
            await names_on_the_wire(visitor, ["VisitStarted", "PageEntered"])
