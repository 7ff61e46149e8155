"""Undoing: the last completed step first, tried again, never in silence, never cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tests.service import Outside, Place, check_grammar, has_status, until

from outlive import NonRetryable, Outlive, Retry, Run, StepFailed, Unknown, attempt, step
from outlive.errors import Discarded, NotStuck, PastPivot, ProcessTerminal

ONCE = Retry(attempts=1)
world = Outside()
gates: dict[str, asyncio.Event] = {}
broken: set[str] = set()


@pytest.fixture(autouse=True)
def fresh(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    global world
    world = outside
    gates.clear()
    broken.clear()
    monkeypatch.setattr("outlive.runtime.rollback.UNDO_RETRY", Retry(attempts=3, base_seconds=0.05))


def gate(name: str) -> asyncio.Event:
    return gates.setdefault(name, asyncio.Event())


async def unmake(name: str, made: str | Unknown) -> None:
    what = "unknown" if isinstance(made, Unknown) else made
    world.do(f"undo {attempt().key}", f"unmake {name} {what}")
    if name in broken:
        raise ConnectionError(f"{name} cannot be undone now")


@step(retry=ONCE, undo=unmake)
async def make(name: str) -> str:
    world.do(attempt().key, f"make {name}")
    return f"made-{name}"


@step(retry=ONCE, undo=unmake)
async def hang(name: str) -> str:
    world.do(attempt().key, f"hang {name}")
    await gate(name).wait()
    world.do(attempt().key, f"through {name}")
    return f"made-{name}"


@step(retry=ONCE)
async def refuse(name: str) -> None:
    world.do(attempt().key, f"refuse {name}")
    if name in broken or name == "always":
        raise NonRetryable(f"{name} is refused")


def log() -> list[str]:
    return [line for line in world.log if line.startswith("unmake")]


def make_and_fail(app: Outlive) -> Any:
    @app.process("/fail", version=1)
    async def fail(run: Run, name: str) -> str:
        for part in "abc":
            await run(make, part)
        await run(refuse, name)
        return "never"

    return fail


async def test_completed_steps_are_undone_in_reverse_and_given_what_they_had_made(
    place: Place,
) -> None:
    app = await place.open(make_and_fail)
    begun = await app.begin("fail", b'"always"')
    view = await has_status(app, begun.id, "rolled_back")
    assert log() == ["unmake c made-c", "unmake b made-b", "unmake a made-a"]
    assert view.failure.message == "refuse: always is refused"
    check_grammar(await app.journal(begun.id))


async def test_steps_in_parallel_are_undone_in_reverse_order_of_completion(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/gather", version=1)
        async def gather(run: Run) -> None:
            await asyncio.gather(run(hang, "slow"), run(make, "fast"))
            await run(refuse, "always")

    app = await place.open(declare)
    begun = await app.begin("gather", b"null")
    await until(lambda: app_recorded(app, begun.id, "make"))
    gate("slow").set()
    await has_status(app, begun.id, "rolled_back")
    assert log() == ["unmake slow made-slow", "unmake fast made-fast"]


async def app_recorded(app: Outlive, id: str, step: str) -> bool:
    return any(msgspec.json.decode(e.data).get("name") == step for e in await app.journal(id))


async def test_a_cancel_interrupts_the_step_in_flight_and_its_undo_gets_unknown(
    place: Place,
) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/hangs", version=1)
        async def hangs(run: Run) -> None:
            await run(make, "a")
            await run(hang, "b")

    app = await place.open(declare)
    begun = await app.begin("hangs", b"null")
    await until(lambda: "hang b" in world.log)
    await app.cancel(begun.id, reason="enough", who="ann")
    view = await has_status(app, begun.id, "cancelled")
    assert log() == ["unmake b unknown", "unmake a made-a"]
    assert "through b" not in world.log
    assert view.cancel_requested and view.failure.message == "enough"
    check_grammar(await app.journal(begun.id))


async def test_a_failing_branch_ends_its_siblings_before_anything_is_undone(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/branches", version=1)
        async def branches(run: Run) -> None:
            await asyncio.gather(run(hang, "slow"), run(refuse, "always"))

    app = await place.open(declare)
    begun = await app.begin("branches", b"null")
    await until(lambda: "unmake slow unknown" in world.log)
    gate("slow").set()
    await has_status(app, begun.id, "rolled_back")
    assert "through slow" not in world.log, "it went on while it was being undone"
    assert log() == ["unmake slow unknown"]
    check_grammar(await app.journal(begun.id))


async def test_a_cancel_of_parallel_steps_undoes_each_of_them_as_unknown(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/both", version=1)
        async def both(run: Run) -> None:
            await asyncio.gather(run(hang, "a"), run(hang, "b"))

    app = await place.open(declare)
    begun = await app.begin("both", b"null")
    await until(lambda: {"hang a", "hang b"} <= set(world.log))
    await app.cancel(begun.id)
    await has_status(app, begun.id, "cancelled")
    assert sorted(log()) == ["unmake a unknown", "unmake b unknown"]
    assert world.calls["hang a"] == world.calls["hang b"] == 1
    check_grammar(await app.journal(begun.id))


async def test_a_cancel_survives_the_death_of_the_node_that_took_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/after", version=1)
        async def after(run: Run) -> None:
            await run(make, "a")
            await run(hang, "b")
            await run(make, "c")

    app = await place.open(declare)
    begun = await app.begin("after", b"null")
    await until(lambda: "hang b" in world.log)
    monkeypatch.setattr("outlive.runtime.activation.Activation.cancel", lambda _: None)
    await app.cancel(begun.id)  # it dies before it can act on the cancel
    monkeypatch.undo()
    gate("b").set()
    app = await place.again(app, declare)
    await has_status(app, begun.id, "cancelled")
    assert "make c" not in world.log
    check_grammar(await app.journal(begun.id))


async def test_an_undo_that_fails_is_tried_again(place: Place) -> None:
    app = await place.open(make_and_fail)
    broken.add("b")
    begun = await app.begin("fail", b'"always"')
    await until(lambda: world.calls["unmake b made-b"] >= 2)
    broken.clear()
    await has_status(app, begun.id, "rolled_back")
    assert log()[-1] == "unmake a made-a"


async def test_an_undo_that_gives_up_leaves_the_process_stuck_until_an_operator_retries(
    place: Place,
) -> None:
    app = await place.open(make_and_fail)
    broken.add("b")
    begun = await app.begin("fail", b'"always"')
    view = await has_status(app, begun.id, "stuck")
    assert view.failure.message == "b cannot be undone now"
    assert "unmake a made-a" not in world.log
    broken.clear()
    await app.retry(begun.id, who="ann")
    view = await has_status(app, begun.id, "rolled_back")
    assert log()[-1] == "unmake a made-a"
    assert world.calls["unmake c made-c"] == 1
    assert any("retried by ann" in past.why for past in view.history)
    check_grammar(await app.journal(begun.id))
    with pytest.raises(NotStuck):
        await app.retry(begun.id)
    with pytest.raises(ProcessTerminal):
        await app.cancel(begun.id)


async def test_a_cancel_while_undoing_changes_nothing(place: Place) -> None:
    async def slow_undo(name: str, made: Any) -> None:
        world.do(f"undo {attempt().key}", f"undoing {name}")
        await gate(name).wait()
        world.do(f"undo {attempt().key} done", f"undid {name}")

    @step(undo=slow_undo, name="slow_to_undo")
    async def slow_to_undo(name: str) -> str:
        return name

    def declare(app: Outlive) -> None:
        @app.process("/slow", version=1)
        async def slow(run: Run) -> None:
            await run(slow_to_undo, "a")
            await run(refuse, "always")

    app = await place.open(declare)
    begun = await app.begin("slow", b"null")
    await until(lambda: "undoing a" in world.log)
    await app.cancel(begun.id)
    gate("a").set()
    view = await has_status(app, begun.id, "rolled_back", "cancelled")
    assert view.status == "rolled_back"
    assert world.log.count("undoing a") == 1 and "undid a" in world.log


async def test_killed_between_two_undos_only_the_rest_is_undone(place: Place) -> None:
    app = await place.open(make_and_fail)
    broken.add("b")
    begun = await app.begin("fail", b'"always"')
    await until(lambda: world.calls["unmake b made-b"] >= 1)
    app = await place.again(app, make_and_fail)
    broken.clear()
    await until(lambda: "unmake a made-a" in world.log or app_stuck(app, begun.id))
    view = await app.view(begun.id)
    if view.status == "stuck":
        await app.retry(begun.id)
    await has_status(app, begun.id, "rolled_back")
    assert world.calls["unmake c made-c"] == 1
    check_grammar(await app.journal(begun.id))


async def app_stuck(app: Outlive, id: str) -> bool:
    return (await app.view(id)).status == "stuck"


def forward_only(app: Outlive) -> None:
    @app.process("/forward", version=1)
    async def forward(run: Run, name: str) -> str:
        await run(make, "a")
        run.pivot()
        await run(make, "b")
        await run(refuse, name)
        return "through"


async def test_after_the_pivot_an_error_makes_it_stuck_and_a_retry_runs_the_failed_step_again(
    place: Place,
) -> None:
    app = await place.open(forward_only)
    broken.add("c")
    begun = await app.begin("forward", b'"c"')
    view = await has_status(app, begun.id, "stuck")
    assert view.failure.message == "refuse: c is refused"
    with pytest.raises(PastPivot):
        await app.cancel(begun.id)
    broken.clear()
    await app.retry(begun.id)
    assert await app.result(begun.id, within=60) == "through"
    assert world.calls["refuse c"] == 2 and world.calls["make b"] == 1
    assert log() == []


async def test_after_the_pivot_a_cancel_is_refused_also_on_a_node_that_does_not_own_it(
    place: Place,
) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/past", version=1)
        async def past(run: Run) -> None:
            run.pivot()
            await run(make, "a")
            await run.wait("end")

    app = await place.open(declare)
    begun = await app.begin("past", b"null")
    await has_status(app, begun.id, "waiting")
    client = await place.client(declare)
    for face in (app, client):
        with pytest.raises(PastPivot):
            await face.cancel(begun.id)


async def test_a_cancel_that_was_taken_before_the_pivot_wins(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/race", version=1)
        async def race(run: Run) -> None:
            await run(hang, "a")
            run.pivot()
            await run(make, "b")

    app = await place.open(declare)
    begun = await app.begin("race", b"null")
    await until(lambda: "hang a" in world.log)
    gate("a").set()
    cancel = asyncio.ensure_future(app.cancel(begun.id))
    try:
        await cancel
        taken = True
    except (PastPivot, ProcessTerminal):
        taken = False
    view = await until(lambda: final(app, begun.id))
    assert view.status == ("cancelled" if taken else "done")
    check_grammar(await app.journal(begun.id))


async def final(app: Outlive, id: str) -> Any:
    view = await app.view(id)
    return view if view.final else None


async def test_a_cancel_that_was_taken_is_never_answered_with_done(place: Place) -> None:
    """The body swallows it and returns."""

    def declare(app: Outlive) -> None:
        @app.process("/deaf", version=1)
        async def deaf(run: Run) -> str:
            await run(make, "a")
            try:
                await run(hang, "b")
            except BaseException:
                return "I am done"
            return "not cancelled"

    app = await place.open(declare)
    begun = await app.begin("deaf", b"null")
    await until(lambda: "hang b" in world.log)
    await app.cancel(begun.id)
    view = await until(lambda: final(app, begun.id))
    assert view.status == "cancelled"
    assert log() == ["unmake b unknown", "unmake a made-a"]


async def test_errors_that_are_not_declared_to_roll_back_leave_it_stuck(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/declared", version=1, rollback_on=(NonRetryable,))
        async def declared(run: Run, name: str) -> None:
            await run(make, "a")
            if name == "bug":
                raise ZeroDivisionError("a bug")
            await run(refuse, name)

    app = await place.open(declare)
    bug = await app.begin("declared", b'"bug"')
    business = await app.begin("declared", b'"always"')
    await has_status(app, bug.id, "stuck")
    await has_status(app, business.id, "rolled_back")


async def test_a_declared_error_rolls_back_also_when_its_step_was_recorded_before_a_crash(
    place: Place,
) -> None:
    """The replay sees the recorded failure, not the error itself."""

    def declare(app: Outlive) -> None:
        @app.process("/replayed", version=1, rollback_on=(NonRetryable,))
        async def replayed(run: Run) -> None:
            await run(make, "a")
            try:
                await run(refuse, "always")
            except StepFailed:
                await run.wait("seen")
                raise

    app = await place.open(declare)
    begun = await app.begin("replayed", b"null")
    await has_status(app, begun.id, "waiting")
    app = await place.again(app, declare)
    await app.signal(begun.id, "seen", b"")
    view = await has_status(app, begun.id, "rolled_back", "stuck")
    assert view.status == "rolled_back"


def insert(tables: Any, name: str) -> str:
    tables.execute("INSERT INTO thing VALUES (?)", (name,))
    return name


def things(tables: Any) -> list[str]:
    return [row[0] for row in tables.execute("SELECT name FROM thing")]


def remove(tables: Any, name: str, made: str | Unknown) -> None:
    assert made == name
    world.do(f"undo {attempt().key}", f"remove {name}")
    tables.execute("DELETE FROM thing WHERE name = ?", (name,))


add_thing = step(undo=remove, name="add_thing")(insert)


async def test_a_transaction_is_undone_in_a_transaction(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.schema
        def tables(db: Any) -> None:
            db.execute("CREATE TABLE IF NOT EXISTS thing (name TEXT)")

        @app.process("/things", version=1)
        async def make_things(run: Run, name: str) -> list[str]:
            if name:
                await run.transact(add_thing, name)
                await run(refuse, "always")
            return await run.transact(things)

    app = await place.open(declare)
    begun = await app.begin("make_things", b'"x"')
    await has_status(app, begun.id, "rolled_back")
    assert world.log[-1] == "remove x"
    left = await app.begin("make_things", b'""')
    assert await app.result(left.id, within=60) == []


async def test_an_undo_that_is_no_longer_there_makes_it_stuck_with_its_name(place: Place) -> None:
    @step(undo="gone_with_the_refactoring", name="orphan")
    async def orphan() -> str:
        return "x"

    def declare(app: Outlive) -> None:
        @app.process("/orphans", version=1)
        async def orphans(run: Run) -> None:
            await run(orphan)
            await run(refuse, "always")

    app = await place.open(declare)
    begun = await app.begin("orphans", b"null")
    view = await has_status(app, begun.id, "stuck")
    assert "gone_with_the_refactoring" in view.failure.message


async def test_a_step_that_was_asked_for_and_not_begun_when_the_body_failed_is_never_begun(
    place: Place,
) -> None:
    beside: list[asyncio.Task[str]] = []

    def declare(app: Outlive) -> None:
        @app.process("/hasty", version=1)
        async def hasty(run: Run) -> None:
            await run(make, "a")
            beside.append(asyncio.create_task(run(make, "b")))
            raise ValueError("no")

    app = await place.open(declare)
    begun = await app.begin("hasty", b"null")
    await has_status(app, begun.id, "rolled_back")
    await asyncio.wait(beside)
    assert isinstance(beside[0].exception(), Discarded)
    assert world.log == ["make a", "unmake a made-a"]
    check_grammar(await app.journal(begun.id))
