"""`make screenshots`: the pictures of the README, of a real suite with the visitors of `make demo`."""

import asyncio
import math
import re
import tempfile
import time
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any, Final

import httpx
from playwright.async_api import Page, async_playwright
from redis.asyncio import Redis

from deploy.demo import PEOPLE, WEBSITES, Visitor, put_contacts, visit
from tests.browser.conftest import CHROMIUM, FLAGS
from tests.tools.suite import Suite, running_suite

IMAGES: Final = Path(__file__).parent / "images"
VISITORS: Final = 60
ARRIVE_S: Final = 40.0
SETTLE_MS: Final = 3_000
COMPRESS: Final = """async (png) => {
  const picture = await createImageBitmap(new Blob([Uint8Array.from(atob(png), (each) => each.charCodeAt(0))]));
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext('2d').drawImage(picture, 0, 0);
  const small = await canvas.convertToBlob({ type: 'image/webp', quality: 0.9 });
  return btoa(Array.from(new Uint8Array(await small.arrayBuffer()), (each) => String.fromCharCode(each)).join(''));
}"""
"""Makes a picture smaller: WebP instead of PNG."""


async def count_past_minutes(redis_url: str) -> None:
    """Invent how many visitors were there in the hour before, and a week before."""
    this_minute = int(time.time() // 60)
    async with Redis.from_url(redis_url) as redis:
        for ago in range(61):
            for minute, most in ((this_minute - ago, 22), (this_minute - ago - 7 * 24 * 60, 20)):
                here = [round(most + 3 * math.sin(minute / 9 + number)) for number in range(3)]
                of_sites = {
                    site.name: f"{count // 3} 0 {count - count // 3}"
                    for site, count in zip(WEBSITES, here, strict=True)
                }
                counts: dict[Any, Any] = {"": f"{sum(here)} 0 0 0"} | of_sites
                await redis.hset(f"minutes:{{p00}}:{minute}", mapping=counts)


async def arrive(http: httpx.AsyncClient) -> None:
    """Let visitors arrive until cancelled; each follows its own pace."""
    room = asyncio.Semaphore(VISITORS)
    async with asyncio.TaskGroup() as visitors:
        for seed in range(VISITORS):
            visitors.create_task(visit(http, Visitor(seed), room))
            await asyncio.sleep(ARRIVE_S / VISITORS)


async def take(page: Page, name: str) -> None:
    """Write a picture once the page is at rest, with the pointer where it shows nothing."""
    await page.mouse.move(1, 1)
    await page.wait_for_timeout(SETTLE_MS)
    taken = b64encode(await page.screenshot(animations="disabled")).decode()
    (IMAGES / f"{name}.webp").write_bytes(b64decode(await page.evaluate(COMPRESS, taken)))


async def take_all(page: Page, suite: Suite) -> None:
    """Sign in to the console, and take each picture."""
    await page.goto(f"{suite.url}/console/live?sort=waiting")
    await page.fill("input[autocomplete=username]", suite.credentials.user)
    await page.fill("input[type=password]", suite.credentials.password)
    await page.keyboard.press("Enter")
    await page.locator("#visitors tr").first.wait_for()
    await take(page, "console-live")
    names = [f"{person['firstName']} {person['lastName']}" for person in PEOPLE]
    known = page.locator("#visitors tr", has_text=re.compile("|".join(names)))
    await known.first.click()
    await take(page, "console-visit")
    await page.get_by_role("link", name="Person").click()
    await take(page, "console-person")
    await page.goto(f"{suite.url}/docs/")
    await take(page, "docs")


async def main() -> None:
    """Take all pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="footfall-screenshots-") as folder, running_suite(Path(folder)) as suite:
        async with suite.http() as http, async_playwright() as playwright:
            await put_contacts(http, *suite.credentials)
            arriving = asyncio.create_task(arrive(http))
            await asyncio.sleep(ARRIVE_S)
            await count_past_minutes(suite.redis_url)
            browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            await take_all(await browser.new_page(viewport={"width": 1280, "height": 800}), suite)
            await browser.close()
            arriving.cancel()


if __name__ == "__main__":
    asyncio.run(main())
