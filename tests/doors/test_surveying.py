"""What is asked about all processes together, of a real application."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.service import has_status

from outlive import Outlive, Run
from outlive.clock import MICROS
from outlive.kinds.processes.history import MINUTE


@pytest.fixture
async def app() -> AsyncIterator[Outlive]:
    made = Outlive("memory://")

    @made.process("/orders", version=2)
    async def order(run: Run, how: str) -> str:
        if how == "wait":
            await run.wait("go", within=86_400)
        if how == "fail":
            raise ValueError("no")
        return how

    made.order = order  # type: ignore[attr-defined]
    async with made:
        yield made


async def begin(app: Outlive, how: str, status: str) -> str:
    handle = await app.start(app.order, how)  # type: ignore[attr-defined]
    await has_status(app, handle.id, status)
    return handle.id


async def test_a_census_counts_by_status_and_names_the_oldest(app: Outlive) -> None:
    first = await begin(app, "wait", "waiting")
    await begin(app, "wait", "waiting")
    await begin(app, "fine", "done")
    bad = await begin(app, "fail", "failed")
    await app.pause(first)
    await has_status(app, first, "paused")
    census = await app.census()
    numbers = {s: c.number for s, c in census.counts.items() if c.number}
    assert numbers == {"paused": 1, "waiting": 1, "done": 1, "failed": 1}
    assert census.oldest[0].id == first and census.troubled[0].id == first
    assert [(one.type, one.version, one.number) for one in census.standing] == [("order", 2, 2)]
    assert census.failing[0].last.id == bad
    assert not census.bounded and census.unfinished.number == 2


async def test_a_census_stops_at_its_bound_and_says_so(app: Outlive) -> None:
    for _ in range(4):
        await begin(app, "wait", "waiting")
    census = await app.census(counted_max=3)
    assert str(census.counts["waiting"]) == "3+" and census.bounded
    assert census.standing[0].number == 3


async def test_throughput_is_read_by_the_minute(app: Outlive) -> None:
    await begin(app, "fine", "done")
    assert app._runtime is not None
    await app._runtime.history.write()
    found = await app.throughput(1)
    (minute,) = found
    assert abs(minute - await app.store.now() // MINUTE) <= 1
    assert found[minute].ended == {"done": 1} and found[minute].started == 1
    assert MINUTE == 60 * MICROS
