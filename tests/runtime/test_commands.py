"""What reaches a process from outside is done by its owner, once, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from tests.runtime import sleeping
from tests.runtime.sleeping import live, sleepers
from tests.service import Outside, Place, crash, has_status, process, until

from outlive import Outlive, Run
from outlive.errors import Fenced, NoSuchProcess, OutliveError
from outlive.kinds.processes import Command
from outlive.model import Batch, Committed
from outlive.runtime.activations import Activations


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    sleeping.fresh(outside)


async def asleep(place: Place) -> tuple[Outlive, str, Activations]:
    """A process that sleeps for a minute, and what keeps it."""
    app = await place.open(sleepers)
    id = (await app.begin("sleeper", b"60.0")).id
    await has_status(app, id, "waiting")
    assert app._runtime is not None
    return app, id, app._runtime.activations


async def test_a_command_for_what_lives_elsewhere_is_refused_as_such_and_never_lost(
    place: Place,
) -> None:
    _app, id, activations = await asleep(place)
    with pytest.raises(NoSuchProcess):
        await activations.commands.obey(Command("signal", "sleeper_nobody", "go"))
    for shard in list(activations.leases):
        activations.release(shard)
    with pytest.raises(Fenced):
        await activations.commands.obey(Command("signal", id, "go"))


async def test_a_start_command_that_comes_again_runs_nothing_again(place: Place) -> None:
    app = await place.open(sleepers)
    begun = await app.begin("sleeper", b"0.0")
    await app.result(begun.id, within=60)
    runtime = app._runtime
    assert runtime is not None
    before = await app.seq(begun.id)
    await runtime.activations.commands.obey(Command("start", begun.id))
    await until(lambda: live(app) == 0)
    assert await app.seq(begun.id) == before


async def test_a_cancel_that_is_sent_twice_is_recorded_once(place: Place) -> None:
    app = await place.open(sleepers)
    begun = await app.begin("hanger", b"null")
    await until(lambda: "hang" in sleeping.world.log)
    await asyncio.gather(app.cancel(begun.id), app.cancel(begun.id))
    await has_status(app, begun.id, "cancelled")
    kinds = [entry.kind for entry in await app.journal(begun.id)]
    assert kinds.count("cancel") == 1
    await crash(app)


@pytest.mark.parametrize("seen_in", ["memory", "store"])
async def test_a_retry_that_comes_while_the_stuck_process_is_still_ending_is_not_lost(
    place: Place, seen_in: str
) -> None:
    """In memory it is stuck before that is durable, in the store before its body has ended."""
    tries: dict[str, int] = {}

    async def body(run: Run) -> str:
        run.pivot()
        await run.sleep(0)
        tries[run.id] = tries.get(run.id, 0) + 1
        if tries[run.id] == 1:
            raise RuntimeError("not yet")
        return "through"

    app = await place.open(process(body))
    runtime = app._runtime
    assert runtime is not None
    for _ in range(200):
        id = (await app.begin("thing", b"null")).id
        if seen_in == "memory":
            activation = runtime.activations.live[id]
            while activation.head.status != "stuck":
                await asyncio.sleep(0)
            await runtime.activations.commands.obey(Command("retry", id))
        else:
            while (await app.journal(id))[-1].kind != "stuck":
                await asyncio.sleep(0)
            await app.retry(id)
        assert await app.result(id, within=60) == "through"
        assert tries[id] == 2
        kinds = [entry.kind for entry in await app.journal(id)]
        assert kinds.count("stuck") == kinds.count("resumed") == 1


async def test_a_signal_that_comes_again_under_its_key_is_heard_once(place: Place) -> None:
    async def body(run: Run) -> list[object]:
        return [await run.wait("go"), await run.wait("go")]

    app = await place.open(process(body))
    begun = await app.begin("thing", b"null")
    await has_status(app, begun.id, "waiting")
    runtime = app._runtime
    assert runtime is not None
    obey = runtime.activations.commands.obey
    for payload, key in ((b"1", "one"), (b"1", "one"), (b"2", "two")):
        await obey(Command("signal", begun.id, "go", msgspec.Raw(payload), key))
    assert await app.result(begun.id, within=60) == [1, 2]


@pytest.mark.parametrize("is_refused", [False, True])
async def test_what_is_sent_again_is_acknowledged_when_the_first_is_durable(
    place: Place, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, id, activations = await asleep(place)
    real, entered, gate = app.store.commit_group, asyncio.Event(), asyncio.Event()

    async def held(batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        entered.set()
        await gate.wait()
        if is_refused:
            return [Fenced("another took it", lease=batch.lease) for batch in batches]
        return await real(batches)

    obey = activations.commands.obey
    command = Command("cancel", id, reason="enough")
    monkeypatch.setattr(app.store, "commit_group", held)
    first, again = (asyncio.create_task(obey(command)) for _ in range(2))
    left = asyncio.create_task(obey(command))
    async with asyncio.timeout(60):
        await entered.wait()
    left.cancel()
    await asyncio.wait([left])
    early = [task for task in (first, again) if task.done()]
    gate.set()
    assert not early, "nothing is durable yet"
    told = await asyncio.gather(first, again, return_exceptions=True)
    assert [isinstance(said, Fenced) for said in told] == [is_refused, is_refused]
