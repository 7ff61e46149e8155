"""What is read of a process that has had several eras: each one, and what came since a position."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.service import Place

from outlive import Outlive, Run
from outlive.errors import NoSuchEra, ProcessGone
from outlive.kinds.processes.eras import stream_of
from outlive.model import Batch


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.close()


def counting(app: Outlive) -> None:
    @app.process("/counts", version=1)
    async def count(run: Run, number: int) -> int:
        run.state = number
        await run.sleep(0)
        if number == 3:
            return number
        await run.again(number + 1)


def texts(entries: Any) -> list[tuple[int, str]]:
    return [(entry.n, entry.text) for entry in entries]


async def test_positions_are_counted_on_so_that_nobody_who_watches_misses_an_era(
    place: Place,
) -> None:
    app = await place.open(counting)
    id = (await app.begin("count", b"1")).id
    await app.result(id, within=10)
    whole = [text for era in (1, 2, 3) for text in texts(await app.journal(id, era=era))]
    assert [n for n, _ in whole] == list(range(len(whole)))
    assert await app.seq(id) == (await app.view(id)).seq == len(whole)
    assert texts(await app.journal(id, 0)) == whole[1:]
    assert texts(await app.journal(id, 4)) == whole[5:]
    assert texts(await app.journal(id)) == texts(await app.journal(id, era=3))
    assert await app.changed(id, 2, 5) == len(whole)
    with pytest.raises(NoSuchEra, match="keeps 1 to 3"):
        await app.journal(id, era=4)


async def test_who_reads_while_the_retention_ends_is_told_that_it_is_gone(place: Place) -> None:
    app = await place.open(counting)
    id = (await app.begin("count", b"1")).id
    await app.result(id, within=10)
    head = await app._head(id)
    await app.store.erase([stream_of(head, 1)], Batch())
    with pytest.raises(NoSuchEra, match="not kept"):
        await app.journal(id, era=1)
    kept = await app.journal(id, era=2)
    assert texts(await app.journal(id, 0)) == texts([*kept, *await app.journal(id)])
    await app.store.erase([head.stream], Batch())  # and its cell was read before
    asks = (app.view(id), app.journal(id), app.journal(id, 0), app.export_journal(id))
    for asked in (*asks, app.standing(id, "none", key="k")):
        with pytest.raises(ProcessGone):
            await asked
