"""A store of cells that comes back empty: noticed, and each kind does what its page says.

Real servers, killed and started again without anything on disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec import Raw
from tests.cell_servers import CellServer, memcached_server, valkey_server

from outlive import Outlive, Quota
from outlive.doors.requests import Requests
from outlive.doors.sessions import Sessions
from outlive.errors import (
    OutcomeUnknown,
    RequestUnknown,
    SessionExpired,
    StoreRefused,
    StoreUnavailable,
)
from outlive.kinds.requests.decisions import Mode, Place
from outlive.kinds.requests.fingerprints import fingerprints_of_value
from outlive.kinds.sessions.visit import Change
from outlive.stores.memcached import MemcachedStore
from outlive.stores.redis import RedisStore

pytestmark = pytest.mark.crash


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[CellServer]:
    made = valkey_server() if request.param == "valkey" else memcached_server()
    made.start()
    yield made
    made.kill()


def store_of(server: CellServer) -> Any:
    if server.address.startswith("redis"):
        return RedisStore(server.address)
    return MemcachedStore(f"127.0.0.1:{server.port}")


async def empty(server: CellServer, store: Any) -> None:
    """Kill it and start it again; then the first question finds out that the connection is gone."""
    server.kill()
    server.start()
    for _ in range(50):
        try:
            await store.now()
            await store.read([])
            return
        except (StoreUnavailable, OutcomeUnknown):
            await asyncio.sleep(0.02)


async def until_answered(ask: Callable[[], Any]) -> Any:
    """What `ask` gives, once the lost connection was noticed."""
    for _ in range(50):
        try:
            return await ask()
        except (StoreUnavailable, OutcomeUnknown):
            await asyncio.sleep(0.02)
    return await ask()


def change(sessions: Sessions, name: str, *, was: str = "", subject: str = "") -> Change:
    fresh = sessions.visit(None)._next()
    return Change({name: Raw(b"1")}, (), {}, was, subject, False, False, False, "", fresh)


@pytest.mark.parametrize("server", ["memcached", "valkey"], indirect=True)
async def test_sessions_are_signed_out_and_none_comes_back(server: CellServer) -> None:
    store = store_of(server)
    await store.open()
    sessions = Sessions(store, storage="volatile")
    signed_in = await sessions.settle(None, change(sessions, "basket", subject="ada"))
    held = await sessions.load(signed_in.id)
    assert held is not None and held.record.subject == "ada"
    await empty(server, store)
    assert await until_answered(lambda: sessions.load(signed_in.id)) is None
    with pytest.raises(SessionExpired):
        await sessions.settle(held, change(sessions, "late", was="ada", subject="ada"))
    assert await sessions.load(signed_in.id) is None
    assert await sessions.devices("ada") == []
    again = await sessions.settle(None, change(sessions, "basket", subject="bob"))
    found = await sessions.load(again.id)
    assert found is not None and found.record.subject == "bob"
    await store.close()


@pytest.mark.parametrize("server", ["memcached", "valkey"], indirect=True)
async def test_limits_admit_one_burst_more_and_not_two(server: CellServer) -> None:
    app = Outlive("memory://")
    limits = app.ratelimits(
        Quota("burst", 5, per_seconds=3600), cells=server.address, on_failure="closed",
        timeout_seconds=10,
    )  # fmt: skip
    async with app:
        assert sum([bool(await limits.hit("ada")) for _ in range(8)]) == 5
        server.kill()
        server.start()
        await asyncio.sleep(0.05)
        admitted = 0
        for _ in range(60):  # a refusal, and a failure, are remembered for a second
            admitted += bool(await limits.hit("ada"))
            await asyncio.sleep(0.05)
        assert admitted == 5


def once(requests: Requests, key: str, mode: Mode = "at-most-once") -> Any:
    return requests.once(Place(key, "ada"), fingerprints_of_value({"a": 1}), mode=mode)


@pytest.mark.parametrize("server", ["valkey"], indirect=True)
async def test_keys_of_the_gap_are_unknown_and_not_new_until_somebody_says_so(
    server: CellServer, caplog: pytest.LogCaptureFixture
) -> None:
    store, other = store_of(server), store_of(server)
    await store.open()
    keys = Requests(store, storage="volatile")
    async with once(keys, "used") as claim:
        claim.finish("sent")
    assert await store.emptied() == 0
    with caplog.at_level(logging.ERROR):
        await empty(server, store)
        assert await until_answered(store.emptied) > 0
    assert "came back empty" in caplog.text
    for key in ("used", "never seen"):
        with pytest.raises(RequestUnknown):
            async with once(keys, key):
                pytest.fail("it may have been carried out before")
    async with once(keys, "to repeat", "recovery") as claim:
        assert not claim.replayed, "what is safe to repeat goes on"
    await other.open()  # an instance that starts later is told by what was written down
    late = Requests(other, storage="volatile")
    with pytest.raises(RequestUnknown):
        async with once(late, "a third"):
            pytest.fail("it may have been carried out before")
    assert {record.place.key for record in await late.unknown()} >= {"never seen", "a third"}
    await late.trust(by="ada", why="the ledger was compared")
    async with once(keys, "a fourth") as claim:
        claim.finish("sent")
    async with once(late, "a fourth") as claim:
        assert claim.replayed and claim.value == "sent"
    with pytest.raises(RequestUnknown):
        async with once(keys, "a third"):
            pytest.fail("an operator resolves it")
    await store.close()
    await other.close()


@pytest.mark.parametrize("server", ["valkey"], indirect=True)
async def test_a_connection_that_was_lost_is_no_store_that_was_emptied(server: CellServer) -> None:
    store = store_of(server)
    await store.open()
    await store._line._hang_up()
    assert await store.emptied() == 0
    await store.close()


@pytest.mark.parametrize("server", ["memcached"], indirect=True)
async def test_idempotency_keys_on_memcached_are_refused_with_the_reason(
    server: CellServer,
) -> None:
    store = store_of(server)
    await store.open()
    with pytest.raises(StoreRefused, match="needs claim") as refused:
        Requests(store, storage="volatile")
    assert "memcached" in str(refused.value).lower()
    await store.close()
