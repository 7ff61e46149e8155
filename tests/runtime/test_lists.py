"""Lists of processes: whole, narrowed, in pages, and merged from the lists of every type."""

from __future__ import annotations

from tests.service import Place

from outlive import Outlive, Run


def declare(app: Outlive) -> None:
    @app.process("/eggs", version=1)
    async def egg(run: Run) -> None: ...

    @app.process("/hens", version=1)
    async def hen(run: Run) -> None:
        await run.wait("go")

    @app.process("/coops", version=1)
    async def hen_coop(run: Run) -> None: ...


async def start(app: Outlive, *names: str) -> list[str]:
    return [(await app.begin(name, b"null")).id for name in names]


async def listed(
    app: Outlive, status: str | None = None, type: str | None = None, limit: int = 50
) -> list[str]:
    found, cursor = await app.processes(status, type, limit)
    ids = [line.id for line in found]
    while cursor:
        found, cursor = await app.processes(status, type, limit, cursor)
        assert len(found) <= limit
        ids += [line.id for line in found]
    return ids


async def test_the_whole_list_is_of_all_types_newest_first(place: Place) -> None:
    app = await place.open(declare)
    assert await listed(app) == []
    ids = await start(app, "egg", "hen", "egg", "hen_coop", "hen")
    assert await listed(app) == ids[::-1]


async def test_pages_neither_skip_nor_repeat(place: Place) -> None:
    app = await place.open(declare)
    ids = await start(app, *("egg", "hen", "hen", "hen_coop") * 6)
    for limit in (1, 2, 5, 24):
        assert await listed(app, limit=limit) == ids[::-1]
        assert (
            await listed(app, type="hen", limit=limit)
            == [id for at, id in enumerate(ids) if at % 4 in (1, 2)][::-1]
        )


async def test_a_type_that_nobody_declares_any_more_is_listed_too(place: Place) -> None:
    app = await place.open(declare)
    ids = await start(app, "hen", "egg")

    def fewer(app: Outlive) -> None:
        @app.process("/eggs", version=1)
        async def egg(run: Run) -> None: ...

    app = await place.again(app, fewer)
    assert await listed(app) == ids[::-1]


async def test_a_status_narrows_together_with_a_type(place: Place) -> None:
    app = await place.open(declare)
    eggs = await start(app, "egg", "egg")
    hens = await start(app, "hen", "hen")
    for id in eggs:
        await app.result(id, within=60)
    assert await listed(app, "done") == eggs[::-1]
    assert await listed(app, "done", "hen") == []
    assert set(await listed(app, None, "hen")) == set(hens)
