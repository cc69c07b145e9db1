"""The session of an agent at the console: it lasts a shift, and ends when it should."""

import json
import uuid

import pytest
from footfall_gateway.commands import keys as keys_command
from playwright.async_api import Browser, expect

from tests.browser.test_console import console, sign_in
from tests.tools.suite import Suite
from tests.tools.visits import event, now_ms


async def test_a_shift_survives_a_reload_and_ends_by_signing_out(browser: Browser, suite: Suite) -> None:
    visit = str(uuid.uuid4())
    async with suite.http() as http, console(browser, suite) as page:
        assert (await http.post("/beacon", json=event("PageEntered", visit, now_ms()))).status_code == 204
        kept = await page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
        assert json.loads(kept) == [{}, {}, ""]
        await page.reload()
        await expect(page.locator("#live")).to_have_text("Live")
        await expect(page.locator("#caller")).to_contain_text(suite.credentials.user)

        tab = await page.context.new_page()
        await tab.goto(f"/console/visit/{visit}")
        await expect(tab.get_by_role("region", name="Visit", exact=True)).to_be_visible()
        await tab.get_by_role("button", name="Sign out").click()
        await expect(tab.locator("#sign-in")).to_be_visible()
        await expect(tab.locator("#visitors tr")).to_have_count(0)
        await tab.reload()
        await expect(tab.locator("#sign-in")).to_be_visible()
        await expect(page.locator("#sign-in")).to_be_visible()
        await expect(page.get_by_role("alert").filter(has_text="The session has ended.")).to_be_visible()

        # After signing in again, the address still names the visit.
        await sign_in(tab, *suite.credentials)
        await expect(tab.get_by_role("region", name="Visit", exact=True)).to_be_visible()


async def test_what_a_key_may_not_do_is_not_offered(
    browser: Browser, suite: Suite, capsys: pytest.CaptureFixture[str]
) -> None:
    def key(scope: str) -> str:
        assert keys_command.run(["create", f"may {scope}", "--scope", scope], suite.data_dir / "keys.json") == 0
        return capsys.readouterr().out.split()[-1]

    name = uuid.uuid4().hex[:8]
    user = f"{name}@shop.example"
    async with suite.http() as http:
        contact = {"firstName": "Eve", "emailAddresses": [user]}
        assert (await http.put(f"/api/v1/contacts/{name}", json=contact)).status_code == 200
        assert (await http.post("/beacon", json=event("SignIn", str(uuid.uuid4()), now_ms(), user))).status_code == 204
    async with console(browser, suite, at=f"person/{name}", signed_in=False) as page:
        await sign_in(page, "", key("ingest"))
        await expect(page.get_by_role("alert").filter(has_text="This key may not read.")).to_be_visible()
        await expect(page.locator("#caller")).to_contain_text("may ingest")
        await page.get_by_role("button", name="Sign out").click()

        person, offered = page.get_by_role("region", name="Person", exact=True), ("unlink", "Erase…")
        await sign_in(page, "", key("read"))
        await expect(person.get_by_text(user).first).to_be_visible()
        await expect(person.get_by_role("button", name="Export file")).to_be_visible()
        for words in offered:
            await expect(person.get_by_role("button", name=words)).to_have_count(0)
        await page.get_by_role("button", name="Sign out").click()

        await sign_in(page, *suite.credentials)
        for words in offered:
            await expect(person.get_by_role("button", name=words)).to_be_visible()
