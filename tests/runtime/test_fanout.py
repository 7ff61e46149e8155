"""Fan-out: every item once, a few at a time, failures reported, and one record for each."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
import pytest
from tests.service import Outside, Place, check_grammar, has_status, process, until

from outlive import NonRetryable, Outlive, Run, StepFailed, Unknown, attempt, step

world = Outside()
gate: asyncio.Event
under_way = most = 0


@pytest.fixture(autouse=True)
def fresh(outside: Outside, monkeypatch: pytest.MonkeyPatch) -> None:
    global world, gate, under_way, most
    world, gate = outside, asyncio.Event()
    under_way = most = 0
    monkeypatch.setattr("outlive.runtime.node.HOLD_SECONDS", 0.3)


async def unsquare(item: int, made: int | Unknown) -> None:
    world.do("undo " + attempt().key, f"undo {item}")


@step(undo=unsquare)
async def square(item: int) -> int:
    global under_way, most
    under_way += 1
    most = max(most, under_way)
    await asyncio.sleep(0)
    under_way -= 1
    world.do(attempt().key, f"square {item}")
    if item % 10 == 7:
        raise NonRetryable(f"not {item}")
    return item * item


@step(name="fanout_stops")
async def stops(item: int) -> int:
    world.do(attempt().key, f"stops {item}")
    if item >= 5:
        await gate.wait()
    return item


def halve(item: int) -> float:
    return item / 2


async def start(app: Outlive) -> str:
    return (await app.begin("thing", b"null")).id


async def test_a_thousand_items_a_few_at_a_time_with_the_failures_reported(place: Place) -> None:
    seen: list[Any] = []

    async def body(run: Run) -> int:
        done = await run.all(range(1000), square, limit=20, key=lambda item: f"n{item}")
        seen.append(done)
        await run.wait("go")
        return len(done.results)

    app = await place.open(process(body))
    id = await start(app)
    await has_status(app, id, "waiting")
    assert most == 20
    entries = await app.journal(id)
    assert len(entries) == 1 + 1000 + 1, "one record an item, and nothing beside them"
    assert msgspec.json.decode(entries[1].data)["id"] == "square:n0"
    app = await place.again(app, process(body))
    await app.signal(id, "go", b"")
    assert await app.result(id, within=60) == 900
    assert seen[0].done == seen[1].done and seen[0].results[:2] == (0, 1)
    for outcomes in seen:
        assert [missed.item for missed in outcomes.failures] == list(range(7, 1000, 10))
        assert outcomes.failures[0].key == "n7"
        assert isinstance(outcomes.failures[0].error, StepFailed)
        assert outcomes.failures[0].error.message == "not 7"
    assert set(world.calls.values()) == {1}


async def test_after_a_crash_only_the_items_without_a_record_run_again(place: Place) -> None:
    async def body(run: Run) -> list[int]:
        return [*(await run.all(range(9), stops, limit=3)).results]

    app = await place.open(process(body))
    id = await start(app)
    await until(lambda: "stops 7" in world.log)
    app = await place.again(app, process(body))
    gate.set()
    assert await app.result(id, within=60) == list(range(9))
    assert [world.calls[f"stops {n}"] for n in range(9)] == [1, 1, 1, 1, 1, 2, 2, 2, 1]
    check_grammar(await app.journal(id))


async def test_crash_upon_crash_the_order_of_the_rest_is_no_drift(place: Place) -> None:
    """Items that were in the way of a crash are recorded behind later ones."""
    done: set[int] = set()

    @step(name="fanout_chosen")
    async def chosen(item: int) -> int:
        world.do(attempt().key, f"chosen {item}")
        while item not in done:
            await asyncio.sleep(0.005)
        return item

    async def body(run: Run) -> str:
        found = await run.all([*range(8)], chosen, limit=4)
        await run.wait("go")
        return "".join(map(str, found.results))

    app = await place.open(process(body))
    id = await start(app)
    for more in ({3, 2}, {5, 0}, {7, 1}, {4, 6}):
        done |= more
        await until(partial(recorded, app, id, len(done)))
        app = await place.again(app, process(body))
    await app.signal(id, "go", b"")
    assert await app.result(id, within=60) == "01234567"
    check_grammar(await app.journal(id))


async def recorded(app: Outlive, id: str, count: int) -> bool:
    return [entry.kind for entry in await app.journal(id)].count("step") == count


async def test_a_cancel_ends_it_and_undoes_what_was_done(place: Place) -> None:
    async def body(run: Run) -> None:
        await run.all([1, 2], square, limit=2)
        await run.all(range(9), stops, limit=3)

    app = await place.open(process(body))
    id = await start(app)
    await until(lambda: "stops 7" in world.log)
    await app.cancel(id)
    await has_status(app, id, "cancelled")
    assert sorted(world.log[-2:]) == ["undo 1", "undo 2"]
    check_grammar(await app.journal(id))


async def test_synchronous_steps_no_items_and_items_that_are_refused(place: Place) -> None:
    async def body(run: Run) -> list[Any]:
        with pytest.raises(ValueError, match="two items have the key '1'"):
            await run.all([1, 1], halve, limit=1, key=lambda item: item)
        with pytest.raises(ValueError, match="limit is 0"):
            await run.all([1], halve, limit=0)
        with pytest.raises(ValueError, match="at most 100000"):
            await run.all(range(100_001), halve, limit=1)
        none = await run.all([], halve, limit=3)
        done = await run.all([1, 2], halve, limit=3)
        again = await run.all([1, 2], halve, limit=3)
        return [*none.results, *done.results, *again.results]

    app = await place.open(process(body))
    assert await app.result(await start(app), within=60) == [0.5, 1.0, 0.5, 1.0]


async def test_an_error_behind_it_in_a_scope_undoes_the_items(place: Place) -> None:
    async def body(run: Run) -> str:
        try:
            async with run.scope():
                done = await run.all(range(6, 9), square, limit=3)
                raise LookupError(len(done.failures))
        except LookupError as error:
            return str(error)

    app = await place.open(process(body))
    id = await start(app)
    assert await app.result(id, within=60) == "1"
    assert sorted(what for what in world.log if what.startswith("undo")) == [
        "undo 6", "undo 7", "undo 8",
    ]  # fmt: skip
    check_grammar(await app.journal(id))


async def test_a_step_that_was_renamed_pauses_it_and_charges_nobody_twice(place: Place) -> None:
    @step(name="fanout_old")
    async def old(item: int) -> int:
        return item

    @step(name="fanout_new")
    async def new(item: int) -> int:
        world.do(attempt().key, "new")
        return item

    def body(function: Any) -> Any:
        async def fan(run: Run) -> None:
            await run.all([1, 2], function, limit=2)
            await run.wait("go")

        return fan

    from outlive import steps

    app = await place.open(process(body(old)))
    id = await start(app)
    await has_status(app, id, "waiting")
    del steps._specs["fanout_old"]
    app = await place.again(app, process(body(new)))
    await app.signal(id, "go", b"")
    view = await has_status(app, id, "paused")
    assert "no step of that name is declared" in view.failure.message
    assert world.log == []
