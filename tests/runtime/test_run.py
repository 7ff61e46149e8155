"""What a body holds: the same on every replay, identities that hold, drift that is seen."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tests.service import (
    Body,
    Outside,
    Place,
    check_grammar,
    crash,
    has_status,
    process,
    until,
)

from outlive import Outlive, Retry, Run, StepFailed, Unknown, WaitTimeout, attempt, step
from outlive.clock import MICROS, ManualClock
from outlive.errors import InvalidInput, MalformedInput, NotStuck, SignalNotExpected, TooManySignals

world = Outside()


@pytest.fixture(autouse=True)
def fresh(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    global world
    world = outside
    monkeypatch.setattr("outlive.runtime.node.HOLD_SECONDS", 0.3)


@step
async def one(what: str = "one") -> str:
    return world.do(attempt().key, f"one {what}")


@step
async def two(what: str = "two") -> str:
    return world.do(attempt().key, f"two {what}")


@step
async def three(what: str = "three") -> str:
    return world.do(attempt().key, f"three {what}")


async def unone(what: str, made: str | Unknown) -> None:
    world.do("undo " + attempt().key, f"unone {what}")


@step(undo=unone)
async def undoable(what: str = "x") -> str:
    return world.do(attempt().key, f"undoable {what}")


@step(retry=Retry(attempts=1))
async def fails(what: str = "x") -> str:
    world.do(attempt().key, f"fails {what}")
    raise RuntimeError("no")


@step
async def slow(what: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return world.do(attempt().key, f"slow {what}")


async def start(app: Outlive) -> str:
    return (await app.begin("thing", b"null")).id


async def restart_at_wait(place: Place, before: Body, after: Body) -> tuple[Outlive, str]:
    """Run `before` to its wait for `go`, die there, and go on with `after`."""
    app = await place.open(process(before))
    id = await start(app)
    await until(lambda: waits_for(app, id, "go"))
    app = await place.again(app, process(after))
    await app.signal(id, "go", b"")
    return app, id


# --- the same on every replay ---------------------------------------------------------------------


async def test_time_ids_chance_and_state_are_the_same_on_a_replay(place: Place) -> None:
    seen: list[tuple[Any, ...]] = []

    async def body(run: Run) -> None:
        facts: list[Any] = [run.id, run.key, run.version, run.now(), run.uuid()]
        await run(one)
        facts += [run.now(), run.uuid(), run.random().random()]
        run.state = {"at": "one"}
        await run.sleep(0.001)
        facts += [run.now(), run.random().random(), run.state]
        try:
            await run(fails)
        except StepFailed as error:
            facts += [run.now(), str(error)]
        try:
            await run.wait("nothing", within=0.001)
        except WaitTimeout:
            facts += [run.now()]
        await asyncio.gather(run(slow, "a", 0.02), run(two))
        facts += [run.now(), run.state]
        seen.append(tuple(facts))
        await run.wait("go")

    app, id = await restart_at_wait(place, body, body)
    await app.result(id, within=60)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert len({seen[0][4], seen[0][6]}) == 2


async def test_state_is_seen_with_the_next_record_and_the_input_before(place: Place) -> None:
    async def body(run: Run) -> None:
        await run(one)
        run.state = {"stage": 2}
        await run(two)
        run.state = {"stage": 3}
        await run.wait("go")

    app = await place.open(process(body))
    id = await start(app)
    view = await has_status(app, id, "waiting")
    assert msgspec.json.decode(view.data) == {"stage": 3}
    states = [e for e in await app.journal(id) if e.kind == "state"]
    assert len(states) == 2
    await app.signal(id, "go", b"")
    await app.result(id, within=60)
    assert len([e for e in await app.journal(id) if e.kind == "state"]) == 2


# --- identity -------------------------------------------------------------------------------------


async def test_a_keyed_loop_finds_its_steps_in_whatever_order_it_comes_by(place: Place) -> None:
    def body(order: str) -> Body:
        async def loop(run: Run) -> list[str]:
            found = [await run.keyed(item)(one, item) for item in sorted(order)]
            await run.wait("go")
            return found

        return loop

    app, id = await restart_at_wait(place, body("abc"), body("abc"))
    assert await app.result(id, within=60) == ["one a", "one b", "one c"]
    names = [msgspec.json.decode(e.data)["id"] for e in await app.journal(id) if e.kind == "step"]
    assert names == ["one:a", "one:b", "one:c"]
    assert world.calls["one a"] == 1


async def test_keys_hold_when_keyed_steps_run_in_parallel(place: Place) -> None:
    async def body(run: Run) -> list[str]:
        return list(await asyncio.gather(*(run.keyed(item)(one, item) for item in "abc")))

    app = await place.open(process(body))
    id = await start(app)
    assert await app.result(id, within=60) == ["one a", "one b", "one c"]
    names = [msgspec.json.decode(e.data)["id"] for e in await app.journal(id) if e.kind == "step"]
    assert sorted(names) == ["one:a", "one:b", "one:c"]


async def test_a_key_that_is_empty_or_too_long_is_refused(place: Place) -> None:
    async def body(run: Run) -> int:
        for key in ("", "x" * 201):
            with pytest.raises(ValueError, match="a key has"):
                run.keyed(key)
        return 1

    app = await place.open(process(body))
    assert await app.result(await start(app), within=60) == 1


async def test_branches_of_several_steps_replay_without_drift(place: Place) -> None:
    """They interleave by chance the first time, and are replayed one branch after the other."""

    async def branch(run: Run, name: str, first: float, second: float) -> None:
        await run.keyed(f"{name}1")(slow, f"{name}1", first)
        await run.keyed(f"{name}2")(slow, f"{name}2", second)

    async def body(run: Run) -> str:
        await run(one)
        await asyncio.gather(branch(run, "a", 0.03, 0.0), branch(run, "b", 0.0, 0.06))
        await run.wait("go")
        await run(two)
        return "done"

    app, id = await restart_at_wait(place, body, body)
    view = await has_status(app, id, "done", "paused")
    assert view.status == "done", view.failure
    assert all(count == 1 for count in world.calls.values()), world.calls


async def test_a_transaction_beside_a_step_disturbs_neither(place: Place) -> None:
    def insert(tables: Any, what: str) -> str:
        tables.execute("INSERT INTO line VALUES (?)", (what,))
        return what

    async def body(run: Run) -> list[str]:
        names = await asyncio.gather(
            *(run.keyed(n)(one, str(n)) for n in range(5)),
            *(run.keyed(n)(run_insert, n) for n in ()),
            run.transact(insert, "a"),
            run.transact(insert, "b"),
        )
        return [*names]

    async def run_insert(n: int) -> str:
        return str(n)

    def declare(app: Outlive) -> None:
        app.schema(lambda db: db.execute("CREATE TABLE IF NOT EXISTS line (what TEXT)"))
        process(body)(app)

    app = await place.open(declare)
    id = await start(app)
    result = await app.result(id, within=60)
    assert result == [*(f"one {n}" for n in range(5)), "a", "b"]
    assert all(count == 1 for count in world.calls.values()), world.calls
    check_grammar(await app.journal(id))


# --- waiting --------------------------------------------------------------------------------------


async def test_a_signal_that_comes_before_its_wait_is_kept(place: Place) -> None:
    async def body(run: Run) -> list[Any]:
        await run(slow, "a", 0.05)
        return [await run.wait("go"), await run.wait("go"), await run.wait("go")]

    app = await place.open(process(body))
    id = await start(app)
    for number in b"123":
        await app.signal(id, "go", bytes([number]))
    assert await app.result(id, within=60) == [1, 2, 3]
    check_grammar(await app.journal(id))


async def test_a_signal_sent_again_with_the_same_key_counts_once(place: Place) -> None:
    async def body(run: Run) -> list[Any]:
        first = await run.wait("go")
        try:
            return [first, await run.wait("go", within=0.05)]
        except WaitTimeout:
            return [first]

    app = await place.open(process(body))
    id = await start(app)
    for _ in range(3):
        await app.signal(id, "go", b"1", key="once")
    assert await app.result(id, within=60) == [1]


async def test_signal_against_time_out_is_decided_by_one_commit(place: Place) -> None:
    async def body(run: Run) -> str:
        try:
            await run.wait("go", within=0.02)
            return "signal"
        except WaitTimeout:
            return "time is up"

    app = await place.open(process(body))

    async def race(delay: float) -> None:
        id = await start(app)
        await asyncio.sleep(delay)
        try:
            await app.signal(id, "go", b"")
        except Exception as error:
            assert type(error).__name__ == "ProcessTerminal"  # noqa: PT017
        await app.result(id, within=60)
        kinds = [e.kind for e in await app.journal(id)]
        assert kinds.count("waited") == 1

    await asyncio.gather(*(race(0.001 * n) for n in range(12, 30)))


async def test_a_signal_wakes_a_process_that_has_left_memory(place: Place) -> None:
    async def body(run: Run) -> Any:
        return await run.wait("go", within=3600)

    app = await place.open(process(body))
    id = await start(app)
    runtime = app._runtime
    assert runtime is not None
    await has_status(app, id, "waiting")
    await until(lambda: not runtime.activations.live, "it leaves memory")
    await app.signal(id, "go", b'"hello"')
    assert await app.result(id, within=60) == "hello"


async def test_undeclared_signals_and_wrong_payloads_are_refused(place: Place) -> None:
    async def body(run: Run) -> Any:
        return await run.wait("go")

    app = await place.open(process(body, signals={"go": int}))
    id = await start(app)
    with pytest.raises(SignalNotExpected):
        await app.signal(id, "stop", b"1")
    with pytest.raises(InvalidInput):
        await app.signal(id, "go", b'"text"')
    with pytest.raises(MalformedInput):
        await app.signal(id, "go", b"{")
    await app.signal(id, "go", b"7")
    assert await app.result(id, within=60) == 7


async def test_too_many_waiting_signals_are_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outlive.runtime.commands.SIGNALS_WAITING_MAX", 3)

    async def body(run: Run) -> None:
        await run.wait("never")

    app = await place.open(process(body))
    id = await start(app)
    for _ in range(3):
        await app.signal(id, "go", b"")
    with pytest.raises(TooManySignals):
        await app.signal(id, "go", b"")


async def test_two_waits_in_parallel_each_end_at_their_own_time(place: Place) -> None:
    async def body(run: Run) -> str:
        ended: list[str] = []

        async def sleep(name: str, seconds: float) -> None:
            await run.keyed(name).sleep(seconds)
            ended.append(name)

        await asyncio.gather(sleep("long", 3600), sleep("short", 30), sleep("middle", 300))
        return " ".join(ended)

    clock = ManualClock()
    app = await place.open(process(body), clock=clock)
    id = await start(app)
    await has_status(app, id, "waiting")

    async def soon(name: str) -> bool:
        clock.advance(0.01)
        return await woke(app, id, name)

    for minute in range(70):
        clock.advance(60)
        if minute == 1:
            await until(lambda: soon("sleep:short"), "the short sleep ends first")
        if minute == 6:
            await until(lambda: soon("sleep:middle"), "the middle one then")
    await has_status(app, id, "done", clock=clock)
    assert await app.result(id) == "short middle long"


async def woke(app: Outlive, id: str, name: str) -> bool:
    return any(e.kind == "woke" and name in e.text for e in await app.journal(id))


async def test_a_step_beside_a_wait_goes_on_after_a_crash(place: Place) -> None:
    release = asyncio.Event()

    @step(name="gated")
    async def gated() -> str:
        world.do(attempt().key, "gated")
        await release.wait()
        return "through"

    async def body(run: Run) -> list[Any]:
        return list(await asyncio.gather(run.wait("go"), run(gated)))

    app = await place.open(process(body))
    id = await start(app)
    await until(lambda: "gated" in world.log)
    app = await place.again(app, process(body))
    release.set()
    await until(lambda: world.calls["gated"] == 2, "the interrupted step runs again")
    await app.signal(id, "go", b"1")
    assert await app.result(id, within=60) == [1, "through"]


async def test_a_sleep_does_not_start_anew_when_its_node_dies(place: Place) -> None:
    async def body(run: Run) -> str:
        await run.sleep(86_400)
        return "rested"

    clock = ManualClock()
    app = await place.open(process(body), clock=clock)
    id = await start(app)
    due = (await has_status(app, id, "waiting")).due
    clock.advance(86_000)
    app = await place.again(app, process(body), clock=clock)
    assert (await app.view(id)).due == due
    clock.advance(401)
    await has_status(app, id, "done", clock=clock)
    assert await app.result(id) == "rested"


async def test_a_negative_sleep_is_refused(place: Place) -> None:
    async def body(run: Run) -> None:
        with pytest.raises(ValueError, match="cannot sleep"):
            await run.sleep(-1)

    app = await place.open(process(body))
    await app.result(await start(app), within=60)


async def test_a_year_of_sleep_passes_in_a_second(place: Place) -> None:
    async def body(run: Run) -> int:
        for _ in range(12):
            await run.sleep(30 * 86_400)
        return 12

    clock = ManualClock()
    app = await place.open(process(body), clock=clock)
    id = await start(app)
    for month in range(12):
        # A month's jump takes its lease from the node, perhaps with a wake-up in its hand, which
        # then lasts for a moment: time goes on while we wait.
        await until(lambda month=month: clock.advance(0.05) or slept(app, id, month + 1))
        clock.advance(30 * 86_400 + 1)
    await has_status(app, id, "done", clock=clock)
    assert await app.result(id) == 12
    assert clock.wall() > 1_700_000_000 * MICROS + 350 * 86_400 * MICROS


async def slept(app: Outlive, id: str, times: int) -> bool:
    return [e.kind for e in await app.journal(id)].count("sleep") >= times


# --- drift ----------------------------------------------------------------------------------------


async def paused(app: Outlive, id: str) -> str:
    view = await has_status(app, id, "paused")
    assert view.failure.type == "drift"
    return str(view.failure.message)


def straight(*calls: Any) -> Body:
    """A body of these calls, a wait for `go`, and an end."""

    async def body(run: Run) -> list[str]:
        found = []
        for function, *args in calls:
            found.append(await run(function, *args))
        await run.wait("go")
        return found

    return body


async def test_other_arguments_pause_the_process_and_the_mended_code_goes_on(place: Place) -> None:
    good, bad = straight((one, "a"), (two, "b")), straight((one, "a"), (two, "OTHER"))
    app, id = await restart_at_wait(place, good, bad)
    message = await paused(app, id)
    assert "two is recorded with arguments" in message and "Recorded so far: one, two" in message
    app = await place.again(app, process(good))
    assert (await app.view(id)).status == "paused"
    await app.retry(id)
    assert await app.result(id, within=60) == ["one a", "two b"]
    assert world.calls == {"one a": 1, "two b": 1}
    with pytest.raises(NotStuck):
        await app.retry(id)


async def test_a_retry_without_mending_pauses_again_and_never_loops(place: Place) -> None:
    app, id = await restart_at_wait(place, straight((one, "a")), straight((one, "b")))
    await paused(app, id)
    before = await app.seq(id)
    await app.retry(id)
    await until(lambda: grown(app, id, before + 1))
    await paused(app, id)
    assert await app.seq(id) == before + 2


async def grown(app: Outlive, id: str, length: int) -> bool:
    return await app.seq(id) > length


async def test_steps_in_another_order_pause_the_process(place: Place) -> None:
    app, id = await restart_at_wait(place, straight((one,), (two,)), straight((two,), (one,)))
    assert "recorded as number 1, the code asks for it later" in await paused(app, id)


async def test_a_renamed_step_pauses_the_process(place: Place) -> None:
    @step(name="old_name")
    async def old() -> str:
        return world.do(attempt().key, "old")

    from outlive import steps

    app = await place.open(process(straight((old,), (two,))))
    id = await start(app)
    await has_status(app, id, "waiting")
    del steps._specs["old_name"]
    app = await place.again(app, process(straight((three,), (two,))))
    await app.signal(id, "go", b"")
    message = await paused(app, id)
    assert "old_name is recorded next and no step of that name is declared" in message
    assert "three three" not in world.log


async def test_a_removed_step_with_an_undo_pauses_at_the_end(place: Place) -> None:
    app, id = await restart_at_wait(place, straight((undoable,), (one,)), straight((one,)))
    assert "undoable is recorded and can be undone" in await paused(app, id)


async def test_a_removed_step_without_an_undo_is_accepted(place: Place) -> None:
    app, id = await restart_at_wait(place, straight((one,), (two,)), straight((two,)))
    assert await app.result(id, within=60) == ["two two"]


async def test_an_inserted_step_does_not_disturb_what_is_recorded(place: Place) -> None:
    before = straight((one,), (two,))
    after = straight((three, "new"), (one,), (three, "newer"), (two,))
    app, id = await restart_at_wait(place, before, after)
    assert await app.result(id, within=60) == ["three new", "one one", "three newer", "two two"]
    assert all(count == 1 for count in world.calls.values())


async def test_inserted_steps_hold_over_another_crash(place: Place) -> None:
    before = straight((one,), (two,))

    async def after(run: Run) -> str:
        await run(one)
        await run(three)
        await run(undoable)
        await run(two)
        await run.wait("go")
        await run.wait("then")
        return "end"

    app, id = await restart_at_wait(place, before, after)
    await until(lambda: waits_for(app, id, "then"))
    app = await place.again(app, process(after))
    await app.signal(id, "then", b"")
    assert await app.result(id, within=60) == "end"
    assert all(count == 1 for count in world.calls.values())


async def waits_for(app: Outlive, id: str, signal: str) -> bool:
    return (await app.view(id)).waits_for == signal


async def test_a_step_that_became_a_wait_pauses_the_process(place: Place) -> None:
    @step(name="wait answer")
    async def answer() -> str:
        return "x"

    async def after(run: Run) -> None:
        await run.wait("answer")

    app, id = await restart_at_wait(place, straight((answer,)), after)
    assert "recorded as a step, the code asks for a wait" in await paused(app, id)


async def test_a_paused_process_can_be_cancelled_and_is_rolled_back(place: Place) -> None:
    app, id = await restart_at_wait(
        place, straight((undoable, "a"), (one, "a")), straight((undoable, "a"), (one, "b"))
    )
    await paused(app, id)
    await app.cancel(id)
    await has_status(app, id, "cancelled")
    assert world.log[-1] == "unone a"
    check_grammar(await app.journal(id))


async def test_a_signal_to_a_paused_process_is_kept_until_it_goes_on(place: Place) -> None:
    async def good(run: Run) -> list[Any]:
        await run(one, "a")
        return [await run.wait("go"), await run.wait("more")]

    async def bad(run: Run) -> None:
        await run(one, "b")

    app = await place.open(process(good))
    id = await start(app)
    await has_status(app, id, "waiting")
    app = await place.again(app, process(bad))
    await app.signal(id, "more", b"2")
    await paused(app, id)
    await app.signal(id, "go", b"1")
    app = await place.again(app, process(good))
    await app.retry(id)
    assert await app.result(id, within=60) == [1, 2]


async def test_nothing_of_a_dead_application_is_written(place: Place) -> None:
    async def body(run: Run) -> None:
        await run(slow, "a", 0.05)

    app = await place.open(process(body))
    id = await start(app)
    await crash(app)
    reader = await place.client(process(body))
    assert await reader.seq(id) == 1
