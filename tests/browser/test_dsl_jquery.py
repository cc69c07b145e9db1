"""What rules say in jQuery means what that jQuery says: the page's, or the gateway's where the page has none."""

import json
from typing import Any

import pytest
from footfall_gateway.tracker_files import JQUERY_PATH, SCRIPT_PATHS, load_tracker_files
from playwright.async_api import Browser

from tests.browser.rules import CLICK_MORE, FORM, JQUERIES, jquery_source, on_page, raised, rule, rules
from tests.browser.visitor import Visitor, visiting
from tests.browser.website import page, running_website
from tests.tools.suite import Suite

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

CLICK_ALL = """
  addEventListener('click', (event) => event.preventDefault());
  [...document.body.querySelectorAll('[id]')].forEach((element) => element.click());
"""

REFERENCE = """([jQuery, selectors, expressions]) => {
  const module = { exports: {} };
  new Function('module', jQuery)(module);
  const $ = module.exports;
  const all = [...document.body.querySelectorAll('[id]')];
  const clicked = (selector) => all.filter((element) => $(selector).has(element).add($(selector).filter(element)).length);
  const valueOf = (code) => {
    try {
      const evaluate = new Function('$', 'jQuery', 'event', 'return ' + code);
      const value = evaluate.call($('#buy')[0], $, $, { target: $('#buy')[0] });
      return value.jquery ? value.text() : value;
    } catch (missing) {}
  };
  return {
    version: $.fn.jquery,
    targets: selectors.map((selector) => clicked(selector).map(({ id }) => ({ id }))),
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
