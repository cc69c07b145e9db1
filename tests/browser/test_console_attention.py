"""Who needs a look: the console marks visitors by the rules of ATTENTION_FILE, and shows robots apart."""

import uuid

from playwright.async_api import Browser, expect

from tests.browser.test_console import console
from tests.browser.test_console_visit import entered, on, send
from tests.tools.eventually import eventually
from tests.tools.suite import Suite
from tests.tools.visits import now_ms

ROBOT = {"User-Agent": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"}


async def test_who_needs_a_look_is_counted_marked_and_listed_alone(browser: Browser, suite: Suite) -> None:
    site, at = f"shop-{uuid.uuid4().hex[:8]}", now_ms()
    lost, unlucky, calm, stuck, robot = (str(uuid.uuid4()) for _ in range(5))
    payment = entered(unlucky, "Payment", at, site=site, url="https://shop.example/pay/now")

    def fails(number: int) -> dict[str, object]:
        return on(payment, "PaymentFailed", at + number) | {"site": site}

    async with suite.http() as http:
        await send(
            http,
            entered(lost, "Something went wrong", at, site=site),
            payment,
            fails(1),
            fails(2),
            entered(calm, "Loans", at, site=site),
            entered(stuck, "Checkout", at - 11 * 60_000, site=site),
        )
        sent = entered(robot, "Error", at, site=site)
        assert (await http.post("/beacon", json=sent, headers=ROBOT)).status_code == 204

        async def is_known() -> None:
            visitors = (await http.get("/api/v1/visitors", params={"site": site})).json()["visitors"]
            assert sorted(one["visitId"] for one in visitors if one["bot"]) == [robot]
            assert [len(one["notableEvents"]) for one in visitors if one["visitId"] == unlucky] == [2]

        await eventually(is_known)
        async with console(browser, suite, at=f"live?site={site}") as page:
            needs, rows = page.locator("#needs button"), page.locator("#visitors tr")
            await expect(rows).to_have_count(4)  # without the robot
            await expect(needs).to_have_text(
                ["Needs a look (3)", "1 on an error page", "1 long on payment", "1 failed again and again"]
            )
            await expect(rows.filter(has_text=unlucky[:8]).locator(".look")).to_have_text(
                "failed again and again \u00d72"
            )
            await send(http, fails(3))
            await expect(rows.filter(has_text=unlucky[:8]).locator(".look")).to_have_text(
                "failed again and again \u00d73"
            )
            await expect(rows.filter(has_text=calm[:8]).locator(".look")).to_have_count(0)

            await needs.get_by_text("1 long on payment").click()
            await expect(rows).to_have_count(1)
            await expect(rows).to_contain_text(stuck[:8])
            await expect(page.locator("#announced")).to_have_text("1 visitor")
            await page.reload()
            await expect(rows).to_have_count(1)
            await needs.get_by_text("1 long on payment").click()
            await needs.get_by_text("Needs a look").click()
            await expect(rows).to_have_count(3)
            await needs.get_by_text("Needs a look").click()
            await page.get_by_label("robots (1)").check()
            await expect(rows).to_have_count(1)
            await expect(rows).to_contain_text(robot[:8])


async def test_patterns_mean_the_same_in_the_console_as_on_the_server(browser: Browser, suite: Suite) -> None:
    async with console(browser, suite, signed_in=False) as page:
        found = await page.evaluate(
            "(pairs) => import('/console/attention.js')"
            ".then(({ matches }) => pairs.map((pair) => matches(...pair)))",
            [
                ["*Failed", "paymentFAILED"], ["*Failed", "FailedOnce"], ["a*b*c", "a-b-c"], ["a*b*c", "acb"],
                ["*a", "a"], ["a*a", "a"], ["a.c", "abc"], ["*", ""], ["404*", "404: not found"],
            ],
        )  # fmt: skip
        assert found == [True, False, True, False, True, False, False, True, True]
