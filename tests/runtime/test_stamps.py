"""Stamps are read together, and never from before whoever asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from outlive.errors import StoreUnavailable
from outlive.kinds.caches.shared import stamp_put, stamp_ref
from outlive.model import Cell, Ref
from outlive.runtime.stamps import Generations
from outlive.stores.memory import MemoryStore

ONE, TWO = stamp_ref("prices", "one"), stamp_ref("prices", "two")


class Held(MemoryStore):
    """A store whose reads wait to be let through."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.go.set()
        self.reads = 0

    async def read(self, refs: Sequence[Ref]) -> list[Cell | None]:
        self.reads += 1
        found = await super().read(refs)
        await self.go.wait()
        return found


async def made() -> tuple[Held, Generations]:
    store = Held()
    await store.open()

    async def place() -> Held:
        return store

    return store, Generations(place)


async def test_all_who_ask_in_one_turn_share_one_look() -> None:
    store, generations = await made()
    await generations.commit((stamp_put(ONE, 5.0),))
    asked = [generations.read((ONE, TWO)) for _ in range(50)] + [generations.read((TWO,))]
    found = await asyncio.gather(*asked)
    assert store.reads == 1
    assert found[0][0] > 0 and found[0][1] == 0 and found[-1] == (0,)


async def test_who_asks_while_a_look_is_under_way_gets_the_next_one() -> None:
    store, generations = await made()
    store.go.clear()
    first = asyncio.ensure_future(generations.read((ONE,)))
    while not store.reads:
        await asyncio.sleep(0)
    await generations.commit((stamp_put(ONE, 5.0),))
    second = asyncio.ensure_future(generations.read((ONE,)))
    await asyncio.sleep(0)
    store.go.set()
    assert await first == (0,) and (await second)[0] > 0


async def test_what_the_store_says_all_who_waited_are_told() -> None:
    store, generations = await made()
    await store.close()
    asked = [generations.read((ONE,)) for _ in range(3)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert all(isinstance(one, StoreUnavailable) for one in found)
    with pytest.raises(StoreUnavailable):
        await generations.commit((stamp_put(ONE, 5.0),))
