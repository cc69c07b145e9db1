"""Pictures of each view and state of the console, for people to look at; each view fits, and says its state in words.

The pictures are in the folder FOOTFALL_PICTURES, or in one that goes with the test.
"""

import os
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect
from redis.asyncio import Redis

from tests.browser.test_console import console, sign_in
from tests.browser.test_console_views import happened
from tests.browser.test_console_visit import GO_TO, entered, on, open_visit, send, stored
from tests.tools.suite import Program, Suite
from tests.tools.visits import event, now_ms

MODES: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1440, "height": 900}},
    "dark": {"viewport": {"width": 1440, "height": 900}, "color_scheme": "dark"},
    "tablet": {"viewport": {"width": 1024, "height": 768}},
    "zoomed": {"viewport": {"width": 720, "height": 450}, "device_scale_factor": 2},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
    "german": {"viewport": {"width": 1440, "height": 900}, "locale": "de-DE"},
    "german-phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "locale": "de-DE"},
}
MINUTE_MS = 60_000
SLOW_LINE = {"offline": False, "latency": 4_000, "downloadThroughput": 20_000, "uploadThroughput": 20_000}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = Path(os.environ.get("FOOTFALL_PICTURES", tmp_path))
    made.mkdir(parents=True, exist_ok=True)
    return made


async def take(page: Page, folder: Path, name: str) -> None:
    await page.wait_for_function("document.getAnimations().length === 0")
    await page.screenshot(path=folder / f"{name}.png", animations="disabled")
    spare = await page.evaluate("innerWidth - document.documentElement.scrollWidth")
    assert spare >= 0, (name, spare)


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
async def test_each_view_fits_in_each_mode(browser: Browser, suite: Suite, folder: Path, mode: str) -> None:
    tag = uuid.uuid4().hex[:6]
    site, user, contact = f"shop{tag}", f"dana-{tag}@example.com", f"C-{tag}"
    async with Redis.from_url(suite.redis_url) as redis:
        this_minute = now_ms() // MINUTE_MS
        for number in range(60):
            counts: dict[Any, Any] = {"": f"{2 + number % 3} 0 1 0", site: f"{2 + number % 3} 0 1"}
            for minute in (this_minute - number, this_minute - number - 7 * 24 * 60):
                await redis.hset(f"minutes:{{p00}}:{minute}", mapping=counts)
    async with (
        suite.http() as http,
        console(browser, suite, at=f"live?site={site}", signed_in=False, **MODES[mode]) as page,
    ):
        await take(page, folder, f"{mode}-sign-in")
        await sign_in(page, *suite.credentials)
        visit = await happened(http, site, user, contact)
        twin = {"firstName": "Partner of Dana", "lastName": site, "emailAddresses": [f"twin-{user}"]}
        for number in range(2):
            assert (await http.put(f"/api/v1/contacts/{contact}-{number}", json=twin)).status_code == 200
        await send(http, event("SignIn", str(uuid.uuid4()), now_ms(), f"twin-{user}", site="elsewhere"))
        await expect(page.locator("#visitors tr")).to_have_count(2)
        await take(page, folder, f"{mode}-live")
        await page.goto("/console/live?page=nowhere-at-all")
        await expect(page.locator("#empty")).to_be_visible()
        await take(page, folder, f"{mode}-nobody")
        await page.locator("#find").fill(site)
        await expect(page.locator("#found-list li").first).to_be_visible()
        await take(page, folder, f"{mode}-find")
        await page.goto(f"/console/visit/{visit}?site={site}")
        await expect(page.locator(".report")).to_be_visible()
        await expect(page.locator("#visitors tr")).to_have_count(2)
        await take(page, folder, f"{mode}-visit")
        await page.goto("/console/visit/none")
        await expect(page.locator("#notice")).to_be_visible()
        await take(page, folder, f"{mode}-wrong-id")
        await page.goto(f"/console/person/{contact}")
        await expect(page.locator(".marks").first).to_contain_text("PaymentFailed")
        await take(page, folder, f"{mode}-person")
        await page.locator("[data-do=erase]").click()
        await take(page, folder, f"{mode}-erase")
        await page.goto(f"/console/contacts?q={site}")
        await expect(page.locator("#contacts tbody tr")).to_have_count(3)
        await expect(page.locator("#contacts .here")).to_be_visible()
        await take(page, folder, f"{mode}-contacts")
        for doubt in ("ambiguous", "recognized_only", "by_name"):
            await page.goto(f"/console/contacts?show={doubt}")
            await expect(page.locator("#contacts [role=status]").first).to_have_text(re.compile("[.]$"))
            await take(page, folder, f"{mode}-contacts-{doubt}")
        for view in ("health", "quality"):
            await page.goto(f"/console/{view}")
            await expect(page.locator(f"#{view} h2")).to_be_visible()
            await page.wait_for_timeout(1_500)
            await take(page, folder, f"{mode}-{view}")
        for name, path in (("compact", f"console/visits/{visit}?view=compact"), ("docs", "docs/"), ("demo", "demo/")):
            await page.goto(f"/{path}")
            await page.wait_for_load_state("load" if name == "compact" else "networkidle")
            await page.wait_for_timeout(1_000)
            await take(page, folder, f"{mode}-{name}")


@pytest.mark.long
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("gateway", "No news for 2"),
        ("history", "History does not answer."),
        ("identity", "The identity service does not answer."),
    ],
)
async def test_what_is_frozen_is_said_in_the_visit_and_in_health(
    browser: Browser, suite: Suite, folder: Path, program: Program, words: str
) -> None:
    visit, user = str(uuid.uuid4()), f"eve-{uuid.uuid4().hex[:6]}@example.com"
    async with suite.http() as http, console(browser, suite, **MODES["light"]) as page:
        loans = entered(visit, "Loans", now_ms())
        await send(http, loans, on(loans, "SignIn", now_ms(), user))
        await stored(http, visit, 2)
        await expect(page.get_by_role("row").filter(has_text=user)).to_be_visible()
        with suite.frozen(program):
            opened = await open_visit(page, visit)
            await expect(opened.get_by_role("heading", level=2)).to_have_text(user, timeout=2_000)
            await take(page, folder, f"frozen-{program}-at-first")
            said = page.locator("#live") if program == "gateway" else opened.get_by_text(words).first
            await expect(said).to_contain_text(words, timeout=60_000)
            await take(page, folder, f"frozen-{program}-visit")
            await page.evaluate(GO_TO, "/console/health")
            health = page.get_by_role("region", name="Health", exact=True)
            wrong = re.compile("Health is not known" if program == "gateway" else "needs? you")
            await expect(health.get_by_role("heading", level=2)).to_have_text(wrong, timeout=30_000)
            if program != "gateway":
                await expect(health.locator(".must-do")).to_contain_text(f"{program.capitalize()} has a problem")
            await take(page, folder, f"frozen-{program}-health")
        await expect(page.locator("#live")).to_have_text("Live")


@pytest.mark.long
async def test_on_a_slow_line_each_part_says_that_it_waits(browser: Browser, suite: Suite, folder: Path) -> None:
    visit = str(uuid.uuid4())
    async with suite.http() as http, console(browser, suite, **MODES["light"]) as page:
        loans = entered(visit, "Loans", now_ms())
        await send(http, loans, on(loans, "SignIn", now_ms(), "slow@example.com"))
        await stored(http, visit, 2)
        await expect(page.get_by_role("row").filter(has_text=visit[:8])).to_be_visible()
        session = await page.context.new_cdp_session(page)
        await session.send("Network.enable")
        await session.send("Network.emulateNetworkConditions", SLOW_LINE)
        opened = await open_visit(page, visit)
        await expect(opened.get_by_role("heading", level=2)).to_have_text("slow@example.com", timeout=2_000)
        await expect(opened.get_by_text("Waiting for history…").first).to_be_visible()
        await take(page, folder, "slow-line-visit")
        await expect(opened.locator(".page .title")).to_have_text("Loans", timeout=60_000)
        await expect(opened.get_by_text("Waiting for history…")).to_have_count(0)
        await take(page, folder, "slow-line-visit-later")
