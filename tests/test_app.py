"""The application: idempotent starts, many faces of one store, lists, retention, versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.service import Outside, Place, check_grammar, has_status, process, until

from outlive import Outlive, ProcessFailed, Run, attempt, step
from outlive.clock import ManualClock
from outlive.errors import (
    Draining,
    InvalidInput,
    KeyReused,
    MalformedInput,
    NoSuchProcess,
    NotStuck,
    ProcessGone,
    ProcessTerminal,
    StoreUnavailable,
    TooLarge,
)

world = Outside()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    global world
    world = Outside()
    made = Place(tmp_path)
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def short_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outlive.runtime.node.HOLD_SECONDS", 0.3)


@step
async def work(name: str, seconds: float = 0.0) -> str:
    await asyncio.sleep(seconds)
    return world.do(attempt().key, f"work {name}")


def greet(app: Outlive) -> None:
    @app.process("/greetings", version=1)
    async def greet(run: Run, name: str) -> str:
        return f"hello {await run(work, name)}"


def wait(app: Outlive) -> None:
    @app.process("/waits", version=1)
    async def wait(run: Run, name: str) -> Any:
        await run(work, name)
        return await run.wait("go")


def both(app: Outlive) -> None:
    greet(app)
    wait(app)


# --- starting -------------------------------------------------------------------------------------


async def test_a_start_by_its_body_gives_a_handle_with_a_typed_result(place: Place) -> None:
    app = Outlive(place.store())
    place.apps.append(app)

    @app.process("/doubles", version=1)
    async def double(run: Run, number: int) -> int:
        return number * 2

    async with app:
        handle = await app.start(double, 2**70)
        assert await handle.result(within=60) == 2**71
        assert (await handle.view()).status == "done"
        with pytest.raises(InvalidInput):
            await app.start(double, "two")
        with pytest.raises(TypeError, match="not declared"):
            await app.start(greet, 1)  # type: ignore[arg-type]


async def test_the_view_at_the_end_is_the_view_and_nobody_elses_end_is_waited_for(
    place: Place,
) -> None:
    app = await place.open(greet)
    begun = await app.begin("greet", b'"ann"')
    view = await app.view_at_end(begun.id, 60)
    assert view is not None and view.status == "done"
    assert view == await app.view(begun.id)
    assert await app.view_at_end(begun.id, 60) is None  # it lives nowhere any more
    await app.close()
    assert await app.view_at_end(begun.id, 60) is None


def test_the_newest_version_is_what_is_started_in_whatever_order_they_are_declared() -> None:
    app = Outlive("memory://")
    for version in (2, 3, 1):

        @app.process("/numbers", version=version, name="number")
        async def number(run: Run) -> None: ...

    assert {name: made.version for name, made in app.definitions.items()} == {"number": 3}


async def test_wrong_input_starts_nothing(place: Place) -> None:
    app = await place.open(both)
    with pytest.raises(MalformedInput):
        await app.begin("greet", b"{")
    with pytest.raises(InvalidInput):
        await app.begin("greet", b"17")
    with pytest.raises(TooLarge):
        await app.begin("greet", b'"' + b"x" * (1024 * 1024) + b'"')
    assert await app.processes() == ([], "")


async def test_the_same_key_gives_the_same_process_also_after_a_restart(place: Place) -> None:
    app = await place.open(greet)
    first = await app.begin("greet", b'"ann"', key="one", scope="me")
    again = await app.begin("greet", b' "ann" ', key="one", scope="me")
    assert (again.id, again.replayed, first.replayed) == (first.id, True, False)
    with pytest.raises(KeyReused):
        await app.begin("greet", b'"bob"', key="one", scope="me")
    other = await app.begin("greet", b'"bob"', key="one", scope="you")
    assert other.id != first.id
    app = await place.again(app, greet)
    assert (await app.begin("greet", b'"ann"', key="one", scope="me")).id == first.id
    with pytest.raises(KeyReused):
        await app.begin("greet", b'"bob"', key="one", scope="me")


async def test_fifty_starts_at_once_with_one_key_are_one_process(place: Place) -> None:
    app = await place.open(greet)
    client = await place.client(greet)
    begun = await asyncio.gather(
        *(face.begin("greet", b'"ann"', key="k") for face in (app, client) for _ in range(25))
    )
    assert len({one.id for one in begun}) == 1
    assert sum(not one.replayed for one in begun) == 1
    assert await app.result(begun[0].id, within=60) == "hello work ann"
    page, _ = await app.processes()
    assert len(page) == 1 and world.calls["work ann"] == 1


async def test_a_process_without_input_takes_none(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/nothing", version=1)
        async def nothing(run: Run) -> None:
            return None

    app = await place.open(declare)
    begun = await app.begin("nothing", b"null")
    assert await app.result(begun.id, within=60) is None


async def test_a_result_that_is_awaited_too_short_is_a_timeout_and_a_failure_is_its_own_error(
    place: Place,
) -> None:
    def declare(app: Outlive) -> None:
        wait(app)

        @app.process("/failing", version=1)
        async def failing(run: Run) -> None:
            raise ValueError("no good")

    app = await place.open(declare)
    waiting = await app.begin("wait", b'"a"')
    with pytest.raises(TimeoutError):
        await app.result(waiting.id, within=0.05)
    failed = await app.begin("failing", b"null")
    with pytest.raises(ProcessFailed, match="no good"):
        await app.result(failed.id, within=60)


# --- through other nodes --------------------------------------------------------------------------


async def test_a_client_that_owns_nothing_starts_signals_cancels_and_retries(place: Place) -> None:
    def declare(app: Outlive) -> None:
        wait(app)

        @app.process("/fragile", version=1)
        async def fragile(run: Run) -> str:
            run.pivot()
            await run(work, "pivot")
            if "fixed" not in world.log:
                raise ValueError("broken")
            return "mended"

    app = await place.open(declare)
    client = await place.client(declare)
    assert client.stats().started == 0 and client.node == ""
    begun = await client.begin("wait", b'"a"', key="k")
    assert (await client.begin("wait", b'"a"', key="k")).id == begun.id
    await has_status(client, begun.id, "waiting")
    await client.signal(begun.id, "go", b"5", key="s")
    await client.signal(begun.id, "go", b"5", key="s")
    assert await client.result(begun.id, within=60) == 5
    cancelled = await client.begin("wait", b'"b"')
    await has_status(client, cancelled.id, "waiting")
    await client.cancel(cancelled.id, reason="enough")
    await has_status(client, cancelled.id, "cancelled")
    stuck = await client.begin("fragile", b"null")
    await has_status(client, stuck.id, "stuck")
    world.log.append("fixed")
    await client.retry(stuck.id)
    assert await client.result(stuck.id, within=60) == "mended"
    for id in (begun.id, cancelled.id, stuck.id):
        check_grammar(await app.journal(id))


async def test_what_a_client_started_while_no_node_was_there_runs_once_when_one_comes(
    place: Place,
) -> None:
    client = await place.client(greet)
    begun = [await client.begin("greet", f'"{n}"'.encode()) for n in range(10)]
    assert (await client.view(begun[0].id)).status == "queued"
    app = await place.open(greet)
    for n, one in enumerate(begun):
        assert await app.result(one.id, within=60) == f"hello work {n}"
    await until(lambda: inbox_empty(app), "every command is done")
    for one in begun:
        check_grammar(await app.journal(one.id))
    assert all(count == 1 for count in world.calls.values())


async def inbox_empty(app: Outlive) -> bool:
    spaces = [f"inbox/{shard}" for shard in range(app.store.shards)]
    return await app.store.next_due(spaces) is None


async def test_two_nodes_share_the_shards_and_hand_them_over_without_a_crash(place: Place) -> None:
    one = await place.open(both)
    ids = [(await one.begin("wait", f'"{n}"'.encode())).id for n in range(8)]
    two = await place.open(both)
    await until(lambda: even(one), "the shards are spread evenly")
    assert sorted(node.shards for node in await one.nodes()) == [2, 2]
    for id in ids:
        await has_status(two, id, "waiting")
    for face, id in zip((one, two) * 4, ids, strict=True):
        await face.signal(id, "go", b"1")
    for face, id in zip((two, one) * 4, ids, strict=True):
        assert await face.result(id, within=60) == 1
    more = [(await two.begin("wait", b'"x"')).id for _ in range(4)]
    for id in more:
        await has_status(two, id, "waiting")
    await two.close()
    await until(lambda: owns_all(one), "the other takes them")
    for id in more:
        await one.signal(id, "go", b"2")
        assert await one.result(id, within=60) == 2
        view = await one.view(id)
        assert view.takeovers == 0, view.history
    assert one.stats().crashes == 0
    assert all(world.calls[f"work {n}"] == 1 for n in range(8))


async def even(app: Outlive) -> bool:
    owners = [shard.owner for shard in await app.shards()]
    return len({*owners} - {""}) == 2 and all(owners.count(owner) == 2 for owner in owners)


async def owns_all(app: Outlive) -> bool:
    return all(shard.owner == app.node for shard in await app.shards())


async def test_a_take_over_after_a_crash_is_seen_and_counted_once(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/long", version=1)
        async def long(run: Run, name: str) -> str:
            await run(work, f"{name} first")
            return await run(work, f"{name} second", 0.2)

    app = await place.open(declare)
    begun = await app.begin("long", b'"a"')
    await until(lambda: "work a first" in world.log)
    await until(lambda: longer(app, begun.id, 2))
    app = await place.again(app, declare)
    assert await app.result(begun.id, within=60) == "work a second"
    view = await app.view(begun.id)
    assert view.takeovers == 1 and app.stats().crashes == 1
    assert view.steps[1].attempts[0].outcome == "interrupted"
    assert world.calls["work a first"] == 1
    holds = await app.holds()
    assert {hold.previous != "" for hold in holds if hold.owner == app.node} == {True}


async def longer(app: Outlive, id: str, length: int) -> bool:
    return await app.seq(id) >= length


async def test_a_node_that_was_frozen_puts_its_processes_down_and_its_late_commits_are_fenced(
    place: Place,
) -> None:
    release = asyncio.Event()

    @step(name="frozen_step")
    async def frozen() -> str:
        world.do(attempt().key, "frozen")
        await release.wait()
        return "late"

    def declare(app: Outlive) -> None:
        @app.process("/frozen", version=1)
        async def freeze(run: Run) -> str:
            return await run(frozen)

    app = await place.open(declare)
    begun = await app.begin("freeze", b"null")
    await until(lambda: "frozen" in world.log)
    runtime = app._runtime
    assert runtime is not None
    await runtime._end_loops()  # stopped: it renews nothing and takes no notice
    for shard in await app.shards():
        await app.store.take(shard.id, shard.epoch, "another-node")
    release.set()
    await until(lambda: not runtime.activations.live, "its activation is thrown away")
    assert app.stats().fenced >= 1
    assert [entry.kind for entry in await app.journal(begun.id)] == ["started"]


async def test_changed_is_told_on_both_nodes_and_on_a_client(place: Place) -> None:
    one = await place.open(wait)
    two = await place.open(wait)
    client = await place.client(wait)
    begun = await one.begin("wait", b'"a"')
    await has_status(one, begun.id, "waiting")
    seen = await one.seq(begun.id)
    waiting = [
        asyncio.ensure_future(face.changed(begun.id, seen, 10.0)) for face in (one, two, client)
    ]
    await one.signal(begun.id, "go", b"1")
    assert all(length > seen for length in await asyncio.gather(*waiting))
    ended = await until(lambda: ended_seq(one, begun.id))
    assert await two.changed(begun.id, ended, 0.02) == ended


async def ended_seq(app: Outlive, id: str) -> int:
    view = await app.view(id)
    return view.seq if view.final else 0


# --- versions -------------------------------------------------------------------------------------


def version_one(app: Outlive) -> None:
    @app.process("/versions", version=1, name="versioned")
    async def first(run: Run, name: str) -> str:
        return f"one {name} {await run.wait('go')}"


def version_two(app: Outlive) -> None:
    @app.process("/versions", version=2, name="versioned")
    async def second(run: Run, name: str) -> str:
        return f"two {name} {await run.wait('go')}"


async def test_a_process_keeps_its_version_while_both_are_declared(place: Place) -> None:
    app = await place.open(version_one)
    begun = await app.begin("versioned", b'"a"')
    await has_status(app, begun.id, "waiting")

    def declare(app: Outlive) -> None:
        version_one(app)
        version_two(app)

    app = await place.again(app, declare)
    new = await app.begin("versioned", b'"b"')
    for id in (begun.id, new.id):
        await app.signal(id, "go", b"1")
    assert await app.result(begun.id, within=60) == "one a 1"
    assert await app.result(new.id, within=60) == "two b 1"


async def test_an_unknown_version_is_shown_and_taken_up_by_a_node_that_runs_it(
    place: Place,
) -> None:
    """Also when it had only been queued: its input is not lost."""
    client = await place.client(version_two)
    begun = await client.begin("versioned", b'"a"')
    app = await place.open(version_one)
    view = await has_status(app, begun.id, "no_worker_for_version")
    assert msgspec.json.decode(view.data) == "a"
    await client.signal(begun.id, "go", b"7")
    await app.close()
    app = await place.open(version_two)
    assert await app.result(begun.id, within=15) == "two a 7"
    check_grammar(await app.journal(begun.id))


async def test_a_signal_to_a_stranded_process_is_kept(place: Place) -> None:
    app = await place.open(version_two)
    begun = await app.begin("versioned", b'"a"')
    await has_status(app, begun.id, "waiting")
    app = await place.again(app, version_one)
    await app.signal(begun.id, "go", b"7")
    await until(lambda: stranded(app, begun.id))
    await app.close()
    app = await place.open(version_two)
    assert await app.result(begun.id, within=15) == "two a 7"


async def stranded(app: Outlive, id: str) -> bool:
    return (await app.view(id)).status == "no_worker_for_version"


NO_TIME = (-1.0, 0.0, 1e15, float("inf"), float("nan"))


@pytest.mark.parametrize("seconds", NO_TIME)
def test_a_time_that_no_store_can_keep_is_refused_when_it_is_declared(seconds: float) -> None:
    with pytest.raises(ValueError, match="retention_seconds"):
        Outlive("memory://", retention_seconds=seconds)
    with pytest.raises(ValueError, match="request_seconds"):
        Outlive("memory://", request_seconds=seconds)
    declare = Outlive("memory://").process

    async def thing(run: Run) -> None: ...

    with pytest.raises(ValueError, match="retention_seconds of thing"):
        declare("/things", version=1, retention_seconds=seconds)(thing)
    with pytest.raises(ValueError, match="deadline of thing"):
        declare("/things", version=1, deadline=seconds)(thing)


@pytest.mark.parametrize("seconds", NO_TIME[2:])
async def test_a_time_that_no_store_can_keep_is_refused(place: Place, seconds: float) -> None:
    async def body(run: Run) -> None:
        run.deadline(60)
        with pytest.raises(ValueError, match="100 years at most"):
            run.deadline(seconds)
        with pytest.raises(ValueError, match="100 years at most"):
            await run.sleep(seconds)
        with pytest.raises(ValueError, match="100 years at most"):
            await run.wait("never", within=seconds)
        with pytest.raises(ValueError, match="100 years at most"):
            await run.callback("never", within=seconds)

    app = await place.open(process(body))
    await app.result((await app.begin("thing", b"null")).id, within=10)


# --- lists and retention --------------------------------------------------------------------------


async def test_lists_go_by_status_and_type_page_by_page_newest_first(place: Place) -> None:
    app = await place.open(both)
    waiting = [(await app.begin("wait", b'"a"')).id for _ in range(3)]
    done = [(await app.begin("greet", b'"a"')).id for _ in range(12)]
    for id in done:
        await app.result(id, within=60)
    for id in waiting:
        await has_status(app, id, "waiting")
        await app.signal(id, "go", b"1")
        await app.result(id, within=60)
    assert await listed(app, 4) == [*reversed(done), *reversed(waiting)]
    assert await listed(app, 4, type="greet") == [*reversed(done)]
    assert len(await listed(app, 100, status="done")) == 15
    assert await listed(app, 2, status="done", type="wait") == [*reversed(waiting)]
    assert await listed(app, 2, status="stuck") == []


async def listed(app: Outlive, limit: int, **narrow: str) -> list[str]:
    found: list[str] = []
    cursor = ""
    for _ in range(50):
        wanted: dict[str, Any] = {"limit": limit, "cursor": cursor, **narrow}
        page, cursor = await app.processes(**wanted)
        assert len(page) <= limit
        found += [line.id for line in page]
        if not cursor:
            return found
    raise AssertionError("the list never ends")


async def test_after_its_retention_a_process_is_gone_and_later_unknown(place: Place) -> None:
    clock = ManualClock()
    app = await place.open(greet, clock=clock, retention_seconds=3600.0)
    begun = await app.begin("greet", b'"a"')
    await app.result(begun.id, within=100)
    clock.advance(3601)
    await until(lambda: clock.advance(0.05) or raises(app, begun.id, ProcessGone), "it is gone")
    with pytest.raises(ProcessGone):
        await app.signal(begun.id, "go", b"")
    clock.advance(3601)
    await until(lambda: clock.advance(0.05) or raises(app, begun.id, NoSuchProcess), "unknown")
    assert await app.processes() == ([], "")


async def raises(app: Outlive, id: str, error: type[Exception]) -> bool:
    try:
        await app.view(id)
    except error:
        return True
    except ProcessGone:
        return False
    return False


async def test_what_does_not_exist_or_has_ended_refuses_commands(place: Place) -> None:
    app = await place.open(both)
    for call in (app.view, app.seq, app.cancel, app.retry, app.journal):
        with pytest.raises(NoSuchProcess):
            await call("greet_nothing")
    begun = await app.begin("greet", b'"a"')
    await app.result(begun.id, within=60)
    with pytest.raises(ProcessTerminal):
        await app.signal(begun.id, "go", b"")
    with pytest.raises(ProcessTerminal):
        await app.cancel(begun.id)
    with pytest.raises(NotStuck):
        await app.retry(begun.id)


# --- going down -----------------------------------------------------------------------------------


async def test_draining_lets_the_step_end_records_it_and_hands_over(place: Place) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/slow", version=1)
        async def slow(run: Run) -> str:
            await run(work, "first", 0.2)
            return await run(work, "second")

    app = await place.open(declare)
    begun = await app.begin("slow", b"null")
    await app.drain(grace_seconds=60.0)
    assert app.phase == "draining"
    with pytest.raises(Draining):
        await app.begin("slow", b"null")
    assert world.log == ["work first"]
    await app.close()
    assert app.phase == "stopped"
    app = await place.open(declare)
    assert await app.result(begun.id, within=60) == "work second"
    view = await app.view(begun.id)
    assert view.takeovers == 0 and world.calls["work first"] == 1


async def test_what_is_not_open_says_so_and_declarations_are_checked(place: Place) -> None:
    app = Outlive("memory://")
    assert app.phase == "new" and app.store_address == "memory://"
    with pytest.raises(StoreUnavailable):
        await app.view("x")
    greet(app)
    with pytest.raises(ValueError, match="declared twice"):
        greet(app)
    with pytest.raises(ValueError, match="belongs to process"):

        @app.process("/greetings", version=1)
        async def other(run: Run) -> None: ...

    async with app:
        assert app.phase == "ready" and app.node
        begun = await app.begin("greet", b'"memory"')
        assert await app.result(begun.id, within=60) == "hello work memory"
    assert app.phase == "stopped"


def test_a_version_is_run_by_one_body() -> None:
    async def old(run: Run) -> None: ...

    async def new(run: Run) -> None: ...

    app = Outlive("memory://")
    app.process("/things", version=1, name="thing")(old)
    with pytest.raises(ValueError, match="thing v1 is declared twice: by thing v2 and by thing v1"):
        app.process("/things", version=2, name="thing", accepts=(1,))(new)
    assert app.definitions["thing"].version == 1


async def test_a_node_whose_lease_may_be_over_is_cut_off_until_it_is_renewed(place: Place) -> None:
    app = Outlive(place.store())
    place.apps.append(app)
    greet(app)
    assert not app.cut_off, "what is not open is not cut off"
    await app.open()
    assert app._runtime is not None and not app.cut_off
    app._runtime.activations.trusted_until = 0.0
    assert app.cut_off
    await app._runtime.ownership.say("ready")
    assert not app.cut_off
