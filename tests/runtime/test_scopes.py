"""Scopes: a part that fails is undone by itself, once, in reverse, and the body goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.service import Outside, Place, check_grammar, has_status, process, until

from outlive import NonRetryable, Outlive, Retry, Run, StepFailed, Unknown, attempt, step

world = Outside()
gate: asyncio.Event


@pytest.fixture(autouse=True)
def fresh(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    global world, gate
    world, gate = outside, asyncio.Event()
    monkeypatch.setattr("outlive.runtime.node.HOLD_SECONDS", 0.3)


async def unmake(what: str, made: str | Unknown) -> None:
    world.do("undo " + attempt().key, f"unmake {what} {made}")


@step(undo=unmake, name="scoped_make")
async def make(what: str) -> str:
    return world.do(attempt().key, f"make {what}")


@step(undo=unmake, name="scoped_hold")
async def hold(what: str) -> str:
    world.do(attempt().key, f"hold {what}")
    await gate.wait()
    return what


@step(retry=Retry(attempts=1))
async def fails(what: str = "x") -> str:
    world.do(attempt().key, f"fails {what}")
    raise RuntimeError(f"no {what}")


@step
async def after(what: str) -> str:
    return world.do(attempt().key, f"after {what}")


async def refuse_to_undo(what: str, made: str | Unknown) -> None:
    world.do("undo " + attempt().key, f"cannot undo {what}")
    if not gate.is_set():
        raise NonRetryable("not now")


@step(undo=refuse_to_undo)
async def stubborn(what: str) -> str:
    return world.do(attempt().key, f"stubborn {what}")


async def slow_undo(what: str, made: str | Unknown) -> None:
    world.do("undo " + attempt().key, f"undo begins {what}")
    await gate.wait()
    world.do("undone " + attempt().key, f"undo ends {what}")


@step(undo=slow_undo)
async def slowly(what: str) -> str:
    return world.do(attempt().key, f"slowly {what}")


@step(timeout=600)
async def timed_undo(what: str, made: str | Unknown) -> None:
    await slow_undo(what, made)


@step(undo=timed_undo)
async def slowly_in_time(what: str) -> str:
    return world.do(attempt().key, f"slowly {what}")


async def start(app: Outlive) -> str:
    return (await app.begin("thing", b"null")).id


async def finish(place: Place, app: Outlive, id: str, body: Any) -> Any:
    """Kill it while it waits for `go`, let it go on, and give its result."""
    await has_status(app, id, "waiting")
    log = list(world.log)
    app = await place.again(app, process(body))
    await app.signal(id, "go", b"")
    result = await app.result(id, within=60)
    assert world.log == log, "something was done twice"
    check_grammar(await app.journal(id))
    return result


async def test_an_error_that_leaves_it_undoes_it_and_the_body_goes_on(place: Place) -> None:
    async def body(run: Run) -> str:
        await run(make, "outside")
        try:
            async with run.scope():
                await run(make, "one")
                await run(make, "two")
                await run(fails)
        except StepFailed:
            await run(after, "scope")
        await run.wait("go")
        return "on"

    app = await place.open(process(body))
    id = await start(app)
    assert await finish(place, app, id, body) == "on"
    assert world.log == [
        "make outside", "make one", "make two", "fails x",
        "unmake two make two", "unmake one make one", "after scope",
    ]  # fmt: skip


async def test_without_an_error_it_costs_and_undoes_nothing(place: Place) -> None:
    async def body(run: Run) -> str:
        async with run.scope():
            await run(make, "one")
        await run.wait("go")
        return "on"

    app = await place.open(process(body))
    id = await start(app)
    assert await finish(place, app, id, body) == "on"
    assert [entry.kind for entry in await place.apps[-1].journal(id)][:3] == [
        "started", "step", "wait",
    ]  # fmt: skip


async def test_nested_scopes_undo_from_the_inside_and_nothing_twice(place: Place) -> None:
    async def body(run: Run) -> str:
        try:
            async with run.scope():
                await run(make, "outer")
                async with run.scope():
                    await run(make, "fine")
                try:
                    async with run.scope():
                        await run(make, "inner")
                        raise LookupError("inner")
                except LookupError:
                    await run(make, "between")
                raise KeyError("outer")
        except KeyError:
            await run.wait("go")
        return "on"

    app = await place.open(process(body))
    id = await start(app)
    assert await finish(place, app, id, body) == "on"
    assert world.log == [
        "make outer", "make fine", "make inner", "unmake inner make inner", "make between",
        "unmake between make between", "unmake fine make fine", "unmake outer make outer",
    ]  # fmt: skip


async def test_what_a_scope_has_undone_the_process_does_not_undo_again(place: Place) -> None:
    async def body(run: Run) -> None:
        await run(make, "first")
        with pytest.raises(StepFailed):  # noqa: PT012
            async with run.scope():
                await run(make, "inside")
                await run(fails)
        await run(make, "last")
        await run(fails, "again")

    app = await place.open(process(body))
    id = await start(app)
    await has_status(app, id, "rolled_back")
    assert [what for what in world.log if what.startswith("unmake")] == [
        "unmake inside make inside", "unmake last make last", "unmake first make first",
    ]  # fmt: skip
    check_grammar(await app.journal(id))


async def test_branches_inside_of_it_are_undone_with_it(place: Place) -> None:
    async def bad(run: Run) -> None:
        await run(make, "bad")
        await until(lambda: "hold other" in world.log)
        await run(fails)

    async def other(run: Run) -> None:
        await run(make, "other")
        await run(hold, "other")

    async def body(run: Run) -> str:
        with pytest.raises(StepFailed):  # noqa: PT012
            async with run.scope():
                await run(make, "before")
                await run.gather(bad, other)
        await run.wait("go")
        return "on"

    app = await place.open(process(body))
    id = await start(app)
    assert await finish(place, app, id, body) == "on"
    undone = [what for what in world.log if what.startswith("unmake")]
    assert undone[0] == "unmake other Unknown()" and undone[-1] == "unmake before make before"
    assert set(undone[1:3]) == {"unmake bad make bad", "unmake other make other"}


async def test_a_scope_in_a_branch_that_is_ended_is_undone_too(place: Place) -> None:
    async def bad(run: Run) -> None:
        await until(lambda: "hold inside" in world.log)
        await run(fails)

    async def scoped(run: Run) -> None:
        await run(make, "kept")
        async with run.scope():
            await run(make, "inside")
            await run(hold, "inside")

    async def body(run: Run) -> str:
        with pytest.raises(StepFailed):
            await run.gather(bad, scoped)
        await run.wait("go")
        return "on"

    app = await place.open(process(body))
    id = await start(app)
    assert await finish(place, app, id, body) == "on"
    assert [what for what in world.log if what.startswith("unmake")] == [
        "unmake inside Unknown()", "unmake inside make inside",
    ]  # fmt: skip


async def test_a_task_that_was_left_behind_ends_before_its_step_is_undone(place: Place) -> None:
    async def body(run: Run) -> str:
        with pytest.raises(StepFailed):  # noqa: PT012
            async with run.scope():
                beside = asyncio.ensure_future(run(hold, "beside"))
                await until(lambda: "hold beside" in world.log)
                await run(fails)
        assert beside.done() or run._activation.loaded
        await run.wait("go")
        beside.cancel()
        return "on"

    app = await place.open(process(body))
    id = await start(app)
    assert await finish(place, app, id, body) == "on"
    assert world.log == ["hold beside", "fails x", "unmake beside Unknown()"]


async def test_an_undo_that_gives_up_stops_the_process_until_it_is_let_go_on(place: Place) -> None:
    async def body(run: Run) -> str:
        with pytest.raises(StepFailed):  # noqa: PT012
            async with run.scope():
                await run(make, "one")
                await run(stubborn, "two")
                await run(fails)
        await run.wait("go")
        return "on"

    app = await place.open(process(body))
    id = await start(app)
    view = await has_status(app, id, "stuck")
    assert view.failure.message == "not now"
    assert "unmake one make one" not in world.log
    gate.set()
    await app.retry(id)
    assert await finish(place, app, id, body) == "on"
    assert world.calls["fails x"] == 1 and world.log[-1] == "unmake one make one"


@pytest.mark.parametrize("undone_slowly", [slowly, slowly_in_time], ids=["plain", "with a limit"])
async def test_an_undo_under_way_is_shielded_from_a_cancel(
    place: Place, undone_slowly: Any
) -> None:
    async def body(run: Run) -> None:
        with pytest.raises(StepFailed):  # noqa: PT012
            async with run.scope():
                await run(make, "one")
                await run(undone_slowly, "two")
                await run(fails)
        await run(after, "never")

    app = await place.open(process(body))
    id = await start(app)
    await until(lambda: "undo begins two" in world.log)
    await app.cancel(id)
    gate.set()
    await has_status(app, id, "cancelled")
    assert world.log[3:] == ["undo begins two", "undo ends two", "unmake one make one"]
    check_grammar(await app.journal(id))


async def test_behind_the_pivot_nothing_is_undone(place: Place) -> None:
    async def body(run: Run) -> str:
        try:
            async with run.scope():
                await run(make, "one")
                run.pivot()
                await run(make, "two")
                raise LookupError
        except LookupError:
            await run.wait("go")
        return "on"

    app = await place.open(process(body))
    id = await start(app)
    assert await finish(place, app, id, body) == "on"
    assert world.log == ["make one", "make two"]


async def test_an_error_that_does_not_roll_back_undoes_nothing(place: Place) -> None:
    async def body(run: Run) -> str:
        try:
            async with run.scope():
                await run(make, "one")
                raise LookupError
        except LookupError:
            await run.wait("go")
        return "on"

    def declare(app: Outlive) -> None:
        process(body, rollback_on=(StepFailed,))(app)

    app = await place.open(declare)
    id = await start(app)
    await has_status(app, id, "waiting")
    assert world.log == ["make one"]


async def test_a_scope_that_is_left_without_the_recorded_error_pauses_the_process(
    place: Place,
) -> None:
    def body(error: bool) -> Any:
        async def scoped(run: Run) -> None:
            try:
                async with run.scope():
                    await run(make, "one")
                    if error:
                        raise LookupError
            except LookupError:
                pass
            await run.wait("go")

        return scoped

    app = await place.open(process(body(True)))
    id = await start(app)
    await has_status(app, id, "waiting")
    app = await place.again(app, process(body(False)))
    await app.signal(id, "go", b"")
    view = await has_status(app, id, "paused")
    assert "scope is recorded as rolled back" in view.failure.message


async def test_a_scope_is_entered_once(place: Place) -> None:
    async def body(run: Run) -> str:
        scope = run.scope()
        async with scope:
            with pytest.raises(RuntimeError, match="entered once"):
                async with scope:
                    pass
        return "once"

    app = await place.open(process(body))
    assert await app.result(await start(app), within=60) == "once"
