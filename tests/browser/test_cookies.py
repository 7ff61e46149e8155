"""The cookie of a session as a real browser has kept it, and as it forgets it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.browser.conftest import Tab
from tests.http.test_servers import COMMANDS, Served

pytestmark = pytest.mark.asyncio(loop_scope="session")

ASK = """async ([method, path]) => {
    const answer = await fetch(path, {method});
    return [answer.headers.get("cache-control"), document.cookie, await answer.json()];
}"""
DAYS_MAX = 400


async def test_a_browser_keeps_the_cookie_with_every_attribute_and_forgets_it_at_the_logout(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, tab.refusals = tab.page, (404,)  # it asks for an icon
    monkeypatch.setenv("SECURE", "1")
    served = Served(COMMANDS["uvicorn"], tmp_path / "store.db")
    try:
        await served.ready()
        await page.goto(f"http://localhost:{served.port}/me")
        assert await page.context.cookies() == [], "nothing is stored of a visitor"
        stored, seen, _ = await page.evaluate(ASK, ["POST", "/login/ada"])
        assert "no-store" in stored and seen == "", "no script reads it"
        (cookie,) = await page.context.cookies()
        assert cookie["name"] == "__Host-session" and len(cookie["value"]) >= 43
        assert cookie["domain"] == "localhost" and cookie["path"] == "/"
        assert cookie["secure"] and cookie["httpOnly"] and cookie["sameSite"] == "Lax"
        assert cookie["expires"] == -1 or cookie["expires"] < time.time() + DAYS_MAX * 86_400
        _, _, me = await page.evaluate(ASK, ["GET", "/me"])
        assert me == {"who": "ada", "data": {"cart": ["tea"]}}
        assert await page.context.cookies() == [cookie], "reading sends no other"
        await page.evaluate(ASK, ["POST", "/logout"])
        assert await page.context.cookies() == []
        copied = {"cookie": f"{cookie['name']}={cookie['value']}"}
        me = (await served.http.get("/me", headers=copied)).json()
        assert me == {"who": "", "data": {}}, "a copy of it is worth nothing"
    finally:
        await served.close()
