"""What is due is claimed by one of those who sweep, and carried out as its kind says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from outlive.clock import MICROS, ManualClock
from outlive.errors import StoreUnavailable
from outlive.kind import Decision, Kind, View
from outlive.model import Batch, Cell, Put, Ref
from outlive.runtime.sweeping import SWEEP_SECONDS, Sweeper
from outlive.stores.memory import MemoryStore


class Doors(Kind[None, None]):
    """A door that is due is closed; one that is due and closed goes."""

    name = "doors"
    spaces = {"door": "relaxed"}  # noqa: RUF012

    def refs(self, command: None) -> Sequence[Ref]:
        return ()

    def decide(self, view: View, command: None, now: int) -> Decision[None]:
        return Decision(Batch(), None)

    def on_due(self, cell: Cell, now: int) -> Batch:
        if cell.value == b"closed":
            return super().on_due(cell, now)
        return Batch(put=(Put(cell.ref, b"closed", now + 60 * MICROS),))


@pytest.fixture
async def store() -> MemoryStore:
    made = MemoryStore(clock=ManualClock())
    await made.open()
    return made


def doors(store: MemoryStore, count: int) -> Batch:
    due = store._clock.wall() + MICROS
    return Batch(put=tuple(Put(Ref("door", f"{n:04}"), b"open", due) for n in range(count)))


async def values(store: MemoryStore) -> set[bytes]:
    return {cell.value for cell in await store.scan("door", limit=10_000)}


async def test_what_is_due_is_carried_out_as_its_kind_says(store: MemoryStore) -> None:
    clock: Any = store._clock
    sweeper = Sweeper(store, [Doors()], clock)
    await store.commit(doors(store, 1200))
    assert await sweeper.sweep() == 0
    clock.advance(1)
    assert await sweeper.sweep() == 1200
    assert await values(store) == {b"closed"}
    clock.advance(60)
    assert await sweeper.sweep() == 1200
    assert await values(store) == set()


async def test_two_who_sweep_do_not_do_it_twice(store: MemoryStore) -> None:
    clock: Any = store._clock
    await store.commit(doors(store, 1200))
    clock.advance(1)
    swept = await asyncio.gather(*(Sweeper(store, [Doors()], clock).sweep() for _ in range(4)))
    assert sum(swept) == 1200


async def test_what_was_written_meanwhile_is_left_alone(store: MemoryStore) -> None:
    clock: Any = store._clock
    await store.commit(doors(store, 1))
    clock.advance(1)
    sweeper, now = Sweeper(store, [Doors()], clock), store.now

    async def meanwhile() -> int:
        await store.commit(Batch(put=(Put(Ref("door", "0000"), b"held open"),)))
        return await now()

    store.now = meanwhile  # type: ignore[method-assign]
    assert await sweeper.sweep() == 1
    assert await values(store) == {b"held open"}


async def test_it_sweeps_again_and_again_also_after_the_store_was_away(store: MemoryStore) -> None:
    clock: Any = store._clock
    calls: list[Any] = []

    class Never:
        def cancel(self) -> None: ...

    def call_later(seconds: float, call: Any) -> Never:
        assert SWEEP_SECONDS / 2 <= seconds <= SWEEP_SECONDS * 1.5
        calls.append(call)
        return Never()

    clock.call_later = call_later
    claim, away = store.claim, [StoreUnavailable()]

    async def sometimes(*asked: Any) -> list[Cell]:
        if away:
            raise away.pop()
        return await claim(*asked)

    store.claim = sometimes  # type: ignore[assignment]
    await store.commit(doors(store, 3))
    clock.advance(1)
    sweeper = Sweeper(store, [Doors()], clock)
    sweeper.start()
    async with asyncio.timeout(30):
        while await values(store) != {b"closed"}:
            await asyncio.sleep(0)
            if calls:
                calls.pop()()
    await sweeper.stop()
    assert not away


async def test_a_kind_that_is_declared_later_is_swept_too(store: MemoryStore) -> None:
    clock: Any = store._clock
    kinds: dict[str, Kind[Any, Any]] = {}
    sweeper = Sweeper(store, kinds.values(), clock)
    await store.commit(doors(store, 1))
    clock.advance(1)
    assert await sweeper.sweep() == 0
    kinds["doors"] = Doors()
    assert await sweeper.sweep() == 1


async def test_one_that_cannot_be_read_holds_up_no_other(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    class Strict(Doors):
        def on_due(self, cell: Cell, now: int) -> Batch:
            if cell.key == "0001":
                raise ValueError("written by a newer release: secret")
            return super().on_due(cell, now)

    clock: Any = store._clock
    sweeper = Sweeper(store, [Strict()], clock)
    await store.commit(doors(store, 3))
    clock.advance(1)
    assert await sweeper.sweep() == 3
    found = {cell.key: cell.value for cell in await store.scan("door", limit=10)}
    assert found == {"0000": b"closed", "0001": b"open", "0002": b"closed"}
    assert "a cell of door is due and was left as it is: ValueError" in caplog.text
    assert "secret" not in caplog.text
