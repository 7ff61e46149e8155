"""Sessions that are sealed in the cookie: clocks, keys, size, and what a logout is worth."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.web.visits import ABSOLUTE, IDLE, browser, id_of, site

from outlive.clock import ManualClock
from outlive.doors.sealed import SealedSessions
from outlive.doors.sessions import Sessions
from outlive.errors import SessionExpired, StoreUnavailable
from outlive.kinds.sessions.cookies import Cookie
from outlive.stores.keys import Keys
from outlive.stores.memory import MemoryStore
from outlive.web.sessions import SessionMiddleware

OLD, NEW = Keys.new("2025"), Keys.new("2026")


@pytest.fixture
async def memory() -> AsyncIterator[MemoryStore]:
    store = MemoryStore(clock=ManualClock())
    await store.open()
    yield store
    await store.close()


def sealed(clock: ManualClock, *keys: str, place: Any = None, **options: Any) -> SessionMiddleware:
    options.setdefault("idle_seconds", IDLE)
    options.setdefault("absolute_seconds", ABSOLUTE)
    options.setdefault("skew_seconds", 5)
    return SessionMiddleware(
        site(), SealedSessions(Keys(*(keys or (OLD,))), place=place, clock=clock, **options)
    )


async def test_a_sealed_session_lies_in_the_cookie_and_nowhere_else() -> None:
    clock = ManualClock()
    client = browser(sealed(clock))
    await client.post("/login/ada")
    await client.post("/put", json={"a": 1})
    assert (await client.get("/")).json() == {"who": "ada", "data": {"a": 1}}
    assert "ada" not in id_of(client) and id_of(client).startswith("~2025:")
    tampered = id_of(client)[:-2] + "AA"
    assert (await browser(sealed(clock), tampered).get("/")).json()["who"] == ""
    other = sealed(clock, cookie=Cookie("__Host-other"))
    stranger = httpx.AsyncClient(
        transport=httpx.ASGITransport(other), base_url="https://shop.test",
        headers={"cookie": f"__Host-other={id_of(client)}"},
    )  # fmt: skip
    assert (await stranger.get("/")).json()["who"] == ""


async def test_sealed_clocks_end_early_by_the_error_of_the_clock() -> None:
    clock = ManualClock()
    client = browser(sealed(clock))
    await client.post("/login/ada")
    clock.advance(IDLE - 6)
    assert (await client.get("/")).json()["who"] == "ada"  # and slides
    clock.advance(IDLE - 5)
    assert (await client.get("/")).json()["who"] == ""


async def test_keys_are_rotated_without_signing_anybody_out() -> None:
    clock = ManualClock()
    client = browser(sealed(clock, OLD))
    await client.post("/login/ada")
    both = browser(sealed(clock, NEW, OLD), id_of(client))
    assert (await both.get("/")).json()["who"] == "ada"
    half = browser(sealed(clock, OLD, NEW), id_of(client))
    assert (await half.get("/")).json()["who"] == "ada"
    assert (await browser(sealed(clock, NEW), id_of(client)).get("/")).json()["who"] == ""


async def test_the_size_is_counted_after_sealing() -> None:
    client = browser(sealed(ManualClock()))
    sizes = {}
    for size in range(2600, 2900):
        response = await client.post("/put", json={"a": "x" * size})
        sizes[size] = response.status_code
        if response.status_code != 200:
            assert response.json()["code"] == "OL5003" and "set-cookie" not in response.headers
            break
        name_and_value = response.headers["set-cookie"].split(";")[0].replace("=", "", 1)
        assert len(name_and_value) <= 4096
    assert set(sizes.values()) == {200, 500}


async def test_a_sealed_session_is_dead_after_logout_where_the_dead_are_kept(
    memory: MemoryStore,
) -> None:
    clock = memory._clock
    assert isinstance(clock, ManualClock)
    service = sealed(clock, place=memory)
    client = browser(service)
    await client.post("/put", json={"a": 1})
    anonymous = id_of(client)
    await client.post("/login/ada")
    stolen = id_of(client)
    assert (await browser(service, anonymous).get("/")).json()["data"] == {}
    assert (await browser(service, stolen).get("/")).json()["who"] == "ada"
    await client.post("/logout")
    assert (await browser(service, stolen).get("/")).json()["who"] == ""
    one, two = browser(service), browser(service)
    for other in (one, two):
        await other.post("/login/ada")
    await service._sessions.revoke_all("ada")
    assert [(await other.get("/")).json()["who"] for other in (one, two)] == ["", ""]
    await one.post("/login/ada")
    assert (await one.get("/")).json()["who"] == "ada"


async def test_without_a_place_a_copy_of_the_cookie_outlives_the_logout() -> None:
    """The price that the page names."""
    service = sealed(ManualClock())
    client = browser(service)
    await client.post("/login/ada")
    stolen = id_of(client)
    await client.post("/logout")
    assert (await browser(service, stolen).get("/")).json()["who"] == "ada"
    with pytest.raises(ValueError, match="without a place"):
        await service._sessions.revoke_all("ada")


async def test_a_cookie_that_is_only_renewed_is_kept_by_no_shared_cache() -> None:
    clock = ManualClock()
    client = browser(sealed(clock))
    await client.post("/login/ada")
    clock.advance(61)
    renewed = await client.get("/plain")  # which did not look at the session
    assert "set-cookie" in renewed.headers
    assert "no-store" in renewed.headers["cache-control"]
    assert renewed.headers["vary"] == "Cookie"


async def test_a_logout_wins_over_a_rotation_under_way(memory: MemoryStore) -> None:
    service = sealed(memory._clock, place=memory)  # type: ignore[arg-type]
    sessions = service._sessions
    client = browser(service)
    await client.post("/login/ada")
    held = await sessions.load(id_of(client))
    assert held is not None
    stepping_up = sessions.visit(held)
    stepping_up.rotate()
    await client.post("/logout")
    with pytest.raises(SessionExpired):
        await sessions.settle(held, stepping_up.change())


async def test_a_socket_stays_open_while_the_store_is_out_of_reach(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = memory._clock
    assert isinstance(clock, ManualClock)
    sessions = sealed(clock, place=memory, look_seconds=1)._sessions
    client = browser(SessionMiddleware(site(), sessions))
    await client.post("/login/ada")
    held = await sessions.load(id_of(client))
    assert held is not None
    assert isinstance(sessions, SealedSessions)
    looked = asyncio.Event()

    async def away(command: object) -> None:
        looked.set()
        raise StoreUnavailable

    ended = asyncio.create_task(sessions.until_ended(held))
    with monkeypatch.context() as patch:
        patch.setattr(sessions._ground, "apply", away)
        while not looked.is_set():
            clock.advance(1)
            await asyncio.sleep(0)
        await asyncio.wait({ended}, timeout=0.05)
        assert not ended.done()
    await client.post("/logout")
    async with asyncio.timeout(10):
        while not ended.done():
            clock.advance(1)
            await asyncio.sleep(0)


async def test_the_sweep_beside_stored_sessions_leaves_a_subject_its_epoch(
    memory: MemoryStore,
) -> None:
    clock = memory._clock
    assert isinstance(clock, ManualClock)
    service = sealed(
        clock, place=memory, idle_seconds=10 * ABSOLUTE, absolute_seconds=20 * ABSOLUTE
    )
    stored = Sessions(memory, idle_seconds=IDLE, absolute_seconds=ABSOLUTE, storage="volatile")
    await browser(SessionMiddleware(site(), stored)).post("/login/ada")
    client = browser(service)
    await client.post("/login/ada")
    await browser(SessionMiddleware(site(), stored)).post("/login/ada")
    clock.advance(ABSOLUTE + 1)
    assert service._sessions._ground is not None
    await service._sessions._ground.sweep()
    assert (await client.get("/")).json()["who"] == "ada"
