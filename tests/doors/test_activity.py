"""The activity log: what somebody with a name has asked, on any node, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.service import Place, has_status, process

from outlive import Outlive, Run
from outlive.clock import MICROS
from outlive.kinds.processes.activity import KEPT_SECONDS, SPACE, Noted, lines_of, noted
from outlive.model import Batch


async def waits(run: Run) -> str:
    await run.wait("go", within=86_400)
    return "done"


declare = process(waits)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.close()


async def begin(app: Outlive) -> str:
    begun = await app.begin("thing", b"null")
    await has_status(app, begun.id, "waiting")
    return begun.id


async def said(app: Outlive) -> list[tuple[str, str, str, str]]:
    return [(line.who, line.verb, line.id, line.why) for line in (await app.activity())[0]]


async def test_what_is_asked_by_name_is_noted_newest_first(place: Place) -> None:
    app = await place.open(declare)
    id = await begin(app)
    await app.pause(id, who="ann", why="lunch")
    await has_status(app, id, "paused")
    await app.resume(id, who="bob")
    await app.signal(id, "go", b"null", who="ann")
    await has_status(app, id, "done")
    fork = await app.fork(id, "wait go", who="eve", why="again")
    await has_status(app, fork.id, "waiting")
    preview = await app.bulk("cancel", status="waiting")
    await app.carry_out(preview.token, who="ann", why="closing")
    await app.carry_out(preview.token, who="ann", why="closing")
    assert await said(app) == [
        ("ann", "cancel", "", "closing"),
        ("eve", "fork", id, "again"),
        ("ann", "signal", id, ""),
        ("bob", "resume", id, ""),
        ("ann", "pause", id, "lunch"),
    ]


async def test_what_nobody_put_a_name_to_is_not_noted(place: Place) -> None:
    app = await place.open(declare)
    id = await begin(app)
    await app.pause(id)
    await app.signal(id, "go", b"null")
    await app.cancel(id, who="http")
    assert await said(app) == []


async def test_what_another_node_is_to_do_is_noted_with_its_command(place: Place) -> None:
    app = await place.open(declare)
    id = await begin(app)
    client = await place.client(declare)
    await client.cancel(id, who="ann", reason="typo")
    await has_status(app, id, "cancelled")
    assert await said(app) == [("ann", "cancel", id, "typo")]


async def test_what_was_refused_is_not_noted(place: Place) -> None:
    app = await place.open(declare)
    id = await begin(app)
    with pytest.raises(Exception, match="OL2051"):
        await app.resume(id, who="ann")
    assert await said(app) == []


async def test_pages_lead_on_and_what_is_too_old_goes(place: Place) -> None:
    app = await place.open(declare)
    now = await app.store.now()
    ages = [0, 1, 2, KEPT_SECONDS + 5]
    lines = [Noted(now - age * MICROS, "ann", f"v{age}") for age in ages]
    puts = tuple(noted(line, f"{n:08d}") for n, line in enumerate(lines))
    await app.store.commit(Batch(put=puts))
    page, cursor = await app.activity(2)
    assert [line.verb for line in page] == ["v0", "v1"]
    rest, end = await app.activity(2, cursor)
    assert [line.verb for line in rest] == ["v2", f"v{ages[3]}"] and end == ""
    await app.pause(await begin(app), who="ann")
    kept = lines_of(await app.store.scan(SPACE))
    assert [line.verb for line in kept] == ["pause", "v0", "v1", "v2"]
