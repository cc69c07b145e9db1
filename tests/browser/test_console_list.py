"""Finding people, the list of visitors, and the addresses of views in the console."""

import re
import uuid
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.test_console import console
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

ROWS = 100
"""Drawn at first."""
COUNT_FLASHES = """
  window.flashes = 0;
  const animate = Element.prototype.animate;
  Element.prototype.animate = function (...given) { flashes += 1; return animate.apply(this, given); };
  true;
"""


async def happens(
    http: httpx.AsyncClient, name: str, visit: str, at_ms: int, user: str | None = None, **more: Any
) -> None:
    answer = await http.post("/beacon", json=event(name, visit, at_ms, user, **more))
    assert answer.status_code == 204, answer.text


def on_page(name: str, title: str) -> dict[str, Any]:
    """The page of an event: its id, address and title."""
    return {"pageID": name, "url": f"https://shop.example/{name}", "data": {"title": title}}


def row_of(page: Page, visit: str) -> Any:
    return page.get_by_role("row").filter(has_text=visit[:8])


async def expect_order(page: Page, visits: list[str], expected: tuple[int, ...]) -> None:
    names = [re.compile(visits[number][:8]) for number in expected]
    await expect(page.locator("#visitors tr")).to_have_text(names)


async def find(page: Page, text: str) -> Any:
    """Type into the box that `/` focuses; the options."""
    await page.locator("body").press("/")
    await expect(page.get_by_label("Find a person or visit")).to_be_focused()
    await page.keyboard.type(text)
    return page.locator("#found").get_by_role("option")


async def test_a_caller_is_found_by_what_they_say(browser: Browser, suite: Suite) -> None:
    name = uuid.uuid4().hex[:8]
    user, visit = f"{name}@shop.example", str(uuid.uuid4())
    here, never = f"c-{name}", f"d-{name}"
    phone = f"+4930{uuid.uuid4().int % 10**7:07}"
    async with suite.http() as http, console(browser, suite) as page:
        person = {"firstName": "Özgür", "lastName": f"Müller{name}", "emailAddresses": [user], "phoneNumbers": [phone]}
        for contact, changed in ((here, {}), (never, {"firstName": "Zoë", "emailAddresses": [], "phoneNumbers": []})):
            answer = await http.put(f"/api/v1/contacts/{contact}", json=person | changed)
            assert answer.status_code == 200, answer.text
        await happens(http, "SignIn", visit, now_ms() - 1_000, user)
        await happens(http, "PageEntered", visit, now_ms(), **on_page("checkout", "Your order"))
        at_visit = re.compile(f"/console/visit/{visit}$")

        options = await find(page, f"ozgur MULLER{name}")
        await expect(options).to_have_count(1)
        await expect(options).to_contain_text("on the site now")
        await expect(options).to_contain_text("Your order")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(at_visit)
        await expect(page.get_by_role("region", name="Visit", exact=True)).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page).to_have_url(re.compile("/console/live"))

        options = await find(page, f"muller{name}")
        await expect(options).to_have_count(2)
        await expect(options.first).to_contain_text("on the site now")
        await expect(options.last).to_contain_text("not seen yet")
        for text in (phone, user.upper(), user, visit, visit.replace("-", "").upper()):
            await page.get_by_label("Find a person or visit").fill(text)
            await expect(options.first).to_contain_text("on the site now")
            await page.keyboard.press("Enter")
            await expect(page).to_have_url(at_visit)
            await page.goto("/console/live")
        await find(page, f"nobody{name}")
        await expect(page.locator("#found")).to_contain_text(f"Nobody is found with “nobody{name}”.")


async def test_the_list_says_where_people_are_and_who_has_left(browser: Browser, suite: Suite) -> None:
    site, visits = f"shop-{uuid.uuid4().hex[:8]}", [str(uuid.uuid4()) for _ in range(2)]
    first, second = visits
    async with suite.http() as http:
        for visit, age in ((first, 400_000), (second, 4_000)):
            await happens(http, "PageEntered", visit, now_ms() - age, site=site, **on_page("loans", "Loans"))
        async with console(browser, suite, at=f"live?site={site}&sort=waiting") as page:
            await page.evaluate(COUNT_FLASHES)
            await expect_order(page, visits, (0, 1))
            await expect(row_of(page, first).locator(".of-page")).to_have_text("Loans")
            await expect(row_of(page, first).locator(".of-stay")).to_have_text("6 min")
            await expect(page.get_by_role("button", name=f"{site} 2 here")).to_be_visible()

            # Another event on the page changes neither its title nor the colour of the row.
            await happens(http, "AddToCart", first, now_ms(), site=site, **on_page("loans", ""))
            await expect(row_of(page, first).locator(".of-last")).to_contain_text("AddToCart")
            await expect(row_of(page, first).locator(".of-page")).to_have_text("Loans")
            assert await page.evaluate("flashes") == 0
            await page.get_by_label("Sort").select_option("latest activity")
            await expect_order(page, visits, (0, 1))
            await happens(http, "PageEntered", second, now_ms(), site=site, **on_page("cards", "Karten für Sie"))
            await expect(row_of(page, second).locator(".of-page")).to_have_text("Karten für Sie")
            await expect_order(page, visits, (1, 0))
            assert await page.evaluate("flashes") == 1

            await page.get_by_role("searchbox", name="Page").fill("karten fur")
            await expect_order(page, visits, (1,))
            await page.get_by_role("searchbox", name="Page").fill("elsewhere")
            await expect(
                page.get_by_text(f"Nobody is here on the site {site} on a page with “elsewhere”.")
            ).to_be_visible()
            await page.get_by_role("button", name="Show all").click()
            await page.get_by_label("Site", exact=True).select_option(site)
            await expect_order(page, visits, (1, 0))

            at_ms = now_ms()
            for name in ("loans", "cards"):
                await happens(http, "PageExited", second, at_ms, site=site, **on_page(name, ""))
            await expect(row_of(page, second)).to_have_class("has-left")
            await expect(row_of(page, second).locator(".of-last")).to_contain_text("left")
            await expect_order(page, visits, (0, 1))
            await expect(page.get_by_role("button", name=f"{site} 1 here")).to_be_visible()


async def test_the_order_is_held_while_the_user_points_and_says_so(browser: Browser, suite: Suite) -> None:
    site, visits = f"shop-{uuid.uuid4().hex[:8]}", [str(uuid.uuid4()) for _ in range(2)]
    async with suite.http() as http, console(browser, suite, at=f"live?site={site}") as page:
        await happens(http, "PageEntered", visits[0], now_ms(), site=site)
        await row_of(page, visits[0]).hover()
        await happens(http, "PageEntered", visits[1], now_ms(), site=site)
        await expect(page.locator("#held")).to_contain_text(
            "Order held while you point at the list: one has come or gone."
        )
        await expect(page.locator("#visitors tr")).to_have_count(1)
        await page.get_by_label("Sort").hover()
        await expect_order(page, visits, (1, 0))
        await expect(page.locator("#held")).to_be_hidden()


async def test_more_rows_are_drawn_at_the_end_of_the_list(browser: Browser, suite: Suite) -> None:
    site, at = f"shop-{uuid.uuid4().hex[:8]}", now_ms()
    async with suite.http() as http, console(browser, suite, at=f"live?site={site}") as page:
        entered = [event("PageEntered", str(uuid.uuid4()), at, site=site) for _ in range(ROWS + 20)]
        assert (await http.post("/beacon", json=entered)).status_code == 204
        await expect(page.locator("#count")).to_have_text(f"the first {ROWS} of {ROWS + 20} visitors")
        await expect(page.locator("#visitors tr")).to_have_count(ROWS)
        await page.locator("#more").scroll_into_view_if_needed()
        await expect(page.locator("#visitors tr")).to_have_count(ROWS + 20)


async def test_every_view_has_an_address_and_a_title(browser: Browser, suite: Suite) -> None:
    site, visit = f"shop-{uuid.uuid4().hex[:8]}", str(uuid.uuid4())
    async with suite.http() as http, console(browser, suite, at=f"live?site={site}&state=RECOGNIZED") as page:
        await expect(page).to_have_title(f"Live · {site} · Recognized · Footfall")
        await happens(http, "UserInfo", visit, now_ms(), "dana", site=site)
        await expect(row_of(page, visit)).to_be_visible()
        await page.get_by_label("Authenticated").check(force=True)
        await expect(page).to_have_url(f"{suite.url}/console/live?site={site}&state=AUTHENTICATED")
        await expect(page.locator("#visitors tr")).to_have_count(0)
        await page.get_by_label("All").check(force=True)
        await row_of(page, visit).click()
        await expect(page).to_have_url(f"{suite.url}/console/visit/{visit}?site={site}")
        await expect(page).to_have_title(re.compile(f"dana .*{site}.* Footfall$"))
        await page.reload()
        await expect(page.get_by_role("region", name="Visit", exact=True)).to_be_visible()
        await page.go_back()
        await expect(page.get_by_role("region", name="Visit", exact=True)).to_be_hidden()
        await expect(page.get_by_label("Site", exact=True)).to_have_value(site)
        for address, words in (("visit/123", "This address names no visit"), ("nothing", "no page at this address")):
            await page.goto(f"/console/{address}")
            await expect(page.get_by_role("alert").filter(has_text=words)).to_be_visible()
            await expect(page).to_have_title("Not found · Footfall")
        await page.goto(f"/console/#{visit.replace('-', '')}")
        await expect(page.get_by_role("region", name="Visit", exact=True)).to_be_visible()


@pytest.mark.long
async def test_a_gateway_that_hangs_is_no_news_and_then_live_again(browser: Browser, suite: Suite) -> None:
    async with console(browser, suite) as page:
        with suite.frozen("gateway"):
            await expect(page.locator("#live")).to_have_text(re.compile("^No news for 2[0-9] s$"), timeout=45_000)
        await expect(page.locator("#live")).to_have_text("Live")
