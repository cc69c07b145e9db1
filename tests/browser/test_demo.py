"""The demo shop, used as by a visitor: History has exactly the events that happened."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import browser_session
from tests.browser.visitor import ids
from tests.tools.eventually import eventually
from tests.tools.suite import Suite

DANA = {
    "userID": "dana@example.com", "firstName": "Dana", "lastName": "Oak", "email": "dana@example.com",
    "phone": "+12025550190",
}  # fmt: skip
KETTLE = {"sku": "kettle", "name": "Gooseneck kettle", "price": 94}
BOUGHT: list[tuple[str, str, dict[str, Any] | None]] = [
    ("VisitStarted", "", None),
    ("PageEntered", "", {"title": "Halde, tools for slow coffee", "referrer": ""}),
    ("PageExited", "", None),
    ("PageEntered", "product.html?item=kettle", {"title": "Gooseneck kettle · Halde", "referrer": "{shop}"}),
    ("ProductViewed", "product.html?item=kettle", KETTLE),
    ("AddToCart", "product.html?item=kettle", KETTLE),
    ("PageExited", "product.html?item=kettle", None),
    ("PageEntered", "cart.html", {"title": "Cart · Halde", "referrer": "{shop}product.html?item=kettle"}),
    ("PageExited", "cart.html", None),
    ("PageEntered", "account.html?next=cart", {"title": "Account · Halde", "referrer": "{shop}cart.html"}),
    ("SignIn", "account.html?next=cart", DANA),
    ("PageExited", "account.html?next=cart", None),
    ("PageEntered", "cart.html", {"title": "Cart · Halde", "referrer": "{shop}account.html?next=cart"}),
    ("OrderPlaced", "cart.html", {"total": 100, "currency": "EUR", "items": [{"sku": "kettle", "quantity": 1}]}),
    ("PageExited", "cart.html", None),
    ("PageEntered", "order.html", {"title": "Thank you · Halde", "referrer": "{shop}cart.html"}),
    ("SignOut", "order.html", {"userID": "dana@example.com"}),
    ("PageExited", "order.html", None),
    ("PageEntered", "", {"title": "Halde, tools for slow coffee", "referrer": "{shop}order.html"}),
]


def as_in(shop: str, data: dict[str, Any]) -> dict[str, Any]:
    return data | ({"referrer": data["referrer"].format(shop=shop)} if "referrer" in data else {})


async def buy_the_kettle(page: Page, shop: str) -> str:
    """From the catalogue to signing out; the visit's id."""
    await page.goto(shop)
    visit_id = (await ids(page))["visitID"]
    await page.click("text=Gooseneck kettle")
    await page.click("text=Add to cart")
    await page.click("text=Cart")
    await page.click("text=Sign in to order")
    await page.click("text=Dana Oak")
    await page.click("text=Place the order")
    await page.click("main >> text=Sign out")
    await page.wait_for_url(shop)
    await ids(page)
    return visit_id


async def test_a_purchase(browser: Browser, suite: Suite) -> None:
    shop = f"{suite.url}/demo/"
    context = await browser.new_context()
    errors: list[str] = []
    page = await context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type in {"error", "warning"} else None)
    visit_id = await buy_the_kettle(page, shop)
    async with suite.http() as http:

        async def history_is_exact() -> None:
            events = (await http.get(f"/server/data/visits/{visit_id}/events")).json()
            assert [(e["eventName"], e["url"].removeprefix(shop)) for e in events] == [b[:2] for b in BOUGHT]
            for event, (_, _, data) in zip(events, BOUGHT, strict=True):
                assert data is None or as_in(shop, data) == event["data"]

        await eventually(history_is_exact, timeout=20)
        [identity] = (await http.get(f"/server/data/visits/{visit_id}/identities")).json()
        assert (identity["identityId"], identity["visitScope"]) == ("dana@example.com", "Recognized")
        [session] = (
            await http.get(f"/server/data/visits/{visit_id}/sessions?include_events=true&include_events_detail=true")
        ).json()
        assert session["identityId"] == "dana@example.com"
        assert session["endDate"] > session["startDate"]
        names = [event["eventName"] for event in session["events"]]
        assert names == ["SignIn", "PageExited", "PageEntered", "OrderPlaced", "PageExited", "PageEntered", "SignOut"]
        visitor = (await http.get(f"/api/v1/visits/{visit_id}/visitor")).json()
        assert (visitor["state"], visitor["identityId"]) == ("RECOGNIZED", "dana@example.com")
    await context.close()
    assert errors == []


async def test_the_bar_speaks_german_and_sends_other_visitors(browser: Browser, suite: Suite) -> None:
    context = await browser.new_context(locale="de-DE")
    page = await context.new_page()
    await page.goto(f"{suite.url}/demo/")
    bar = page.get_by_role("complementary", name="Über diese Vorführung")
    await expect(bar).to_contain_text(re.compile("Eine Vorführung. Sie sind Besuch [0-9a-f]{8}: *Anonym"))
    await bar.get_by_label("Besucher in der Minute").select_option("120")
    await bar.get_by_role("button", name="Andere Besucher senden").click()
    async with suite.http() as http:

        async def are_there() -> None:
            found = (await http.get("/api/v1/visitors", params={"site": ["demo-bank", "demo-travel"]})).json()
            assert found["visitors"]

        await eventually(are_there)
    await bar.get_by_role("button", name="Keine Besucher mehr senden").click()
    await context.close()


@pytest.mark.long
async def test_a_remembered_customer_is_recognized_in_the_next_browser_session(suite: Suite, tmp_path: Path) -> None:
    shop = f"{suite.url}/demo/"
    async with browser_session(str(tmp_path)) as page:
        await page.goto(shop + "account.html")
        first = await ids(page)
        await page.click("text=Dana Oak")
        await page.wait_for_selector("text=Signed in")
        await ids(page)
    async with browser_session(str(tmp_path)) as page:
        await page.goto(shop)
        second = await ids(page)
        assert second["visitID"] != first["visitID"]
        assert second["globalVisitID"] == first["globalVisitID"]
        assert await page.inner_text("#account") == "Hello again, Dana"
        await page.click("text=Heavy mug")
        await ids(page)
    async with suite.http() as http:

        async def recognized() -> None:
            visitor = (await http.get(f"/api/v1/visits/{second['visitID']}/visitor")).json()
            assert (visitor["state"], visitor["identityId"]) == ("RECOGNIZED", "dana@example.com")
            events = (await http.get(f"/server/data/visits/{second['visitID']}/events?eventName=UserInfo")).json()
            assert [event["data"] for event in events] == [DANA], "once a browser session"

        await eventually(recognized, timeout=20)
