"""The connection to memcached when it is cut: a write is found again, or its outcome is unknown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.cell_servers import CellServer, memcached_server
from tests.stores.servers import Line, line_to

from outlive import ids
from outlive.errors import OutcomeUnknown, StoreUnavailable
from outlive.model import Batch, Put, Ref
from outlive.stores import memcached_line
from outlive.stores.memcached import MemcachedStore


def put(key: str, value: bytes = b"v") -> Batch:
    return Batch(put=(Put(Ref("cut", key), value),), storage="volatile")


@asynccontextmanager
async def cut_off(server: CellServer) -> AsyncIterator[tuple[MemcachedStore, Line]]:
    async with line_to(server.address) as line:
        store = MemcachedStore(f"127.0.0.1:{line.port}", prefix=ids.token(40))
        await store.open()
        yield store, line
        await store.close()


async def test_a_write_whose_answer_is_lost_is_found_by_its_mark(memcached: CellServer) -> None:
    async with cut_off(memcached) as (store, line):
        line.cut_once("deafen", b"ms ")
        receipt = await store.commit(put("a", b"1"))
        assert line.cuts == ["deafen"]
        (cell,) = await store.read([Ref("cut", "a")])
        assert cell is not None and (cell.version,) == receipt.versions


async def test_a_write_that_is_not_found_is_unknown(memcached: CellServer) -> None:
    async with cut_off(memcached) as (store, line):
        line.cut_once("drop", b"ms ")
        with pytest.raises(OutcomeUnknown):
            await store.commit(put("a"))
        await store.commit(put("a"))
        line.cut_once("drop", b"md ")
        with pytest.raises(OutcomeUnknown):
            await store.commit(Batch(drop=(Ref("cut", "a"),), storage="volatile"))


async def test_a_lost_look_has_changed_nothing_and_the_next_one_connects_again(
    memcached: CellServer,
) -> None:
    async with cut_off(memcached) as (store, line):
        line.cut_once("drop", b"mg ")
        with pytest.raises(StoreUnavailable):
            await store.read([Ref("cut", "a")])
        assert await store.read([Ref("cut", "a")]) == [None]
        line.is_open = False
        line.cut_once("drop", b"mg ")
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.read([Ref("cut", "a")])


async def test_a_server_that_says_nothing_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memcached_line, "ANSWER_SECONDS", 0.2)
    server = memcached_server()
    server.start()
    store = MemcachedStore(f"127.0.0.1:{server.port}")
    await store.open()
    server.pause()
    async with asyncio.timeout(30):
        with pytest.raises(StoreUnavailable):
            await store.read([Ref("cut", "a")])
    server.resume()
    await store.commit(put("a"))
    await store.close()
    server.kill()


async def test_answers_go_to_those_who_asked(memcached: CellServer) -> None:
    async with cut_off(memcached) as (store, _):
        await store.commit_group([put(str(number), b"%d\r\n" % number) for number in range(200)])
        cells = await store.read([Ref("cut", str(number)) for number in range(200)])
        assert [cell and cell.value for cell in cells] == [b"%d\r\n" % n for n in range(200)]
