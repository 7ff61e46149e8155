"""Every action by hand: signing in, asking one, asking many, and what the log says of it."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, Route, expect
from tests.browser.conftest import Shop, Tab, picture
from tests.browser.shop import ANN, WALL
from tests.crash.service import until

from outlive.web.actions import PARTS

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def sign_in(page: Page, shop: Shop, token: str, path: str = "") -> None:
    """Ask for a page, and sign in on the way."""
    await page.goto(f"{shop.url}/outlive{path}")
    await page.get_by_label("Your token").fill(token)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(f"{shop.url}/outlive{path}")


async def act(page: Page, shop: Shop, id: str, title: str, button: str, **fields: str) -> None:
    """Open an action on the page of a process, fill it in, send it."""
    await page.goto(f"{shop.url}/outlive/processes/{id}")
    form = page.locator("details.act", has=page.locator(f"summary:text-is('{title}')"))
    await form.locator("summary").click()
    for name, value in fields.items():
        field = form.locator(f"[name={name}]")
        if await field.get_attribute("type") == "checkbox":
            await field.check()
        elif await field.evaluate("one => one.tagName") == "SELECT":
            await field.select_option(value)
        else:
            await field.fill(value)
    await form.get_by_role("button", name=button).click()
    await expect(page.get_by_role("status")).to_be_visible()


async def test_every_action_is_done_and_stands_in_the_log(page: Page, guarded: Shop) -> None:
    shop = guarded
    await sign_in(page, shop, ANN)
    first = await shop.register("ada@example.org", "waiting")
    await act(page, shop, first, "Pause", "Pause", why="the desk is closed")
    await expect(page.locator("h1 .is-paused")).to_be_visible()
    await act(page, shop, first, "Resume", "Resume", why="it is open")
    await expect(page.locator("h1 .is-waiting")).to_be_visible()
    await act(page, shop, first, "Change the deadline", "Set", seconds="7200", why="a day off")
    await act(
        page, shop, first, "Fork", "Fork", at="wait confirmed", cancel="1", why="once more",
        input='{"email": "ada@other.example", "password": "new"}',
    )  # fmt: skip
    await expect(page.locator("pre", has_text="ada@other.example").first).to_be_visible()
    fork = page.url.rpartition("/")[2].partition("?")[0]
    assert fork != first
    await expect(page.get_by_role("link", name=first)).to_be_visible()
    await expect(page.locator("h1 .is-waiting")).to_be_visible()
    await act(page, shop, fork, "Send a signal", "Send", name="confirmed")
    await expect(page.locator("h1 .is-done")).to_be_visible()

    broken = await shop.register("broken@example.org")
    await shop.attempted(broken, "send_mail")
    await act(page, shop, broken, "Retry", "Retry", why="they say it works")
    await act(
        page, shop, broken, "Skip a step", "Skip",
        step="send_mail", value='"by telephone"', why="told her",
    )  # fmt: skip
    await expect(page.locator("h1 .is-waiting")).to_be_visible()
    await act(page, shop, broken, "Cancel", "Cancel the process", why="she left")
    await expect(page.locator("h1 .is-cancelled")).to_be_visible()
    await expect(page.locator(".timeline .kind-undo")).to_have_count(1)

    await page.goto(f"{shop.url}/outlive/activity")
    log = page.locator("tbody tr")
    for verb, id, why in (
        ("pause", first, "the desk is closed"), ("resume", first, "it is open"),
        ("deadline", first, "a day off"), ("fork", first, "once more"),
        ("signal", fork, ""), ("retry now", broken, "they say it works"),
        ("skip", broken, "told her"), ("cancel", broken, "she left"),
    ):  # fmt: skip
        line = log.filter(has_text=verb).filter(has_text=id).filter(has_text=why)
        await expect(line).to_have_count(1)
        await expect(line).to_contain_text("ann")
    await picture(page, "activity")


async def test_a_refusal_says_what_was_not_done(tab: Tab, page: Page, guarded: Shop) -> None:
    tab.refusals = (404, 409, 422)
    await sign_in(page, guarded, ANN)
    id = await guarded.register("bea@example.org", "waiting")
    await page.goto(f"{guarded.url}/outlive/processes/{id}")
    form = page.locator("details.act", has=page.locator("summary:text-is('Fork')"))
    await form.locator("summary").click()
    await form.locator("[name=at]").fill("nowhere")
    await form.locator("[name=why]").fill("to see")
    async with page.expect_response(lambda answer: answer.request.method == "POST") as answer:
        await form.get_by_role("button", name="Fork").click()
    assert (await answer.value).status >= 400
    await expect(page.get_by_role("alert")).to_contain_text("OL2")
    assert await guarded.status(id) == "waiting"


async def test_many_are_shown_and_then_asked(page: Page, guarded: Shop) -> None:
    await sign_in(page, guarded, ANN, "/processes")
    ids = [await guarded.register(f"m{n}@many.example", "waiting") for n in range(PARTS + 1)]
    other = await guarded.register("n@other.example", "waiting")
    await page.goto(f"{guarded.url}/outlive/processes?tag.domain=many.example")
    await expect(page.get_by_role("link", name=other)).to_have_count(0)
    await page.locator("#many-verb").select_option("pause")
    await page.get_by_role("button", name="Show which").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Pause")
    for id in ids:
        await expect(page.get_by_role("link", name=id)).to_be_visible()
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.method))
    await page.get_by_label("Why").fill("the post is on strike")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("heading", level=1)).to_contain_text(
        f"{len(ids)} of {len(ids)} were asked"
    )
    assert sent.count("POST") == 2, "one part after the other, by itself"
    assert await guarded.status(other) == "waiting"
    for id in ids:

        async def paused(id: str = id) -> bool:
            return await guarded.status(id) == "paused"

        await until(paused, f"{id} is paused")


async def test_a_part_of_many_that_is_refused_is_not_waited_for(
    tab: Tab, page: Page, guarded: Shop
) -> None:
    tab.refusals = (403,)
    await sign_in(page, guarded, ANN)
    for n in range(PARTS + 1):
        await guarded.register(f"p{n}@parts.example", "waiting")
    await page.goto(f"{guarded.url}/outlive/processes?tag.domain=parts.example")
    await page.locator("#many-verb").select_option("pause")
    await page.get_by_role("button", name="Show which").click()

    async def change_the_seal(route: Route) -> None:
        if "hx-request" in route.request.headers:  # the part that goes on by itself
            await page.evaluate(
                "document.querySelector('#carried [name=seal]').value = 'of another'"
            )
            await route.fulfill(status=403, content_type="text/html", body="<p>no</p>")
        else:
            await route.continue_()

    await page.route("**/outlive/many/*", change_the_seal)
    await page.get_by_label("Why").fill("the post is on strike")
    await page.get_by_role("button", name="Pause").click()
    await expect(page.get_by_role("heading", name="What to do")).to_be_visible()


async def test_a_viewer_sees_everything_and_no_form(page: Page, guarded: Shop) -> None:
    id = await guarded.register("cleo@example.org", "waiting")
    await sign_in(page, guarded, WALL, f"/processes/{id}")
    await expect(page.get_by_text("viewer")).to_be_visible()
    await expect(page.locator("details.act")).to_have_count(0)
    await page.goto(f"{guarded.url}/outlive/processes?status=waiting")
    await expect(page.locator("#many")).to_have_count(0)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("Your token")).to_be_visible()


async def test_a_wrong_token_is_told_nothing(tab: Tab, page: Page, guarded: Shop) -> None:
    tab.refusals = (401,)
    await page.goto(f"{guarded.url}/outlive/health")
    await page.get_by_label("Your token").fill("guessed-guessed-guessed")
    async with page.expect_response(lambda answer: answer.request.method == "POST") as answer:
        await page.get_by_role("button", name="Sign in").click()
    assert (await answer.value).status == 401
    await expect(page.get_by_role("alert")).to_contain_text("nobody's")
