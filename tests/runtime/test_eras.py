"""Eras: one id, a journal for each, nothing lost between them and nothing that grows with them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from tests.service import Outside, Place, has_status, process, recorded, until

from outlive import BlockingRun, Outlive, Run, Update, WaitTimeout, attempt, step
from outlive.errors import EraNotOver, NoSuchEra
from outlive.kinds.processes import vocabulary as words
from outlive.kinds.processes.cells import Head
from outlive.kinds.processes.eras import ERAS_KEPT_MAX, KEYS_CARRIED_MAX, opening
from outlive.kinds.processes.journal import Journal
from outlive.model import shard_of
from outlive.runtime.activations import Activations
from outlive.testing.killing import KillEverywhere
from outlive.testing.places import Place as TrialPlace
from outlive.testing.trial import Trial

outside = Outside()


def renew() -> None:
    outside.calls.clear()
    outside.effects.clear()


@pytest.fixture(autouse=True)
def anew() -> None:
    renew()


@step(undo="take_back")
async def tick(number: int) -> str:
    return outside.do(attempt().key, f"tick {number}")


async def take_back(number: int, made: Any) -> None:
    outside.effects.pop(attempt().undoes, None)


def clock_of(app: Outlive, last: int = 3) -> Any:
    """Counts up to `last`, an era for each number."""

    @app.process("/clocks", version=1, signals={"set": int, "stop": None})
    async def clock(run: Run, number: int) -> int:
        await run(tick, number)
        run.state = {"number": number, "era": run.era}
        if number == last:
            return number
        await run.again(number + 1)

    return clock


async def test_an_era_after_the_other_runs_under_one_id(place: Place) -> None:
    app = await place.open(clock_of)
    handle = await app.start(*app._bodies, 1)  # type: ignore[call-overload]
    assert await handle.result(within=10) == 3
    view = await handle.view()
    assert (view.era, view.status, view.version) == (3, "done", 1)
    assert outside.made("tick 1") == outside.made("tick 3") == 1
    assert len(outside.effects) == 3, "a step of another era has another key"
    assert recorded(await app.journal(handle.id)) == ["tick"]
    first = await app.journal(handle.id, era=1)
    assert [entry.kind for entry in first] == ["started", "step", "state", "again"]
    assert first[-1].text == "era 2 begins; undos let go: 1"


async def test_signals_that_no_wait_has_taken_go_along_and_keys_count_once(place: Place) -> None:
    taken: list[int] = []
    gate = asyncio.Event()

    async def body(run: Run) -> Any:
        if run.era == 1:
            await run.wait("go")
            await run.again()
        if run.era == 2:
            await gate.wait()
        try:
            while True:
                taken.append(await run.wait("n", within=0.05))
        except WaitTimeout:
            return None

    app = await place.open(process(body))
    handle = await app.start(*app._bodies)  # type: ignore[call-overload]
    for number in range(3):
        await handle.signal("n", number, key=f"k{number}")
    await handle.signal("go", key="go")
    await until(lambda: has_era(app, handle.id, 2), "era 2")
    await handle.signal("n", 2, key="k2")  # again: it is there
    await handle.signal("go", key="go")  # again: it was taken in era 1
    await handle.signal("n", 3, key="k3")
    gate.set()
    await handle.result(within=10)
    assert taken == [0, 1, 2, 3]
    kinds = [entry.kind for entry in await app.journal(handle.id)]
    assert kinds[:5] == ["started", "carried", "signal", "signal", "signal"]
    assert kinds.count("signal") == 4


async def has_era(app: Outlive, id: str, era: int) -> bool:
    return (await app.view(id)).era >= era


async def test_as_many_keys_go_along_as_are_named_and_no_more(place: Place) -> None:
    async def body(run: Run) -> Any:
        await run.wait("go")
        for _ in range(KEYS_CARRIED_MAX + 20 if run.era == 1 else 0):
            await run.wait("n")
        if run.era < 3:
            await run.again()

    app = await place.open(process(body))
    handle = await app.start(*app._bodies)  # type: ignore[call-overload]
    for number in range(KEYS_CARRIED_MAX + 20):
        await handle.signal("n", number, key=f"k{number}")
    for _ in range(3):
        await handle.signal("go")
    await handle.result(within=10)
    for era in (2, 3):
        carried = next(e for e in await app.journal(handle.id, era=era) if e.kind == "carried")
        assert carried.text == f"{KEYS_CARRIED_MAX} keys of earlier signals are known"
        assert b'"k119"' in bytes(carried.data) and b'"k19"' not in bytes(carried.data)


def test_the_key_of_a_signal_goes_along_also_where_an_update_that_waits_has_the_same() -> None:
    before = Journal()
    for event in (
        words.Started("c_1", "clocks", 1, Raw(b"1"), "n"),
        words.Signal("set", Raw(b"1"), "one key"),
        words.WaitBegan("wait set", "set", 0, signal=1),
        words.Asked("change", Raw(b"2"), "one key"),
    ):
        before.apply(event, 1)
    head = Head("stream", "clocks", 1, "running", 1)
    opened = list(opening("c_1", head, Raw(b"2"), "n", before))
    assert words.Carried(("one key",)) in opened, "sent again, the signal would count twice"
    assert words.Asked("change", Raw(b"2"), "one key") in opened


async def test_an_era_does_not_end_beside_what_is_under_way(place: Place) -> None:
    found: list[str] = []

    async def in_a_branch(run: Run) -> None:
        await run.again()

    async def body(run: Run) -> None:
        for attempt_it in (in_a_branch, in_a_scope, beside_a_step):
            try:
                await attempt_it(run) if attempt_it is not in_a_branch else await run.gather(
                    in_a_branch, in_a_branch
                )
            except Exception as error:
                found.append(f"{type(error).__name__} {error}")

    async def in_a_scope(run: Run) -> None:
        async with run.scope():
            await run.again()

    async def beside_a_step(run: Run) -> None:
        beside = asyncio.create_task(run.wait("never"))
        while not run._activation.parking:
            await asyncio.sleep(0.001)
        try:
            await run.again()
        finally:
            beside.cancel()

    app = await place.open(process(body))
    handle = await app.start(*app._bodies)  # type: ignore[call-overload]
    await handle.result(within=10)
    assert [text.split()[0] for text in found] == ["EraNotOver"] * 3
    assert "wait never" in found[2] and (await handle.view()).era == 1


async def test_a_value_that_the_next_era_cannot_begin_with_fails_this_one(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/counts", version=1)
        async def count(run: Run, number: int) -> None:
            await run(tick, number)
            await run.again("many")

    app = await place.open(declare)
    id = (await app.begin("count", b"1")).id
    view = await has_status(app, id, "rolled_back")
    assert view.failure.type == "InvalidInput" and view.era == 1
    assert not outside.effects, "the era that failed is rolled back"


async def test_what_an_earlier_era_did_is_not_rolled_back(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/counts", version=1)
        async def count(run: Run, number: int) -> None:
            await run(tick, number)
            if number == 2:
                raise LookupError("no more")
            await run.again(number + 1)

    app = await place.open(declare)
    id = (await app.begin("count", b"1")).id
    await has_status(app, id, "rolled_back")
    assert [*outside.effects.values()] == ["tick 1"]


async def test_a_pivot_a_deadline_and_a_state_are_those_of_the_era(place: Place) -> None:
    async def body(run: Run) -> None:
        if run.era == 1:
            run.state = "first"
            run.pivot()
            await run(tick, 1)
            await run.again()
        await run.wait("never")

    app = await place.open(process(body))
    handle = await app.start(*app._bodies)  # type: ignore[call-overload]
    await until(lambda: has_era(app, handle.id, 2), "era 2")
    await has_status(app, handle.id, "waiting")
    assert bytes((await handle.view()).data) == b"null"
    await handle.cancel()
    await has_status(app, handle.id, "cancelled")


async def test_a_cancel_that_came_first_holds(place: Place) -> None:
    begun = asyncio.Event()
    go = asyncio.Event()

    async def body(run: Run) -> None:
        await run(tick, run.era)
        begun.set()
        await go.wait()
        await run.again()

    app = await place.open(process(body))
    handle = await app.start(*app._bodies)  # type: ignore[call-overload]
    await begun.wait()
    await handle.cancel()
    go.set()
    await has_status(app, handle.id, "cancelled")
    assert (await handle.view()).era == 1 and not outside.effects


async def test_a_plain_body_has_eras_too(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/counts", version=1)
        def count(run: BlockingRun, number: int) -> str:
            run(tick, number)
            if number < 3:
                run.again(number + 1)
            return f"{number} in era {run.era}, {run.since(1)}"

    app = await place.open(declare)
    id = (await app.begin("count", b"1")).id
    assert await app.result(id, within=10) == "3 in era 3, True"
    assert len(outside.effects) == 3


async def test_the_next_era_runs_under_the_newest_version_that_takes_its_input(
    place: Place,
) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/counts", version=1, name="count")
        async def old(run: Run, number: int) -> Any:
            await run.again(number + 1)

        @app.process("/counts", version=3, name="count", accepts=(2,))
        async def new(run: Run, number: int) -> Any:
            return [run.version, run.since(3), number]

        @app.process("/counts", version=4, name="count")
        async def other(run: Run, text: str) -> Any:
            return text

    app = await place.open(declare)
    first = next(made for made in app._all.values() if made.version == 1)
    handle = await app.start(first.body, 1)
    assert await handle.result(within=10) == [3, True, 2]
    view = await handle.view()
    assert (view.version, view.era) == (3, 2)


# --- deaths ---------------------------------------------------------------------------------------


def test_an_endless_process_killed_everywhere_does_every_step_of_every_era_once(
    tmp_path: Path,
) -> None:
    app = Outlive("memory://")

    @app.process("/loops", version=1, signals={"next": int})
    async def loop(run: Run, number: int) -> str:
        await run(tick, number)
        got = await run.wait("next", within=3600)
        if number < 3:
            await run.again(number + 1)
        return f"{got} in era {run.era}"

    async def client(trial: Any, handle: Any) -> None:
        for number in range(3):
            await trial.run_until_idle()
            await handle.signal("next", number)

    def check(outcome: Any) -> None:
        assert outcome.status == "done" and outcome.result == "2 in era 3", outcome
        assert sorted(outside.effects.values()) == ["tick 1", "tick 2", "tick 3"]

    kill = KillEverywhere(app, "memory://", tmp_path)
    try:
        where = kill(loop, 1, client=client, check=check, reset=renew, nested=True)
    finally:
        kill.close()
    assert len(where) > 60


async def test_another_node_goes_on_with_the_era_that_is_durable(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/loops", version=1)
        async def loop(run: Run, number: int) -> str:
            await run(tick, number)
            await run.wait("next")
            if number == 2:
                return f"{number} in era {run.era}"
            await run.again(number + 1)

    one = await place.open(declare)
    asking = await place.client(declare)
    id = (await one.begin("loop", b"1")).id
    await has_status(one, id, "waiting")
    await asking.signal(id, "next", b"")
    await until(lambda: has_era(asking, id, 2), "era 2, begun by a signal from elsewhere")
    seen = await asking.seq(id)
    other = await place.again(one, declare)
    await has_status(other, id, "waiting")
    watching = asyncio.create_task(asking.changed(id, seen + 1, 10))
    await asking.signal(id, "next", b"")
    assert await asking.result(id, within=10) == "2 in era 2"
    assert await watching > seen
    assert len(outside.effects) == 2


async def test_replayed_after_every_record_it_comes_out_the_same(tmp_path: Path) -> None:
    app = Outlive("memory://")
    clock = clock_of(app)
    place = TrialPlace("memory://", tmp_path)
    async with Trial(app, place.store, always_replay=True) as trial:
        handle = await trial.start(clock, 1)
        assert await handle.result() == 3
    assert len(outside.effects) == 3


async def test_on_postgres(postgres: str) -> None:
    from outlive import ids

    app = Outlive(f"{postgres}?schema=store_{ids.token(40)}")
    clock = clock_of(app, last=5)
    async with app:
        handle = await app.start(clock, 1)
        assert await handle.result(within=30) == 5
        assert (await app.journal(handle.id, era=4))[-1].kind == "again"


# --- how it grows ---------------------------------------------------------------------------------


async def test_thousands_of_eras_leave_nothing_behind_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Outlive("memory://")
    made: list[int] = []
    real = Activations._adopt

    def counted(self: Any, activation: Any) -> None:
        real(self, activation)
        made.append(len(self.live) + len(activation.journal.records))

    monkeypatch.setattr(Activations, "_adopt", counted)

    @app.process("/loops", version=1)
    async def loop(run: Run, number: int) -> int:
        if number < 10_000:
            await run.again(number + 1)
        return run.era

    async with app:
        handle = await app.start(loop, 1)
        assert await handle.result(within=120) == 10_000
        assert max(made) == 1 and len(made) == 10_000
        head = await app._head(handle.id)
        cell = (await app.store.read([ref(app, handle.id)]))[0]
        assert cell is not None and len(cell.value) < 300
        assert head.before == 2 * 9_999
        assert len(await app.journal(handle.id)) == 2
        oldest = 10_000 - ERAS_KEPT_MAX + 1
        assert len(await app.journal(handle.id, era=oldest)) == 2
        with pytest.raises(NoSuchEra):
            await app.journal(handle.id, era=oldest - 1)
        behind = await app.journal(handle.id, 5)
        assert len(behind) == 2 * ERAS_KEPT_MAX


def ref(app: Outlive, id: str) -> Any:
    from outlive.kinds.processes.cells import ref_of

    assert shard_of(id, app.store.shards) >= 0
    return ref_of(id, app.store.shards)


async def test_an_era_that_begins_while_its_shard_is_handed_over_begins_elsewhere(
    place: Place,
) -> None:
    app = await place.open(clock_of)
    runtime = app._runtime
    assert runtime is not None
    clock = next(iter(app._bodies))
    handle = await app.start(clock, 1)
    activation = runtime.activations.live[handle.id]
    shard = activation.lease.shard
    lease = activation.lease
    real = runtime.committer.submit

    def submit(batch: Any, *, patient: bool = False) -> Any:
        if any(append.kind == "again" for append in batch.append):
            runtime.committer.submit = real  # type: ignore[method-assign]
            gate = real(batch, patient=patient)
            handing.append(asyncio.ensure_future(runtime.activations.hand_over(shard, 10)))
            return gate
        return real(batch, patient=patient)

    handing: list[Any] = []
    runtime.committer.submit = submit  # type: ignore[method-assign,assignment]
    await until(lambda: handing, "an era ends")
    await handing[0]
    assert handle.id not in runtime.activations.live
    assert (await handle.view()).era == 2
    await runtime._gained(lease, False)
    assert await handle.result(within=10) == 3
    assert len(outside.effects) == 3


rename = Update("rename", str, str)


async def test_an_update_is_answered_across_eras_and_a_waiting_one_goes_along(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/names", version=1, updates=[rename], signals={"go": None})
        async def named(run: Run, name: str) -> str:
            if name == "last":
                return name
            asked = await run.wait_update(rename)
            await asked.answer(f"{name} is {asked.value} in era {run.era}")
            await run.wait("go")
            await run.again(asked.value)

    app = await place.open(declare)
    handle = app.handle((await app.begin("named", b'"first"')).id)
    assert await handle.update(rename, "second", key="a", within=30) == "first is second in era 1"
    waiting = asyncio.create_task(handle.update(rename, "last", key="b", within=60))
    await until(lambda: "b" in str(app._runtime.activations.live[handle.id].journal.heard.asked))
    await handle.signal("go")
    assert await waiting == "second is last in era 2"
    assert await handle.update(rename, "second", key="a", within=30) == "first is second in era 1"
    await handle.signal("go")
    assert await handle.result(within=30) == "last"


async def test_an_era_does_not_end_before_its_children(place: Place) -> None:
    seen: list[str] = []

    def declare(app: Outlive) -> None:
        @app.process("/parts", version=1, signals={"go": None})
        async def part(run: Run, number: int) -> int:
            await run.wait("go")
            return number

        @app.process("/wholes", version=1)
        async def whole(run: Run, number: int) -> int:
            if number == 2:
                return number
            child = await run.start(part, number)
            try:
                await run.again(2)
            except EraNotOver as error:
                seen.append(str(error))
            await run.wait("seen")
            await child
            await run.again(2)

    app = await place.open(declare)
    handle = app.handle((await app.begin("whole", b"1")).id)
    await until(lambda: seen)
    assert "start part" in seen[0]
    (child,) = (await handle.view()).children
    await handle.signal("seen")
    await app.signal(child.id, "go", b"null")
    assert await handle.result(within=30) == 2
