"""Every page in a real browser: readable, accessible, by keyboard, in the dark, without scripts."""

from __future__ import annotations

from importlib.resources import files
from math import sin, tau
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect
from tests.browser.conftest import SIZE, Shop, Tab, picture
from tests.crash.service import looking_at, until

from outlive.clock import MICROS
from outlive.kinds.processes.history import Sample, written

pytestmark = pytest.mark.asyncio(loop_scope="session")

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
PATHS = (
    "", "/processes", "/types/register", "/nodes", "/activity", "/health?examine=1",
    "/problems/draining", "/processes?q=nothing", "/sessions", "/requests", "/limits", "/breakers",
    "/caches", "/processes/STUCK",
)  # fmt: skip
PICTURES = {
    "": "overview", "/types/register": "types",
    **{f"/{kind}": kind for kind in ("sessions", "requests", "limits", "breakers", "caches")},
}  # fmt: skip
NARROW = {"width": 390, "height": 860}
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
COLOURS = ["color-contrast"]
"""What is asked in the dark and of a page on a telephone: nothing else differs there."""
ALIKE = ["tbody tr:nth-child(n+4)", ".shards li:nth-child(n+4)", "ol li:nth-child(n+6)"]
"""What is like the rows before it is not examined again: most of the time went there."""
OPENED = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


async def filled(shop: Shop) -> str:
    """A shop where something of every kind has happened; gives a process that is stuck."""
    for path in ("visit/ada", "visit/bob", "order/17", "order/17", "order/lost", "fail"):
        await shop.http.post(f"/{path}")
        shop.http.cookies.clear()
    await shop.register("ada@example.org", "waiting", password="4711")
    stuck = await shop.register("stuck@example.org", "stuck")
    await shop.http.post(f"/registrations/{stuck}/retry", json={"who": "bob", "why": "again"})
    return await shop.register("stuck@example.org", "stuck")


async def ran_for_a_day(shop: Shop) -> None:
    """Let the last day of the shop look like that of a service: quiet nights, and one bad hour."""
    async with looking_at(shop.store) as store:
        hour = await store.now() // MICROS // 3600
        for ago in range(24):
            made = {}
            for minute in range(60):
                done = round(90 * (1.15 + sin((ago - 9) / 24 * tau)) + 9 * sin(minute * (ago + 2)))
                made[str(minute)] = Sample(done, 3 * done, 0, {"done": done})
                if ago == 6 and minute > 20:
                    made[str(minute)] = Sample(done, 3 * done, 9, {"done": done, "failed": 40})
            await store.commit(written(hour - ago, "n1-before", made, ()))


async def violations(page: Page, rules: list[str]) -> list[str]:
    """What axe has against the page as it is."""
    asked = {"runOnly": rules, "resultTypes": ["violations"], "elementRef": False}
    run = "([where, asked]) => axe.run(where, asked)"
    found: dict[str, Any] = await page.evaluate(run, [{"exclude": ALIKE}, asked])
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


async def test_axe_has_nothing_against_any_page_and_none_is_wider_than_its_screen(
    tab: Tab, page: Page, shop: Shop
) -> None:
    """Each page is loaded once: light, then dark, then on a telephone."""
    await ran_for_a_day(shop)
    stuck = await filled(shop)
    await page.add_init_script(AXE)
    found: dict[str, list[str]] = {}
    for path in PATHS:
        await page.set_viewport_size(SIZE)
        await page.emulate_media(color_scheme="light")
        await page.goto(f"{shop.url}/outlive{path.replace('STUCK', stuck)}")
        await expect(page.locator("h1")).to_be_visible()
        if name := PICTURES.get(path):
            await picture(page, name)
        await page.evaluate(OPENED)
        said = await violations(page, LEVELS)
        await page.emulate_media(color_scheme="dark")
        said += await violations(page, COLOURS)
        await page.set_viewport_size(NARROW)
        if (wider := await page.evaluate(WIDER)) > 0:
            said.append(f"{wider} pixels wider than {NARROW['width']}")
        if said:
            found[path] = said
    assert found == {}


async def test_a_page_is_read_and_filtered_without_scripts(browser: Browser, shop: Shop) -> None:
    stuck = await filled(shop)
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{shop.url}/outlive/processes")
    await page.get_by_label("Status", exact=True).select_option("stuck")
    await page.get_by_role("button", name="Filter").click()
    assert "status=stuck" in page.url
    await page.get_by_role("link", name=stuck).click()
    await expect(page.get_by_role("heading", name="Timeline")).to_be_visible()
    await page.get_by_text("Retry", exact=True).first.click()
    await page.get_by_role("button", name="Retry").click()
    await expect(page.get_by_role("status")).to_have_text("The process goes on.")
    await context.close()


async def test_the_keyboard_alone_leads_everywhere(page: Page, shop: Shop) -> None:
    stuck = await filled(shop)
    await page.goto(f"{shop.url}/outlive")
    await page.keyboard.press("Tab")
    await expect(page.get_by_text("Skip to content")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#main")).to_be_focused()
    await page.keyboard.press("g")
    await page.keyboard.press("p")
    await page.wait_for_url("**/outlive/processes")
    rows = page.locator("[data-row] a.id")
    await page.keyboard.press("j")
    await expect(rows.nth(0)).to_be_focused()
    await page.keyboard.press("j")
    await expect(rows.nth(1)).to_be_focused()
    await page.keyboard.press("k")
    await expect(rows.nth(0)).to_be_focused()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await page.keyboard.press("/")
    await expect(page.get_by_role("searchbox")).to_be_focused()
    await page.keyboard.type(stuck)
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/outlive/processes/{stuck}")


async def test_the_theme_follows_the_system_and_then_the_choice(page: Page, shop: Shop) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    await page.emulate_media(color_scheme="dark")
    await page.goto(f"{shop.url}/outlive")
    dark = await page.evaluate(background)
    await page.emulate_media(color_scheme="light")
    light = await page.evaluate(background)
    assert dark != light
    toggle = page.get_by_role("button", name="Theme")
    for name, colour in (("light", light), ("dark", dark)):
        await toggle.click()
        await expect(toggle).to_have_text(f"Theme: {name}")
        assert await page.evaluate(background) == colour
    await page.reload()
    assert await page.evaluate(background) == dark, "it is kept"


async def test_a_filter_changes_the_address_and_the_list_without_a_reload(
    page: Page, shop: Shop
) -> None:
    stuck = await filled(shop)
    await page.goto(f"{shop.url}/outlive/processes")
    await page.evaluate("window.before = true")
    await page.get_by_label("Status", exact=True).select_option("stuck")
    await page.wait_for_url("**/processes?status=stuck")
    await expect(page.get_by_role("link", name=stuck)).to_be_visible()
    await expect(page.locator("#live td .is-waiting")).to_have_count(0)
    await expect(page.locator("#many input[name=status]")).to_have_value("stuck")
    assert await page.evaluate("window.before") is True
    await page.go_back()
    await expect(page.locator("#live td .is-waiting").first).to_be_visible()


async def test_what_is_redacted_is_on_no_page(page: Page, shop: Shop) -> None:
    id = await shop.register("eve@example.org", "waiting", password="open sesame")
    for path in (f"/processes/{id}", f"/processes/{id}/journal.json"):
        answer = await page.request.get(f"{shop.url}/outlive{path}")
        text = await answer.text()
        assert answer.ok and "eve@example.org" in text and "sesame" not in text


async def test_a_button_that_says_what_it_did_is_not_exchanged_under_the_reader(
    page: Page, shop: Shop
) -> None:
    id = await shop.register("dora@example.org", "waiting")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.goto(f"{shop.url}/outlive/processes/{id}")
    await page.evaluate("addEventListener('click', (event) => (window.kept = event.target), true)")
    copies = page.get_by_role("group", name="Copy as")
    await copies.get_by_text("CLI").click()
    await copies.get_by_role("button", name="Copy").click()
    async with page.expect_request_finished(lambda asked: asked.url.endswith(id)):
        await page.evaluate("htmx.trigger('#live', 'outlive:look')")
    await page.evaluate("new Promise((done) => setTimeout(done, 200))")
    assert await page.evaluate("kept.isConnected || kept.textContent === 'Copy'")


HEARD = """() => new MutationObserver((changes) => {
    for (const one of changes) if (one.target.matches?.("[data-copy]")) {
        (window.heard ??= []).push(one.target.textContent);
    }
}).observe(document, {childList: true, subtree: true})"""
"""Keeps what the buttons that copy say, for two seconds: a busy test may come too late for it."""


async def test_times_are_shown_both_ways_and_commands_are_copied(page: Page, shop: Shop) -> None:
    id = await shop.register("cleo@example.org", "waiting")
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.goto(f"{shop.url}/outlive/processes")
    time = page.locator("td time").first
    await expect(time).to_contain_text("ago")
    await page.keyboard.press("u")
    await expect(time).to_contain_text("20")
    await expect(time).not_to_contain_text("ago")
    await page.goto(f"{shop.url}/outlive/processes/{id}")
    copies = page.get_by_role("group", name="Copy as")
    await copies.get_by_text("CLI").click()
    await page.evaluate(HEARD)
    await copies.get_by_role("button", name="Copy").click()
    heard = await until(lambda: page.evaluate("window.heard"), "the button says what it did")
    assert heard[0] == "Copied"
    assert await page.evaluate("navigator.clipboard.readText()") == f"outlive process show {id}"
