"""Children and events when a body is replayed, changed, or written without `await`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.service import Outside, Place, has_status, until

from outlive import BlockingRun, ChildFailed, Outlive, Run, attempt, step
from outlive.stores.memory import MemoryStore
from outlive.testing.trial import Trial

world = Outside()


class Baked(msgspec.Struct):
    cake: str


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    world.__init__()  # type: ignore[misc]


@step(name="reaching_do")
async def do(what: str) -> str:
    return world.do(attempt().key, what)


async def bake(run: Run, cake: str) -> str:
    await run.sleep(10)
    await run(do, f"bake {cake}")
    if cake == "stone":
        raise LookupError("nobody eats that")
    return cake


async def eat(run: Run, baked: Baked) -> str:
    return await run(do, f"eat {baked.cake}")


async def party(run: Run, guests: int) -> list[str]:
    first = await run.start(bake, "first")
    wrong = await run.start(bake, "stone", key="stone")
    some = await run.all(["a", "b"], bake, limit=2)
    await run.publish(Baked("first"))
    try:
        await wrong
    except ChildFailed as error:
        await run(do, f"lost {error.outcome}")

    async def nap(run: Run) -> str:
        await run.sleep(100)
        return "slept"

    raced = await run.first(lambda run: first.result(), nap)
    return [raced, *some.results, str(run.now())]


def plain_party(run: BlockingRun, guests: int) -> list[str]:
    first = run.start(bake, "first")
    some = run.all(["a"], bake, limit=1)
    run.publish(Baked("first"))
    assert first.id.startswith("bake_")
    return [first.result(), *some.results, run.call(eat, Baked("crumbs"))]


def kitchen(app: Outlive) -> None:
    for body in (bake, party, plain_party):
        app.process(f"/{body.__name__}", version=1)(body)
    app.on(Baked)(app.process("/eat", version=1)(eat))


@pytest.mark.parametrize("always_replay", [False, True])
async def test_a_body_that_is_replayed_at_every_record_starts_nothing_twice(
    always_replay: bool,
) -> None:
    app = Outlive("memory://")
    kitchen(app)
    make = lambda clock: MemoryStore(4, clock)  # noqa: E731
    async with Trial(app, make, always_replay=always_replay) as trial:
        handle = await trial.start(party, 3)
        assert (await handle.result())[:3] == ["first", "a", "b"]
        await trial.run_until_idle()
        assert len((await handle.view()).children) == 4
    assert sorted(world.log) == [
        "bake a", "bake b", "bake first", "bake stone", "eat first", "lost failed",
    ]  # fmt: skip


async def test_its_time_is_the_same_after_it_was_out_of_memory() -> None:
    app = Outlive("memory://")

    async def timed(run: Run) -> list[str]:
        child = await run.start(bake, "x")
        await run.sleep(50)
        await child
        before = str(run.now())
        await run.wait("go")
        return [before, str(run.now())]

    kitchen(app)
    app.process("/timed", version=1)(timed)
    async with Trial(app, lambda clock: MemoryStore(4, clock)) as trial:
        handle = await trial.start(timed)
        await trial.advance(seconds=60)
        await trial.evict(handle)
        await handle.signal("go")
        before, after = await handle.result()
        assert before < after


async def test_a_plain_body_has_the_same_calls(place: Place, monkeypatch: Any) -> None:
    async def at_once(run: Run, cake: str) -> str:
        return await run(do, f"bake {cake}")

    def declare(app: Outlive) -> None:
        app.process("/bake", version=1, name="bake")(bake)
        app.process("/party", version=1)(plain_party)
        app.on(Baked)(app.process("/eat", version=1)(eat))

    monkeypatch.setattr(f"{__name__}.bake", at_once)
    app = await place.open(declare)
    handle = await app.start(plain_party, 1)
    assert await handle.result(within=20) == ["bake first", "bake a", "eat crumbs"]
    await until(lambda: world.made("eat first"), "the event was heard")


@pytest.mark.parametrize("change", ["another input", "another type", "no child"])
async def test_a_body_that_asks_for_another_child_is_paused_with_a_diff(
    place: Place, change: str
) -> None:
    async def waits(run: Run) -> Any:
        child = await run.start(held, "first")
        await run.wait("go")
        return await child

    async def changed(run: Run) -> Any:
        if change == "another input":
            await run.start(held, "other")
        elif change == "another type":
            await run.start(eat, Baked("x"))
        await run.wait("go")
        return "end"

    async def held(run: Run, what: str) -> str:
        await run.wait("go")
        return what

    def declare(body: Any) -> Any:
        def to(app: Outlive) -> None:
            app.process("/parents", version=1, name="parent")(body)
            app.process("/held", version=1)(held)
            app.process("/eat", version=1)(eat)

        return to

    app = await place.open(declare(waits))
    handle = await app.start(waits)
    await has_status(app, handle.id, "waiting")
    app = await place.again(app, declare(changed))
    await app.signal(handle.id, "go", b"")
    view = await has_status(app, handle.id, "paused")
    assert view.failure.type == "drift" and "start held" in view.failure.message
