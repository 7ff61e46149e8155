"""The synchronous face: one thread a body, freed while it waits, ended when it is lost."""

from __future__ import annotations

import asyncio
import threading

import pytest
from tests.service import Outside, Place, check_grammar, has_status, until

from outlive import BlockingRun, Outlive, StepFailed, Unknown, WaitTimeout, attempt, step
from outlive.clock import ManualClock

world = Outside()


async def unmake(made: str | Unknown) -> None:
    world.do("undo " + attempt().key, "unmake")


@step(undo=unmake)
def make() -> str:
    return world.do(attempt().key, "make")


def waiting(app: Outlive) -> None:
    @app.process("/waiting", version=1)
    def waiting(run: BlockingRun) -> str:
        run(make)
        try:
            run.wait("go", within=3600)
        except WaitTimeout:
            return "late"
        return f"{run.id} went on"


def bodies() -> int:
    return sum(thread.name.startswith("outlive-body") for thread in threading.enumerate())


async def test_a_waiting_body_leaves_memory_and_comes_back(place: Place, outside: Outside) -> None:
    global world
    world = outside
    app = await place.open(waiting)
    begun = await app.begin("waiting", b"null")
    await has_status(app, begun.id, "waiting")
    runtime = app._runtime
    assert runtime is not None
    await until(lambda: not runtime.activations.live)
    await app.signal(begun.id, "go", b"")
    assert await app.result(begun.id, within=60) == f"{begun.id} went on"
    assert world.calls["make"] == 1


async def test_a_cancel_reaches_a_body_in_its_thread(place: Place, outside: Outside) -> None:
    global world
    world = outside
    app = await place.open(waiting)
    begun = await app.begin("waiting", b"null")
    await has_status(app, begun.id, "waiting")
    await app.cancel(begun.id)
    await has_status(app, begun.id, "cancelled")
    assert world.log == ["make", "unmake"]


async def test_many_bodies_wait_at_once(place: Place, outside: Outside) -> None:
    global world
    world = outside
    before = bodies()  # threads of an earlier test may still be ending
    app = await place.open(waiting)
    begun = [await app.begin("waiting", b"null") for _ in range(20)]
    await asyncio.gather(*(has_status(app, one.id, "waiting") for one in begun))
    for one in begun:
        await app.signal(one.id, "go", b"")
    await asyncio.gather(*(app.result(one.id, within=60) for one in begun))
    assert world.calls["make"] == 20 and bodies() - before <= 20


# --- parts of a body ------------------------------------------------------------------------------


def untake(what: str, made: str | Unknown) -> None:
    world.do("undo " + attempt().key, f"untake {what}")


@step(undo=untake)
def take(what: str) -> str:
    if what == "nothing":
        raise LookupError(what)
    return world.do(attempt().key, f"take {what}")


def parts(app: Outlive) -> None:
    def left(run: BlockingRun) -> str:
        return run(take, "left") + " " + run(take, "more")

    def late(run: BlockingRun) -> None:
        run(take, "late")
        run.sleep(3600)

    @app.process("/parts", version=1)
    def parts(run: BlockingRun) -> list[str]:
        one, two = run.gather(left, lambda run: run(take, "right"))
        won = run.first(late, left)
        done = run.all([1, 2, 3], double, limit=2)
        try:
            with run.scope():
                run(take, "scoped")
                run.gather(lambda run: run.keyed("n")(take, "nothing"), late)
        except StepFailed:
            run.wait("go")
        return [one, two, str(won), str(done.results)]


def double(item: int) -> int:
    return 2 * item


async def test_branches_races_items_and_scopes_replay_in_threads(
    place: Place, outside: Outside
) -> None:
    global world
    world = outside
    app = await place.open(parts)
    begun = await app.begin("parts", b"null")

    async def waits() -> bool:
        return (await app.view(begun.id)).waits_for == "go"

    await until(waits)
    log = list(world.log)
    assert log.count("untake late") == 2 and "untake scoped" in log
    app = await place.again(app, parts)
    await app.signal(begun.id, "go", b"")
    assert await app.result(begun.id, within=60) == [
        "take left take more", "take right", "take left take more", "(2, 4, 6)",
    ]  # fmt: skip
    assert world.log == log
    check_grammar(await app.journal(begun.id))
    await until(lambda: not [t for t in threading.enumerate() if "outlive-branch" in t.name])


async def test_more_branches_than_threads_are_refused(place: Place) -> None:
    def many(app: Outlive) -> None:
        @app.process("/many", version=1)
        def many(run: BlockingRun) -> str:
            try:
                run.gather(*[late] * 65)
            except ValueError as error:
                return str(error)
            return "begun"

        def late(run: BlockingRun) -> None: ...

    app = await place.open(many)
    begun = await app.begin("many", b"null")
    assert await app.result(begun.id, within=60) == "65 branches; at most 64 have a thread each"


async def test_a_deadline_reaches_a_body_in_its_thread(
    place: Place, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.runtime.timers.LOOK_SECONDS_MAX", 0.02)
    global world
    world = outside

    def late(app: Outlive) -> None:
        @app.process("/late", version=1)
        def late(run: BlockingRun) -> None:
            run.deadline(3)
            run(take, "one")
            run.sleep(3600)

    clock = ManualClock()
    app = await place.open(late, clock=clock)
    begun = await app.begin("late", b"null")
    await has_status(app, begun.id, "waiting")

    async def is_rolled_back() -> bool:
        clock.advance(0.1)
        return bool((await app.view(begun.id)).status == "rolled_back")

    await until(is_rolled_back)
    assert world.log == ["take one", "untake one"]
