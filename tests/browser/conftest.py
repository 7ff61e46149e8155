"""A real browser and a real service, both started here and ended by their own handles.

    browser    Debian's Chromium, without a window, with a profile of its own
    page       a tab; at its end nothing may have been said on the console
    shop       `outlive serve`, one worker, on a store of its own

All of it lives in one event loop. Where there is no Chromium these tests fail, and say so.
`SCREENSHOTS=1` writes the pictures of docs/images/.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect
from tests.crash.service import children_of, until
from tests.postgres_server import end_with_tests

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run"
    " --disable-background-networking --disable-component-update --disable-sync"
    " --hide-scrollbars --force-color-profile=srgb"
).split()
WAIT_MS = 30_000
expect.set_options(timeout=WAIT_MS)
SIZE = {"width": 1280, "height": 860}


class Shop:
    """A service as `outlive serve` runs it, and a client that speaks to it."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.hold = folder / "hold"
        self.store = f"sqlite:///{folder / 'store.db'}"
        path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
        own = {"OUTLIVE_STORE": self.store, "HOLD": str(self.hold), "PYTHONPATH": path}
        self._variables = {**os.environ, **own, **variables}
        self._process: asyncio.subprocess.Process | None = None
        self.http = httpx.AsyncClient(timeout=30)

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "outlive.commands", "serve", "tests.browser.shop:service"),
            *("--port", "0", "--grace-seconds", "3"),
            cwd=ROOT,
            env=self._variables,
            stdout=asyncio.subprocess.PIPE,
            preexec_fn=partial(end_with_tests, signal.SIGTERM),
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            line = (await self._process.stdout.readline()).decode()
        found = re.search(r"http://\S+", line)
        assert found is not None, f"the service did not start: {line!r}"
        self.url = found[0]
        self.lines = asyncio.create_task(self._process.stdout.read())
        self.http.base_url = self.url

    async def stop(self) -> None:
        await self.http.aclose()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await asyncio.gather(self._process.wait(), self.lines)

    def kill_the_worker(self) -> None:
        assert self._process is not None
        (worker,) = children_of(self._process.pid)
        os.kill(worker, signal.SIGKILL)

    async def register(self, email: str, *statuses: str, **more: str) -> str:
        """Post a registration; gives its id once it has one of the statuses."""
        answer = await self.http.post("/registrations", json={"email": email, **more})
        assert answer.status_code == 202, answer.text
        place, id = answer.headers["location"], str(answer.json()["id"])
        if statuses:

            async def reached() -> bool:
                return (await self.http.get(place)).json()["status"] in statuses

            await until(reached, f"{id} is {statuses}")
        return id

    async def attempted(self, id: str, step: str) -> None:
        """Wait until an attempt at a step is recorded as failed."""

        async def failed() -> bool:
            steps = (await self.http.get(f"/registrations/{id}")).json()["steps"]
            return any(one["name"] == step and one["attempts"] for one in steps)

        await until(failed, f"{step} of {id} has failed")

    async def status(self, id: str) -> str:
        return str((await self.http.get(f"/registrations/{id}")).json()["status"])


def chromium() -> str:
    """Where the browser is. Fails the test where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.fail("there is no Chromium: `make servers` installs it (apt-get install chromium)")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    async with async_playwright() as playwright:
        made = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield made
        await made.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shop(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    made = Shop(tmp_path_factory.mktemp("shop"))
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shop]:
    """The same, for those who have a token."""
    made = Shop(tmp_path_factory.mktemp("guarded"), TOKENS="1", PART="1")
    await made.start()
    yield made
    await made.stop()


class Tab:
    """A page of the browser, and what was said on its console."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.said: list[str] = []
        self.may_lose_the_service = False
        """Whether this test kills it: the browser says so, and the page comes back."""
        self.refusals: tuple[int, ...] = ()
        """Statuses of answers that this test asks for: the browser repeats them."""
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda line: self._heard(line.type, line.text))
        page.on("pageerror", lambda error: self._heard("error", str(error)))

    def _heard(self, kind: str, text: str) -> None:
        if self.may_lose_the_service and ("net::ERR_" in text or text.startswith("htmx:")):
            return
        if any(f"status of {status} " in text for status in self.refusals):
            return
        if kind in ("error", "warning"):
            self.said.append(f"{kind}: {text}")


@pytest_asyncio.fixture(loop_scope="session")
async def tab(browser: Browser, request: pytest.FixtureRequest) -> AsyncIterator[Tab]:
    """A tab. A test may choose how it is opened: `@pytest.mark.parametrize("tab", [{…}],
    indirect=True)`."""
    options: dict[str, Any] = {"viewport": SIZE, **getattr(request, "param", {})}
    context = await browser.new_context(**options)
    made = Tab(await context.new_page())
    yield made
    await context.close()
    assert made.said == [], "nothing is said on the console"


@pytest_asyncio.fixture(loop_scope="session")
async def page(tab: Tab) -> Page:
    return tab.page


async def picture(page: Page, name: str) -> None:
    """A picture for the docs, where pictures are asked for."""
    if os.environ.get("SCREENSHOTS"):
        IMAGES.mkdir(exist_ok=True)
        # without a style for the caret, which our own policy would refuse
        await page.screenshot(path=IMAGES / f"{name}.png", caret="initial")
