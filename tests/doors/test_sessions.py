"""`app.sessions`: in the application's own store, or in a store of cells beside it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.web.visits import browser, id_of, site

from outlive import Outlive
from outlive.clock import ManualClock
from outlive.doors.sessions import Sessions
from outlive.errors import SessionExpired, StoreRefused, StoreUnavailable
from outlive.kinds.sessions.decisions import SESSIONS
from outlive.stores.memory import MemoryStore
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


async def test_who_waits_for_an_end_is_told_though_another_has_just_stopped_waiting() -> None:
    store = MemoryStore(clock=ManualClock())
    await store.open()
    here, there = (Sessions(store, storage="volatile", look_seconds=0.01) for _ in range(2))
    visitor = browser(SessionMiddleware(site(), here))
    await visitor.post("/login/ada")
    held = await here.load(id_of(visitor))
    assert held is not None
    first = asyncio.create_task(here.until_ended(held))
    for _ in range(3):
        await asyncio.sleep(0)
    first.cancel()
    second = asyncio.create_task(here.until_ended(held))  # a socket that connects anew
    for _ in range(3):
        await asyncio.sleep(0)
    await there.revoke_all("ada")  # on another instance
    async with asyncio.timeout(10):
        await second
    await store.close()


async def test_an_end_of_all_without_a_list_wins_over_a_rotation_under_way() -> None:
    store = MemoryStore(clock=ManualClock())
    await store.open()
    sessions = Sessions(store, storage="volatile", listed=False)
    visitor = browser(SessionMiddleware(site(), sessions))
    await visitor.post("/login/ada")
    held = await sessions.load(id_of(visitor))
    assert held is not None
    stepping_up = sessions.visit(held)
    stepping_up.rotate()
    change = stepping_up.change()
    await sessions.revoke_all("ada")
    with pytest.raises(SessionExpired):
        await sessions.settle(held, change)
    assert await sessions.load(change.fresh) is None
    await store.close()


async def test_of_too_many_sessions_those_that_are_over_go_before_one_in_use() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    await store.open()
    sessions = Sessions(
        store, storage="volatile", idle_seconds=60, absolute_seconds=86_400, touch_seconds=0,
        devices_max=3,
    )  # fmt: skip
    service = SessionMiddleware(site(), sessions)
    laptop = browser(service)
    await laptop.post("/login/ada")
    for _ in range(5):  # elsewhere, and never seen again
        await browser(service).post("/login/ada")
        clock.advance(45)
        assert (await laptop.get("/")).json()["who"] == "ada"
        clock.advance(45)
        assert (await laptop.get("/")).json()["who"] == "ada"
    assert len(await sessions.devices("ada")) <= 3
    await store.close()
