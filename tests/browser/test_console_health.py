"""The view of health in the console, for operators."""

import re
import time
import uuid

import pytest
from footfall_gateway.commands import keys as keys_command
from playwright.async_api import Browser, expect

from tests.browser.test_console import console, sign_in
from tests.tools.eventually import eventually
from tests.tools.history import append_unfit
from tests.tools.suite import Program, Suite
from tests.tools.variants import further
from tests.tools.visits import event, now_ms


async def test_health_says_what_works_and_what_was_refused(browser: Browser, suite: Suite) -> None:
    visit = str(uuid.uuid4())
    async with suite.http() as http:
        old = event("PageEntered", visit, now_ms() - 10 * 86_400_000, site="shop")
        late = {"sentAt": now_ms(), "events": [old]}
        assert (await http.post("/beacon", json=late)).status_code == 400
    async with console(browser, suite, permissions=["clipboard-read", "clipboard-write"]) as page:
        link = page.get_by_role("link", name="Health")
        await expect(link).to_contain_text(re.compile("All well|needs? you"))
        await link.click()
        await expect(page).to_have_url(re.compile("/console/health$"))
        await expect(page).to_have_title("Health · Footfall")
        shown = page.get_by_role("region", name="Health", exact=True)
        parts = shown.get_by_role("region", name="Parts").get_by_role("row")
        await expect(parts).to_have_count(7)
        await expect(parts.filter(has_text="History")).to_contain_text("well: serves")
        refused = shown.get_by_role("region", name="Refused events").get_by_role("row").filter(has_text="too_old")
        await expect(refused).to_contain_text("PageEntered")
        await shown.get_by_role("button", name="Copy for a ticket").click()
        await expect(shown.get_by_role("status")).to_have_text("The state of health is copied.")
        ticket = await page.evaluate("navigator.clipboard.readText()")
        assert "History: ok, serves" in ticket
        assert "refused too_old: " in ticket
        assert visit not in ticket
        await page.keyboard.press("Escape")
        await expect(page).to_have_url(re.compile("/console/live"))


@pytest.mark.parametrize(
    ("program", "words"),
    [
        further("history", "past visits, pages and events are not answered"),
        further("identity", "who is on the site now, identities and contacts are not answered"),
        further("gateway", "The gateway has not answered for 5 s."),
    ],
)
async def test_what_hangs_is_said_in_words_within_20_seconds(
    browser: Browser, suite: Suite, program: Program, words: str
) -> None:
    async with console(browser, suite, at="health") as page:
        shown = page.get_by_role("region", name="Health", exact=True)
        await expect(shown.get_by_role("region", name="Parts")).to_contain_text("well: serves")
        with suite.frozen(program):
            began = time.monotonic()
            await expect(shown).to_contain_text(words, timeout=20_000)
            assert time.monotonic() - began < 20
            wrong = re.compile("Health is not known" if program == "gateway" else "needs? you")
            await expect(shown.get_by_role("heading", level=2)).to_have_text(wrong)
            await expect(page.get_by_role("link", name="Health")).to_contain_text(wrong)
        await expect(shown).not_to_contain_text(words)
        await expect(page.locator("#live")).to_have_text("Live")


async def test_a_dead_letter_is_repaired_and_replayed(browser: Browser, suite: Suite) -> None:
    visit = str(uuid.uuid4())
    await append_unfit(suite.redis_url, visit)
    async with console(browser, suite, at="health") as page:
        shown = page.get_by_role("region", name="Health", exact=True)
        row = shown.get_by_role("region", name="Dead letters").get_by_role("row").filter(has_text="PageEntered")
        await expect(row).to_be_visible()
        await expect(shown.locator(".must-do").filter(has_text="could not be stored")).to_be_visible()
        await expect(row.get_by_role("button", name="Replay")).to_have_count(0)
        await row.get_by_role("button", name="Repair").click()
        await expect(shown.get_by_label("Field")).to_be_focused()
        await expect(shown.locator("form pre")).to_contain_text(visit)
        await page.keyboard.type("transition")
        await page.keyboard.press("Tab")
        await page.keyboard.type("nonsense")
        await page.keyboard.press("Enter")
        await expect(shown.get_by_role("alert")).to_contain_text("transition: is no value of this field")
        await shown.get_by_label("Value").fill("")
        await page.keyboard.press("Enter")
        await expect(shown.get_by_role("status")).to_have_text("Changed. It can be replayed now.")
        await row.get_by_role("button", name="Replay").click()
        await expect(shown.get_by_role("status")).to_have_text("1 replayed.")
        await expect(shown.get_by_role("region", name="Dead letters")).to_have_count(0)
    async with suite.http() as http:

        async def stored() -> None:
            assert (await http.get(f"/server/data/visits/{visit}/events")).status_code == 200

        await eventually(stored)


async def test_a_key_of_some_sites_is_offered_no_health(
    browser: Browser, suite: Suite, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["create", "one site", "--scope", "read", "--site", "shop"]
    assert keys_command.run(arguments, suite.data_dir / "keys.json") == 0
    token = capsys.readouterr().out.split()[-1]
    async with console(browser, suite, at="health", signed_in=False) as page:
        await sign_in(page, "", token)
        await expect(page.get_by_role("alert").filter(has_text="Health concerns all of them.")).to_be_visible()
        await expect(page.get_by_role("link", name="Health")).to_have_count(0)
        await page.get_by_role("link", name="Quality").click()
        await expect(page.get_by_role("heading", name="Quality of identification")).to_be_visible()
        await expect(page.get_by_role("alert").filter(has_text=re.compile("."))).to_have_count(0)
