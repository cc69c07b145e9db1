"""The documentation page shows every operation of the API description."""

from playwright.async_api import Browser, expect

from tests.service.gateway.conftest import running_gateway
from tests.tools.suite import Suite

OPERATIONS = {
    "postBeacon": (
        "eventName: string",
        "dropped?: any",
        "The outcome of a beacon that was not stored completely, or has user ids that name no person.",
    ),
    "listVisits": (
        "[Visit]",
        "endDate: integer",
        "There is nothing in this collection.",
        "An error of the History API.",
    ),
    "explainVisit": ("assurance: ", "nextPageToken?: string", "An error (RFC 9457)."),
}
"""Texts on the page of an operation: its body, answers and errors."""


async def test_every_operation_is_shown_with_its_objects(browser: Browser) -> None:
    async with running_gateway() as http:
        page = await browser.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        described = (await http.get("/openapi.json")).json()
        await page.goto(f"{http.base_url}/docs/")
        for methods in described["paths"].values():
            for operation in methods.values():
                name = operation["operationId"]
                if name.endswith("V81"):
                    continue
                await page.evaluate("name => { location.hash = name; }", name)
                await page.get_by_text(f"{operation['summary']}.", exact=True).wait_for()
                text = await page.text_content("main") or ""
                assert "undefined" not in text
                assert [one for one in OPERATIONS.get(name, ()) if one not in text] == [], name
        await page.close()
    assert not faults


async def test_a_newcomer_signs_in_and_gets_a_first_answer(browser: Browser, suite: Suite) -> None:
    user, password = suite.credentials
    page = await browser.new_page(viewport={"width": 390, "height": 800})
    await page.goto(f"{suite.url}/docs/")
    commands = await page.locator(".command pre").all_text_contents()
    assert [f"{suite.url}/beacon" in commands[0], *("/api/v1/visits/" in one for one in commands[1:])] == [True] * 3
    await page.fill("input[name=secret]", "wrong")
    await page.keyboard.press("Enter")
    await page.get_by_text("The user, password or token is wrong.").wait_for()
    await page.fill("input[name=user]", user)
    await page.fill("input[name=secret]", password)
    await page.keyboard.press("Enter")
    await page.get_by_text("Signed in.").wait_for()
    for operation, status, answer in (("postBeacon", 204, ""), ("getVisitor", 200, "AUTHENTICATED")):
        await page.evaluate("name => { location.hash = name; }", operation)
        heading = page.locator("main h2")
        await expect(heading).to_be_focused()
        await expect(heading).to_be_in_viewport()
        await page.click("main .send")
        shown = page.get_by_role("status").filter(has_text=str(status))
        await expect(shown).to_be_in_viewport()
        await expect(shown).to_contain_text(answer)
        sent = await shown.locator(".command pre").text_content() or ""
        assert sent.startswith("curl")
        assert password not in sent
    await page.evaluate("location.hash = 'eraseIdentity'")
    await page.fill("input[name='path:identityId']", "unknown%40example.com")
    await page.click("main .send")
    await page.get_by_text("No identity of this name was stored").wait_for()
    await page.close()
