"""What is under way when a process is forked: the child waits for none of it and spends none."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from outlive import Outlive, Quota, exact, never_authoritative
from outlive.errors import BulkheadFull
from outlive.kinds.caches.shared import ABSENT, stamp_ref
from outlive.runtime.stamps import Generations
from outlive.store import KeyedCells
from outlive.stores.memory import MemoryStore

SECONDS = 20


async def in_child(work: Callable[[], Awaitable[bool]]) -> bool:
    """Whether `work` gives True in a forked child, in an event loop of its own."""
    pid = os.fork()
    if pid == 0:
        said: list[bool] = []

        async def done() -> None:
            async with asyncio.timeout(SECONDS):
                said.append(await work())

        live = threading.Thread(target=lambda: asyncio.run(done()))
        live.start()
        live.join(SECONDS + 5)
        os._exit(0 if said == [True] else 1)
    return (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0


async def test_what_the_parent_is_loading_is_loaded_by_the_child_itself() -> None:
    parent, begun, go_on = os.getpid(), asyncio.Event(), asyncio.Event()
    app = Outlive("memory://")

    @app.cache(never_authoritative, loads_max=1)
    async def price(what: str) -> int:
        if os.getpid() == parent:
            begun.set()
            await go_on.wait()
        return len(what)

    first = asyncio.create_task(price("tea"))
    await begun.wait()

    async def both() -> bool:
        return await price("tea") == 3 and await price("salt") == 4

    assert await in_child(both)
    go_on.set()
    assert await first == 3


async def test_a_look_at_the_stamps_that_the_parent_began_is_not_waited_for() -> None:
    parent, begun, go_on = os.getpid(), asyncio.Event(), asyncio.Event()
    cells = MemoryStore()
    await cells.open()

    async def store() -> KeyedCells:
        if os.getpid() == parent:
            begun.set()
            await go_on.wait()
        return cells

    generations = Generations(store)
    refs = (stamp_ref("price", "tea"),)
    first = asyncio.create_task(generations.read(refs))
    await begun.wait()

    async def look() -> bool:
        return await generations.read(refs) == (ABSENT,)

    assert await in_child(look)
    go_on.set()
    assert await first == (ABSENT,)


async def test_calls_of_the_parent_take_no_room_of_the_child() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    partner = Outlive("memory://").dependency("partner", bulkhead=1)

    async def charge(wait: bool) -> bool:
        if wait:
            begun.set()
            await go_on.wait()
        return True

    first = asyncio.create_task(partner.call(charge, True))
    await begun.wait()
    with pytest.raises(BulkheadFull):
        await partner.call(charge, False)
    assert await in_child(lambda: partner.call(charge, False))
    go_on.set()
    assert await first


async def test_what_the_parent_took_ahead_is_not_spent_twice(tmp_path: Path) -> None:
    app = Outlive(f"sqlite:///{tmp_path}/store.db")
    limits = app.ratelimits(Quota("burst", 8, per_seconds=10**6), scope="hybrid", ahead=8)
    await app.open_client()
    assert await limits.hit("ada")

    async def none_is_left() -> bool:
        await app.open_client()
        return not await limits.hit("ada")

    assert await in_child(none_is_left)
    assert all([await limits.hit("ada") for _ in range(7)])
    await app.close()


def test_a_cache_whose_loads_waited_in_an_event_loop_is_used_in_the_next() -> None:
    app = Outlive("memory://")

    @app.cache(exact, loads_max=1)
    async def price(what: str) -> int:
        await asyncio.sleep(0)
        return len(what)

    async def both(more: str) -> list[int]:
        async with app:
            return list(await asyncio.gather(*(price(f"{what}{more}") for what in ("a", "bc"))))

    assert asyncio.run(both("1")) == [2, 3]
    assert asyncio.run(both("23")) == [3, 4]
