"""Reading together: one look for many shards, one read for many journals, nothing given twice."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from outlive.errors import StoreUnavailable
from outlive.kinds.processes import Head
from outlive.kinds.processes.cells import put_head, read_head, ref_of, space_of
from outlive.model import Append, Batch, Cell, Event, Ref
from outlive.runtime.ahead import Ahead
from outlive.stores.memory import MemoryStore

SHARDS = 4


class Counted:
    """A store that writes down what is asked of it, and answers when it is let go."""

    def __init__(self, inner: MemoryStore) -> None:
        self._inner = inner
        self.asked: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.failure: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)

        async def counted(*args: Any, **kwargs: Any) -> Any:
            self.asked.append(name)
            await self.go.wait()
            if self.failure is not None:
                raise self.failure
            return await found(*args, **kwargs)

        return counted


class Ground:
    """A node's common reads over a store with a few processes in it."""

    def __init__(self) -> None:
        self.inner = MemoryStore(shards=SHARDS)
        self.store = Counted(self.inner)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.ahead = Ahead(self.store, self.spawn)  # type: ignore[arg-type]

    def spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        return task

    async def fill(self, ids: Sequence[str], events: int = 2) -> list[Cell]:
        """Processes under way, by their ids; gives their cells."""
        leases = {row.id: row for row in await self.inner.owners()}
        refs = [ref_of(id, SHARDS) for id in ids]
        for id, ref in zip(ids, refs, strict=True):
            shard = int(ref.space.rpartition("/")[2])
            lease = await self.inner.take(shard, leases[shard].epoch, "n")
            leases = {row.id: row for row in await self.inner.owners()}
            head = Head(f"p/{id}", "t", 1, "running", 0, 0)
            appends = tuple(Append(head.stream, n, "step", b"{}") for n in range(events))
            await self.inner.commit(Batch(lease, put=(put_head(ref, head, None),), append=appends))
        found = await self.inner.read(refs)
        return [cell for cell in found if cell is not None]


@pytest.fixture
async def ground() -> Ground:
    made = Ground()
    await made.inner.open()
    return made


async def numbers(events: list[Event]) -> list[int]:
    return [event.n for event in events]


async def test_shards_that_come_while_a_look_goes_on_are_looked_at_together(ground: Ground) -> None:
    cells = await ground.fill([f"p{number}" for number in range(12)])
    ground.store.go.clear()
    looks = [asyncio.ensure_future(ground.ahead.under_way(0))]
    await asyncio.sleep(0)
    looks += [asyncio.ensure_future(ground.ahead.under_way(shard)) for shard in (1, 2, 3, 3)]
    await asyncio.sleep(0)
    ground.store.go.set()
    found = await asyncio.gather(*looks)
    assert ground.store.asked.count("next_due") == 2
    assert found[3] == found[4]
    for shard in range(SHARDS):
        wanted = [cell for cell in cells if cell.space == space_of(shard)]
        assert sorted(found[shard][1], key=lambda cell: cell.key) == sorted(
            wanted, key=lambda cell: cell.key
        )
    await ground.ahead.under_way(0)
    assert ground.store.asked.count("next_due") == 3


async def test_a_look_that_fails_fails_for_all_of_it_and_for_no_other(ground: Ground) -> None:
    ground.store.failure = StoreUnavailable("not now")
    found = await asyncio.gather(
        *(ground.ahead.under_way(shard) for shard in range(SHARDS)), return_exceptions=True
    )
    assert [type(error) for error in found] == [StoreUnavailable] * SHARDS
    ground.store.failure = None
    assert await ground.ahead.under_way(0) == (None, [])


async def test_who_waits_for_a_look_does_not_hang_when_the_node_closes(ground: Ground) -> None:
    ground.store.go.clear()
    looks = [asyncio.ensure_future(ground.ahead.under_way(0))]
    await asyncio.sleep(0)
    looks.append(asyncio.ensure_future(ground.ahead.under_way(1)))
    await asyncio.sleep(0)
    for task in ground.tasks:
        task.cancel()
    async with asyncio.timeout(5):
        found = await asyncio.gather(*looks, return_exceptions=True)
    assert all(isinstance(error, asyncio.CancelledError) for error in found)


async def test_what_was_read_ahead_is_given_once(ground: Ground) -> None:
    cells = await ground.fill(["p1", "p2"])
    with ground.ahead.keeping(cells):
        await ground.ahead.read_journals(cells)
        assert ground.store.asked == ["histories"]
        for cell in cells:
            assert await ground.ahead.cell(cell.ref) == cell
            assert await numbers(await ground.ahead.events(cell.key, f"p/{cell.key}")) == [0, 1]
        assert ground.store.asked == ["histories"]
        assert await ground.ahead.cell(cells[0].ref) == cells[0]
        await ground.ahead.events("p1", "p/p1")
        assert ground.store.asked == ["histories", "read", "events"]


async def test_nothing_is_kept_after_its_recovery(ground: Ground) -> None:
    cells = await ground.fill(["p1"])
    with ground.ahead.keeping(cells):
        await ground.ahead.read_journals(cells)
    changed = Head("p/other", "t", 1, "running", 0, 0)
    await ground.inner.commit(Batch(put=(put_head(cells[0].ref, changed, None),)))
    found = await ground.ahead.cell(cells[0].ref)
    assert found is not None and read_head(found.value) == changed
    assert await ground.ahead.events("p1", "p/other") == []
    await ground.ahead.read_journals(cells)  # too late: it is not kept any more
    assert len(await ground.ahead.events("p1", "p/p1")) == 2
    assert ground.store.asked[-1] == "events"


async def test_what_does_not_fit_or_fails_is_read_when_its_turn_comes(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.runtime.ahead.EVENTS_MAX", 5)
    cells = await ground.fill(["p1", "p2", "p3"])
    with ground.ahead.keeping(cells):
        await ground.ahead.read_journals(cells)
        for cell in cells:
            assert len(await ground.ahead.events(cell.key, f"p/{cell.key}")) == 2
        assert ground.store.asked == ["histories", "events"]
        ground.store.failure = StoreUnavailable("not now")
        await ground.ahead.read_journals(cells)
        with pytest.raises(StoreUnavailable):
            await ground.ahead.events("p1", "p/p1")
    ground.store.failure = None
    assert await ground.ahead.cell(Ref("process/0", "none")) is None
