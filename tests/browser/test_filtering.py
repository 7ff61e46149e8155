"""The filters of the list, where answers are late, refused, or asked for twice."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, Route, expect
from tests.browser.conftest import Shop, Tab
from tests.browser.shop import ANN
from tests.browser.test_acting import sign_in

pytestmark = pytest.mark.asyncio(loop_scope="session")

LISTS = "**/outlive/processes*"
LOOK = "htmx.trigger('#live', 'outlive:look')"


class Late:
    """Keeps back the answers to what the page's scripts ask about the list."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.first = asyncio.Event()
        """Is set when something was asked."""
        self.go = asyncio.Event()
        """Set it, and the first is answered."""

    async def __call__(self, route: Route) -> None:
        if "hx-request" not in route.request.headers:
            await route.continue_()
            return
        self.asked.append(urlsplit(route.request.url).query)
        if len(self.asked) == 1:
            self.first.set()
            await self.go.wait()
        await route.continue_()


async def late_list(page: Page, shop: Shop) -> Late:
    """The list with one that is stuck and one that waits; what it asks is answered late."""
    await shop.register("stuck@late.example", "stuck")
    await shop.register("ada@late.example", "waiting")
    await page.goto(f"{shop.url}/outlive/processes")
    late = Late()
    await page.route(LISTS, late)
    return late


async def test_enter_asks_once_and_keeps_what_was_chosen_for_many(page: Page, shop: Shop) -> None:
    await shop.register("ada@once.example", "waiting")
    await page.goto(f"{shop.url}/outlive/processes?status=waiting")
    late = Late()
    await page.route(LISTS, late)
    await page.get_by_label("Tag", exact=True).fill("domain=once.example")
    await page.keyboard.press("Enter")
    await late.first.wait()
    await page.locator("#many-verb").select_option("pause")
    await page.locator("#many-limit").fill("7")
    late.go.set()
    await expect(page.locator("#live td .is-waiting")).to_have_count(1)
    await expect(page.locator("#many input[name='tag.domain']")).to_have_value("once.example")
    await expect(page.locator("#many-verb")).to_have_value("pause")
    await expect(page.locator("#many-limit")).to_have_value("7")
    tagged = [query for query in late.asked if "tag=" in query]
    assert len(tagged) == 1, late.asked


async def test_a_look_that_is_answered_late_takes_no_filter_back(page: Page, shop: Shop) -> None:
    late = await late_list(page, shop)
    async with asyncio.timeout(30):
        await page.get_by_label("Status", exact=True).select_option("stuck")
        await late.first.wait()  # the filter is under way
        await page.evaluate(LOOK)  # somebody's change makes the page look again, as it was
        late.go.set()
    await page.wait_for_url("**/processes?status=stuck")
    await expect(page.locator("#live td .is-stuck").first).to_be_visible()
    await expect(page.locator("#live td .is-waiting")).to_have_count(0)


async def test_a_filter_that_comes_while_the_page_looks_is_shown(page: Page, shop: Shop) -> None:
    late = await late_list(page, shop)
    async with asyncio.timeout(30):
        await page.evaluate(LOOK)
        await late.first.wait()
        await page.evaluate(LOOK)  # one more waits for its turn
        await page.get_by_label("Status", exact=True).select_option("stuck")
        await page.evaluate(LOOK)
        late.go.set()
    await page.wait_for_url("**/processes?status=stuck")
    await expect(page.locator("#live td .is-waiting")).to_have_count(0)
    await expect(page.locator("#live td .is-stuck").first).to_be_visible()


async def test_a_filter_that_is_refused_is_told(tab: Tab, page: Page, shop: Shop) -> None:
    tab.refusals = (422,)
    await page.goto(f"{shop.url}/outlive/processes")
    await page.get_by_label("Started since").fill("yesterday")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("startedSince must be an RFC 3339 time")).to_be_visible()


async def test_back_from_a_filter_is_the_whole_page(page: Page, shop: Shop) -> None:
    await shop.register("stuck@back.example", "stuck")
    await shop.register("ada@back.example", "waiting")
    await page.goto(f"{shop.url}/outlive/processes")
    await page.get_by_label("Status", exact=True).select_option("stuck")
    await page.wait_for_url("**/processes?status=stuck")
    await expect(page.locator("#live td .is-waiting")).to_have_count(0)
    await page.go_back()
    await expect(page.locator("#live td .is-waiting").first).to_be_visible()
    await expect(page.get_by_label("Status", exact=True)).to_have_value("")
    await expect(page.get_by_role("button", name="Theme")).to_be_visible()
    await expect(page.get_by_role("button", name="Keys")).to_be_visible()
    await expect(page.locator("[data-connection=live]")).to_be_visible()


async def test_who_is_signed_out_keeps_what_is_shown(tab: Tab, page: Page, guarded: Shop) -> None:
    tab.refusals = (401,)
    await guarded.register("ada@gone.example", "waiting")
    await sign_in(page, guarded, ANN, "/processes?tag.domain=gone.example")
    row = page.locator("#live td .is-waiting")
    await expect(row).to_have_count(1)
    await page.context.clear_cookies()
    await page.evaluate(LOOK)
    await expect(page.locator("[data-connection='signed out']")).to_be_visible()
    await expect(row).to_have_count(1)
    await page.get_by_label("Status", exact=True).select_option("stuck")
    await expect(page.get_by_label("Your token")).to_be_visible()


async def test_a_page_that_comes_back_from_the_browser_follows_again(
    page: Page, shop: Shop
) -> None:
    await page.goto(f"{shop.url}/outlive/processes?tag.domain=kept.example")
    await expect(page.locator("[data-connection=live]")).to_be_visible()
    await page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
    await page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    id = await shop.register("ada@kept.example", "waiting")
    await expect(page.get_by_role("link", name=id)).to_be_visible()
