"""A worker is killed in the middle of a step, and the open page shows it without a reload."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect
from tests.browser.conftest import Shop, Tab, picture

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_take_over_appears_on_an_open_page(tab: Tab, page: Page, shop: Shop) -> None:
    tab.may_lose_the_service = True
    shop.hold.touch()
    id = await shop.register("slow@example.org")
    await page.goto(f"{shop.url}/outlive/processes/{id}")
    await page.evaluate("window.before = true")
    await expect(page.locator("h1 .is-running")).to_be_visible()
    await expect(page.locator("[data-connection=live]")).to_be_visible()
    shop.kill_the_worker()
    await expect(page.locator(".takeover-line")).to_contain_text("taken over by")
    await expect(page.locator("dt:text('Take-overs') + dd")).to_have_text("1")
    shop.hold.unlink()
    await expect(page.locator("h1 .is-waiting")).to_be_visible()
    await expect(page.get_by_text("killed once")).to_be_visible()
    await expect(page.locator(".bar.interrupted")).to_have_count(1)
    assert await page.evaluate("window.before") is True, "without a reload"
    await picture(page, "take-over")
    await page.emulate_media(color_scheme="dark")
    await picture(page, "take-over-dark")
    await page.locator("summary", has_text="Send a signal").click()
    await page.get_by_role("button", name="Send").click()
    await expect(page.locator("h1 .is-done")).to_be_visible()
    await page.goto(f"{shop.url}/outlive")
    await expect(page.get_by_role("heading", name="Last take-overs")).to_be_visible()


async def test_what_is_started_elsewhere_appears_in_an_open_list(page: Page, shop: Shop) -> None:
    await page.goto(f"{shop.url}/outlive/processes")
    await page.evaluate("window.before = true")
    await expect(page.locator("[data-connection=live]")).to_be_visible()
    id = await shop.register("new@example.org", "waiting")
    await expect(page.get_by_role("link", name=id)).to_be_visible()
    assert await page.evaluate("window.before") is True


async def test_what_is_being_typed_is_not_taken_away(page: Page, shop: Shop) -> None:
    id = await shop.register("typing@example.org", "waiting")
    await page.goto(f"{shop.url}/outlive/processes/{id}")
    await page.get_by_text("Journal", exact=False).first.click()
    await page.locator("summary", has_text="Fork").click()
    at = page.get_by_label("At step")
    await at.fill("open_acc")
    await shop.http.post(f"/registrations/{id}/pause", json={})
    await expect(page.locator("h1 .is-paused")).to_be_visible()
    await expect(at).to_have_value("open_acc")
    await expect(page.locator("details[data-key=journal]")).to_have_attribute("open", "")
