"""A journal replayed on other code: what it finds, and that nothing is done by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.service import Outside, Place, has_status, until

from outlive import BlockingRun, Outlive, Run, Unknown, attempt, step
from outlive.errors import StepFailed
from outlive.kinds.processes.difference import Difference
from outlive.steps import Retry

outside = Outside()
Body = Callable[[Run, int], Awaitable[Any]]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.close()


@step
async def reserve(number: int) -> int:
    return len(outside.do(attempt().key, f"reserve {number}"))


@step(undo="refund")
async def charge(number: int) -> str:
    return outside.do(attempt().key, f"charge {number}")


async def refund(number: int, made: str | Unknown) -> None:
    outside.do(attempt().key, f"refund {number}")


@step(retry=Retry(attempts=1))
async def refuse() -> None:
    raise LookupError("no")


def write(db: Any, number: int) -> int:
    outside.do(attempt().key, "write")
    return number


async def order(run: Run, number: int) -> str:
    """The code as it was when the journal was recorded."""
    await run(reserve, number)
    await run(charge, number)
    await run.wait("go")
    return "done"


def declared(body: Any, **options: Any) -> Callable[[Outlive], None]:
    def declare(app: Outlive) -> None:
        app.process("/orders", name="order", version=options.pop("version", 1), **options)(body)

    return declare


async def recorded(place: Place, body: Any = order, status: str = "waiting", last: str = "") -> str:
    """The journal of a process of `body` that has come to `status`, and has the record `last`."""
    app = await place.open(declared(body))
    id = (await app.begin("order", b"7")).id

    async def is_there() -> bool:
        has_it = any(entry.text.startswith(last) for entry in await app.journal(id))
        return has_it and (await app.view(id)).status == status

    await until(is_there, f"{status} {last}")
    text = await app.export_journal(id)
    await app.close()
    outside.calls.clear()
    return text


async def tried(journal: str, body: Any, **options: Any) -> Difference:
    app = Outlive("memory://")
    declared(body, **options)(app)
    found = await app.diff(journal)
    assert not outside.calls, "nothing is done by it"
    return found


async def test_the_same_code_goes_on(place: Place) -> None:
    found = await tried(await recorded(place), order)
    assert (found.verdict, found.detail, found.compared) == ("same", "", 3)
    assert found.fits and found.status == "waiting"


async def test_new_steps_are_not_drift_and_are_not_called(place: Place) -> None:
    async def longer(run: Run, number: int) -> None:
        await run(reserve, number)
        await run(charge, number)
        await run(reserve, 99)
        raise AssertionError("behind a step that was not called")

    assert (await tried(await recorded(place), longer)).fits


async def test_other_arguments_are_named_as_the_pause_would(place: Place) -> None:
    async def other(run: Run, number: int) -> None:
        await run(reserve, number + 1)

    journal = await recorded(place)
    found = await tried(journal, other)
    assert found.verdict == "drift"
    assert "reserve is recorded with arguments [7], the code gives [8]" in found.detail
    app = await place.open(declared(other))
    (waiting,), _ = await app.processes("waiting")
    await app.signal(waiting.id, "go", b"")
    view = await has_status(app, waiting.id, "paused")
    assert view.failure.message == found.detail, "word for word"


async def test_a_step_that_can_be_undone_and_is_not_asked_for_is_drift(place: Place) -> None:
    async def shorter(run: Run, number: int) -> None:
        await run(reserve, number)

    found = await tried(await recorded(place), shorter)
    assert "charge is recorded and can be undone, but the code did not ask for it" in found.detail


async def test_another_order_is_drift(place: Place) -> None:
    async def turned(run: Run, number: int) -> None:
        await run(charge, number)
        await run(reserve, number)

    found = await tried(await recorded(place), turned)
    assert "reserve is recorded as number 1, the code asks for it later" in found.detail


async def test_an_input_and_a_result_that_cannot_be_read_are_drift(place: Place) -> None:
    async def texts(run: Run, number: str) -> None: ...

    journal = await recorded(place)
    found = await tried(journal, texts)
    assert "the recorded input does not fit order v1" in found.detail

    async def same(run: Run, number: int) -> None:
        await run(reserve_as_text, number)

    found = await tried(journal, same)
    assert "what reserve gave does not fit its type" in found.detail
    app = await place.open(declared(same))
    (waiting,), _ = await app.processes("waiting")
    await app.signal(waiting.id, "go", b"")
    view = await has_status(app, waiting.id, "paused")
    assert "what reserve gave does not fit its type" in view.failure.message


@step(name="reserve")
async def reserve_as_text(number: int) -> str:
    return ""


async def test_a_body_that_raises_before_what_is_recorded_is_drift(place: Place) -> None:
    async def raises(run: Run, number: int) -> None:
        await run(reserve, number)
        raise KeyError("colour")

    found = await tried(await recorded(place), raises)
    assert "charge is recorded next; the code raises KeyError: 'colour'" in found.detail


async def test_a_failure_that_is_recorded_is_no_drift(place: Place) -> None:
    async def fails(run: Run, number: int) -> None:
        try:
            await run(refuse)
        except StepFailed:
            await run.wait("go")

    assert (await tried(await recorded(place, fails), fails)).fits


async def test_what_no_body_runs_is_named(place: Place) -> None:
    found = await tried(await recorded(place), order, version=3, accepts=(2,))
    assert found.verdict == "no_worker_for_version"
    assert found.detail == "no body runs order v1; this code runs v2, v3"
    assert (await tried(await recorded(place), order, version=2, accepts=(1,))).fits


async def test_what_has_ended_is_compared_to_its_end(place: Place) -> None:
    async def quick(run: Run, number: int) -> int:
        async with run.scope():
            await run(reserve, number)
        return await run.transact(write, number)

    async def fails(run: Run, number: int) -> int:
        await run(reserve, number)
        await run.transact(write, number)
        raise LookupError("late")

    journal = await recorded(place, quick, "done")
    assert (await tried(journal, quick)).compared == 2
    found = await tried(journal, fails)
    assert "it is recorded as done; the code raises LookupError: late" in found.detail


async def test_what_is_rolled_back_needs_its_undos_only(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(run: Run, number: int) -> None:
        await run(charge, number)
        raise LookupError("no")

    async def nothing(run: Run, number: int) -> None: ...

    app = await place.open(declared(fails))
    app._runtime.activations.draining = False  # type: ignore[union-attr]
    id = (await app.begin("order", b"7")).id
    await has_status(app, id, "rolled_back")
    lines = (await app.export_journal(id)).splitlines()
    await app.close()
    outside.calls.clear()
    assert (await tried("\n".join(lines), nothing)).fits
    from outlive.kinds.processes.transfer import Exported, exported_in

    whole = exported_in("\n".join(lines))
    undoing = whole.events[: [event.kind for event in whole.events].index("undone")]
    half = Exported(whole.id, whole.head, undoing)
    other = Outlive("memory://")
    declared(nothing)(other)
    assert (await other.diff(half)).fits
    monkeypatch.delitem(globals(), "refund")
    found = await other.diff(half)
    assert found.verdict == "drift" and "charge is to be undone, and cannot be" in found.detail


async def test_all_branches_are_compared_also_beside_one_that_waits(place: Place) -> None:
    async def waits(run: Run) -> None:
        await run.wait("go")

    async def works(run: Run) -> None:
        await run(reserve, 1)
        await run.all([1, 2], charge, limit=1)

    async def works_else(run: Run) -> None:
        await run(reserve, 1)
        await run.all([1, 3], charge, limit=1)

    async def both(run: Run, number: int) -> None:
        await run.gather(waits, works)

    async def both_else(run: Run, number: int) -> None:
        works_else.__name__ = "works"
        await run.gather(waits, works_else)

    journal = await recorded(place, both, last="works/charge:1 done")
    found = await tried(journal, both)
    assert found.fits and found.compared == 4
    assert (await tried(journal, both_else)).verdict == "drift"


async def test_a_race_and_a_deadline_come_out_as_they_are_recorded(place: Place) -> None:
    async def slow(run: Run) -> str:
        await run.sleep(3600)
        return "slow"

    async def quick(run: Run) -> int:
        return await run(reserve, 1)

    async def races(run: Run, number: int) -> None:
        run.deadline(3600)
        run.state = await run.first(slow, quick)
        await run(reserve, 2)
        await run.sleep(3600)

    async def late(run: Run, number: int) -> None:
        await run.first(slow)

    journal = await recorded(place, races, last="sleep began")
    assert (await tried(journal, races)).fits
    found = await tried(journal, late)
    assert "first is recorded as decided by quick, which is no branch of it" in found.detail


async def test_a_plain_body_is_replayed_in_a_thread_and_ends_there(place: Place) -> None:
    def plain(run: BlockingRun, number: int) -> None:
        run(reserve, number)
        run.wait("go")

    def other(run: BlockingRun, number: int) -> None:
        run(reserve, 8)

    journal = await recorded(place, plain)
    assert (await tried(journal, plain)).fits
    assert (await tried(journal, other)).verdict == "drift"


async def test_an_era_is_compared_to_where_the_next_begins(place: Place) -> None:
    async def loop(run: Run, number: int) -> None:
        await run(reserve, number)
        await run.wait("go")
        await run.again(number + 1)

    async def drifts(run: Run, number: int) -> None:
        await run.again(number)

    journal = await recorded(place, loop)
    assert (await tried(journal, loop)).fits

    async def forgets(run: Run, number: int) -> None:
        await run(charge, number)
        await run.wait("go")

    journal = await recorded(place, forgets)
    found = await tried(journal, drifts)
    assert "charge is recorded and can be undone, but the code did not ask for it" in found.detail


async def test_a_body_that_waits_for_the_world_is_unclear(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from outlive.runtime import rehearsal

    monkeypatch.setattr(rehearsal, "REST_SECONDS", 0.05)

    async def stands(run: Run, number: int) -> None:
        await asyncio.get_running_loop().create_future()

    found = await tried(await recorded(place), stands)
    assert found.verdict == "unclear" and not found.fits
    assert found.detail == "its body came to no durable call within 0.05 s"
