"""Branches: named apart, replayed in any interleaving, decided by one record, undone when lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from tests.service import Outside, Place, check_grammar, has_status, process, until

from outlive import Outlive, Retry, Run, StepFailed, Unknown, attempt, step
from outlive.testing.oracles import facts_of, p7_journal_grammar

world = Outside()
gate: asyncio.Event


@pytest.fixture(autouse=True)
def fresh(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    global world, gate
    world, gate = outside, asyncio.Event()
    monkeypatch.setattr("outlive.runtime.node.HOLD_SECONDS", 0.3)


async def unmake(what: str, made: str | Unknown) -> None:
    world.do("undo " + attempt().key, f"unmake {what} {made}")


@step(undo=unmake, name="craft")
async def craft(what: str) -> str:
    return world.do(attempt().key, f"craft {what}")


@step(undo=unmake, name="holding_step")
async def holding_step(what: str) -> str:
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


async def start(app: Outlive) -> str:
    return (await app.begin("thing", b"null")).id


async def ids(app: Outlive, id: str, kind: str = "step") -> list[str]:
    found = [entry for entry in await app.journal(id) if entry.kind == kind]
    return [msgspec.json.decode(entry.data)["id"] for entry in found]


def steps_of(*whats: str, slow: bool = False) -> Callable[[Run], Awaitable[list[str]]]:
    async def branch(run: Run) -> list[str]:
        done = []
        for what in whats:
            done.append(await run(craft, what))
            for _ in range(3 if slow else 0):
                await asyncio.sleep(0.01)
        return done

    return branch


async def pay(run: Run) -> str:
    return await run(craft, "payment") + " " + await run(craft, "receipt")


async def ship(run: Run) -> int:
    await run(craft, "parcel")
    await run(craft, "label")
    return 7


# --- gather ---------------------------------------------------------------------------------------


async def test_branches_have_paths_of_their_own_and_give_their_results_in_order(
    place: Place,
) -> None:
    async def body(run: Run) -> list[Any]:
        return [*await run.gather(pay, ship), *await run.gather(lambda run: run(after, "x"), pay)]

    app = await place.open(process(body))
    id = await start(app)
    assert await app.result(id, within=60) == [
        "craft payment craft receipt", 7, "after x", "craft payment craft receipt",
    ]  # fmt: skip
    found = await ids(app, id)
    assert sorted(found) == [
        "branch/after", "pay#2/craft", "pay#2/craft#2", "pay/craft", "pay/craft#2",
        "ship/craft", "ship/craft#2",
    ]  # fmt: skip
    check_grammar(await app.journal(id))
    assert "decided" not in [entry.kind for entry in await app.journal(id)]


async def test_branches_of_the_same_function_replay_in_another_interleaving(place: Place) -> None:
    """The first one is slow in the first life and fast in the second."""
    lives = 0

    async def body(run: Run) -> list[Any]:
        nonlocal lives
        lives += 1
        first_is_slow = lives == 1
        done = await run.gather(
            steps_of("a1", "a2", "a3", slow=first_is_slow),
            steps_of("b1", "b2", "b3", slow=not first_is_slow),
        )
        await run.wait("go")
        return list(done)

    app = await place.open(process(body))
    id = await start(app)
    await has_status(app, id, "waiting")
    app = await place.again(app, process(body))
    await app.signal(id, "go", b"")
    assert await app.result(id, within=60) == [
        ["craft a1", "craft a2", "craft a3"], ["craft b1", "craft b2", "craft b3"],
    ]  # fmt: skip
    assert set(world.calls.values()) == {1}
    check_grammar(await app.journal(id))


async def test_time_ids_chance_and_state_of_a_branch_are_the_same_on_a_replay(place: Place) -> None:
    seen: list[Any] = []

    async def branch(run: Run) -> list[Any]:
        facts: list[Any] = [run.now(), run.uuid(), run.random().random(), run.state]
        await run(craft, str(facts[1]))
        run.state = "branch"
        await run.sleep(0.001)
        return [*facts, run.now(), run.uuid(), run.state]

    async def body(run: Run) -> None:
        run.state = "body"
        found = await run.gather(branch, branch, branch)
        seen.append((found, run.now(), run.uuid(), run.state))
        await run.wait("go")

    app = await place.open(process(body))
    id = await start(app)
    await until(lambda: waits_for(app, id, "go"))
    app = await place.again(app, process(body))
    await app.signal(id, "go", b"")
    await app.result(id, within=60)
    assert len(seen) == 2 and seen[0] == seen[1]
    assert len({facts[1] for facts in seen[0][0]}) == 3
    assert len(await ids_of_states(app, id)) == 4


async def ids_of_states(app: Outlive, id: str) -> list[Any]:
    return [entry for entry in await app.journal(id) if entry.kind == "state"]


async def waits_for(app: Outlive, id: str, signal: str) -> bool:
    return bool((await app.view(id)).waits_for == signal)


async def test_the_first_failure_ends_the_others_and_comes_out_again_on_a_replay(
    place: Place,
) -> None:
    caught: list[str] = []

    async def bad(run: Run) -> None:
        await run(craft, "before")
        await until(lambda: "hold other" in world.log)
        await run(fails, "pay")

    async def other(run: Run) -> None:
        await run(holding_step, "other")
        await run(craft, "never")

    async def body(run: Run) -> str:
        try:
            await run.gather(other, bad)
        except StepFailed as error:
            caught.append(f"{error.step} {error.message}")
        await run(after, "all")
        await run.wait("go")
        return "on"

    app = await place.open(process(body))
    id = await start(app)
    await has_status(app, id, "waiting")
    app = await place.again(app, process(body))
    await app.signal(id, "go", b"")
    assert await app.result(id, within=60) == "on"
    assert caught == ["bad/fails no pay"] * 2
    assert world.calls["hold other"] == 1 and "craft never" not in world.log
    assert [e.text for e in await app.journal(id) if e.kind == "decided"] == [
        "gather: bad has failed: RuntimeError: bad/fails: no pay"
    ]
    check_grammar(await app.journal(id))


async def test_what_was_under_way_beside_a_failure_is_undone_as_unknown(place: Place) -> None:
    async def bad(run: Run) -> None:
        await run(craft, "before")
        await until(lambda: "hold other" in world.log)
        await run(fails)

    async def other(run: Run) -> None:
        await run(craft, "first")
        await run(holding_step, "other")

    async def body(run: Run) -> None:
        await run.gather(bad, other)

    app = await place.open(process(body))
    id = await start(app)
    await has_status(app, id, "rolled_back")
    undone = [what for what in world.log if what.startswith("unmake")]
    assert undone[0] == "unmake other Unknown()"
    assert set(undone[1:]) == {"unmake before craft before", "unmake first craft first"}
    check_grammar(await app.journal(id))


async def test_an_error_of_the_branches_own_code_is_raised_as_it_is(place: Place) -> None:
    async def bad(run: Run) -> None:
        await run(craft, "one")
        raise LookupError("mine")

    async def body(run: Run) -> str:
        with pytest.raises(LookupError, match="mine"):
            await run.gather(bad, ship)
        await run.wait("go")
        return "on"

    app = await place.open(process(body))
    id = await start(app)
    await has_status(app, id, "waiting")
    app = await place.again(app, process(body))
    await app.signal(id, "go", b"")
    assert await app.result(id, within=60) == "on"


async def test_waits_in_branches_that_were_ended_take_no_signal_any_more(place: Place) -> None:
    async def waiter(run: Run) -> Any:
        return await run.wait("go")

    async def sleeper(run: Run) -> None:
        await run.sleep(3600)

    async def bad(run: Run) -> None:
        await until(lambda: kinds_of(app, run.id, "sleep"))
        await run(fails)

    async def body(run: Run) -> Any:
        with pytest.raises(StepFailed):
            await run.gather(waiter, sleeper, bad)
        return await run.wait("go", within=60)

    app = await place.open(process(body))
    id = await start(app)
    await until(lambda: kinds_of(app, id, "decided"))
    await until(lambda: waits_for(app, id, "go"))
    app = await place.again(app, process(body))
    await app.signal(id, "go", b"5")
    assert await app.result(id, within=60) == 5
    view = await app.view(id)
    assert {one.outcome for one in view.steps if one.name.startswith(("waiter", "sleeper"))} == {
        "abandoned"
    }


async def kinds_of(app: Outlive, id: str, kind: str) -> list[Any]:
    return [entry for entry in await app.journal(id) if entry.kind == kind]


async def test_branches_in_branches_and_keyed_ones(place: Place) -> None:
    async def inner(run: Run) -> str:
        return await run(craft, run.id[:0] + "inner")

    async def outer(run: Run) -> tuple[str, ...]:
        return await run.gather(inner, inner)

    async def body(run: Run) -> list[Any]:
        found = [await run.keyed("k").gather(outer, inner)]
        await run.wait("go")
        return found

    app = await place.open(process(body))
    id = await start(app)
    await has_status(app, id, "waiting")
    app = await place.again(app, process(body))
    await app.signal(id, "go", b"")
    assert await app.result(id, within=60) == [[["craft inner", "craft inner"], "craft inner"]]
    assert sorted(await ids(app, id)) == [
        "inner:k/craft", "outer:k/inner#2/craft", "outer:k/inner/craft",
    ]  # fmt: skip


async def test_a_cancel_ends_every_branch_and_undoes_what_they_did(place: Place) -> None:
    async def holding(run: Run) -> None:
        await run(craft, "one")
        await run(holding_step, "two")

    async def body(run: Run) -> None:
        await run.gather(holding, ship, holding)

    app = await place.open(process(body))
    id = await start(app)
    await until(lambda: world.calls["hold two"] == 2)
    await app.cancel(id)
    await has_status(app, id, "cancelled")
    undone = [what for what in world.log if what.startswith("unmake")]
    assert undone[:2] == ["unmake two Unknown()"] * 2 and len(undone) == 6
    check_grammar(await app.journal(id))


async def test_a_coroutine_is_no_branch_and_is_refused_with_the_remedy(place: Place) -> None:
    async def body(run: Run) -> str:
        with pytest.raises(TypeError, match="a branch is a function that takes a run"):
            await run.gather(run(craft, "x"), ship)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="0 branches"):
            await run.gather()
        return "refused"

    app = await place.open(process(body))
    assert await app.result(await start(app), within=60) == "refused"
    assert world.log == []


async def test_a_failure_behind_the_pivot_is_tried_again_with_all_its_branches(
    place: Place,
) -> None:
    mended = asyncio.Event()

    @step(name="branch_mended", retry=Retry(attempts=1))
    async def mends() -> str:
        world.do(attempt().key, "mends")
        if not mended.is_set():
            raise RuntimeError("not yet")
        return "mended"

    async def bad(run: Run) -> str:
        await until(lambda: "hold other" in world.log)
        return await run(mends)

    async def other(run: Run) -> str:
        return await run(holding_step, "other")

    async def waiter(run: Run) -> Any:
        return await run.wait("go")

    async def body(run: Run) -> list[Any]:
        run.pivot()
        return [*await run.gather(bad, other, waiter)]

    app = await place.open(process(body))
    id = await start(app)
    view = await has_status(app, id, "stuck")
    assert view.failure.message == "bad/branch_mended: not yet"
    mended.set()
    gate.set()
    app = await place.again(app, process(body))
    await app.retry(id)
    await app.signal(id, "go", b"5")
    assert await app.result(id, within=60) == ["mended", "other", 5]
    assert world.calls["hold other"] == world.calls["mends"] == 2
    assert len([what for what in world.effects.values() if what == "hold other"]) == 1
    assert p7_journal_grammar(await facts_of(app.store)) == []


# --- drift ----------------------------------------------------------------------------------------


async def drifted(place: Place, before: Any, now: Any) -> str:
    app = await place.open(process(before))
    id = await start(app)
    await has_status(app, id, "waiting")
    app = await place.again(app, process(now))
    await app.signal(id, "go", b"")
    view = await has_status(app, id, "paused", "done")
    return "" if view.failure is None else str(view.failure.message)


async def test_steps_of_a_branch_in_another_order_pause_the_process(place: Place) -> None:
    def body(*whats: Any) -> Any:
        async def branch(run: Run) -> None:
            for what in whats:
                await run(what, "x")

        async def gathering(run: Run) -> None:
            await run.gather(branch, ship)
            await run.wait("go")

        return gathering

    message = await drifted(place, body(craft, after), body(after, craft))
    assert "branch/craft is recorded as number" in message
    assert "ship/craft" in message


async def test_a_step_that_moved_before_the_branches_pauses_the_process(place: Place) -> None:
    async def before(run: Run) -> None:
        await run.gather(pay, ship)
        await run(after, "x")
        await run.wait("go")

    async def now(run: Run) -> None:
        await run(after, "x")
        await run.gather(pay, ship)
        await run.wait("go")

    assert "pay/craft is recorded as number 1" in await drifted(place, before, now)


async def test_another_branch_and_another_step_in_a_branch_disturb_nothing(place: Place) -> None:
    async def more(run: Run) -> None:
        await run(after, "new")

    async def before(run: Run) -> None:
        await run.gather(pay, ship)
        await run.wait("go")

    async def now(run: Run) -> None:
        async def ship(run: Run) -> None:
            await run(after, "first")
            await run(craft, "parcel")
            await run(after, "between")
            await run(craft, "label")

        await run.gather(more, pay, ship)
        await run.wait("go")

    assert await drifted(place, before, now) == ""
    assert set(world.calls.values()) == {1}


async def test_a_failure_that_does_not_come_again_pauses_the_process(place: Place) -> None:
    async def bad(run: Run) -> None:
        await run(fails)

    async def mended(run: Run) -> None:
        await run(after, "x")

    mended.__name__ = "bad"

    def body(branch: Any) -> Any:
        async def gathering(run: Run) -> None:
            with pytest.raises(StepFailed):
                await run.gather(branch, ship)
            await run.wait("go")

        return gathering

    message = await drifted(place, body(bad), body(mended))
    assert "gather is recorded with bad as the branch that failed" in message
    assert "now it has returned" in message


# --- first ----------------------------------------------------------------------------------------


async def quick(run: Run) -> str:
    await until(lambda: "hold slow" in world.log)
    return await run(craft, "quick")


async def slow(run: Run) -> str:
    await run(craft, "begun")
    return await run(holding_step, "slow")


async def test_the_first_to_return_wins_and_the_others_are_undone(place: Place) -> None:
    won: list[str] = []

    async def body(run: Run) -> str:
        won.append(await run.first(slow, quick))
        await run(after, "race")
        await run.wait("go")
        return won[-1]

    app = await place.open(process(body))
    id = await start(app)
    await has_status(app, id, "waiting")
    expected = [
        "craft begun", "hold slow", "craft quick",
        "unmake slow Unknown()", "unmake begun craft begun", "after race",
    ]  # fmt: skip
    assert world.log == expected
    gate.set()
    app = await place.again(app, process(body))
    await app.signal(id, "go", b"")
    assert await app.result(id, within=60) == "craft quick"
    assert won == ["craft quick"] * 2 and world.log == expected
    check_grammar(await app.journal(id))


async def test_a_signal_races_a_sleep_and_leaves_memory_meanwhile(place: Place) -> None:
    async def answered(run: Run) -> Any:
        return await run.wait("go")

    async def late(run: Run) -> None:
        await run.sleep(3600)

    async def body(run: Run) -> Any:
        return [
            await run.first(answered, late),
            await run.keyed("again").first(answered, late),
        ]

    app = await place.open(process(body))
    runtime = app._runtime
    assert runtime is not None
    id = await start(app)
    await until(lambda: kinds_of(app, id, "sleep"))
    await until(lambda: not runtime.activations.live, "it leaves memory")
    await app.signal(id, "go", b"1")
    await until(lambda: kinds_of(app, id, "decided"))
    await has_status(app, id, "waiting")
    await until(lambda: not runtime.activations.live, "it leaves memory again")
    await app.signal(id, "go", b"2")
    assert await app.result(id, within=60) == [1, 2]
    check_grammar(await app.journal(id))


async def test_a_branch_that_fails_is_out_of_the_race(place: Place) -> None:
    async def bad(run: Run) -> str:
        await run(craft, "bad")
        return await run(fails)

    async def good(run: Run) -> str:
        await until(lambda: "fails x" in world.log)
        return await run(craft, "good")

    async def body(run: Run) -> Any:
        return await run.first(bad, good)

    app = await place.open(process(body))
    id = await start(app)
    assert await app.result(id, within=60) == "craft good"
    assert world.log[-1] == "unmake bad craft bad"
    check_grammar(await app.journal(id))


async def test_when_all_fail_the_first_failure_is_raised(place: Place) -> None:
    async def bad(run: Run) -> str:
        return await run(fails, "early")

    async def worse(run: Run) -> str:
        await until(lambda: "fails early" in world.log)
        await run(craft, "worse")
        return await run(fails, "late")

    async def body(run: Run) -> str:
        try:
            return str(await run.first(worse, bad))
        except StepFailed as error:
            await run.wait("go")
            return error.message

    app = await place.open(process(body))
    id = await start(app)
    await has_status(app, id, "waiting")
    app = await place.again(app, process(body))
    await app.signal(id, "go", b"")
    assert await app.result(id, within=60) == "no early"
    check_grammar(await app.journal(id))
