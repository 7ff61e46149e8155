"""After a death: what was under way goes on, suspects one by one, and the bad one harms nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.service import (
    Outside,
    Place,
    check_grammar,
    crash,
    has_status,
    never,
    process,
    until,
)

from outlive import Limit, Outlive, Run, attempt, step
from outlive.clock import ManualClock
from outlive.errors import StoreUnavailable
from outlive.model import shard_of
from outlive.runtime.recovery import CRASHES_MAX, SUSPECT_CRASHES

world = Outside()
gate = asyncio.Event()


@pytest.fixture(autouse=True)
def fresh(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    global world, gate
    world, gate = outside, asyncio.Event()
    monkeypatch.setattr("outlive.runtime.node.HOLD_SECONDS", 0.3)
    monkeypatch.setattr("outlive.runtime.timers.LOOK_SECONDS_MAX", 0.02)


@step
async def hang(who: str) -> str:
    world.do(attempt().key, who)
    await gate.wait()
    return who


@step
async def work(n: int) -> None:
    await asyncio.sleep(0.05)
    world.do(attempt().key, f"work {n}")


@step
async def part(n: int) -> None:
    world.do(attempt().key, f"part {n}")


def services(app: Outlive) -> None:
    @app.process("/hangers", version=1)
    async def hanger(run: Run, who: str) -> str:
        return await run(hang, who)

    @app.process("/listeners", version=1)
    async def listener(run: Run, who: str) -> Any:
        await run(hang, who)
        return await run.wait("go")

    @app.process("/workers", version=1)
    async def worker(run: Run) -> str:
        for n in range(3):
            await run.keyed(n)(work, n)
        return "worked"


class Held:
    """A store that answers `call` when it is let go, or fails it once."""

    def __init__(self, inner: Any, call: str, failure: Exception | None = None) -> None:
        self._inner, self._call, self._failure = inner, call, failure
        self.go = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name != self._call:
            return found

        async def held(*args: Any, **kwargs: Any) -> Any:
            await self.go.wait()
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            return await found(*args, **kwargs)

        return held


async def begin(app: Outlive, type: str, who: str) -> str:
    return (await app.begin(type, f'"{who}"'.encode())).id


async def kinds(app: Outlive, id: str) -> list[str]:
    return [entry.kind for entry in await app.journal(id)]


async def taken(app: Outlive, *ids: str) -> list[int]:
    """How often each of them was taken up."""
    return [(await kinds(app, id)).count("taken") for id in ids]


async def die(place: Place, app: Outlive, times: int, *names: str, **options: Any) -> Outlive:
    """Kill the node whenever all of `names` hang in it."""
    for _ in range(times):
        before = {name: world.calls[name] for name in names}
        app = await place.again(app, services, **options)
        await until(
            lambda before=before: all(world.calls[name] > before[name] for name in names),
            "all of them hang again",
        )
    return app


# --- suspects and quarantine ----------------------------------------------------------------------


async def test_a_process_that_kills_its_node_again_and_again_is_quarantined(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.runtime.recovery.CRASHES_MAX", 2)
    app = await place.open(services)
    bad = await begin(app, "hanger", "bad")
    for number in range(1, 4):
        await until(lambda number=number: world.calls["bad"] == number)
        app = await place.again(app, services)
    view = await has_status(app, bad, "paused")
    assert view.failure.type == "quarantined" and world.calls["bad"] == 3
    other = await app.begin("worker", b"null")
    assert await app.result(other.id, within=60) == "worked"
    await app.retry(bad)
    await until(lambda: world.calls["bad"] == 4, "an operator lets it try again")
    gate.set()
    assert await app.result(bad, within=60) == "bad"
    check_grammar(await app.journal(bad))


async def test_progress_between_crashes_is_no_reason_for_quarantine(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.runtime.recovery.CRASHES_MAX", 1)

    async def body(run: Run) -> str:
        for n in range(4):
            await run.keyed(n)(part, n)
            await run.wait("go")
        return "done"

    app = await place.open(process(body))
    begun = await app.begin("thing", b"null")
    for n in range(4):
        await until(lambda n=n: world.calls[f"part {n}"] == 1)
        await has_status(app, begun.id, "waiting")
        app = await place.again(app, process(body))
        await app.signal(begun.id, "go", b"")
    assert await app.result(begun.id, within=60) == "done"


async def test_a_suspect_that_waits_for_its_turn_is_not_counted_again(place: Place) -> None:
    clock = ManualClock()  # it stands still, so nobody's turn ends
    app = await place.open(services, clock=clock)
    ids = [await begin(app, "hanger", who) for who in "ab"]
    await until(lambda: world.calls["a"] and world.calls["b"])
    app = await die(place, app, SUSPECT_CRASHES, "a", "b", clock=clock)
    assert await taken(app, *ids) == [SUSPECT_CRASHES] * 2
    for death in range(1, 4):
        calls = sum(world.calls.values())
        app = await place.again(app, services, clock=clock)
        await until(lambda calls=calls: sum(world.calls.values()) > calls, "one has its turn")
        await never(lambda calls=calls: sum(world.calls.values()) > calls + 1, looks=5)
        assert sum(await taken(app, *ids)) == 2 * SUSPECT_CRASHES + death
    gate.set()
    for id in ids:
        await until(lambda id=id: clock.advance(0.1) or has_ended(app, id))


async def has_ended(app: Outlive, id: str) -> bool:
    return (await app.view(id)).status == "done"


async def test_a_poison_process_is_paused_in_the_end_and_its_neighbours_never(
    place: Place,
) -> None:
    """It kills its node as soon as it runs; they need a while for every record."""
    app = await place.open(services)
    before = [(await app.begin("worker", b"null")).id for _ in range(3)]
    poison = await begin(app, "hanger", "poison")
    after = [(await app.begin("worker", b"null")).id for _ in range(3)]
    deaths = 0

    async def strikes() -> bool:
        return world.calls["poison"] > deaths or (await app.view(poison)).status == "paused"

    while True:
        await until(strikes, "it runs, or is paused")
        if world.calls["poison"] == deaths:
            break
        deaths += 1
        app = await place.again(app, services)
    assert deaths == CRASHES_MAX + 1
    assert (await app.view(poison)).failure.type == "quarantined"
    for id in (*before, *after):
        assert await app.result(id, within=60) == "worked"
        found = await kinds(app, id)
        assert "paused" not in found and found.count("step") == 3
    check_grammar(await app.journal(poison))


async def test_a_suspect_that_is_told_something_does_not_run_before_its_turn(
    place: Place,
) -> None:
    """A run that is counted nowhere could kill its node for ever."""
    clock = ManualClock()
    app = await place.open(services, clock=clock)
    ids = {who: await begin(app, "listener", who) for who in "ab"}
    await until(lambda: world.calls["a"] and world.calls["b"])
    app = await die(place, app, SUSPECT_CRASHES, "a", "b", clock=clock)
    calls = dict(world.calls)
    app = await place.again(app, services, clock=clock)
    await until(lambda: dict(world.calls) != calls, "one has its turn")
    later = "a" if world.calls["a"] == calls["a"] else "b"
    await app.signal(ids[later], "go", b"1")
    await never(lambda: world.calls[later] > calls[later])
    assert await taken(app, ids[later]) == [SUSPECT_CRASHES]
    await until(lambda: clock.advance(0.1) or world.calls[later] > calls[later], "its turn comes")
    assert (await kinds(app, ids[later]))[-2:] == ["signal", "taken"]
    gate.set()
    await has_status(app, ids[later], "done", clock=clock)
    assert await app.result(ids[later]) == 1


# --- commands while a shard is taken up -----------------------------------------------------------


@pytest.mark.parametrize("call", ["next_due", "select"])
async def test_a_command_waits_until_the_process_it_is_for_is_taken_up(
    place: Place, call: str
) -> None:
    app = await place.open(services)
    id = await begin(app, "listener", "one")
    await until(lambda: world.calls["one"] == 1)
    store = Held(place.store(), call)
    app = await place.again(app, services, store=store)
    sent = asyncio.ensure_future(app.signal(id, "go", b"7"))
    await never(sent.done, looks=5)
    assert await kinds(app, id) == ["started"]
    store.go.set()
    await sent
    assert await kinds(app, id) == ["started", "taken", "signal"]
    gate.set()
    assert await app.result(id, within=60) == 7


@pytest.mark.parametrize("call", ["next_due", "select"])
async def test_a_command_does_not_hang_when_the_store_fails_while_a_shard_is_taken_up(
    place: Place, call: str
) -> None:
    app = await place.open(services)
    id = await begin(app, "listener", "one")
    await until(lambda: world.calls["one"] == 1)
    store = Held(place.store(), call, StoreUnavailable("The store did not answer."))
    app = await place.again(app, services, store=store)
    sent = asyncio.ensure_future(app.signal(id, "go", b"7", key="once"))
    await never(sent.done, looks=5)
    store.go.set()
    try:
        await asyncio.wait_for(sent, 60)
    except StoreUnavailable:
        await app.signal(id, "go", b"7", key="once")
    gate.set()
    assert await app.result(id, within=60) == 7
    assert (await kinds(app, id)).count("signal") == 1


async def test_a_second_take_over_during_the_first_leaves_no_command_behind(place: Place) -> None:
    """Both find the process; what waits for the first is not forgotten for the second."""
    app = await place.open(services)
    id = await begin(app, "listener", "one")
    await until(lambda: world.calls["one"] == 1)
    store = Held(place.store(), "histories")
    app = await place.again(app, services, store=store)
    runtime = app._runtime
    assert runtime is not None
    recovery = runtime.activations.recovery
    await until(lambda: recovery._resuming, "the first has found it")
    sent = asyncio.ensure_future(app.signal(id, "go", b"7", key="once"))
    await never(sent.done, looks=2)
    lease = runtime.activations.leases[shard_of(id, app.store.shards)]
    first = recovery._resuming[id]
    second = asyncio.ensure_future(recovery.recover(lease, crash=True))
    await until(lambda: recovery._resuming[id] is not first, "the second has found it too")
    store.go.set()
    await asyncio.wait_for(asyncio.gather(sent, second), 60)
    gate.set()
    assert await app.result(id, within=60) == 7


async def test_a_queued_process_that_could_not_be_read_at_first_begins_later(place: Place) -> None:
    """Also when nobody claims the command that asks to start it."""
    client = await place.client(services)
    begun = await client.begin("hanger", b'"q"')
    together = Held(place.store(), "histories", StoreUnavailable("not now"))
    together.go.set()
    failing = Held(together, "events", StoreUnavailable("not now"))
    failing.go.set()
    silent = Held(failing, "claim")
    app = await place.open(services, store=silent)
    await until(lambda: failing._failure is None, "it was looked for in vain")
    gate.set()
    assert await app.result(begun.id, within=60) == "q"
    silent.go.set()
    check_grammar(await app.journal(begun.id))


async def test_what_is_due_first_in_a_shard_is_known_after_a_take_over(place: Place) -> None:
    async def body(run: Run) -> str:
        await run.sleep(3600.0)
        return "awake"

    app = await place.open(process(body))
    begun = await app.begin("thing", b"null")
    await has_status(app, begun.id, "waiting")
    due = app._runtime.activations.next_due  # type: ignore[union-attr]
    assert due is not None
    app = await place.again(app, process(body))
    runtime = app._runtime
    assert runtime is not None
    await until(lambda: len(runtime.activations.leases) == runtime.store.shards)
    await until(lambda: runtime.activations.next_due is not None)
    await has_status(app, begun.id, "waiting")


async def unmake(who: str, made: object) -> None:
    world.do(f"undo {attempt().key}", f"unmake {who}")


@step(undo=unmake, name="recovered_make")
async def make(who: str) -> str:
    return who


@step(undo=unmake, name="recovered_freeze")
async def freeze(who: str) -> str:
    world.do(attempt().key, who)
    return str(await asyncio.get_running_loop().create_future())


@pytest.mark.parametrize("done", [0, 1])
async def test_a_step_under_way_when_its_node_died_is_undone_by_a_cancel_of_who_stands_in_line(
    place: Place, done: int
) -> None:
    async def freezing(run: Run) -> None:
        for n in range(done):
            await run(make, f"part {n}")
        await run(freeze, "frozen")

    declare = process(freezing, limit=Limit(concurrency=1))
    app = await place.open(declare)
    begun = await app.begin("thing", b"null")
    await until(lambda: world.log)
    await app.pause(begun.id, who="me")
    await crash(app)
    app = await place.open(declare)
    await app.cancel(begun.id)
    await has_status(app, begun.id, "cancelled")
    assert world.log == ["frozen", "unmake frozen", "unmake part 0"][: 2 + done]
