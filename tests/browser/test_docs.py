"""The documentation page shows every operation of the API description."""

from playwright.async_api import Browser

from tests.service.gateway.conftest import running_gateway

OPERATIONS = {
    "postBeacon": ("eventName: string", "dropped?: any", "The outcome of a beacon that was not stored completely."),
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
