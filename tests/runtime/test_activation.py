"""One process in memory: disposable, gated, and stopped where it may be stopped."""

from __future__ import annotations

import asyncio
import math
import sys

import pytest
from tests.service import (
    Dying,
    Outside,
    Place,
    check_grammar,
    crash,
    has_status,
    process,
    until,
)

from outlive import Outlive, Run, Unknown, attempt, clock, step
from outlive.clock import MICROS, ManualClock
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


async def test_a_time_that_no_store_can_keep_pauses_its_process_and_no_other(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "AHEAD_SECONDS_MAX", math.inf)  # else the body is told

    async def body(run: Run) -> str:
        await gate.wait()
        await run.sleep(sys.maxsize if run.id == first else 0)
        return "awake"

    app = await place.open(process(body))
    first, *others = [await start(app) for _ in range(3)]
    gate.set()
    view = await has_status(app, first, "paused")
    assert "out of range" in view.failure.message
    for id in others:
        await has_status(app, id, "done")


async def test_a_step_beside_a_wait_ends_and_is_recorded_by_a_drain(place: Place) -> None:
    async def waits(run: Run) -> None:
        await run.wait("go")

    async def works(run: Run) -> str:
        return await run(gated)

    app = await place.open(process(lambda run: run.gather(waits, works)))
    id = await start(app)
    assert app._runtime is not None
    activation = app._runtime.activations.live[id]
    await until(lambda: activation.interrupts and activation.parking)
    drain = asyncio.ensure_future(app.drain(grace_seconds=60.0))
    await until(lambda: activation.halted)
    gate.set()
    await drain
    assert [line.kind for line in await app.journal(id)] == ["started", "wait", "step"]


async def test_a_wait_is_put_down_at_once_by_a_drain_and_a_step_is_not(place: Place) -> None:
    app = await place.open(declare)
    waiting = await app.begin("thing", b"null")
    gate.set()
    await has_status(app, waiting.id, "waiting")
    gate.clear()
    running = await app.begin("thing", b"null")
    drain = asyncio.ensure_future(app.drain(grace_seconds=60.0))
    runtime = app._runtime
    assert runtime is not None
    await until(lambda: list(runtime.activations.live) == [running.id])
    gate.set()
    await drain
    assert [entry.kind for entry in await app.journal(running.id)] == ["started", "step"]


# --- deadlines ------------------------------------------------------------------------------------


async def undeed(what: str, made: str | Unknown) -> None:
    log.append(f"undo {what} {made}")
    if undo_gate is not None:
        await undo_gate.wait()
        log.append("undone")


@step(undo=undeed)
async def deed(what: str) -> str:
    log.append(what)
    if what == "endless":
        await asyncio.get_running_loop().create_future()
    return what


log: list[str] = []
undo_gate: asyncio.Event | None = None


@pytest.fixture
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    global undo_gate
    undo_gate = None
    log.clear()
    monkeypatch.setattr("outlive.runtime.node.HOLD_SECONDS", 0.3)
    monkeypatch.setattr("outlive.runtime.timers.LOOK_SECONDS_MAX", 0.02)


async def late(
    app: Outlive, id: str, status: str = "rolled_back", clock: ManualClock | None = None
) -> list[str]:
    view = await has_status(app, id, status, clock=clock)
    assert view.failure.type == "DeadlineExceeded" and view.failure.code == "OL3005"
    assert not view.cancel_requested
    check_grammar(await app.journal(id))
    return [entry.text for entry in await app.journal(id)]


@pytest.mark.usefixtures("fresh_log")
async def test_a_process_that_waits_is_woken_and_rolled_back_at_its_deadline(place: Place) -> None:
    async def body(run: Run) -> None:
        await run(deed, "one")
        await run.wait("go", within=86_400)

    clock = ManualClock()
    declare = process(body, deadline=3600)
    app = await place.open(declare, clock=clock)
    id = (await app.begin("thing", b"null")).id
    view = await has_status(app, id, "waiting")
    runtime = app._runtime
    assert runtime is not None
    await until(lambda: clock.advance(1) or not runtime.activations.live)
    app = await place.again(app, declare, clock=clock)
    clock.advance(view.started / MICROS + 3590 - clock.wall() / MICROS)
    assert (await app.view(id)).status == "waiting"
    clock.advance(15)
    assert "its deadline has passed" in await late(app, id, clock=clock)
    assert log == ["one", "undo one one"]


@pytest.mark.usefixtures("fresh_log")
async def test_a_step_under_way_at_the_deadline_is_undone_as_unknown(place: Place) -> None:
    async def body(run: Run) -> None:
        await run(deed, "one")
        run.deadline(3)
        try:
            await run(deed, "endless")
        except Exception:
            log.append("caught")

    clock = ManualClock()
    app = await place.open(process(body), clock=clock)
    id = (await app.begin("thing", b"null")).id
    await until(lambda: "endless" in log)
    clock.advance(4)  # less than a lease
    await late(app, id)
    assert log == ["one", "endless", "undo endless Unknown()", "undo one one"]


@pytest.mark.usefixtures("fresh_log")
async def test_with_nothing_to_undo_it_has_failed(place: Place) -> None:
    async def body(run: Run) -> None:
        await run.sleep(3600)

    app = await place.open(process(body, deadline=0.05))
    await late(app, (await app.begin("thing", b"null")).id, "failed")


@pytest.mark.usefixtures("fresh_log")
async def test_an_undo_of_a_scope_is_shielded_from_the_deadline(place: Place) -> None:
    global undo_gate
    undo_gate = asyncio.Event()

    async def body(run: Run) -> None:
        run.deadline(3)
        try:
            async with run.scope():
                await run(deed, "inside")
                raise LookupError
        except LookupError:
            await run(deed, "never")

    clock = ManualClock()
    app = await place.open(process(body), clock=clock)
    id = (await app.begin("thing", b"null")).id
    await until(lambda: "undo inside inside" in log)
    clock.advance(4)  # less than a lease
    await until(lambda: passed(app, id))
    assert log == ["inside", "undo inside inside"]
    undo_gate.set()
    await late(app, id, "failed")
    assert log == ["inside", "undo inside inside", "undone"]


async def passed(app: Outlive, id: str) -> bool:
    return "its deadline has passed" in [entry.text for entry in await app.journal(id)]


@pytest.mark.usefixtures("fresh_log")
async def test_a_deadline_is_replaced_lifted_and_of_no_account_behind_the_pivot(
    place: Place,
) -> None:
    async def body(run: Run) -> str:
        with pytest.raises(ValueError, match="above 0"):
            run.deadline(0)
        run.deadline(None)
        await run(deed, "one")
        run.deadline(7200)
        await run.wait("go")
        run.pivot()
        await run.wait("end")
        return "ended"

    async def branches(run: Run) -> str:
        async def branch(run: Run) -> None:
            run.deadline(5)

        with pytest.raises(RuntimeError, match="set it in the body"):
            await run.gather(branch)
        return "refused"

    clock = ManualClock()
    declare = process(body, deadline=60)
    app = await place.open(declare, clock=clock)
    id = (await app.begin("thing", b"null")).id
    await has_status(app, id, "waiting")
    clock.advance(3600)
    app = await place.again(app, declare, clock=clock)
    assert (await app.view(id)).status == "waiting"
    await app.signal(id, "go", b"")
    await until(lambda: waits_for_end(app, id))
    clock.advance(7200)
    app = await place.again(app, declare, clock=clock)
    await app.signal(id, "end", b"")
    await has_status(app, id, "done", clock=clock)
    assert await app.result(id) == "ended"
    kinds = [entry.kind for entry in await app.journal(id)]
    assert kinds.count("deadline") == 2
    app = await place.again(app, process(branches))
    assert await app.result((await app.begin("thing", b"null")).id, within=60) == "refused"


async def waits_for_end(app: Outlive, id: str) -> bool:
    return bool((await app.view(id)).waits_for == "end")
