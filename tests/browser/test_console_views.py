"""Every view of the console: axe finds nothing, states stay apart on paper, texts are in the browser's language."""

import re
import uuid
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import httpx
from footfall_eventlog.settings import DAY_MS
from playwright.async_api import Browser, Page, expect

from deploy.embedded import ROOT
from tests.browser.test_console import console, sign_in
from tests.browser.test_console_visit import GO_TO, entered, on, open_person, open_visit, send, stored
from tests.tools.scorecards import day_of_ms, recount, send_past
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms

AXE = ROOT / ".venv/axe/node_modules/axe-core/axe.min.js"
RUN_AXE = """async (rules) => {
  const { violations } = await axe.run(document, rules.length ? { runOnly: rules } : {});
  return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html}: ${node.failureSummary}`));
}"""


async def is_accessible(page: Page) -> None:
    """Axe finds nothing; in the dark scheme only colours differ."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE.read_text())
    await page.wait_for_function("document.getAnimations().length === 0")
    for scheme, rules in (("light", []), ("dark", ["color-contrast"])):
        await page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
        assert await page.evaluate(RUN_AXE, rules) == [], (page.url, scheme)


async def happened(http: httpx.AsyncClient, site: str, user: str, contact: str) -> str:
    """Two visits, one with all that a view of a visit and a person can show; its id. A day of the past has a count."""
    known, gone, at = str(uuid.uuid4()), str(uuid.uuid4()), now_ms() - 60_000
    first, left = entered(known, "Page not found", at, site=site), entered(gone, "Loans", at, site=site)
    named = {"firstName": "Dana", "lastName": site, "emailAddresses": [user]}
    assert (await http.put(f"/api/v1/contacts/{contact}", json=named)).status_code == 200
    events = [
        on(left, "PageExited", at + 1),
        on(first, "SignIn", at + 1, user, email=user),
        *(on(first, "PaymentFailed", at + 10 + number, total=94, currency="EUR") for number in (0, 1)),
        on(first, "UserInfo", at + 20, f"robin-{user}"),
    ]
    await send(http, left, first, *(one | {"site": site} for one in events))
    call = {"interactionId": f"call-{known}", "visitId": known, "channel": "VOICE", "note": "calls back"}
    assert (await http.post("/api/v1/interactions", json=call)).status_code == 200
    await send_past(http, event("SignIn", str(uuid.uuid4()), now_ms() - 2 * DAY_MS, "undefined", site=site))
    await stored(http, known, 5)
    return known


async def test_axe_finds_nothing_on_any_view(browser: Browser, suite: Suite) -> None:
    tag = uuid.uuid4().hex[:6]
    site, user, contact = f"shop{tag}", f"dana-{tag}@example.com", f"C-{tag}"
    async with suite.http() as http, console(browser, suite, at="live?site=nobody", signed_in=False) as page:
        await is_accessible(page)
        known = await happened(http, site, user, contact)
        await recount(suite, day_of_ms(now_ms() - 2 * DAY_MS))
        await sign_in(page, *suite.credentials)
        await expect(page.locator("#empty")).to_be_visible()
        await is_accessible(page)
        await page.get_by_role("button", name="Show all").click()
        await page.get_by_label("Site", exact=True).select_option(site)
        await expect(page.locator("#visitors tr")).to_have_count(2)
        await expect(page.locator("#visitors .look")).to_contain_text("on an error page")
        await is_accessible(page)
        await page.get_by_role("combobox", name="Find").fill(site)
        await expect(page.locator("#found-list li")).to_be_visible()
        await is_accessible(page)
        await page.keyboard.press("Escape")

        visit = await open_visit(page, known)
        await expect(visit.locator(".report")).to_be_visible()
        for fold in ("Why we say so", "Contact and decisions", "Technical"):
            await visit.get_by_text(fold).first.click()
        await expect(visit.get_by_role("region", name="Decisions")).to_be_visible()
        await is_accessible(page)
        await expect(visit.locator(".badge").first).to_be_visible()
        await open_visit(page, str(uuid.uuid4()))
        await expect(visit.get_by_role("heading", level=2)).to_have_text("No such visit")
        await is_accessible(page)
        person = await open_person(page, contact)
        await person.get_by_role("button", name="Erase…").click()
        await expect(person.locator(".cards").first).to_be_visible()
        await is_accessible(page)
        # Those of the navigation, one that does not exist, the one for a frame, and the other pages of the gateway.
        views = await page.locator("nav a[id]").evaluate_all("(links) => links.map(({ href }) => href)")
        for address in [*views, "/console/visit/none"]:
            await page.evaluate(GO_TO, address)
            await page.wait_for_load_state("networkidle")
            await is_accessible(page)
        await page.goto(f"/console/visits/{known}?view=compact")
        await expect(page.locator(".report")).to_be_visible()
        await is_accessible(page)
        for path in ("/docs/#getVisitor", "/demo/", "/demo/product.html?item=kettle"):
            await page.goto(path)
            await page.wait_for_load_state("networkidle")
            await is_accessible(page)


async def test_the_views_are_in_the_language_and_time_zone_of_the_browser(browser: Browser, suite: Suite) -> None:
    visit, now = str(uuid.uuid4()), now_ms()
    first = entered(visit, "Kredite", now)
    german: dict[str, Any] = {"locale": "de-DE", "timezone_id": "Asia/Tokyo"}
    async with suite.http() as http, console(browser, suite, signed_in=False, **german) as page:
        await send(http, first, on(first, "SignIn", now + 1, "dana@example.com"))
        await stored(http, visit, 2)
        assert await page.get_attribute("html", "lang") == "de"
        await page.get_by_label("Benutzer").fill(suite.credentials.user)
        await page.get_by_label("Passwort oder Token").fill(suite.credentials.password)
        await page.get_by_role("button", name="Anmelden").click()
        await expect(
            page.get_by_role("radiogroup", name="Stand").or_(page.get_by_role("group", name="Stand"))
        ).to_be_visible()
        opened = page.get_by_role("region", name="Besuch", exact=True)
        await page.evaluate(GO_TO, f"/console/visit/{visit}")
        await expect(opened.locator(".sure .badge")).to_have_text("Angemeldet, nicht geprüft")
        shown = datetime.fromtimestamp(first["timestamp"] / 1000, UTC).astimezone(ZoneInfo("Asia/Tokyo"))
        await expect(opened.locator(".page time").first).to_have_text(f"{shown:%H:%M:%S}")
        await opened.get_by_text("Warum wir das sagen").click()
        await expect(opened.locator(".why")).to_contain_text("Der Besucher ist angemeldet, und eine Sitzung beginnt.")
        await page.evaluate(GO_TO, "/console/health")
        parts = page.get_by_role("region", name="Zustand", exact=True).get_by_role("region", name="Teile")
        await expect(parts.get_by_role("row").filter(has_text="History")).to_contain_text("in Ordnung: arbeitet")
        # Tomorrow it is of another day.
        await page.clock.install(time=(now + DAY_MS) / 1000)
        moment = await page.evaluate("(ms) => import('/console/dom.js').then((dom) => dom.momentWords(ms))", now)
        assert re.search(rf"{shown:%d}\.{shown:%m}\.{shown:%Y}, {shown:%H:%M:%S}", moment), moment
    async with console(browser, suite, signed_in=False, locale="fr-FR") as page:
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert await page.get_attribute("html", "lang") == "en"


async def test_states_stay_apart_on_paper_and_in_forced_colours(browser: Browser, suite: Suite) -> None:
    site, at = f"shop-{uuid.uuid4().hex[:8]}", now_ms()
    async with suite.http() as http, console(browser, suite, at=f"live?site={site}") as page:
        await send(
            http,
            event("PageEntered", str(uuid.uuid4()), at, site=site),
            event("UserInfo", str(uuid.uuid4()), at, "dana", site=site),
            event("SignIn", str(uuid.uuid4()), at, "robin", site=site),
        )
        await expect(page.locator("#visitors .badge")).to_have_count(3)
        shape = """(badges) => badges.map((badge) => {
          const { borderStyle, borderRadius, backgroundImage } = getComputedStyle(badge, '::before');
          return [badge.innerText, borderStyle, borderRadius, backgroundImage !== 'none'].join(' ');
        })"""
        shapes = await page.locator("#visitors .badge").evaluate_all(shape)
        assert len({one.split(" ", 1)[1] for one in shapes}) == 3, shapes
        for media in ({"forced_colors": "active"}, {"media": "print", "forced_colors": "none"}):
            await page.emulate_media(**media)  # type: ignore[arg-type]
            assert await page.locator("#visitors .badge").evaluate_all(shape) == shapes, media
            await expect(page.locator("#visitors .badge").first).to_be_visible()
        await expect(page.locator("#filters")).to_be_hidden()
