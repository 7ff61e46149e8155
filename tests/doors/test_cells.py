"""Where an application keeps cells: in its own store, or in another beside it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.cell_servers import CellServer, valkey_server

from outlive import Outlive, Quota, Run, ids
from outlive.doors.cells import Place
from outlive.errors import BadAddress, StoreRefused, StoreUnavailable
from outlive.model import Batch
from outlive.stores.memory import MemoryStore


async def test_a_running_node_commits_commands_with_its_processes(tmp_path: Path) -> None:
    app = Outlive(f"sqlite:///{tmp_path}/store.db")

    @app.process("/greetings", version=1)
    async def greet(run: Run, name: str) -> str:
        return f"hello {name}"

    limits = app.ratelimits(Quota("burst", 5))
    async with app:
        assert app._runtime is not None
        before = app._runtime.committer.batches
        assert await limits.hit("ada")
        assert app._runtime.committer.batches > before
        handle = await app.start(greet, "ada")
        assert await handle.result() == "hello ada"
        (cell,) = await app.store.scan("ratelimit")
        assert cell.key == "burst/ada"
    async with app:
        assert (await limits.peek("ada")).standings[0].count == 5
        assert await limits.hit("ada")


async def test_cells_beside_the_store_are_opened_and_closed_with_it(valkey: CellServer) -> None:
    app, cells = Outlive("memory://"), f"{valkey.address}?prefix={ids.token(40)}"
    limits = app.ratelimits(Quota("burst", 5, per_seconds=3600), cells=cells)
    with pytest.raises(StoreUnavailable, match=r"Serve `app\.asgi"):
        await limits.peek("ada")
    for left in (4, 3):
        async with app:
            assert (await limits.hit("ada")).standings[0].left == left
            assert await app.store.scan("ratelimit") == []
    with pytest.raises(StoreUnavailable):
        await limits.peek("ada")


async def test_a_store_of_cells_that_is_away_does_not_keep_the_service_from_starting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server, app = valkey_server(), Outlive("memory://")
    limits = app.ratelimits(Quota("burst", 5), cells=server.address)
    with caplog.at_level(logging.WARNING):
        await app.open()
    assert "does not answer yet" in caplog.text
    assert not (await limits.hit("ada")).checked
    server.start()
    assert (await limits.peek("ada")).standings[0].left == 5
    await app.close()
    server.kill()


async def test_what_is_weaker_than_declared_is_refused_when_the_service_starts(
    valkey: CellServer,
) -> None:
    app = Outlive("memory://")
    app.ratelimits(Quota("money", 5), cells=valkey.address, storage="durable")
    with pytest.raises(StoreRefused, match="ratelimit-durable of ratelimits is durable, and Redis"):
        await app.open()
    assert app.phase == "stopped"


async def test_a_place_that_is_refused_at_its_first_use_leaves_no_connection_open(
    memcached: CellServer,
) -> None:
    app = Outlive("memory://")
    await app.open_client()
    late = app.ratelimits(Quota("money", 5), cells=memcached.address, storage="durable")
    for _ in range(3):
        with pytest.raises(StoreRefused, match="durable"):
            await late.hit("ada")
    assert not [task for task in asyncio.all_tasks() if "MemcachedLine" in repr(task)]
    await app.close()


async def test_who_comes_while_the_application_closes_opens_nothing_again() -> None:
    gate, written = asyncio.Event(), asyncio.Event()

    class Slow(MemoryStore):
        async def commit_group(self, batches: Sequence[Batch]) -> list[Any]:
            written.set()
            await gate.wait()
            return await super().commit_group(batches)

    app = Outlive(Slow())
    limits = app.ratelimits(Quota("burst", 5), timeout_seconds=30)
    await app.open_client()
    async with asyncio.timeout(60):
        first = asyncio.create_task(limits.hit("ada"))
        await written.wait()
        closing = asyncio.create_task(app.close())
        while app._all_places()[0].opened is not None:
            await asyncio.sleep(0)
        late = asyncio.create_task(limits.peek("ada"))
        await asyncio.sleep(0)
        gate.set()
        assert await first, "what was under way is done"
        with pytest.raises(StoreUnavailable):
            await late
        await closing
        assert app._all_places()[0].opened is None
        await app.open_client()
        assert (await limits.peek("ada")).checked
    await app.close()


async def test_an_application_cannot_live_in_a_store_of_cells() -> None:
    for address in ("memcached://127.0.0.1:1", "redis://127.0.0.1:1"):
        with pytest.raises(BadAddress, match="keeps cells only"):
            await Outlive(address).open()


async def test_a_forked_child_opens_its_own(tmp_path: Path) -> None:
    app = Outlive(f"sqlite:///{tmp_path}/store.db")
    limits = app.ratelimits(Quota("burst", 5))
    await app.open_client()
    await limits.hit("ada")
    pid = os.fork()
    if pid == 0:
        is_new = all(place._applier is None for place in app._all_places())
        os._exit(0 if is_new and app._store is None else 1)
    assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0
    assert await limits.hit("ada")
    await app.close()


def test_threads_that_declare_at_once_declare_in_one_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = Outlive(f"sqlite:///{tmp_path}/store.db")
    making, go_on, make = threading.Event(), threading.Event(), Place.__init__

    def held(place: Place, *given: Any) -> None:
        make(place, *given)
        if threading.current_thread() is not threading.main_thread():
            making.set()
            go_on.wait(60)

    monkeypatch.setattr(Place, "__init__", held)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(app.ratelimits, Quota("burst", 5))
        try:
            assert making.wait(60)
            second = app.ratelimits(Quota("login", 5))
        finally:
            go_on.set()
        assert app._all_places() == [first.result(60)._place] == [second._place]
