"""A running node: its loops survive an unwell store, and idempotency keys end with their time."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tests.service import Dying, Place, check_grammar, has_status, until

from outlive import Limit, Outlive, Run, step
from outlive.clock import ManualClock
from outlive.errors import StoreUnavailable, StoreWentBack
from outlive.kinds.processes.limits import bell
from outlive.kinds.processes.requests import REQUESTS
from outlive.model import Batch, Cell


def wait(app: Outlive) -> None:
    @app.process("/waits", version=1)
    async def wait(run: Run) -> None:
        await run.wait("go")


class Deaf(Dying):
    """A store that answers no hint and no claim while it is deaf."""

    deaf = False
    asked = 0

    def __getattr__(self, name: str) -> object:
        if name in ("changed", "claim", "scan") and self.deaf:
            type(self).asked += 1
            raise StoreUnavailable
        return super().__getattr__(name)


async def test_the_loops_go_on_when_the_store_is_back(place: Place) -> None:
    store = Deaf(place.store())
    app = await place.open(wait, store=store)
    client = await place.client(wait)
    begun = await client.begin("wait", b"null")
    await has_status(app, begun.id, "waiting")
    store.deaf = True
    await until(lambda: store.asked > 1)
    await client.signal(begun.id, "go", b"")
    store.deaf = False
    await app.result(begun.id, within=60)


def nap(app: Outlive) -> None:
    @app.process("/naps", version=1)
    async def nap(run: Run) -> str:
        await run.sleep(30)
        return "awake"


class Refusing(Dying):
    """A store that refuses the next claim of processes that are due, once it is told so."""

    refuses = refused = False

    async def claim(self, spaces: list[str], limit: int, hold_seconds: float) -> object:
        if self.refuses and any(space.startswith("process") for space in spaces):
            self.refuses, self.refused = False, True
            raise StoreUnavailable
        return await super().__getattr__("claim")(spaces, limit, hold_seconds)


async def test_a_wake_that_the_store_refused_is_not_forgotten(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the simulation: nothing of the node was woken any more until something else became
    due there, which may be never (seed 1024)."""
    monkeypatch.setattr("outlive.runtime.node.HOLD_SECONDS", 0.3)
    clock = ManualClock()
    store = Refusing(place.store(clock=clock))
    app = await place.open(nap, store=store, clock=clock, lease_seconds=300.0)
    begun = await app.begin("nap", b"null")
    await has_status(app, begun.id, "waiting")
    runtime = app._runtime
    assert runtime is not None
    live = runtime.activations.live
    await until(lambda: all(one.parked_at is not None for one in live.values()), "it is parked")
    clock.advance(2)
    await until(lambda: not live, "it leaves memory")
    store.refuses = True
    clock.advance(40)
    await until(lambda: store.refused, "its wake is refused")

    def is_done() -> bool:
        clock.advance(0.05)
        return app.stats().ended.get("done", 0) == 1

    await until(is_done, "it is woken all the same")


class Lost(Dying):
    """A store that went back in time, once it is told so."""

    gone = False

    def __getattr__(self, name: str) -> object:
        if self.gone and name != "close":
            raise StoreWentBack
        return super().__getattr__(name)


async def test_a_node_puts_everything_down_when_its_store_went_back(place: Place) -> None:
    store = Lost(place.store())
    app = await place.open(wait, store=store)
    begun = await app.begin("wait", b"null")
    await has_status(app, begun.id, "waiting")
    runtime = app._runtime
    assert runtime is not None and runtime.activations.leases
    store.gone = True
    await until(lambda: not runtime.activations.leases)
    await until(lambda: all(loop.done() for loop in runtime._loops))
    assert not runtime.activations.live
    store.gone = False


async def test_a_key_is_kept_while_its_process_is_under_way_and_then_forgotten(
    place: Place,
) -> None:
    clock = ManualClock()
    app = await place.open(wait, clock=clock, request_seconds=60.0)
    runtime = app._runtime
    assert runtime is not None
    begun = await app.begin("wait", b"null", key="k")
    await has_status(app, begun.id, "waiting")
    clock.advance(61)
    await runtime._expire_requests()
    assert (await app.begin("wait", b"null", key="k")).id == begun.id
    await app.signal(begun.id, "go", b"")
    await has_status(app, begun.id, "done", clock=clock)
    clock.advance(2 * 86_400)

    async def forgotten() -> bool:
        clock.advance(31)
        await runtime._expire_requests()
        return not await app.store.scan(REQUESTS)

    await until(forgotten)


async def test_the_counters_of_a_node_add_up(place: Place) -> None:
    app = await place.open(wait)
    begun = await app.begin("wait", b"null")
    await app.signal(begun.id, "go", b"")
    await app.result(begun.id, within=60)
    stats = app.stats()
    assert (stats.started, stats.ended, stats.shards) == (1, {"done": 1}, 4)
    assert 0 < stats.commits <= stats.batches


@step
async def short(n: int) -> int:
    await asyncio.sleep(0.02)
    return n


def many_steps(app: Outlive) -> None:
    @app.process("/walks", version=1)
    async def walk(run: Run, steps: int) -> int:
        for n in range(steps):
            await run.keyed(n)(short, n)
        return steps


async def test_what_a_leaving_node_runs_goes_on_at_the_other_and_no_step_is_lost(
    place: Place,
) -> None:
    leaving = await place.open(many_steps)
    begun = [(await leaving.begin("walk", b"60")).id for _ in range(5)]
    other = await place.open(many_steps)
    await leaving.drain(grace_seconds=10)
    assert not [shard for shard in await leaving.store.owners() if shard.owner == leaving.node]
    for id in begun:
        assert await other.result(id, within=60) == 60
        entries = await other.journal(id)
        check_grammar(entries)
    events = [
        msgspec.json.decode(event.data)
        for shard in range(other.store.shards)
        for event in await other.store.tail(shard, 0)
        if event.kind == "taken"
    ]
    assert events and not any(event.get("crash") for event in events)
    await leaving.close()


async def test_a_node_that_stands_still_does_nothing_until_its_rounds_are_made(
    place: Place,
) -> None:
    clock = ManualClock()
    app = await place.open(wait, clock=clock, request_seconds=600.0)
    runtime = app._runtime
    assert runtime is not None
    await runtime.stand_still()
    begun = await app.begin("wait", b"null", key="k")
    await has_status(app, begun.id, "waiting")
    due = await runtime.next_due()
    assert due is not None and due <= clock.wall() + 600_000_000
    client = place.new(wait, clock=clock)
    await client.open_client()
    await client.signal(begun.id, "go", b"")
    assert (await app.view(begun.id)).status == "waiting"
    assert await runtime.take_due() == 1
    await has_status(app, begun.id, "done")
    epochs = {lease.epoch for lease in runtime.activations.leases.values()}
    await runtime.ownership.keep(86_400)
    clock.advance(86_400)
    await runtime.look_around()
    assert {lease.epoch for lease in runtime.activations.leases.values()} == epochs
    assert len(runtime.activations.leases) == runtime.store.shards
    assert await runtime.take_due() == 1, "the key has had its time"
    assert (await app.store.scan(REQUESTS)) == []


async def test_a_bell_that_is_heard_while_the_node_goes_down_is_left_to_the_next(
    place: Place,
) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/jobs", version=1, limit=Limit(concurrency=1))
        async def job(run: Run) -> None:
            pass

    app = await place.open(declare)
    runtime = app._runtime
    assert runtime is not None
    await runtime.stand_still()
    rung = bell("job.0", app.store.shards, 0, "somebody")
    (version,) = (await app.store.commit(Batch(put=(rung,)))).versions
    runtime.activations.draining = True
    await runtime._obey(Cell(rung.ref.space, rung.ref.key, rung.value, version))
    assert await app.store.read((rung.ref,)) != [None]
