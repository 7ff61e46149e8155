"""A node writes what went through it, once a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.service import Place, has_status, process

from outlive.clock import ManualClock
from outlive.errors import StoreUnavailable
from outlive.kinds.processes import Stats
from outlive.kinds.processes.history import SPACE, Sample, samples_in
from outlive.model import Batch
from outlive.runtime.history import WRITE_SECONDS, History
from outlive.stores.memory import MemoryStore


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def written(store: Any) -> dict[int, Sample]:
    return dict(samples_in(await store.scan(SPACE)))


async def test_an_idle_node_writes_nothing(clock: ManualClock) -> None:
    store = MemoryStore(clock=clock)
    await store.open()
    history = History(store, clock, "n", lambda: Stats(ended={}))
    clock.advance(WRITE_SECONDS)
    assert history.is_due
    await history.write()
    assert not history.is_due and await written(store) == {}


async def test_each_minute_has_its_own_numbers_and_each_hour_its_cell(clock: ManualClock) -> None:
    store, stats = MemoryStore(clock=clock), Stats(ended={})
    await store.open()
    history = History(store, clock, "n", lambda: stats)
    for started in (1, 3, 3, 7):
        stats.started = started
        await history.write()
        clock.advance(40 * 60)
    found = await written(store)
    assert [sample.started for _, sample in sorted(found.items())] == [1, 2, 4]
    assert len(await store.scan(SPACE)) == 2


async def test_what_could_not_be_written_is_written_later(clock: ManualClock) -> None:
    class Broken(MemoryStore):
        fails = True

        async def commit(self, batch: Batch) -> Any:
            if self.fails:
                raise StoreUnavailable
            return await super().commit(batch)

    store, stats = Broken(clock=clock), Stats(ended={"done": 2})
    await store.open()
    history = History(store, clock, "n", lambda: stats)
    await history.write()
    store.fails = False
    await history.write()
    (sample,) = (await written(store)).values()
    assert sample.ended == {"done": 2}


async def test_throughput_is_there_after_a_restart(tmp_path: Path) -> None:
    async def body(run: Any) -> str:
        return "done"

    place, declare = Place(tmp_path), process(body)
    try:
        app = await place.open(declare)
        started = await app.begin("thing", b"null")
        await has_status(app, started.id, "done")
        await app.close()
        app = await place.open(declare)
        (sample,) = (await app.throughput(2)).values()
        assert (sample.started, sample.ended) == (1, {"done": 1})
    finally:
        await place.close()
