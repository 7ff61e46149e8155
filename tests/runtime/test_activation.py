"""One process in memory: disposable, gated, and stopped where it may be stopped."""

from __future__ import annotations

import asyncio

import pytest
from tests.service import (
    Dying,
    Outside,
    Place,
    crash,
    has_status,
    until,
)

from outlive import Outlive, Run, attempt, step
from outlive.errors import Discarded
from outlive.kinds.processes.vocabulary import Woke

world = Outside()
gate: asyncio.Event


@step(name="gated_step")
async def gated() -> str:
    await gate.wait()
    return "through"


@step
async def quick() -> str:
    return world.do(attempt().key, "quick")


@step
async def slow(what: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return world.do(attempt().key, f"slow {what}")


async def start(app: Outlive) -> str:
    return (await app.begin("thing", b"null")).id


def declare(app: Outlive) -> None:
    @app.process("/things", version=1)
    async def thing(run: Run) -> str:
        first = await run(gated)
        await run.wait("go")
        return first


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    global world, gate
    world, gate = outside, asyncio.Event()


async def test_nothing_leaves_before_its_commit(place: Place) -> None:
    """The start is answered, and the step's result seen, only when they are durable."""
    store = Dying(place.store(), 0, "before")
    app = await place.open(declare, store=store)
    store._at = store.commits + 1
    start = asyncio.ensure_future(app.begin("thing", b"null"))
    await store.died.wait()
    await asyncio.sleep(0.02)
    assert not start.done()
    start.cancel()
    reader = await place.client(declare)
    assert await reader.processes() == ([], "")
    await crash(app)


async def test_what_was_thrown_away_can_record_nothing(place: Place) -> None:
    app = await place.open(declare)
    begun = await app.begin("thing", b"null")
    runtime = app._runtime
    assert runtime is not None
    activation = await until(lambda: runtime.activations.live.get(begun.id))
    activation.discard()
    for call in (activation.record(Woke("x")), activation.park("x", None)):
        with pytest.raises(Discarded):
            await call
    assert await app.seq(begun.id) == 1


async def test_a_wait_is_put_down_at_once_by_a_drain_and_a_step_is_not(place: Place) -> None:
    app = await place.open(declare)
    waiting = await app.begin("thing", b"null")
    gate.set()
    await has_status(app, waiting.id, "waiting")
    gate.clear()
    running = await app.begin("thing", b"null")
    drain = asyncio.ensure_future(app.drain(grace_seconds=5.0))
    runtime = app._runtime
    assert runtime is not None
    await until(lambda: list(runtime.activations.live) == [running.id])
    gate.set()
    await drain
    assert [entry.kind for entry in await app.journal(running.id)] == ["started", "step"]
