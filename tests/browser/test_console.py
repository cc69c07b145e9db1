"""The visitor console, as used in a contact center, with a visitor at the demo shop."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from footfall_eventlog.settings import DAY_MS
from playwright.async_api import Browser, Page, expect

from tests.service.gateway.conftest import before, running_gateway
from tests.tools.eventually import eventually
from tests.tools.scorecards import day_of_ms, recount, send_past
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

expect.set_options(timeout=30_000)  # on a machine that does other things too

HOSTILE = "</td><img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


@asynccontextmanager
async def console(
    browser: Browser, suite: Suite, *, at: str = "", signed_in: bool = True, **options: Any
) -> AsyncIterator[Page]:
    """The console in a browser of its own, at an address below `/console/`. Any error in the page fails the test."""
    context = await browser.new_context(base_url=suite.url, **options)
    wrong: list[str] = []
    page = await context.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type in {"error", "warning"} else None)
    await page.add_init_script("addEventListener('securitypolicyviolation', (seen) => console.error(seen.blockedURI))")
    await page.goto(f"/console/{at}")
    if signed_in:
        await sign_in(page, *suite.credentials)
        await expect(page.locator("#live")).to_have_text("Live")
    yield page
    # Chromium logs error responses itself.
    assert [text for text in wrong if not text.startswith("Failed to load resource")] == []
    await context.close()


async def sign_in(page: Page, user: str, secret: str) -> None:
    """Sign in, in any language."""
    form = page.locator("#sign-in-form")
    await form.locator("[name=user]").fill(user)
    await form.locator("[name=secret]").fill(secret)
    await form.locator("button").click()


async def test_nobody_sees_anything_without_signing_in(browser: Browser, suite: Suite) -> None:
    async with console(browser, suite, signed_in=False) as page:
        await sign_in(page, "tester", "wrong")
        await expect(page.get_by_role("alert").first).to_have_text("Unknown user, password or token.")
        await expect(page.locator("#work")).to_be_hidden()
        await sign_in(page, *suite.credentials)
        await expect(page.locator("#live")).to_have_text("Live")


async def test_anonymous_access_needs_no_sign_in(browser: Browser, suite: Suite) -> None:
    async with running_gateway(allow_anonymous=True, **before(suite)) as http:
        page = await browser.new_page()
        await page.goto(f"{http.base_url}/console/")
        await expect(page.locator("#live")).to_have_text("Live")
        await expect(page.locator("#sign-in")).to_be_hidden()
        await page.close()


async def test_the_list_shows_the_current_page_of_each_visitor(browser: Browser, suite: Suite) -> None:
    visits = [str(uuid.uuid4()) for _ in range(2)]
    async with suite.http() as http:
        for visit, data in zip(visits, ({"title": "Loans"}, {}), strict=True):
            assert (
                await http.post("/beacon", json=event("PageEntered", visit, now_ms(), data=data))
            ).status_code == 204
    async with console(browser, suite) as page:
        for visit, text in zip(visits, ("Loans", "/loans"), strict=True):
            row = page.get_by_role("row").filter(has_text=visit[:8])
            await expect(row.locator(".of-page")).to_have_text(text)


async def test_a_sign_in_at_the_shop_is_shown_live(browser: Browser, suite: Suite) -> None:
    shopping = await browser.new_context(base_url=suite.url)
    async with console(browser, suite) as page:
        shop = await shopping.new_page()
        await shop.goto("/demo/account.html")
        visit: str = (await shop.evaluate("new Promise((resolve) => _gt.push(['getIDs', resolve]))"))["visitID"]
        row = page.get_by_role("row").filter(has_text=str(uuid.UUID(visit))[:8])
        await expect(row).to_contain_text("Anonymous")
        await shop.click("text=Dana Oak")
        await expect(row).to_contain_text("Authenticated")
        await expect(row).to_contain_text("dana@example.com")

        await row.get_by_role("button").click()
        opened = page.get_by_role("region", name="Visit", exact=True)
        await expect(opened.locator(".sure .badge")).to_have_text("Authenticated, not verified")
        await expect(opened.locator(".person")).to_contain_text("signed in as dana@example.com")
    await shopping.close()


async def test_what_visitors_send_is_shown_as_text(browser: Browser, suite: Suite) -> None:
    visit = str(uuid.uuid4())
    hostile: dict[str, Any] = {
        "url": f"javascript:{HOSTILE}",
        "eventName": "SignIn",
        "data": {HOSTILE: [HOSTILE], "title": HOSTILE},
    }
    sent = event("SignIn", visit, now_ms(), HOSTILE) | hostile
    sent["data"] |= {"userID": HOSTILE}
    async with suite.http() as http, console(browser, suite) as page:
        assert (
            await http.post("/beacon", json=[sent, {**sent, "eventID": str(uuid.uuid4()), "eventName": HOSTILE}])
        ).status_code == 204
        row = page.get_by_role("row").filter(has_text=visit[:8])
        await expect(row).to_contain_text(HOSTILE)
        await row.get_by_role("button").click()
        opened = page.get_by_role("region", name="Visit", exact=True)
        await expect(opened.locator(".events .person")).to_contain_text(HOSTILE)
        for fold in await opened.locator(".all summary").all():
            await fold.click()
        await expect(opened.locator("pre").first).to_contain_text("onerror")
        assert await page.locator("img, main script, main a[href^='javascript']").count() == 0
        assert (await page.title()).endswith(" · Footfall")


async def test_the_keyboard_is_enough(browser: Browser, suite: Suite) -> None:
    site, visits = f"shop-{uuid.uuid4().hex[:8]}", [str(uuid.uuid4()) for _ in range(2)]
    async with suite.http() as http, console(browser, suite, at=f"live?site={site}") as page:
        for number, visit in enumerate(visits):
            sent = event("PageEntered", visit, now_ms() + number, site=site)
            assert (await http.post("/beacon", json=sent)).status_code == 204
            await expect(page.get_by_role("row").filter(has_text=visit[:8])).to_be_visible()
        focused = page.locator(":focus")
        await page.get_by_label("Sort").focus()
        await page.keyboard.press("Tab")
        await expect(focused).to_contain_text(visits[1][:8])
        await page.keyboard.press("ArrowDown")
        await expect(focused).to_contain_text(visits[0][:8])
        await page.keyboard.press("Enter")
        await expect(focused).to_have_text(f"Visitor {visits[0][:4]}")
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("region", name="Visit", exact=True)).to_be_hidden()
        await expect(focused).to_contain_text(visits[0][:8])


@pytest.mark.long
async def test_filters_and_a_lost_connection(browser: Browser, suite: Suite) -> None:
    site, other = f"shop-{uuid.uuid4().hex[:8]}", f"bank-{uuid.uuid4().hex[:8]}"
    visits = {name: str(uuid.uuid4()) for name in ("first", "elsewhere", "missed")}

    async def signs_in(name: str, at: str) -> None:
        answer = await http.post("/beacon", json=event("SignIn", visits[name], now_ms(), name, site=at))
        assert answer.status_code == 204

    async with suite.http() as http, console(browser, suite, at=f"live?site={site}") as page:
        rows = page.locator("#visitors tr")
        await expect(page.get_by_text(f"Nobody is here on the site {site}.")).to_be_visible()
        await signs_in("first", site)
        await signs_in("elsewhere", other)
        await expect(rows).to_have_count(1)
        suite.kill("gateway")
        await expect(page.locator("#live")).to_contain_text("Not live: ")
        await eventually(suite.is_ready, timeout=30)
        await signs_in("missed", site)
        await expect(page.locator("#live")).to_have_text("Live")
        await expect(rows).to_have_count(2)
        await page.get_by_label("Anonymous").check(force=True)
        await expect(rows).to_have_count(0)
        await page.get_by_label("Authenticated").check(force=True)
        await expect(rows).to_have_count(2)


async def test_the_quality_of_a_day_is_shown_with_what_to_do(browser: Browser, suite: Suite) -> None:
    site, at_ms = f"shop-{uuid.uuid4().hex[:8]}", now_ms() - 2 * DAY_MS
    sent = [event("SignIn", str(uuid.uuid4()), at_ms, user, site=site) for user in ("undefined", "dana")]
    async with suite.http() as http, console(browser, suite) as page:
        await send_past(http, *sent)
        await recount(suite, day_of_ms(at_ms))

        async def counted() -> None:
            cards = (await http.get("/api/v1/quality", params={"site": site})).json()["scorecards"]
            assert any(card["visits"] for card in cards)

        await eventually(counted, timeout=30)
        await page.get_by_role("link", name="quality").click()
        opened = page.get_by_role("region", name="Quality", exact=True)
        await expect(opened.get_by_role("heading", name="Quality of identification")).to_be_focused()
        await expect(page.locator("#list")).to_be_hidden()
        await opened.get_by_label("Site").fill(site)
        await page.keyboard.press("Enter")
        day = opened.get_by_role("row").filter(has_text=day_of_ms(at_ms))
        await expect(day.last).to_contain_text("1 (50%)")
        advice = opened.get_by_role("row").filter(has_text="only a SignIn authenticates")
        await expect(advice).to_have_count(1)
        await expect(opened.get_by_text("undefined", exact=True)).to_be_visible()
        await opened.get_by_label("Site").fill("unknown-site")
        await page.keyboard.press("Enter")
        await expect(opened.get_by_role("status")).to_contain_text("No day has been counted yet.")
        await page.keyboard.press("Escape")
        await expect(opened).to_be_hidden()
        await expect(page.locator("#list")).to_be_visible()


async def test_what_too_many_share_is_listed_and_may_be_allowed(browser: Browser, suite: Suite) -> None:
    mark = uuid.uuid4().hex[:8]
    office, kiosk = f"office-{mark}@shop.example", f"kiosk-{mark}"
    sent = [
        event("SignIn", str(uuid.uuid4()), now_ms(), f"person-{mark}-{number}", data={"email": office})
        for number in range(21)
    ]
    sent += [event("SignIn", str(uuid.uuid4()), now_ms(), kiosk, globalVisitID=str(uuid.uuid4())) for _ in range(21)]
    async with suite.http() as http:
        assert (await http.post("/beacon", json=sent)).status_code == 204

        async def known() -> None:
            values = (await http.get("/api/v1/generic-values", params={"page_size": 100})).json()["values"]
            assert office in {one["value"] for one in values}
            identities = (await http.get("/api/v1/shared-identities")).json()["identities"]
            assert kiosk in {one["identityId"] for one in identities}

        await eventually(known, timeout=30)
    async with console(browser, suite, at="quality") as page:
        row = page.get_by_role("region", name="Values that too many identities give").get_by_role("row")
        row = row.filter(has_text=office)
        await expect(row).to_contain_text("21")
        await expect(row).to_contain_text("only where a token proves it")
        await row.get_by_role("button", name=f"Allow {office}").click()
        await expect(row).to_contain_text("yes, allowed by")
        await row.get_by_role("button", name=f"Forbid {office}").click()
        await expect(row.get_by_role("button", name=f"Allow {office}")).to_be_visible()
        shared = page.get_by_role("region", name="Identities on too many devices")
        await expect(shared.get_by_role("row").filter(has_text=kiosk)).to_contain_text("21 on ")
        await shared.get_by_role("link", name=kiosk).click()
        await expect(page.get_by_role("region", name="Person", exact=True)).to_contain_text(kiosk)
