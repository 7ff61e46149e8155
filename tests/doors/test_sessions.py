"""`app.sessions`: in the application's own store, or in a store of cells beside it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.web.visits import browser, id_of, site

from outlive import Outlive
from outlive.errors import StoreRefused, StoreUnavailable
from outlive.kinds.sessions.decisions import SESSIONS
from outlive.web.sessions import SessionMiddleware


async def test_sessions_join_the_group_commits_of_a_running_node(tmp_path: Any) -> None:
    app = Outlive(f"sqlite:///{tmp_path}/store.db")
    sessions = app.sessions()
    service = SessionMiddleware(site(), sessions)
    async with app:
        assert app._runtime is not None
        before = app._runtime.committer.commits
        browsers = [browser(service) for _ in range(50)]
        await asyncio.gather(*(one.post(f"/login/u{n}") for n, one in enumerate(browsers)))
        assert app._runtime.committer.commits - before < 50
        said = await asyncio.gather(*(one.get("/") for one in browsers))
        assert [one.json()["who"] for one in said] == [f"u{n}" for n in range(50)]
    again = Outlive(f"sqlite:///{tmp_path}/store.db")  # after a restart
    other = SessionMiddleware(site(), again.sessions())
    async with again:
        visitor = browser(other, id_of(browsers[7]))
        assert (await visitor.get("/")).json()["who"] == "u7"


async def test_a_store_beside_keeps_them_when_that_is_what_is_wanted(
    valkey: Any, tmp_path: Any
) -> None:
    app = Outlive(f"sqlite:///{tmp_path}/store.db")
    service = SessionMiddleware(site(), app.sessions(cells=valkey.address, storage="volatile"))
    async with app:
        visitor = browser(service)
        await visitor.post("/login/ada")
        assert (await visitor.get("/")).json()["who"] == "ada"
        assert await app.store.scan(SESSIONS) == []


async def test_a_store_that_keeps_less_than_is_wanted_is_refused(
    valkey: Any, tmp_path: Any
) -> None:
    app = Outlive(f"sqlite:///{tmp_path}/store.db")
    sessions = app.sessions(cells=valkey.address)
    with pytest.raises(StoreRefused):
        async with app:
            await sessions.load("0" * 52)


async def test_before_the_application_is_open_nothing_is_read() -> None:
    with pytest.raises(StoreUnavailable):
        await Outlive("memory://").sessions().load("0" * 52)


@pytest.mark.parametrize("store", ["memory://", "sqlite://"])
async def test_a_hundred_requests_on_one_session_lose_nothing_and_a_logout_wins(
    store: str, tmp_path: Any
) -> None:
    address = store if store == "memory://" else f"sqlite:///{tmp_path}/store.db"
    app = Outlive(address)
    service = SessionMiddleware(site(), app.sessions())
    async with app:
        first = browser(service)
        await first.post("/login/ada")
        id = id_of(first)
        wrote = await asyncio.gather(
            *(browser(service, id).post("/put", json={f"a{n}": n}) for n in range(100))
        )
        assert {one.status_code for one in wrote} == {200}
        data = (await first.get("/")).json()["data"]
        assert data == {f"a{n}": n for n in range(100)}
        asked = [browser(service, id).post("/put", json={f"b{n}": n}) for n in range(50)]
        asked.append(browser(service, id).post("/logout"))
        asked += [browser(service, id).post("/put", json={f"c{n}": n}) for n in range(49)]
        answers = await asyncio.gather(*asked)
        assert {one.status_code for one in answers} <= {200, 401}
        assert answers[50].status_code == 200
        assert (await browser(service, id).get("/")).json()["who"] == ""
        assert await app.store.scan(SESSIONS) == []
