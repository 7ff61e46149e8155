"""Lines: never too many at once, never too many in a while, nobody forgotten, whoever dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from tests.service import Place, has_status, until

from outlive import Limit, Outlive, Rate, Run, ids, step
from outlive.kinds.processes.limits import places_of, tickets_of
from outlive.model import shard_of
from outlive.stores.memory import MemoryStore
from outlive.testing import KillEverywhere, Trial


class World:
    """Who is at it right now, the most that ever were, and who came in which order."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[str] = []
        self.times: list[int] = []
        self.undone: list[str] = []

    def enter(self, who: str, name: str) -> None:
        self.now[who] += 1
        self.most[who] = max(self.most[who], self.now[who])
        self.order.append(name)

    def leave(self, who: str) -> None:
        self.now[who] -= 1


world = World()


@pytest.fixture(autouse=True)
def new_world() -> None:
    global world
    world = World()


@pytest.fixture(autouse=True)
def short_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outlive.runtime.node.HOLD_SECONDS", 0.3)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.close()


class Job(Struct):
    name: str
    tenant: str = "a"


@step
async def busy(name: str, tenant: str) -> str:
    world.enter(tenant, name)
    world.enter("all", name)
    try:
        await asyncio.sleep(0.005)
    finally:
        world.leave(tenant)
        world.leave("all")
    return name


async def job(run: Run, job: Job) -> str:
    return await run(busy, job.name, job.tenant)


async def waiting_job(run: Run, job: Job) -> str:
    world.order.append(job.name)
    found: str = await run.wait("go")
    return found


def limited(body: Any = job, **options: Any) -> Callable[[Outlive], None]:
    def declare(app: Outlive) -> None:
        app.process("/jobs", version=1, name="job", **options)(body)

    return declare


def trial_of(declare: Callable[[Outlive], None]) -> Trial:
    app = Outlive("memory://")
    declare(app)
    return Trial(app, lambda clock: MemoryStore(clock=clock))


def body_of(app: Outlive) -> Any:
    return app.definitions["job"].body


async def nothing_is_left(app: Outlive, lines: Iterable[str] = ("job.0",)) -> bool:
    """Every place is given back, no ticket is left, and idle lines have gone."""
    for line in lines:
        if await app.store.scan(places_of(line)) or await app.store.scan(tickets_of(line)):
            return False
    return True


async def names(handles: Iterable[Any]) -> list[str]:
    return [await handle.result() for handle in handles]


# --- concurrency ----------------------------------------------------------------------------------


async def test_never_more_than_the_limit_go_at_once_and_all_of_them_go() -> None:
    async with trial_of(limited(limit=Limit(concurrency=3))) as trial:
        body = body_of(trial.app)
        handles = [await trial.start(body, Job(str(n))) for n in range(40)]
        await trial.run_until_idle()
        assert [await handle.status() for handle in handles] == ["done"] * 40
        assert world.most["all"] == 3
        assert await nothing_is_left(trial.app)


async def test_a_limit_per_key_lets_each_key_have_its_own() -> None:
    for per in ("tenant", lambda job: job.tenant):
        global world
        world = World()
        async with trial_of(limited(limit=Limit(concurrency=2, per=per))) as trial:
            body = body_of(trial.app)
            for n in range(30):
                await trial.start(body, Job(str(n), "abc"[n % 3]))
            await trial.run_until_idle()
            assert [world.most[tenant] for tenant in "abc"] == [2, 2, 2]
            assert world.most["all"] > 2
            assert await nothing_is_left(trial.app, [f"job.0/{tenant}" for tenant in "abc"])


async def test_several_limits_all_hold() -> None:
    both = [Limit(concurrency=2, per="tenant"), Limit(concurrency=3)]
    async with trial_of(limited(limit=both)) as trial:
        body = body_of(trial.app)
        handles = [await trial.start(body, Job(str(n), "aabc"[n % 4])) for n in range(44)]
        await trial.run_until_idle()
        assert {await handle.status() for handle in handles} == {"done"}
        assert max(world.most[tenant] for tenant in "abc") <= 2
        assert world.most["all"] == 3
        lines = ["job.1", *(f"job.0/{tenant}" for tenant in "abc")]
        assert await nothing_is_left(trial.app, lines)


async def test_who_waits_is_queued_and_sees_where_it_stands() -> None:
    async with trial_of(limited(waiting_job, limit=Limit(concurrency=1))) as trial:
        body = body_of(trial.app)
        first, second, third = [await trial.start(body, Job(str(n))) for n in range(3)]
        await trial.run_until_idle()
        assert (await first.view()).standing is None
        view = await third.view()
        assert view.status == "queued" and view.standing is not None
        assert (view.standing.line, view.standing.ahead, view.standing.running) == ("job.0", 1, 1)
        assert view.standing.why == "1 of 1 places are taken"
        await first.signal("go", "one")
        assert await first.result() == "one"
        await trial.run_until_idle()
        assert await second.status() == "waiting"
        assert await third.status() == "queued"


async def test_one_that_waits_or_sleeps_keeps_its_place() -> None:
    async def sleeper(run: Run, job: Job) -> str:
        world.order.append(job.name)
        await run.sleep(3600)
        return job.name

    async with trial_of(limited(sleeper, limit=Limit(concurrency=1))) as trial:
        body = body_of(trial.app)
        first = await trial.start(body, Job("first"))
        await trial.run_until_idle()
        second = await trial.start(body, Job("second"))
        await trial.advance(minutes=59)
        assert await second.status() == "queued"
        await trial.advance(minutes=2)
        assert await first.status() == "done"
        assert await second.status() == "waiting"


async def test_what_waits_is_counted_by_type() -> None:
    limit = Limit(concurrency=1, per="tenant")
    async with trial_of(limited(waiting_job, limit=limit)) as trial:
        for n in range(6):
            await trial.start(body_of(trial.app), Job(str(n), "ab"[n % 2]))
        await trial.run_until_idle()
        await trial.advance(seconds=30)
        found = await trial.app.backlog()
        assert found["job"].waiting == 4 and found["job"].oldest_seconds == 30
        assert trial.app.stats().turns == 2


# --- order ----------------------------------------------------------------------------------------


async def test_a_higher_priority_goes_first_and_age_decides_among_equals() -> None:
    async with trial_of(limited(limit=Limit(concurrency=1))) as trial:
        app, body = trial.app, body_of(trial.app)
        await trial.run_until_idle()
        trial.runtime.activations.draining = True  # nobody is given a turn yet
        for name, priority in (("low", 0), ("middle", 5), ("high", 9), ("middle too", 5)):
            await app.start(body, Job(name), priority=priority)
            trial.clock.advance(1)
        trial.runtime.activations.draining = False
        await trial.advance(seconds=10)
        assert world.order[::2] == ["high", "middle", "middle too", "low"]


async def test_who_has_waited_long_enough_goes_before_every_priority() -> None:
    async with trial_of(limited(waiting_job, limit=Limit(concurrency=1))) as trial:
        app, body = trial.app, body_of(trial.app)
        first = await trial.start(body, Job("first"))
        await trial.run_until_idle()
        await app.start(body, Job("old"))
        await trial.advance(minutes=91)
        await app.start(body, Job("urgent"), priority=9)
        await first.signal("go", "")
        await trial.run_until_idle()
        assert list(dict.fromkeys(world.order)) == ["first", "old"]


async def test_a_priority_that_is_none_starts_nothing() -> None:
    async with trial_of(limited(limit=Limit(concurrency=1))) as trial:
        with pytest.raises(ValueError, match="0 to 9"):
            await trial.app.start(body_of(trial.app), Job("x"), priority=10)
        assert (await trial.app.processes())[0] == []


# --- rate -----------------------------------------------------------------------------------------


async def test_no_more_than_the_rate_begin_in_any_period() -> None:
    async def timed(run: Run, job: Job) -> None:
        world.times.append(round(run.now().timestamp() * 1_000_000))

    limit = Limit(rate=Rate(5, per_seconds=60))
    async with trial_of(limited(timed, limit=limit)) as trial:
        handles = []
        for n in range(23):
            handles.append(await trial.start(body_of(trial.app), Job(str(n))))
            await trial.advance(seconds=2)
        for handle in handles:
            await handle.result()
        times = sorted(world.times)
        assert len(times) == 23
        for early, late in zip(times, times[5:], strict=False):
            assert late - early >= 60 * 1_000_000
        assert times[-1] - times[0] < 5 * 62 * 1_000_000, "and not much slower"
        await trial.advance(seconds=130)
        assert await trial.app.store.scan(f"line/{shard_of('job.0', trial.app.store.shards)}") == []


# --- what gives a place back ----------------------------------------------------------------------


async def test_a_quarantined_or_stuck_process_does_not_block_a_line_of_one() -> None:
    async def stubborn(run: Run, job: Job) -> str:
        run.pivot()
        world.order.append(job.name)
        if job.name == "bad" and world.order.count("bad") == 1:
            raise LookupError("no")
        return job.name

    async with trial_of(limited(stubborn, limit=Limit(concurrency=1))) as trial:
        body = body_of(trial.app)
        bad, good = await trial.start(body, Job("bad")), await trial.start(body, Job("good"))
        await trial.run_until_idle()
        assert await bad.status() == "stuck"
        assert await good.status() == "done"
        await trial.app.retry(bad.id, who="me")
        await trial.run_until_idle()
        assert await bad.status() == "done"
        said = [line.kind for line in await trial.app.journal(bad.id)]
        assert said == ["started", "stuck", "resumed", "admitted", "pivot", "ended"] or (
            said.count("admitted") == 1
        )
        assert await nothing_is_left(trial.app)


async def test_what_is_resumed_stands_in_line_again() -> None:
    async def stubborn(run: Run, job: Job) -> str:
        run.pivot()
        world.order.append(job.name)
        if job.name == "bad" and world.order.count("bad") == 1:
            raise LookupError("no")
        return str(await run.wait("go"))

    async with trial_of(limited(stubborn, limit=Limit(concurrency=1))) as trial:
        body = body_of(trial.app)
        bad, good = await trial.start(body, Job("bad")), await trial.start(body, Job("good"))
        await trial.run_until_idle()
        assert [await bad.status(), await good.status()] == ["stuck", "waiting"]
        await trial.app.retry(bad.id)
        await trial.run_until_idle()
        view = await bad.view()
        assert view.status == "queued" and view.history[-1].why == "retried"
        await good.signal("go", 1)
        await trial.run_until_idle()
        assert await bad.status() == "waiting"
        await bad.signal("go", 2)
        assert await bad.result() == "2"
        assert await nothing_is_left(trial.app)


async def test_one_that_waits_is_cancelled_at_once_and_never_begins() -> None:
    async with trial_of(limited(waiting_job, limit=Limit(concurrency=1))) as trial:
        body = body_of(trial.app)
        first, second = [await trial.start(body, Job(name)) for name in ("first", "second")]
        await trial.run_until_idle()
        await second.cancel(reason="not wanted", who="me")
        view = await second.view()
        assert view.status == "cancelled" and view.cancel_requested
        assert [past.status for past in view.history] == ["queued", "queued", "cancelled"]
        await first.signal("go", "")
        await trial.run_until_idle()
        assert world.order == ["first"]
        assert await nothing_is_left(trial.app)


async def test_a_signal_to_one_that_stands_in_line_is_kept_and_does_not_let_it_begin() -> None:
    async with trial_of(limited(waiting_job, limit=Limit(concurrency=1))) as trial:
        body = body_of(trial.app)
        first, second = [await trial.start(body, Job(name)) for name in ("first", "second")]
        await trial.run_until_idle()
        await second.signal("go", "early")
        await trial.run_until_idle()
        view = await second.view()
        assert view.status == "queued" and view.standing is not None
        assert world.order == ["first"]
        await first.signal("go", "")
        assert await second.result() == "early"
        kinds = [line.kind for line in await trial.app.journal(second.id)]
        assert kinds == ["started", "signal", "admitted", "wait", "ended"]
        assert await nothing_is_left(trial.app)


@step(undo="unmake")
async def make(name: str) -> str:
    return name


async def unmake(name: str, made: object) -> None:
    world.enter("undoing", name)
    world.undone.append(name)
    await asyncio.sleep(0)
    world.leave("undoing")


async def test_one_that_is_paused_and_cancelled_undoes_with_a_place_and_before_others() -> None:
    async def drifting(run: Run, job: Job) -> None:
        await run(make, job.name)
        if job.name == "bad" and not world.order:
            world.order.append("paused")
            await run._activation.pause("operator", "wait")
        await run.wait("go")

    async with trial_of(limited(drifting, limit=Limit(concurrency=1))) as trial:
        body = body_of(trial.app)
        bad = await trial.start(body, Job("bad"))
        good, later = await trial.start(body, Job("good")), await trial.start(body, Job("later"))
        await trial.run_until_idle()
        statuses = [await handle.status() for handle in (bad, good, later)]
        assert statuses == ["paused", "waiting", "queued"]
        await bad.cancel()
        await trial.run_until_idle()
        assert await bad.status() == "queued" and world.undone == []
        await good.signal("go")
        await trial.run_until_idle()
        assert await bad.status() == "cancelled" and world.undone == ["bad"]
        assert await later.status() == "waiting"


# --- limits that change ---------------------------------------------------------------------------


async def test_a_limit_that_a_deploy_raises_is_felt_when_the_new_node_comes(place: Place) -> None:
    first = await place.open(limited(waiting_job, limit=Limit(concurrency=1)))
    body = body_of(first)
    handles = [await first.start(body, Job(str(n))) for n in range(4)]
    await has_status(first, handles[0].id, "waiting")
    await first.close()
    second = await place.open(limited(waiting_job, limit=Limit(concurrency=3)))

    async def three() -> bool:
        found = [(await second.view(handle.id)).status for handle in handles]
        return Counter(found) == Counter(waiting=3, queued=1)

    await until(three)
    await second.close()
    third = await place.open(limited(waiting_job))
    await third.signal(handles[0].id, "go", b'""')

    async def all_four() -> bool:
        found = [(await third.view(handle.id)).status for handle in handles]
        return Counter(found) == Counter(waiting=3, done=1)

    await until(all_four, "a limit that is not declared any more holds nobody")


# --- deaths and nodes -----------------------------------------------------------------------------


def kill_app() -> tuple[Outlive, Any]:
    app = Outlive("memory://")
    both = [Limit(concurrency=1, per="tenant"), Limit(concurrency=1)]
    limited(limit=both)(app)
    return app, body_of(app)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_killed_at_every_commit_all_still_go_one_by_one(kind: str, tmp_path: Path) -> None:
    app, body = kill_app()

    async def client(trial: Trial, handle: Any) -> None:
        for n in range(2):
            await trial.start(body, Job(f"other {n}", "b"), key=f"other {n}")
        await trial.run_until_idle()

    async def check(outcome: Any) -> None:
        assert outcome.status == "done"
        assert world.most["all"] <= 1, "never two at once"

    def reset() -> None:
        global world
        world = World()

    address = "memory://" if kind == "memory" else "sqlite:///lines.db"
    killing = KillEverywhere(app, address, tmp_path)
    where = await killing(body, Job("one"), client=client, check=check, reset=reset)
    killing.close()
    assert len(where) > 6


async def test_two_nodes_on_one_store_keep_to_the_limit_together(place: Place) -> None:
    declare = limited(limit=[Limit(concurrency=2, per="tenant"), Limit(concurrency=3)])
    one, two = await place.open(declare), await place.open(declare)
    await until(lambda: _both_own(one, two), "both own shards")
    handles = []
    for n in range(40):
        app = (one, two)[n % 2]
        handles.append(await app.start(body_of(app), Job(str(n), "ab"[n % 4 // 2])))
    for handle in handles:
        await handle.result(within=30)
    assert world.most["all"] <= 3
    assert max(world.most["a"], world.most["b"]) <= 2
    await until(lambda: nothing_is_left(one, ["job.0/a", "job.0/b", "job.1"]))
    client = await place.client(declare)
    handle = await client.start(body_of(client), Job("from a client"))
    assert await handle.result(within=30) == "from a client"


def _both_own(one: Outlive, two: Outlive) -> bool:
    runtimes = [app._runtime for app in (one, two)]
    return all(runtime is not None and runtime.activations.leases for runtime in runtimes)


async def test_a_killed_node_s_processes_keep_their_places_and_go_on_elsewhere(
    place: Place,
) -> None:
    declare = limited(waiting_job, limit=Limit(concurrency=2))
    first = await place.open(declare)
    handles = [await first.start(body_of(first), Job(str(n))) for n in range(6)]
    for handle in handles[:2]:
        await has_status(first, handle.id, "waiting")
    second = await place.again(first, declare)
    await second.start(body_of(second), Job("later"))
    statuses = [(await second.view(handle.id)).status for handle in handles]
    assert statuses == ["waiting"] * 2 + ["queued"] * 4
    for handle in handles:
        await has_status(second, handle.id, "waiting")
        await second.signal(handle.id, "go", b'""')
        assert await second.result(handle.id, within=20) == ""


async def test_on_postgresql_two_nodes_keep_to_the_limit_together(postgres: str) -> None:
    address = f"{postgres}?schema=store_{ids.token(40)}&shards=4"
    declare = limited(limit=Limit(concurrency=2, rate=Rate(1000)))
    one, two = Outlive(address), Outlive(address)
    for app in (one, two):
        declare(app)
    async with one, two:
        await until(lambda: _both_own(one, two), "both own shards")
        handles = []
        for n in range(20):
            app = (one, two)[n % 2]
            handles.append(await app.start(body_of(app), Job(str(n))))
        for handle in handles:
            await handle.result(within=30)
        assert world.most["all"] <= 2
        await until(lambda: nothing_is_left(one))


async def test_a_start_in_a_callers_transaction_stands_in_line_as_well(place: Place) -> None:
    app = await place.open(limited(waiting_job, limit=Limit(concurrency=1)))
    body = body_of(app)
    first = await app.start(body, Job("first"))
    await has_status(app, first.id, "waiting")

    def start(tables: Any) -> str:
        return app.blocking().within(tables).start(body, Job("second"), priority=3).id

    second = await app.transact(start)
    await has_status(app, second, "queued")
    assert world.order == ["first"]
    await first.signal("go", "")
    await has_status(app, second, "waiting")


async def test_killed_by_turns_two_nodes_never_let_too_many_go_and_forget_nobody(
    place: Place,
) -> None:
    """A node dies in the middle, again and again; its places and tickets are whoever's then."""
    declare = limited(limit=[Limit(concurrency=1, per="tenant"), Limit(concurrency=2)])
    staying = await place.open(declare)
    dying = await place.open(declare)
    handles = []
    for life in range(4):
        for n in range(10):
            app = (staying, dying)[n % 2]
            handles.append((await app.start(body_of(app), Job(f"{life} {n}", "abc"[n % 3]))).id)
        await until(lambda life=life: len(world.order) > 12 * life, "some have gone")
        world.now.clear()  # what is in a step of the dead node will never leave
        dying = await place.again(dying, declare)
    for id in handles:
        await staying.result(id, within=60)
    await until(lambda: nothing_is_left(staying, ["job.0/a", "job.0/b", "job.0/c", "job.1"]))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_on_postgresql_it_is_killed_at_its_commits(
    when: str, postgres: str, tmp_path: Path
) -> None:
    app, body = kill_app()

    async def client(trial: Trial, handle: Any) -> None:
        await trial.start(body, Job("other", "b"), key="other")
        await trial.run_until_idle()

    def reset() -> None:
        global world
        world = World()

    def check(outcome: Any) -> None:
        assert outcome.status == "done" and world.most["all"] <= 1

    for at in (2, 3, 4):
        killing = KillEverywhere(app, postgres, tmp_path)
        only = f"{at}-{when}"
        assert await killing(
            body, Job("one"), client=client, check=check, reset=reset, only=only
        ) == [only]
        killing.close()


async def test_children_stand_in_line_like_all_others(place: Place) -> None:
    at_once: list[int] = []
    now: set[str] = set()

    def declare(app: Outlive) -> None:
        @app.process("/cooks", version=1, limit=Limit(concurrency=2))
        async def cook(run: Run, dish: str) -> str:
            now.add(run.id)
            at_once.append(len(now))
            await run.sleep(0.02)
            now.discard(run.id)
            return dish.upper()

        @app.process("/menus", version=1)
        async def menu(run: Run, dishes: list[str]) -> list[str]:
            return list((await run.all(dishes, cook, limit=10)).results)

    app = await place.open(declare)
    handle = app.handle((await app.begin("menu", b'["a","b","c","d","e"]')).id)
    assert await handle.result(within=60) == ["A", "B", "C", "D", "E"]
    assert max(at_once) == 2
