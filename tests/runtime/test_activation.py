"""One process in memory: disposable, gated, and stopped where it may be stopped."""

from __future__ import annotations

import asyncio

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


# --- bodies that do not behave --------------------------------------------------------------------


@pytest.mark.parametrize("swallowed", [Exception, BaseException])
async def test_a_body_that_swallows_everything_cannot_run_a_recorded_step_again(
    place: Place, swallowed: type[BaseException]
) -> None:
    async def body(run: Run) -> list[str]:
        found = []
        for number in range(4):
            try:
                found.append(await run.keyed(number)(slow, str(number), 0.01))
            except swallowed as error:
                found.append(type(error).__name__)
        try:
            await run.wait("go")
        except swallowed as error:
            found.append(type(error).__name__)
        return found

    app = await place.open(process(body))
    id = await start(app)
    await until(lambda: "slow 1" in world.log)
    app = await place.again(app, process(body))
    await app.signal(id, "go", b"")
    assert await app.result(id, within=10) == ["slow 0", "slow 1", "slow 2", "slow 3"]
    assert world.calls["slow 0"] == 1
    check_grammar(await app.journal(id))


async def test_a_body_that_ends_while_steps_run_beside_it_records_nothing_after_its_end(
    place: Place,
) -> None:
    tasks = []

    async def body(run: Run) -> str:
        tasks.append(asyncio.create_task(run(slow, "behind", 0.02)))
        await run(quick)
        return "early"

    app = await place.open(process(body))
    id = await start(app)
    assert await app.result(id, within=10) == "early"
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [e.kind for e in await app.journal(id)][-1] == "ended"


async def test_a_body_that_leaves_by_its_own_base_exception_does_not_run_for_ever(
    place: Place,
) -> None:
    class Leave(BaseException):
        pass

    async def body(run: Run) -> None:
        await run(quick)
        raise Leave("bye")

    app = await place.open(process(body))
    id = await start(app)
    view = await has_status(app, id, "failed", "paused", "stuck")
    assert view.failure.type in ("Leave", "internal error")


async def test_a_body_that_lets_a_foreign_cancellation_out_is_stuck_and_does_not_loop(
    place: Place,
) -> None:
    async def body(run: Run) -> None:
        world.do("", "body")
        await run(quick)
        raise asyncio.CancelledError

    app = await place.open(process(body))
    id = await start(app)
    await has_status(app, id, "stuck")
    assert world.calls["body"] == 1


async def test_a_time_limit_of_the_body_s_own_around_a_step_is_an_error_of_the_body(
    place: Place,
) -> None:
    async def body(run: Run) -> str:
        try:
            async with asyncio.timeout(0.02):
                await run(slow, "late", 5.0)
        except TimeoutError:
            return "in time"
        return "late"

    app = await place.open(process(body))
    assert await app.result(await start(app), within=10) == "in time"


async def test_a_result_that_cannot_be_recorded_fails_the_process(place: Place) -> None:
    async def body(run: Run) -> object:
        return object()

    app = await place.open(process(body))
    view = await has_status(app, await start(app), "failed")
    assert "cannot be recorded" in view.failure.message


async def test_a_result_that_is_too_large_never_loops(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(run: Run) -> str:
        world.do("", "body")
        return "x" * (9 * 1024 * 1024)

    app = await place.open(process(body))
    await has_status(app, await start(app), "failed", "paused", "stuck")
    assert world.calls["body"] <= 2
