"""Going down: children are cancelled first, waited for, and taken back in their place."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.service import Outside, Place, has_status, recorded, until

from outlive import (
    ChildFailed,
    Limit,
    NonRetryable,
    Outlive,
    Retry,
    Run,
    StepFailed,
    Unknown,
    attempt,
    step,
)
from outlive.errors import InvalidInput, ProcessTerminal
from outlive.testing.killing import KillEverywhere, Outcome
from outlive.testing.oracles import grammar_flaws

world = Outside()
gate: asyncio.Event


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    global gate
    gate = asyncio.Event()
    reset()


def reset() -> None:
    world.__init__()  # type: ignore[misc]


async def unmake(what: str, made: str | Unknown) -> None:
    world.do("undo " + attempt().key, f"unmake {what}")


@step(undo=unmake, name="offspring_make")
async def make(what: str) -> str:
    return world.do(attempt().key, f"make {what}")


async def stubborn_undo(what: str, made: str | Unknown) -> None:
    if not gate.is_set():
        raise NonRetryable("not now")
    world.do("undo " + attempt().key, f"unmake {what}")


@step(undo=stubborn_undo)
async def make_stubborn(what: str) -> str:
    return world.do(attempt().key, f"make {what}")


@step(retry=Retry(attempts=1))
async def refuse(what: str) -> str:
    raise RuntimeError(f"no {what}")


@step(name="take_back")
async def take_back(what: str, result: str | Unknown) -> None:
    world.do("undo " + attempt().key, f"take back {result}")


# --- children -------------------------------------------------------------------------------------


async def quick(run: Run, what: str) -> str:
    return await run(make, what)


async def held(run: Run, what: str) -> str:
    await run(make, what)
    await run.wait("go")
    return what


async def mother(run: Run, what: str) -> str:
    await run(make, what)
    return await run.call(held, "child")


async def past_pivot(run: Run, what: str) -> str:
    await run(make, what)
    run.pivot()
    await run.wait("go")
    return what


async def stubborn(run: Run, what: str) -> str:
    await run(make_stubborn, what)
    await run.wait("go")
    return what


async def refused(run: Run, what: str) -> str:
    return await run(refuse, what)


BODIES = (quick, held, mother, past_pivot, stubborn, refused)


def family(body: Any, **options: Any) -> Any:
    async def parent(run: Run) -> Any:
        return await body(run)

    def declare(app: Outlive) -> None:
        for child in BODIES:
            app.process(f"/{child.__name__}", version=1)(child)
        app.process("/parents", version=1, **options)(parent)

    return declare


async def begun(app: Outlive) -> str:
    return (await app.begin("parent", b"null")).id


async def child_of(app: Outlive, parent: str, name: str, status: str = "waiting") -> str:
    """The id of the child of type `name`, as soon as it has `status`."""
    return await child_in_branch(app, parent, f"start {name}", status)


async def child_in_branch(app: Outlive, parent: str, name: str, status: str = "waiting") -> str:
    """The id of the child that was started as `name`, as soon as it has `status`."""

    async def look() -> str:
        for child in (await app.view(parent)).children:
            if child.name == name and (await app.view(child.id)).status == status:
                return child.id
        return ""

    return str(await until(look, f"{name} is {status}"))


async def settled(app: Outlive, id: str, status: str) -> Any:
    view = await has_status(app, id, status)
    journal = await app.store.events((await app._head(id)).stream)
    assert grammar_flaws(journal) == []
    return view


# --- rolling back ---------------------------------------------------------------------------------


async def test_what_was_done_is_taken_back_in_reverse_order_of_its_end(place: Place) -> None:
    async def body(run: Run) -> None:
        slow = await run.start(held, "slow", undo=take_back)
        await run(make, "first")
        await run.call(quick, "fast", undo=take_back)
        await run(make, "second")
        await slow
        await run(refuse, "more")

    app = await place.open(family(body))
    id = await begun(app)
    child = await child_of(app, id, "held")

    async def both_made() -> bool:
        return len(recorded(await app.journal(id))) == 2

    await until(both_made, "both steps are recorded")
    await app.signal(child, "go", b"")
    await settled(app, id, "rolled_back")
    assert world.log[-4:] == [
        "take back slow", "unmake second", "take back make fast", "unmake first",
    ]  # fmt: skip
    assert "unmake fast" not in world.log, "the child itself had ended well"


@pytest.mark.parametrize("when", ["queued", "running", "waiting", "done"])
async def test_a_cancel_of_the_parent_in_each_phase_of_its_child(place: Place, when: str) -> None:
    async def body(run: Run) -> None:
        await run(make, "own")
        child = await run.start(quick if when == "done" else held, "child", undo=take_back)
        if when == "done":
            await child
        await run.wait("never")

    app = await place.open(family(body))
    if when == "queued":  # the child lies there and nobody begins it before it is cancelled
        app._runtime.activations.begin_queued = _nothing  # type: ignore[union-attr,method-assign]
    id = await begun(app)
    if when == "running":
        await until(lambda: world.made("make own"), "it is under way")
    elif when != "queued":
        name = "quick" if when == "done" else "held"
        await child_of(app, id, name, "done" if when == "done" else "waiting")
        await has_status(app, id, "waiting")
    else:
        await until(lambda: world.made("make own"))
    await app.cancel(id)
    view = await settled(app, id, "cancelled")
    assert world.log[-1] == "unmake own"
    for child in view.children:
        assert child.status == ("done" if when == "done" else "cancelled")
        assert world.made("make child") == world.made("unmake child") + (when == "done")
    assert world.made("take back make child") == (when == "done")


async def _nothing(*_: Any) -> None:
    """Leaves it to the pump."""


async def test_a_deadline_of_the_parent_goes_down_too(place: Place) -> None:
    async def body(run: Run) -> None:
        await run(make, "own")
        await run.call(held, "child")

    app = await place.open(family(body, deadline=0.4))
    id = await begun(app)
    view = await settled(app, id, "rolled_back")
    assert view.failure.type == "DeadlineExceeded"
    assert [child.status for child in view.children] == ["cancelled"]
    assert world.log == ["make own", "make child", "unmake child", "unmake own"]


async def test_a_child_past_its_pivot_ends_first_and_its_parent_waits_visibly(
    place: Place,
) -> None:
    async def body(run: Run) -> None:
        await run(make, "own")
        await run.call(past_pivot, "child", undo=take_back)

    app = await place.open(family(body))
    id = await begun(app)
    child = await child_of(app, id, "past_pivot")
    await app.cancel(id)
    view = await has_status(app, id, "compensating")
    assert [found.status for found in view.children] == ["cancelling"]
    assert (await app.view(child)).status == "waiting" and "unmake own" not in world.log
    app = await place.again(app, family(body))
    await app.signal(child, "go", b"")
    await settled(app, id, "cancelled")
    assert world.log[-2:] == ["take back child", "unmake own"]


async def test_a_stuck_child_holds_its_parent_until_somebody_sees_to_it(place: Place) -> None:
    async def body(run: Run) -> None:
        await run(make, "own")
        await run.call(stubborn, "child")

    app = await place.open(family(body))
    id = await begun(app)
    child = await child_of(app, id, "stubborn")
    await app.cancel(id)
    await has_status(app, child, "stuck")
    assert (await app.view(id)).status == "compensating" and "unmake own" not in world.log
    gate.set()
    await app.retry(child)
    await settled(app, id, "cancelled")
    assert world.log[-2:] == ["unmake child", "unmake own"]


async def test_a_cancel_goes_down_to_the_last_generation_first(place: Place) -> None:
    async def body(run: Run) -> None:
        await run(make, "grandmother")
        await run.call(mother, "mother")

    app = await place.open(family(body))
    id = await begun(app)
    await until(lambda: world.made("make child"), "the last one is there")
    await app.cancel(id)
    await settled(app, id, "cancelled")
    assert world.log[-3:] == ["unmake child", "unmake mother", "unmake grandmother"]


async def test_news_for_a_parent_out_of_memory_wakes_only_who_waits_for_it(place: Place) -> None:
    async def body(run: Run) -> str:
        child = await run.start(held, "held")
        word = await run.wait("word")
        return str(word) + await child

    app = await place.open(family(body))
    id = await begun(app)
    child = await child_of(app, id, "held")
    await until(lambda: app.stats().active == 0, "both have left memory")
    await app.signal(child, "go", b"")
    await app.result(child, within=10)
    view = await has_status(app, id, "waiting")
    await until(lambda: app.stats().active == 0, "the parent has left memory again")
    view = await app.view(id)
    assert (view.status, view.waits_for) == ("waiting", "word")
    await app.signal(id, "word", b'"well "')
    assert await app.result(id, within=10) == "well held"


# --- parts of a body ------------------------------------------------------------------------------


async def raced(run: Run) -> str:
    async def loses(run: Run) -> str:
        await run(make, "branch")
        await run.call(quick, "done", undo=take_back)
        return await run.call(held, "held")

    async def wins(run: Run) -> str:
        await run.wait("won")
        return "won"

    await run(make, "own")
    return await run.first(loses, wins)


async def test_a_race_that_is_lost_cancels_and_takes_back_its_children(place: Place) -> None:
    app = await place.open(family(raced))
    id = await begun(app)
    await child_in_branch(app, id, "loses/start held")
    await app.signal(id, "won", b"")
    assert await app.result(id, within=10) == "won"
    view = await settled(app, id, "done")
    assert {child.name: child.status for child in view.children} == {
        "loses/start quick": "done", "loses/start held": "cancelled",
    }  # fmt: skip
    assert world.log[-3:] == ["unmake held", "take back make done", "unmake branch"]


async def test_a_scope_that_fails_cancels_its_children_and_the_body_goes_on(place: Place) -> None:
    async def body(run: Run) -> str:
        try:
            async with run.scope():
                await run(make, "inside")
                child = await run.start(held, "held")
                await run.wait("fail")
                await run(refuse, "x")
        except StepFailed:
            await run(make, "after")
        try:
            return await child
        except ChildFailed as error:
            return f"{error.id == child.id} {error.outcome}"

    app = await place.open(family(body))
    id = await begun(app)
    await child_of(app, id, "held")
    await app.signal(id, "fail", b"")
    assert await app.result(id, within=10) == "True cancelled"
    assert world.log == ["make inside", "make held", "unmake held", "unmake inside", "make after"]


async def test_a_gather_that_fails_cancels_the_children_of_the_other_branches(
    place: Place,
) -> None:
    async def body(run: Run) -> str:
        async def fails(run: Run) -> None:
            await run.wait("fail")
            await run(refuse, "x")

        try:
            await run.gather(lambda run: run.call(held, "held"), fails)
        except StepFailed:
            return "caught"
        return "not"

    app = await place.open(family(body))
    id = await begun(app)
    await child_in_branch(app, id, "branch/start held")
    await app.signal(id, "fail", b"")
    assert await app.result(id, within=10) == "caught"
    (child,) = (await settled(app, id, "done")).children
    assert child.status == "cancelled" and world.made("unmake held") == 1


# --- ends -----------------------------------------------------------------------------------------


async def test_a_body_that_returns_waits_for_the_children_nobody_asked_for(place: Place) -> None:
    async def body(run: Run) -> str:
        await run.start(held, "held")
        return "returned"

    app = await place.open(family(body))
    id = await begun(app)
    child = await child_of(app, id, "held")
    await until(lambda: app.stats().active == 0, "both have left memory")
    assert (await app.view(id)).waits_for == child
    await app.signal(child, "go", b"")
    assert await app.result(id, within=10) == "returned"


async def test_a_child_that_failed_unasked_fails_its_parent(place: Place) -> None:
    async def body(run: Run) -> str:
        await run(make, "own")
        await run.start(refused, "x")
        return "returned"

    app = await place.open(family(body))
    id = await begun(app)
    view = await settled(app, id, "rolled_back")
    assert view.failure.type == "ChildFailed" and view.failure.code == "OL3010"
    assert world.log == ["make own", "unmake own"]


@pytest.mark.parametrize(
    ("declared", "status"), [(RuntimeError, "rolled_back"), (LookupError, "stuck")]
)
async def test_a_failed_child_counts_as_what_it_failed_with(
    place: Place, declared: type[Exception], status: str
) -> None:
    async def body(run: Run) -> None:
        await run(make, "own")
        await run.call(refused, "x")

    app = await place.open(family(body, rollback_on=(declared,)))
    await settled(app, await begun(app), status)


async def test_a_detached_child_goes_its_own_way(place: Place) -> None:
    async def body(run: Run) -> str:
        child = await run.start(held, "held", detached=True)
        with pytest.raises(RuntimeError, match="detached"):
            await child
        await run.wait("never")
        return "x"

    app = await place.open(family(body))
    id = await begun(app)
    child = await child_of(app, id, "held")
    await app.cancel(id)
    view = await settled(app, id, "cancelled")
    assert [found.status for found in view.children] == ["detached"]
    assert (await app.view(child)).parent == id
    await app.signal(child, "go", b"")
    assert await app.result(child, within=10) == "held"


async def test_a_child_with_a_wrong_input_is_not_started(place: Place) -> None:
    async def body(run: Run) -> str:
        try:
            await run.start(quick, {"not": "a text"})
        except InvalidInput:
            return "refused"
        return "started"

    app = await place.open(family(body))
    id = await begun(app)
    assert await app.result(id, within=10) == "refused"
    assert (await app.view(id)).children == ()


@pytest.fixture
def kill(tmp_path: Path) -> Iterator[KillEverywhere]:
    app = Outlive("memory://")
    family(raced)(app)
    made = KillEverywhere(app, "memory://", tmp_path)
    yield made
    made.close()


def test_a_lost_race_survives_every_death(kill: KillEverywhere) -> None:
    async def client(outlive: Any, handle: Any) -> None:
        await outlive.run_until_idle()
        if not (await outlive.view(handle.id)).final:
            await handle.signal("won")

    def check(outcome: Outcome) -> None:
        assert outcome.result == "won"
        assert {child.status for child in outcome.view.children} == {"done", "cancelled"}
        for what in ("unmake held", "take back make done", "unmake branch"):
            assert world.made(what) == 1, what

    parent = kill._app.definitions["parent"].body
    assert kill(parent, client=client, check=check, reset=reset)


def test_a_cancel_that_goes_down_survives_every_death(tmp_path: Path) -> None:
    async def body(run: Run) -> None:
        await run(make, "own")
        await run.call(quick, "done", undo=take_back)
        await run.start(mother, "mother")
        await run.call(held, "held")

    app = Outlive("memory://")
    family(body)(app)
    kill = KillEverywhere(app, "memory://", tmp_path)

    async def client(outlive: Any, handle: Any) -> None:
        await outlive.run_until_idle()
        with suppress(ProcessTerminal):
            await handle.cancel(reason="enough")

    def check(outcome: Outcome) -> None:
        assert outcome.status == "cancelled"
        for what in ("own", "mother", "child", "held"):
            assert world.made(f"make {what}") == world.made(f"unmake {what}") == 1, what
        assert world.made("take back make done") == 1
        assert world.log[-1] == "unmake own"

    parent = app.definitions["parent"].body
    assert kill(parent, client=client, check=check, reset=reset)
    kill.close()


async def test_a_child_that_is_cancelled_while_it_stands_in_line_tells_its_parent(
    place: Place,
) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/turns", version=1, limit=Limit(concurrency=1))
        async def turn(run: Run) -> None:
            await run.wait("go")

        @app.process("/waiters", version=1)
        async def waiter(run: Run) -> None:
            await run.call(turn)

    app = await place.open(declare)
    first = await app.begin("turn", b"null")
    await has_status(app, first.id, "waiting")
    parent = await app.begin("waiter", b"null")
    await has_status(app, parent.id, "waiting")
    await app.cancel(parent.id)
    view = await has_status(app, parent.id, "cancelled")
    assert [child.status for child in view.children] == ["cancelled"]
