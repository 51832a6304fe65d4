"""The live page in a real, headless Chromium. As a command, pictures of a running deployment's page:

python -m tests.router.ui_browser http://127.0.0.1:8081/ui docs
"""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.async_api import Page, async_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDE, PHONE = (1280, 900), (390, 844)
SETTLED_MS = 1500  # a look and a half, for pictures


class SeenPage:
    """page: to act on. errors: what the console was told, and what was thrown. elsewhere: requests to other origins."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(origin + "/") else self.elsewhere.append(r.url))

    async def overflow_px(self) -> int:
        """By how much the page is wider than its window."""
        return await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@asynccontextmanager
async def open_page(
    url: str, size: tuple[int, int] = WIDE, scheme: str = "light", token: str | None = None
) -> AsyncIterator[SeenPage]:
    """token: as if it had been entered before."""
    width, height = size
    async with async_playwright() as playwright:
        # As root, as in containers, Chromium has no sandbox; it visits our own page only.
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = await browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        if token is not None:
            await page.add_init_script(f"sessionStorage.setItem('dualmap-admin-token', '{token}')")
        address = urlsplit(url)
        seen = SeenPage(page, f"{address.scheme}://{address.netloc}")
        await page.goto(url)
        yield seen
        await browser.close()


async def take_pictures(url: str, folder: Path) -> None:
    for name, size, whole in (("ui.png", WIDE, True), ("ui-phone.png", (PHONE[0], 2 * PHONE[1]), False)):
        async with open_page(url, size) as seen:
            await seen.page.wait_for_selector("#instances table")
            await seen.page.wait_for_timeout(SETTLED_MS)
            await seen.page.screenshot(path=folder / name, full_page=whole)


if __name__ == "__main__":
    asyncio.run(take_pictures(sys.argv[1], Path(sys.argv[2])))
