"""Faults are drawn from a seed, and the port tells clients less than it knows."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from outlive.clock import ManualClock
from outlive.errors import Conflict, OutcomeUnknown, StoreUnavailable
from outlive.model import ABSENT, Append, Batch, Put, Ref, Require
from outlive.stores.memory import MemoryStore
from outlive.testing.faults import (
    KINDS,
    OF_THE_PORT,
    DealtLane,
    FaultyStore,
    Weather,
    drawn,
    is_guarded,
)
from outlive.testing.turns import Turns

nap = asyncio.sleep  # on virtual time: it takes none

REF = Ref("s", "k")
NEW = Batch(require=(Require(REF, ABSENT),), put=(Put(REF, b"1"),))


def test_the_same_seed_draws_the_same_faults_of_every_kind() -> None:
    found = drawn(random.Random(1), 5000.0, 3)
    assert found == drawn(random.Random(1), 5000.0, 3)
    assert {fault.kind for fault in found} == set(KINDS) > OF_THE_PORT
    assert [fault.number for fault in found] == list(range(len(found)))
    assert {fault.node for fault in found} == {0, 1, 2}


def test_stretched_faults_are_further_apart() -> None:
    few, many = drawn(random.Random(1), 4000.0, 3, 10.0), drawn(random.Random(1), 4000.0, 3)
    assert len(many) > 5 * len(few) > 5


def test_what_appends_or_replaces_what_it_requires_is_guarded() -> None:
    assert is_guarded(NEW) and is_guarded(Batch(append=(Append("s", 0, "k", b""),)))
    assert not is_guarded(Batch(put=(Put(REF, b"1"),)))
    assert not is_guarded(Batch(require=(Require(Ref("s", "other"), 1),), put=(Put(REF, b"1"),)))
    told = Ref("inbox/2", "ord_1/key")
    command = Batch(require=(Require(told, ABSENT),), put=(Put(told, b"1"),))
    assert not is_guarded(command)
    assert is_guarded(Batch(require=(Require(told, 7),), drop=(told,)))


class Always(random.Random):
    """Dice that always hit, and say `share` when asked for a number."""

    share = 0.0

    def random(self) -> float:
        return self.share


async def ported(kind: str, share: float = 0.0) -> tuple[Any, MemoryStore, Weather]:
    store = MemoryStore(1, ManualClock())
    await store.open()
    dice = Always()
    dice.share = share
    weather = Weather(dice)
    if kind:
        weather.active[kind] = 1
    return FaultyStore(store, weather), store, weather


@pytest.mark.parametrize("kind", ["cut", "refuse"])
async def test_what_is_refused_is_not_written(kind: str) -> None:
    port, store, weather = await ported(kind)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await port.commit(NEW)
    assert await store.read([REF]) == [None] and weather.hits[kind] == 2


async def test_of_lost_answers_some_are_of_what_was_written_and_some_are_not() -> None:
    port, store, _ = await ported("lose", 0.0)
    with pytest.raises(OutcomeUnknown):
        await port.commit(NEW)
    assert await store.read([REF]) == [None]
    port._weather.dice.share = 0.34
    port._weather.hit = lambda kind: kind == "lose"
    port._weather.dice.share = 0.9
    with pytest.raises(OutcomeUnknown):
        await port.commit(NEW)
    assert await store.read([REF]) != [None]


async def test_a_batch_that_comes_twice_is_refused_the_second_time() -> None:
    port, store, weather = await ported("double")
    committed = await port.commit(NEW)
    (cell,) = await store.read([REF])
    assert cell is not None and (cell.version,) == committed.versions and weather.flaws == []
    with pytest.raises(Conflict):
        await port.commit(NEW)


async def test_a_batch_that_is_applied_twice_is_seen() -> None:
    port, store, weather = await ported("double")
    given = store.commit_group

    async def careless(batches: Any) -> Any:
        return await given([Batch(put=batch.put) for batch in batches])

    store.commit_group = careless  # type: ignore[method-assign]
    await port.commit(NEW)
    assert len(weather.flaws) == 1 and "twice" in weather.flaws[0]


async def test_who_listens_is_told_of_every_write_and_of_no_read() -> None:
    port, _, weather = await ported("")
    told: list[str] = []
    weather.on_done = lambda verb, *_: told.append(verb)
    await port.commit(NEW)
    await port.read([REF])
    await port.take(0, 0, "me")
    assert told == ["commit_group", "take"]


def test_a_dealt_lane_does_its_jobs_in_order_and_waits_while_it_is_blocked() -> None:
    async def work(loop: Turns) -> tuple[list[int], float]:
        blocked, done = True, list[int]()
        lane = DealtLane(loop, lambda: blocked)
        futures = [lane.do(lambda at=at: done.append(at)) for at in range(5)]  # type: ignore[misc]
        assert not lane.idle
        await nap(3)
        assert not done
        blocked = False
        await asyncio.gather(*futures)
        await lane.end()
        assert lane.idle
        with pytest.raises(StoreUnavailable):
            lane.do(lambda: None)
        return done, loop.time()

    loop = Turns(random.Random(1))
    done, _ = loop.run_until_complete(work(loop))
    loop.close()
    assert done == [0, 1, 2, 3, 4]
