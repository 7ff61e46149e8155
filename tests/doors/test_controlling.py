"""What operators ask, on every status and from every node, killed everywhere, and asked again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.doors.manual import written_out
from tests.runtime.test_control import waiter
from tests.service import Outside, Place, check_grammar, has_status, until
from tests.testing.conftest import Shop

import outlive
from outlive import NonRetryable, Outlive, Retry, Run, attempt, ids, step
from outlive.errors import OutliveError, ProcessError, ProcessTerminal, SignalNotExpected
from outlive.kinds.processes import STATUSES
from outlive.testing.killing import KillEverywhere, Outcome
from outlive.testing.trial import Trial

SLOW = Retry(attempts=5, base_seconds=600, cap_seconds=600)
world = Outside()
gate = asyncio.Event()
broken = True


@pytest.fixture(autouse=True)
def fresh() -> None:
    renew()


def renew() -> None:
    global world, gate, broken
    world, gate, broken = Outside(), asyncio.Event(), True


@pytest.fixture(params=["memory://", "sqlite://"])
def kill(shop: Shop, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[KillEverywhere]:
    made = KillEverywhere(shop.app, request.param, tmp_path)
    yield made
    made.close()


def in_memory(kill: KillEverywhere) -> bool:
    """Where a second death at each commit of the recovery costs little."""
    return kill._address == "memory://"


# --- every verb on every status -------------------------------------------------------------------


async def uncharge(made: Any) -> None:
    if broken:
        raise ConnectionError("no")


@step(undo=uncharge)
def charge() -> str:
    return "charged"


@step(retry=SLOW)
def flaky() -> int | None:
    if broken:
        raise ConnectionError("down")
    return attempt().number


@step(retry=Retry(attempts=1))
def fails() -> int | None:
    raise NonRetryable("no")


@step
async def hangs() -> str:
    world.do(attempt().key, "hangs")
    await gate.wait()
    return "hung"


async def machine(run: Run, way: str) -> Any:
    if way == "running":
        return await run(hangs)
    await run(charge)
    if way in ("rolled_back", "compensating"):
        raise ValueError(way)
    if way == "stuck":
        run.pivot()
        return await run(fails)
    if way == "retrying":
        return await run(flaky)
    if way != "done":
        await run.wait("go")
    return way


async def simple(run: Run, way: str) -> Any:
    raise ValueError(way)


VERBS: dict[str, Callable[[Outlive, str], Awaitable[Any]]] = {
    "pause": lambda app, id: app.pause(id, who="ann"),
    "resume": lambda app, id: app.resume(id, who="ann"),
    "retry": lambda app, id: app.retry(id, who="ann"),
    "retry now": lambda app, id: app.retry(id, now=True, who="ann"),
    "skip": lambda app, id: app.skip(id, who="ann"),
    "deadline": lambda app, id: app.deadline(id, 60, who="ann"),
    "cancel": lambda app, id: app.cancel(id, who="ann"),
    "fork": lambda app, id: app.fork(id, "charge", who="ann"),
    "fork and cancel": lambda app, id: app.fork(id, "charge", cancel=True, who="ann"),
}
TERMINAL = {
    "pause": "OL2003", "resume": "OL2003", "retry": "OL2005", "retry now": "OL2005",
    "skip": "OL2003", "deadline": "OL2003", "cancel": "OL2003", "fork": "ok",
    "fork and cancel": "ok",
}  # fmt: skip
OPEN = {
    "pause": "ok", "resume": "OL2051", "retry": "OL2005", "retry now": "OL2005",
    "skip": "OL2052", "deadline": "ok", "cancel": "ok", "fork": "OL2055",
    "fork and cancel": "ok",
}  # fmt: skip
TABLE = {
    "queued": {**OPEN, "fork": "OL2054", "fork and cancel": "OL2054"},
    "running": {**OPEN, "fork": "OL2054", "fork and cancel": "OL2054"},
    "waiting": OPEN,
    "retrying": {**OPEN, "retry now": "ok", "skip": "ok"},
    "paused": {**OPEN, "resume": "ok", "retry": "ok"},
    "compensating": {
        **OPEN, "retry now": "ok", "skip": "ok", "deadline": "OL2057", "fork": "OL2057",
        "fork and cancel": "OL2057",
    },
    "stuck": {
        **OPEN, "pause": "OL2050", "retry": "ok", "skip": "ok", "deadline": "OL2004",
        "cancel": "OL2004", "fork and cancel": "OL2004",
    },
    "no_worker_for_version": OPEN,
    "rolled_back": TERMINAL,
    "failed": {**TERMINAL, "fork": "OL2054", "fork and cancel": "OL2054"},
    "cancelled": TERMINAL,
    "done": TERMINAL,
}  # fmt: skip


def test_the_table_has_every_status() -> None:
    assert TABLE.keys() - {"retrying"} == set(STATUSES)


@pytest.fixture
def machines(shop: Shop) -> Shop:
    shop.app.process("/machines", version=1)(machine)
    shop.app.process("/simple", version=1)(simple)
    return shop


async def brought(trial: Trial, status: str) -> str:
    """A process that has `status`."""
    global broken
    broken = status != "rolled_back"
    body = simple if status == "failed" else machine
    handle = await trial.start(body, status)
    if status == "running":
        while "hangs" not in world.log:
            await asyncio.sleep(0)
        return handle.id
    await trial.run_until_idle()
    if status == "paused":
        await trial.app.pause(handle.id)
    if status == "cancelled":
        broken = False
        await handle.cancel()
        await trial.run_until_idle()
    wanted = {"retrying": "running"}.get(status, status)
    assert await handle.status() == wanted
    broken = True
    return handle.id


@pytest.mark.parametrize("status", sorted(TABLE.keys() - {"queued", "no_worker_for_version"}))
async def test_each_verb_is_done_or_refused_with_its_code(
    trial: Trial, machines: Shop, status: str
) -> None:
    found = {}
    for verb, ask in VERBS.items():
        renew()
        id = await brought(trial, status)
        before = await trial.app.seq(id)
        try:
            await ask(trial.app, id)
            found[verb] = "ok"
            if "fork" not in verb:
                journal = [entry.text for entry in await trial.app.journal(id, before - 1)]
                ours = verb == "pause" and status == "paused"
                ours = ours or (verb == "cancel" and status == "compensating")
                assert ours or any("ann" in text or "cancel" in text for text in journal), journal
        except OutliveError as error:
            found[verb] = error.code
            assert await trial.app.seq(id) == before, "what is refused leaves no trace"
        gate.set()
        await trial.run_until_idle()
        check_grammar(await trial.app.journal(id))
    assert found == TABLE[status]


# --- two nodes, and none --------------------------------------------------------------------------


@pytest.fixture
async def place(tmp_path: Path) -> Any:
    made = Place(tmp_path)
    yield made
    await made.close()


def declare(app: Outlive) -> None:
    app.process("/machines", version=1)(machine)


def nothing(app: Outlive) -> None: ...


async def outcomes(app: Outlive, begin: Callable[[], Awaitable[str]]) -> dict[str, str]:
    found = {}
    for verb, ask in VERBS.items():
        id = await begin()
        try:
            await ask(app, id)
            found[verb] = "ok"
        except OutliveError as error:
            found[verb] = error.code
    return found


async def test_what_is_asked_of_a_queued_process_is_kept_until_it_begins(place: Place) -> None:
    client = await place.client(declare)

    async def begin() -> str:
        return (await client.begin("machine", b'"waiting"')).id

    assert await outcomes(client, begin) == TABLE["queued"]
    id = await begin()
    await client.pause(id, who="ann")
    app = await place.open(declare)
    view = await has_status(app, id, "paused")
    assert view.history[-1].why == "paused by ann"
    await client.resume(id)
    await has_status(app, id, "waiting")


async def test_what_is_asked_of_a_process_without_a_worker_waits_for_one(place: Place) -> None:
    first = await place.open(declare)
    waiting = [(await first.begin("machine", b'"waiting"')).id for _ in range(3)]
    for id in waiting:
        await has_status(first, id, "waiting")
    plain, paused, later = waiting
    await first.pause(paused)
    await first.close()
    other = await place.open(nothing)
    for id in waiting:
        await other.signal(id, "go", b"1")
    await has_status(other, plain, "no_worker_for_version")
    assert (await other.view(paused)).status == "paused", "a paused one needs no worker"
    await has_status(other, later, "no_worker_for_version")
    found = {}
    for verb, ask in VERBS.items():
        try:
            if verb != "fork and cancel":  # waits for the owner
                await ask(other, later if verb == "pause" else plain)
            found[verb] = "ok"
        except OutliveError as error:
            found[verb] = error.code
    assert found == TABLE["no_worker_for_version"]
    await other.close()
    third = await place.open(declare)
    await until(lambda: _is_final(third, plain), "its cancel is carried out")
    await has_status(third, later, "paused", "done")
    assert (await third.view(paused)).status == "paused", "a take-over leaves it paused"
    await third.resume(paused)
    assert await third.result(paused, within=10) == "waiting"


async def _is_final(app: Outlive, id: str) -> bool:
    return (await app.view(id)).final or (await app.view(id)).status == "compensating"


async def each_from_a_client(app: Outlive, client: Outlive) -> None:
    """Every verb, asked where the process does not live."""
    global broken
    waiting = (await app.begin("machine", b'"waiting"')).id
    await has_status(app, waiting, "waiting")
    await client.pause(waiting, who="ann", why="look")
    await has_status(client, waiting, "paused")
    await client.pause(waiting)
    await client.deadline(waiting, 3600, who="bob")
    await client.resume(waiting, who="ann")
    await has_status(client, waiting, "waiting", "running")
    await client.signal(waiting, "go", b"1", key="k")
    assert await client.result(waiting, within=10) == "waiting"
    await client.signal(waiting, "go", b"1", key="k")
    trying = (await app.begin("machine", b'"retrying"')).id
    await until(lambda: _has(app, trying, "attempt"))
    broken = False
    await client.retry(trying, now=True, who="ann")
    assert await client.result(trying, within=10) == 2
    broken = True
    other = (await app.begin("machine", b'"retrying"')).id
    await until(lambda: _has(app, other, "attempt"))
    await client.skip(other, "flaky", value=9, who="ann")
    assert await client.result(other, within=10) == 9
    stuck = (await app.begin("machine", b'"stuck"')).id
    await has_status(app, stuck, "stuck")
    await client.skip(stuck, value=5)
    assert await client.result(stuck, within=10) == 5
    new = await client.fork(stuck, "fails", who="ann")
    await has_status(app, new.id, "stuck")
    kinds = [entry.kind for entry in await client.journal(waiting)]
    assert kinds.count("paused") == kinds.count("resumed") == kinds.count("signal") == 1


async def _has(app: Outlive, id: str, kind: str) -> bool:
    return any(entry.kind == kind for entry in await app.journal(id))


async def test_every_verb_reaches_the_node_that_owns_the_process(place: Place) -> None:
    await each_from_a_client(await place.open(declare), await place.client(declare))


async def test_the_same_on_postgresql(postgres: str) -> None:
    address = f"{postgres}?schema=control_{ids.token(40)}"
    app, client = Outlive(address), Outlive(address)
    declare(app)
    declare(client)
    async with app:
        await client.open_client()
        try:
            await each_from_a_client(app, client)
        finally:
            await client.close()


# --- killed everywhere ----------------------------------------------------------------------------


async def test_a_pause_in_the_middle_survives_every_death(shop: Shop, kill: KillEverywhere) -> None:
    body = waiter(shop)

    async def operate(outlive: Any, handle: Any) -> None:
        await outlive.run_until_idle()
        with suppress(ProcessError):
            await outlive.app.pause(handle.id, who="ann")
        await outlive.advance(hours=30)
        await handle.signal("go", "yes")
        with suppress(ProcessError):
            await outlive.app.resume(handle.id)

    def check(outcome: Outcome) -> None:
        assert (outcome.status, outcome.result) in (("done", "yes"), ("done", "late"))
        assert set(shop.world.effects.values()) == {"first", "last"}
        assert len(shop.world.effects) == 2

    where = await kill(body, client=operate, check=check, reset=shop.reset, nested=in_memory(kill))
    assert len(where) >= 10


async def test_a_skip_in_the_middle_survives_every_death(shop: Shop, kill: KillEverywhere) -> None:
    async def back(made: Any) -> None:
        shop.world.do("undo " + attempt().undoes, f"back {made!r}")

    @step(retry=SLOW, undo=back)
    def pays() -> int:
        shop.world.do(attempt().key, "pay")
        raise ConnectionError("down")

    last = shop.doing("last", undo=back)

    @shop.process
    async def body(run: Run) -> None:
        got = await run(pays)
        await run(last)
        raise ValueError(str(got))

    async def operate(outlive: Any, handle: Any) -> None:
        await outlive.run_until_idle()
        with suppress(ProcessError):
            await outlive.app.skip(handle.id, "pays", value=7, who="ann", why="by hand")

    def check(outcome: Outcome) -> None:
        assert outcome.status == "rolled_back"
        undone = [what for what in shop.world.effects.values() if what.startswith("back")]
        assert sorted(undone) == ["back 'last'", "back 7"]
        assert "skipped" in [found.outcome for found in outcome.view.steps]

    await kill(body, client=operate, check=check, reset=shop.reset, nested=in_memory(kill))


async def test_a_fork_in_the_middle_survives_every_death(shop: Shop, kill: KillEverywhere) -> None:
    forks: dict[str, Any] = {}

    async def back(made: Any) -> None:
        shop.world.do("undo " + attempt().undoes, "back")

    first, last = shop.doing("first", undo=back), shop.doing("last")

    @shop.process
    async def body(run: Run) -> Any:
        await run(first)
        said = await run.wait("go")
        await run(last)
        return said

    async def operate(outlive: Any, handle: Any) -> None:
        await outlive.run_until_idle()
        new = await outlive.app.fork(handle.id, "wait go", cancel=True, key="k", who="ann")
        await outlive.run_until_idle()
        await outlive.signal(new.id, "go", b'"yes"')
        await outlive.rest_until_ended(new.id)
        forks[new.id] = await outlive.view(new.id)

    def check(outcome: Outcome) -> None:
        assert outcome.status == "cancelled"
        (view,) = forks.values()
        assert (view.status, bytes(view.result)) == ("done", b'"yes"')
        assert outcome.view.forks == (view.id,) and view.forked_from == outcome.id
        assert sorted(shop.world.effects.values()) == ["first", "last"], "nothing undone"

    def reset() -> None:
        forks.clear()
        shop.reset()

    where = await kill(body, client=operate, check=check, reset=reset, nested=in_memory(kill))
    assert len(where) >= 10


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "n" * 201])
async def test_a_signal_without_a_name_or_with_an_endless_one_is_refused(
    name: str, shop: Shop, trial: Trial
) -> None:
    handle = await trial.start(waiter(shop))
    await trial.run_until_idle()
    with pytest.raises(SignalNotExpected, match="1 to 200 characters"):
        await trial.app.signal(handle.id, name, b"1")
    await handle.signal("go", 1)
    assert await handle.result() == "1"


async def test_a_signal_sent_again_with_its_key_after_the_end_is_answered_as_before(
    shop: Shop, trial: Trial
) -> None:
    handle = await trial.start(waiter(shop))
    await trial.run_until_idle()
    await handle.signal("go", 1, key="k")
    assert await handle.result() == "1"
    before = await trial.app.seq(handle.id)
    await handle.signal("go", 1, key="k")
    with pytest.raises(ProcessTerminal):
        await handle.signal("go", 1, key="other")
    with pytest.raises(ProcessTerminal):
        await handle.signal("go", 1)
    assert await trial.app.seq(handle.id) == before


async def test_the_same_inside_a_transaction(shop: Shop, trial: Trial) -> None:
    handle = await trial.start(waiter(shop))
    await trial.run_until_idle()
    await handle.signal("go", 1, key="k")
    assert await handle.result() == "1"

    def send(tables: Any, key: str) -> None:
        shop.app.blocking().within(tables).signal(handle.id, "go", 1, key=key)

    await trial.app.transact(send, "k")
    with pytest.raises(ProcessTerminal):
        await trial.app.transact(send, "other")


# --- the manual -----------------------------------------------------------------------------------


def test_the_program_of_the_manual_runs(tmp_path: Path) -> None:
    assert written_out("control.md", tmp_path) == ["desk.py"]
    ran = subprocess.run(
        [sys.executable, "desk.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(outlive.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "paused by ann: the van is broken" in ran.stdout.splitlines()
