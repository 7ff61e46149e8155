"""Blobs that nobody names are swept, by one node, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.service import Place, until

from outlive import Outlive, ids
from outlive.clock import ManualClock
from outlive.errors import StoreUnavailable
from outlive.model import Batch, Put, Ref
from outlive.runtime.orphans import EVERY_SECONDS, FIRST_SECONDS, OLDER_SECONDS, SPACE, Orphans
from outlive.stores.memory import MemoryStore
from outlive.stores.postgres import PostgresStore
from outlive.stores.sqlite import SQLiteStore


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    clock = ManualClock()
    if request.param == "memory":
        return MemoryStore(clock=clock)
    if request.param == "sqlite":
        return SQLiteStore(tmp_path / "store.db", clock=clock)
    address: str = request.getfixturevalue("postgres")
    return PostgresStore(address, clock=clock, schema=f"store_{ids.token(40)}")


async def there(store: Any, name: str) -> bool:
    try:
        await store.blobs.get(name)
    except KeyError:
        return False
    return True


async def test_only_what_nobody_names_and_is_old_goes(store: Any) -> None:
    await store.open()
    clock = getattr(store, "_clock", None) or store.clock._given
    named, orphan = await store.blobs.put(b"named"), await store.blobs.put(b"orphan")
    await store.commit(Batch(put=(Put(Ref(SPACE, named), b"stream"),)))
    orphans = Orphans(store, clock)
    assert await orphans.sweep() == 0
    clock.advance(OLDER_SECONDS + 1)
    young = await store.blobs.put(b"young")
    assert await orphans.sweep() == 1
    assert [await there(store, name) for name in (named, orphan, young)] == [True, False, True]
    await store.commit(Batch(drop=(Ref(SPACE, named),)))
    assert await orphans.sweep() == 1
    assert not await there(store, named)
    await store.close()


async def test_it_is_due_now_and_then_and_only_for_the_owner() -> None:
    clock = ManualClock()
    orphans = Orphans(MemoryStore(clock=clock), clock)
    assert not orphans.due(True)
    clock.advance(FIRST_SECONDS + 1)
    assert not orphans.due(False)
    assert orphans.due(True) and not orphans.due(True)
    clock.advance(EVERY_SECONDS + 1)
    assert orphans.due(True)


async def test_a_store_that_does_not_answer_is_asked_again_later() -> None:
    store = MemoryStore(clock=ManualClock())
    await store.open()

    async def fails(*_: Any) -> int:
        raise StoreUnavailable("not now")

    store.blobs.sweep = fails  # type: ignore[method-assign]
    assert await Orphans(store, ManualClock()).sweep() == 0


async def test_one_of_two_nodes_sweeps(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outlive.runtime.orphans.FIRST_SECONDS", 0.0)
    monkeypatch.setattr("outlive.runtime.orphans.OLDER_SECONDS", -1.0)
    swept: list[str] = []
    sweep = Orphans.sweep

    async def noted(self: Orphans) -> int:
        swept.append(self._store.path.name)  # type: ignore[attr-defined]
        return await sweep(self)

    monkeypatch.setattr(Orphans, "sweep", noted)
    client = await place.client(lambda _: None)
    orphan = await client.store.blobs.put(b"orphan")
    nodes: list[Outlive] = [await place.open(lambda _: None) for _ in range(2)]

    async def gone() -> bool:
        return not await there(client.store, orphan)

    await until(gone, "the orphan is swept")
    assert nodes and len(swept) == 1
