"""The doctor, asked by the application itself."""

from __future__ import annotations

from pathlib import Path

from tests.service import Place, has_status, process

from outlive import Run


async def nothing(run: Run) -> None:
    pass


async def test_a_served_store_is_well_and_what_stands_still_is_a_warning(tmp_path: Path) -> None:
    async def body(run: Run) -> None:
        await run.wait("go", within=86_400)

    declare = process(body)
    place = Place(tmp_path)
    try:
        app = await place.open(declare)
        levels = {one.name: one.level.lower() for one in await app.examine()}
        assert "fail" not in levels.values() and levels["nodes"] == "ok"
        begun = await app.begin("thing", b"null")
        await app.pause(begun.id)
        await has_status(app, begun.id, "paused")
        (paused,) = [one for one in await app.examine() if one.name == "paused"]
        assert paused.level == "warn" and begun.id in paused.text and paused.remedy
    finally:
        await place.close()


async def test_a_store_that_nobody_serves_is_a_warning(tmp_path: Path) -> None:
    place = Place(tmp_path)
    try:
        client = await place.client(process(nothing))
        levels = {one.name: one.level for one in await client.examine()}
        assert levels["nodes"] == "warn" and levels["ended"] == "ok"
    finally:
        await place.close()
