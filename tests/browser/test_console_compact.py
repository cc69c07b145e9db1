"""The compact view of a visit, in a frame of an agent's desktop on another host."""

import uuid
from urllib.parse import urlsplit

from playwright.async_api import Browser, expect

from tests.browser.test_console_visit import entered, on, send, stored
from tests.browser.website import running_website
from tests.service.gateway.conftest import before, running_gateway
from tests.tools.suite import Suite
from tests.tools.visits import now_ms

DESKTOP = """<!doctype html><title>Desktop</title><h1>Desktop</h1><iframe width="500" height="50"></iframe>
<script>addEventListener('message', ({ data, origin }) => {
  if (data.type === 'footfall.height') document.querySelector('iframe').height = data.height;
});</script>"""
SHOW = "(address) => { document.querySelector('iframe').src = address; }"


async def test_a_desktop_shows_a_visit_by_a_link_that_is_used_once(shop_browser: Browser, suite: Suite) -> None:
    visit, at = str(uuid.uuid4()), now_ms()
    first = entered(visit, "Loans", at)
    async with suite.http() as http, running_website({"/": DESKTOP}) as website:
        await send(http, first, on(first, "SignIn", at + 1, "dana@example.com"))
        await stored(http, visit, 2)
        desktop = f"http://desk.example:{urlsplit(website).port}"
        sessions = {"REDIS_URL": suite.redis_url}
        async with running_gateway(console_frame_ancestors=desktop, **sessions, **before(suite)) as gateway:
            port = gateway.base_url.port
            address = f"http://footfall.example:{port}/console/visits/{visit.replace('-', '')}?view=compact"
            page = await shop_browser.new_page()
            asked: list[str] = []
            page.on("request", lambda request: asked.append(urlsplit(request.url).path))
            await page.goto(desktop)
            token = (await gateway.post("/api/v1/session/links")).json()["token"]
            await page.evaluate(SHOW, f"{address}#link={token}")
            frame = page.frame_locator("iframe")
            await expect(frame.get_by_role("heading", level=1)).to_have_text("dana@example.com")
            await expect(frame.locator(".now")).to_contain_text("Loans")
            await expect(frame.locator(".page .title")).to_have_text("Loans")
            for hidden in ("header", "#list", ".tools", "#sign-in"):
                await expect(frame.locator(hidden)).to_be_hidden()
            await page.wait_for_function("Number(document.querySelector('iframe').height) > 200")
            inner = page.frames[1]
            assert token not in inner.url
            assert "/api/v1/live" in asked
            assert not {"/api/v1/health", "/api/v1/visitors", "/api/v1/visitors/minutes"} & {*asked}
            assert await inner.evaluate("document.documentElement.scrollHeight <= innerHeight")
            await send(http, entered(visit, "Checkout", at + 1_000))
            await expect(frame.locator(".now")).to_contain_text("Checkout")
            async with page.expect_popup() as opened:
                await frame.get_by_role("link", name="Open in the console").click()
            assert f"/console/visit/{visit}" in (await opened.value).url

            await page.reload()
            await page.evaluate(SHOW, f"{address}#link={token}")
            await expect(frame.get_by_role("alert").first).to_contain_text("needs a link that has not been used")
            await expect(frame.locator(".visit")).to_have_count(2)
            assert await frame.locator(".visit").first.is_hidden()

            other = await shop_browser.new_page()
            await other.goto(desktop.replace("desk", "other"))
            await other.evaluate(SHOW, address)
            await other.wait_for_timeout(0)
            await expect(other.frame_locator("iframe").locator("#work")).to_have_count(0)
            await page.close()
            await other.close()
