"""Many processes in one node: they leave memory, come back, and one bad one blocks nobody."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.runtime import sleeping
from tests.runtime.sleeping import live, sleepers
from tests.service import Outside, Place, crash, until

from outlive import Outlive, Run, step
from outlive.clock import ManualClock
from outlive.errors import OutcomeUnknown, Overloaded
from outlive.model import Batch
from outlive.stores.memory import MemoryStore
from outlive.testing.oracles import facts_of, grammar_flaws


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    sleeping.fresh(outside)


class Answerless(MemoryStore):
    """Loses the answer of the next commit of an event, or does not give it before it is told."""

    loses = False
    waits: asyncio.Event | None = None

    async def commit_group(self, batches: Any) -> Any:
        found = await super().commit_group(batches)
        if any(isinstance(batch, Batch) and batch.append for batch in batches):
            if self.loses:
                self.loses = False
                raise OutcomeUnknown
            if self.waits is not None:
                waits, self.waits = self.waits, None
                await waits.wait()
        return found


async def test_a_start_whose_answer_was_lost_runs_all_the_same() -> None:
    """Found by the simulation: it was recorded as running, and nobody ran it before the next
    take-over of its shard (seeds 103 and 110, 300 s)."""
    store = Answerless(4)
    app = Outlive(store)
    sleepers(app)
    async with app:
        store.loses = True
        with pytest.raises(OutcomeUnknown):
            await app.begin("sleeper", b"0.0")
        await until(lambda: app.stats().ended.get("done", 0) == 1, "it runs")


async def test_a_start_that_nobody_waits_for_any_more_runs_all_the_same() -> None:
    store = Answerless(4)
    app = Outlive(store)
    sleepers(app)
    async with app:
        store.waits = answered = asyncio.Event()
        starting = asyncio.create_task(app.begin("sleeper", b"0.0"))
        await until(lambda: store.waits is None, "it is committed")
        starting.cancel()
        await asyncio.wait({starting})
        answered.set()
        await until(lambda: app.stats().ended.get("done", 0) == 1, "it runs")


@pytest.mark.parametrize("by", ["a command", "a recovery"])
async def test_a_process_that_is_read_before_its_start_is_answered_has_one_body(by: str) -> None:
    """Found by killing the samples on a busy machine: a recovery took up what had just been
    started, two bodies ran, and a step was recorded twice."""
    store = Answerless(1)
    app = Outlive(store)
    called, open_ = Counter[int](), asyncio.Event()

    @step()
    async def counted(item: int) -> None:
        called[item] += 1
        await open_.wait()

    @app.process("/several", version=1)
    async def several(run: Run, value: None) -> None:
        await run.all([1, 2], counted, limit=2)

    async with app:
        assert app._runtime is not None
        activations = app._runtime.activations
        store.waits = answered = asyncio.Event()
        starting = asyncio.create_task(app.begin("several", b"null"))
        await until(lambda: store.waits is None, "it is committed")
        (id,) = activations.starting
        if by == "a command":
            await activations.load(id)
        recovering = asyncio.create_task(
            activations.recovery.recover(activations.leases[0], crash=True)
        )
        await until(lambda: bool(activations.live) or recovering.done(), "it is looked for")
        answered.set()
        await starting
        await until(lambda: called.total() >= 2, "its steps are under way")
        open_.set()
        await recovering
        await until(lambda: app.stats().ended.get("done", 0) == 1, "it has ended")
        assert called == {1: 1, 2: 1}
        (journal,) = (await facts_of(store)).processes.values()
        assert grammar_flaws(journal.journal) == []


async def test_what_is_read_under_a_new_lease_is_no_read_that_began_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found by the simulation: a node had its shard again while a read of before hung, its recovery
    waited for that one, which found nothing of its own, and nobody ran the process (seed 20614)."""
    store = MemoryStore(1)
    app = Outlive(store)
    sleepers(app)
    async with app:
        assert app._runtime is not None
        activations = app._runtime.activations
        begun = await app.begin("hanger", b"null")
        await until(lambda: begun.id in activations.live)
        lease, read = activations.leases[0], activations.recovery.ahead.cell
        activations.release(0)
        hangs, reached = asyncio.Event(), asyncio.Event()

        async def slow(ref: Any) -> Any:
            reached.set()
            await hangs.wait()
            return await read(ref)

        monkeypatch.setattr(activations.recovery.ahead, "cell", slow)
        before = asyncio.create_task(activations.load(begun.id))
        await reached.wait()
        activations.leases[0] = lease
        after = asyncio.create_task(activations.load(begun.id))
        await asyncio.sleep(0)
        hangs.set()
        assert await before is None, "it had no lease"
        found = await after
        assert found is not None and found is activations.live[begun.id]
        activations.forget(found)


async def test_two_thousand_sleepers_leave_memory_and_all_wake(place: Place) -> None:
    clock = ManualClock()
    app = await place.open(sleepers, clock=clock, lease_seconds=300.0)
    begun = await asyncio.gather(*(app.begin("sleeper", b"50.0") for _ in range(2000)))
    runtime = app._runtime
    assert runtime is not None
    await until(lambda: all(a.parking for a in runtime.activations.live.values()))
    clock.advance(2)
    await until(lambda: live(app) == 0, "they leave memory")
    clock.advance(60)
    await until(lambda: app.stats().ended.get("done", 0) == 2000, "all wake")
    assert (await app.view(begun[7].id)).status == "done"


async def test_a_start_beyond_the_limit_is_refused(place: Place) -> None:
    app = await place.open(sleepers, active_max=2)
    for _ in range(2):
        await app.begin("hanger", b"null")
    with pytest.raises(Overloaded):
        await app.begin("hanger", b"null")
    await crash(app)


async def test_nothing_is_left_in_memory_when_everything_has_ended(place: Place) -> None:
    app = await place.open(sleepers)
    begun: Any = [await app.begin("sleeper", b"0.001") for _ in range(20)]
    for one in begun:
        await app.result(one.id, within=60)
    await until(lambda: live(app) == 0)
    assert app.stats().ended == {"done": 20} and app.stats().started == 20
