"""The synchronous face: one thread a body, freed while it waits, ended when it is lost."""

from __future__ import annotations

import asyncio
import threading

from tests.service import Outside, Place, has_status, until

from outlive import BlockingRun, Outlive, Unknown, WaitTimeout, attempt, step

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
    assert await app.result(begun.id, within=10) == f"{begun.id} went on"
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
    await asyncio.gather(*(app.result(one.id, within=10) for one in begun))
    assert world.calls["make"] == 20 and bodies() - before <= 20
