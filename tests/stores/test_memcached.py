"""What memcached loses and when is said, and where its cells lie when there are several servers."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest
from tests.cell_servers import CellServer, memcached_server

from outlive import Outlive, Quota, ids
from outlive.clock import MICROS
from outlive.errors import BadAddress, Conflict, StoreFull, StoreRefused
from outlive.model import Batch, Committed, Put, Ref, Require
from outlive.stores.address import cells_at
from outlive.stores.memcached import LACKS, MemcachedStore


def put(key: str, value: bytes = b"v", due: int | None = None) -> Batch:
    return Batch(put=(Put(Ref("kept", key), value, due),), storage="volatile")


async def test_what_is_not_promised_is_said_at_the_start(
    memcached: CellServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemcachedStore(f"127.0.0.1:{memcached.port}")
    with caplog.at_level(logging.INFO):
        await store.open()
    await store.close()
    for name, why in LACKS.items():
        assert f"promises no {name}: {why}" in caplog.text
    assert "a restart, a full server or another list of servers loses cells" in caplog.text


async def test_a_cell_goes_by_itself_after_its_due(memcached: CellServer) -> None:
    store = MemcachedStore(f"127.0.0.1:{memcached.port}", prefix=ids.token(40))
    await store.open()
    now = await store.now()
    await store.commit_group([put("short", due=now), put("long", due=now + 90 * 86_400 * MICROS)])
    await store.commit(put("never"))
    async with asyncio.timeout(30):
        while (await store.read([Ref("kept", "short")])) != [None]:
            await asyncio.sleep(0.05)
    assert None not in await store.read([Ref("kept", "long"), Ref("kept", "never")])
    await store.close()


async def test_a_cell_that_is_due_after_memcacheds_last_second_is_kept(
    memcached: CellServer,
) -> None:
    store = MemcachedStore(f"127.0.0.1:{memcached.port}", prefix=ids.token(40))
    await store.open()
    for due in (2**31 * MICROS, 5 * 10**15, 2**62):
        await store.commit(put(str(due), due=due))
        (cell,) = await store.read([Ref("kept", str(due))])
        assert cell is not None and cell.due == due
    await store.close()


async def test_of_two_who_drop_a_cell_at_the_version_it_had_one_is_refused(
    memcached: CellServer,
) -> None:
    one, other = (MemcachedStore(f"127.0.0.1:{memcached.port}", prefix="drops") for _ in range(2))
    await one.open()
    await other.open()
    for number in range(20):
        ref = Ref("kept", str(number))
        (version,) = (await one.commit(put(ref.key))).versions
        drop = Batch(require=(Require(ref, version),), drop=(ref,), storage="volatile")
        (first,), (second,) = await asyncio.gather(
            one.commit_group([drop]), other.commit_group([drop])
        )
        assert {type(first), type(second)} == {Committed, Conflict}
    await one.commit(put("a"))
    drop = Batch(drop=(Ref("kept", "a"),), storage="volatile")
    results = await asyncio.gather(one.commit(drop), other.commit(drop))
    assert [type(result) for result in results] == [Committed] * 2, "it is gone, as both wanted"
    await one.close()
    await other.close()


async def test_a_server_that_goes_takes_only_its_own_cells_along() -> None:
    servers = [memcached_server() for _ in range(3)]
    for server in servers:
        server.start()
    places = [f"127.0.0.1:{server.port}" for server in servers]
    store, fewer = MemcachedStore(",".join(places)), MemcachedStore(",".join(places[:2]))
    await store.open()
    await fewer.open()
    refs = [Ref("kept", str(number)) for number in range(300)]
    await store.commit_group([put(ref.key) for ref in refs])
    found = sum(cell is not None for cell in await fewer.read(refs))
    assert 130 < found < 270
    of_third = sum(store._at(ref)[1].name == places[2] for ref in refs)
    assert found == 300 - of_third
    await store.close()
    await fewer.close()
    for server in servers:
        server.kill()


@pytest.mark.parametrize("servers", [2, 3, 5])
def test_each_server_keeps_its_share(servers: int) -> None:
    for first in range(40_000, 40_400, 20):
        places = ",".join(f"127.0.0.1:{first + number}" for number in range(servers))
        store, kept = MemcachedStore(places), Counter[str]()
        for number in range(1200):
            kept[store._at(Ref("kept", str(number)))[1].name] += 1
        assert len(kept) == servers
        assert max(kept.values()) < 1.4 * 1200 / servers, f"{places}: {kept}"


async def test_a_value_too_large_for_the_server_is_refused_and_takes_the_old_one_along() -> None:
    server = memcached_server()
    server.start()
    store = MemcachedStore(f"127.0.0.1:{server.port}")
    await store.open()
    await store.commit(put("a"))
    with pytest.raises(StoreFull, match="not written, and what was there is gone"):
        await store.commit(put("a", bytes(2_000_000)))
    assert await store.read([Ref("kept", "a")]) == [None], "or the message is not true"
    await store.commit(put("a"))
    await store.close()
    server.kill()


async def test_one_quota_fits_into_memcached_and_several_are_refused(
    memcached: CellServer,
) -> None:
    app, cells = Outlive("memory://"), f"memcached://127.0.0.1:{memcached.port}?prefix=limits"
    name = f"q{ids.token(40)}"
    one = app.ratelimits(Quota(name, 30, per_seconds=3600), cells=cells)
    two = app.ratelimits(Quota(name, 3), Quota("other", 3), cells=cells)
    async with app:
        answers = await asyncio.gather(*(one.hit("ada") for _ in range(100)))
        assert sum(map(bool, answers)) == 30
        with pytest.raises(StoreRefused, match="memcached writes one cell at a time"):
            await two.hit("ada")


def test_an_address_that_means_nothing_is_refused() -> None:
    wrong = ("", "host:port", "host?prefix=a%20b", "host:99999", "host:²", "[::1", ":1", "a:1:2")
    for address in wrong:
        with pytest.raises(BadAddress):
            cells_at(f"memcached://{address}")
    store = cells_at("memcached://one,two:1,[::1],[fe80::2]:3")
    assert isinstance(store, MemcachedStore)
    places = [("one", 11211), ("two", 1), ("::1", 11211), ("fe80::2", 3)]
    assert [line._place for line in store._lines] == places
