"""The body of a process: how it ends, also when it does not behave."""

from __future__ import annotations

import asyncio

import pytest
from tests.service import Outside, Place, check_grammar, has_status, process, until

from outlive import Outlive, Run, attempt, step

world = Outside()


@step
async def quick() -> str:
    return world.do(attempt().key, "quick")


@step
async def slow(what: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return world.do(attempt().key, f"slow {what}")


async def start(app: Outlive) -> str:
    return (await app.begin("thing", b"null")).id


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    global world
    world = outside


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
    assert await app.result(id, within=60) == ["slow 0", "slow 1", "slow 2", "slow 3"]
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
    assert await app.result(id, within=60) == "early"
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [e.kind for e in await app.journal(id)][-1] == "ended"


@pytest.mark.parametrize("turns", range(3))
async def test_what_a_body_leaves_behind_begins_no_step_while_its_end_is_recorded(
    place: Place, turns: int
) -> None:
    left: list[asyncio.Task[str]] = []

    async def body(run: Run) -> None:
        async def late() -> str:
            for _ in range(turns):
                await asyncio.sleep(0)
            return await run(quick)

        left.append(asyncio.create_task(late()))

    app = await place.open(process(body))
    id = await start(app)
    await app.result(id, within=60)
    (found,) = await asyncio.gather(*left, return_exceptions=True)
    assert type(found).__name__ == "Discarded"
    assert world.log == [], "it was done, and no record was kept of it"
    assert [entry.kind for entry in await app.journal(id)] == ["started", "ended"]


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
    assert await app.result(await start(app), within=60) == "in time"


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
    monkeypatch.setattr(app.store.blobs, "_bytes_max", 1024 * 1024)
    await has_status(app, await start(app), "failed", "paused", "stuck")
    assert world.calls["body"] <= 2
