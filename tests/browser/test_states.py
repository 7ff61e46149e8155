"""Sessions, requests, limits, breakers and caches by hand: what is chosen, said why, and logged."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, Page, expect
from tests.browser.conftest import Shop
from tests.browser.shop import ANN
from tests.browser.test_acting import sign_in

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def used(shop: Shop) -> None:
    """Something of every kind, made by requests like anybody's."""
    for path in ("visit/eve", "visit/mallory", "visit/mallory", "order/lost-1", "fail"):
        await shop.http.post(f"/{path}")
        shop.http.cookies.clear()


async def test_every_kind_is_changed_by_hand_and_stands_in_the_log(
    page: Page, guarded: Shop
) -> None:
    shop = guarded
    await used(shop)
    status = page.get_by_role("status")

    await sign_in(page, shop, ANN, "/sessions")
    await page.get_by_label("Subject").fill("mallory")
    await page.get_by_role("button", name="Show").click()
    rows = page.locator("[data-row]")
    await expect(rows).to_have_count(2)
    await rows.nth(0).get_by_role("radio").check()
    await page.get_by_label("Why").first.fill("a stolen telephone")
    await page.get_by_role("button", name="Sign out the chosen one").click()
    await expect(status).to_contain_text("signed out")
    await expect(rows).to_have_count(1)
    await page.get_by_label("Why").last.fill("all of them")
    await page.get_by_role("button", name="Sign out everywhere").click()
    await expect(page.get_by_text("mallory is signed in nowhere")).to_be_visible()

    await page.goto(f"{shop.url}/outlive/requests")
    lost = page.get_by_role("region", name="unknown keys").locator("tr", has_text="lost-1")
    await lost.get_by_role("radio").check()
    await page.get_by_label("What came of it").select_option("happened")
    await page.get_by_label("Why").first.fill("it is in the ledger")
    await page.get_by_role("button", name="Resolve").click()
    await expect(status).to_contain_text("The answer is recorded")
    await expect(page.get_by_text("by ann: it is in the ledger")).to_be_visible()

    await page.goto(f"{shop.url}/outlive/limits")
    await expect(
        page.get_by_role("cell", name="burst/eve").or_(page.get_by_role("cell", name="daily/eve"))
    ).not_to_have_count(0)
    await page.get_by_text("Reset a key").click()
    await page.get_by_label("Key, as it stands above").fill("daily/eve")
    await page.get_by_label("Why").fill("our mistake")
    await page.get_by_role("button", name="Reset").click()
    await expect(status).to_contain_text("forgotten")
    await expect(page.get_by_role("cell", name="daily/eve")).to_have_count(0)

    await page.goto(f"{shop.url}/outlive/breakers")
    await expect(page.locator(".badge.is-stuck")).to_have_text("open")
    await page.get_by_text("Hold or reset bank").click()
    await page.get_by_label("On every instance").select_option("force-closed")
    await page.get_by_label("Why").fill("they say it works")
    await page.get_by_role("button", name="Do it").click()
    await expect(page.locator(".badge.is-paused")).to_have_text("held closed")

    await page.goto(f"{shop.url}/outlive/caches")
    await page.locator("summary", has_text="price").click()
    await page.get_by_label("What", exact=True).select_option("tag")
    await page.get_by_label("The tag").fill("shelf:t")
    await page.get_by_label("Why").fill("a new list")
    await page.get_by_role("button", name="Invalidate").click()
    await expect(status).to_contain_text("invalidated everywhere")

    await page.goto(f"{shop.url}/outlive/activity")
    for verb, why, kind in (
        ("sign out", "a stolen telephone", "sessions"),
        ("sign out everywhere", "all of them", "sessions"),
        ("resolve as happened", "it is in the ledger", "requests"),
        ("reset", "our mistake", "limits"), ("force closed", "they say it works", "breakers"),
        ("invalidate tag", "a new list", "caches"),
    ):  # fmt: skip
        line = page.locator("tbody tr").filter(has_text=verb).filter(has_text=why)
        await expect(line).to_have_count(1)
        await expect(line.get_by_role("link", name=kind)).to_be_visible()


async def test_who_signs_in_appears_on_an_open_page_and_a_choice_is_kept(
    page: Page, shop: Shop
) -> None:
    await page.goto(f"{shop.url}/outlive/sessions")
    await page.evaluate("window.before = true")
    await expect(page.locator("[data-connection=live]")).to_be_visible()
    await shop.http.post("/visit/zoe")
    await expect(page.get_by_role("link", name="zoe")).to_be_visible()
    chosen = page.locator("tr", has_text="zoe").get_by_role("radio")
    await chosen.check()
    await page.locator("h1").click()  # nothing has the focus, so the page is exchanged
    shop.http.cookies.clear()
    await shop.http.post("/visit/zack")
    shop.http.cookies.clear()
    await expect(page.get_by_role("link", name="zack")).to_be_visible()
    await expect(chosen).to_be_checked()
    assert await page.evaluate("window.before") is True, "without a reload"


async def test_a_session_is_signed_out_without_scripts_and_by_the_keyboard(
    browser: Browser, page: Page, shop: Shop
) -> None:
    await shop.http.post("/visit/carol")
    shop.http.cookies.clear()
    context = await browser.new_context(java_script_enabled=False)
    plain = await context.new_page()
    await plain.goto(f"{shop.url}/outlive/sessions?subject=carol")
    await plain.get_by_role("radio").check()
    await plain.get_by_label("Why").first.fill("she asked us to")
    await plain.keyboard.press("Enter")
    await expect(plain.get_by_role("status")).to_contain_text("signed out")
    await context.close()
    await shop.http.post("/visit/carol")
    shop.http.cookies.clear()
    await page.goto(f"{shop.url}/outlive")
    for path in ("sessions", "requests", "limits", "breakers", "caches"):
        await page.keyboard.press("g")
        await page.keyboard.press(path[0])
        await page.wait_for_url(f"**/outlive/{path}")
    await page.goto(f"{shop.url}/outlive/sessions?subject=carol")
    await page.keyboard.press("j")
    await expect(page.get_by_role("radio")).to_be_focused()
