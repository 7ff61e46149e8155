"""What lives in which shard is told by type and version, and what has ended is not counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.service import Place, has_status, recorded, until

from outlive import Outlive, Run, step
from outlive.errors import OutcomeUnknown, OutliveError
from outlive.model import Batch, Committed, shard_of
from outlive.runtime.versions import needs_of


def of_both_versions(app: Outlive) -> None:
    @app.process("/waits", version=1, name="wait")
    async def first(run: Run) -> None:
        await run.wait("go")

    @app.process("/waits", version=2, name="wait")
    async def second(run: Run, ends: bool = False) -> None:
        if not ends:
            await run.wait("go")


async def test_what_lives_in_a_shard_is_known_and_what_has_ended_is_not(place: Place) -> None:
    app = await place.open(of_both_versions)
    assert await needs_of(app.store) == {}
    waiting = (await app.begin("wait", b"false")).id
    ended = (await app.begin("wait", b"true")).id
    await has_status(app, waiting, "waiting")
    await app.result(ended, within=60)
    needs = await needs_of(app.store)
    assert needs == {shard_of(waiting, app.store.shards): frozenset({"wait v2"})}
    await app.signal(waiting, "go", b"")
    await app.result(waiting, within=60)
    assert await needs_of(app.store) == {}


# --- one body for two versions --------------------------------------------------------------------


def before(app: Outlive) -> None:
    @app.process("/orders", version=1)
    async def order(run: Run) -> str:
        await run(reserve)
        await run.wait("go")
        return await run(ship)


def after(app: Outlive) -> None:
    """The next build: one body for both versions."""

    @app.process("/orders", version=2, accepts=(1,))
    async def order(run: Run) -> str:
        await run(reserve)
        if run.since(2):
            await run(check)
        await run.wait("go")
        return await run(ship) if not run.since(2) else await run(ship_fast)


@step
async def reserve() -> None: ...


@step
async def check() -> None: ...


@step
async def ship() -> str:
    return "slowly"


@step
async def ship_fast() -> str:
    return "fast"


async def test_a_process_keeps_the_way_of_the_version_it_was_started_under(place: Place) -> None:
    app = await place.open(before)
    old = (await app.begin("order", b"null")).id
    await has_status(app, old, "waiting")
    app = await place.again(app, after)
    new = (await app.begin("order", b"null")).id
    await has_status(app, new, "waiting")
    for id in (old, new):
        await app.signal(id, "go", b"")
    assert await app.result(old, within=10) == "slowly"
    assert await app.result(new, within=10) == "fast"
    assert recorded(await app.journal(old)) == ["reserve", "ship"]
    assert recorded(await app.journal(new)) == ["reserve", "check", "ship_fast"]
    assert [(await app.view(id)).version for id in (old, new)] == [1, 2]


async def test_old_and_new_nodes_hand_one_process_to_and_fro(place: Place) -> None:
    app = await place.open(before)
    old = (await app.begin("order", b"null")).id
    await has_status(app, old, "waiting")
    app = await place.again(app, after)
    await app.signal(old, "other", b"")
    app = await place.again(app, before)  # the deploy is taken back
    await app.signal(old, "go", b"")
    assert await app.result(old, within=10) == "slowly"


async def test_a_node_announces_what_its_bodies_accept(place: Place) -> None:
    app = await place.open(after)
    (node,) = await app.nodes()
    assert node.runs == ("order v1", "order v2")


async def test_a_body_cannot_ask_for_a_version_that_it_does_not_run(place: Place) -> None:
    def wrong(app: Outlive) -> None:
        @app.process("/orders", version=2, accepts=(1,))
        async def order(run: Run) -> bool:
            return run.since(3)

    app = await place.open(wrong)
    id = (await app.begin("order", b"null")).id
    view = await has_status(app, id, "failed")
    assert view.failure.message == "order v2 runs version 1, 2; it cannot ask for 3"


async def test_a_node_that_is_new_starts_nothing_where_it_would_be_stranded(place: Place) -> None:
    older = await place.open(before, lease_seconds=2.0)
    await until(lambda: len(leases(older)) == older.store.shards, "the older one owns all")
    newer = await place.open(after, lease_seconds=2.0)
    ids = [(await newer.begin("order", b"null")).id for _ in range(8)]
    for id in ids:
        await newer.signal(id, "go", b"")
        assert await newer.result(id, within=20) == "fast"
        kinds = [entry.kind for entry in await newer.journal(id)]
        assert kinds[0] == "started" and "stranded" not in kinds


async def test_what_is_queued_where_nobody_runs_it_says_so_and_begins_where_one_does(
    place: Place,
) -> None:
    older = await place.open(before)
    asking = await place.client(after)
    id = (await asking.begin("order", b"null")).id
    view = await has_status(asking, id, "no_worker_for_version")
    assert view.history[-1].why == "no node runs this version"
    newer = await place.again(older, after)
    await newer.signal(id, "go", b"")
    assert await newer.result(id, within=10) == "fast"
    assert [entry.kind for entry in await newer.journal(id)][:2] == ["started", "step"]


def leases(app: Outlive) -> dict[int, Any]:
    assert app._runtime is not None
    return dict(app._runtime.activations.leases)


async def test_a_node_that_could_not_say_that_nobody_runs_it_hears_on_and_says_so_later(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(app: Outlive) -> None:
        before(app)

        @app.process("/sleepers", version=1)
        async def sleeper(run: Run) -> None:
            await run.sleep(0.3)

    older = await place.open(both)
    asleep = (await older.begin("sleeper", b"null")).id
    await has_status(older, asleep, "waiting")
    await older.close()
    store, refused = place.store(), list[Batch]()
    commit_group = store.commit_group

    async def commit_some(batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        if not refused and any(event.kind == "stranded" for event in batches[0].append):
            refused.append(batches[0])
            return [OutcomeUnknown("the line was cut") for _ in batches]
        return await commit_group(batches)

    monkeypatch.setattr(store, "commit_group", commit_some)
    newer = await place.open(before, store=store)
    await has_status(newer, asleep, "no_worker_for_version")
    assert refused and newer._runtime is not None
    assert not any(loop.done() for loop in newer._runtime._loops)
