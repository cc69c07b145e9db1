"""A real Chromium, and the gateway it talks to."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, Page, async_playwright

# The headless shell has the same engine without the browser around it, and takes a quarter of the processor's time.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), "chromium")
# A closed network: Chromium looks for its maker's hosts at every start unless configured not to.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@asynccontextmanager
async def browser_session(profile: str) -> AsyncIterator[Page]:
    """A browser from its start to its end, with its profile in a folder; yields its one tab."""
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(profile, executable_path=CHROMIUM, args=FLAGS)
        yield context.pages[0]
        await context.close()


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests; each test has contexts of its own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
async def shop_browser() -> AsyncIterator[Browser]:
    """A browser for which every host is this machine."""
    async with async_playwright() as playwright:
        resolver = "--host-resolver-rules=MAP * 127.0.0.1"
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, resolver])
        yield browser
        await browser.close()
