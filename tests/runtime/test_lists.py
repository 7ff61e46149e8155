"""Lists of processes: whole, narrowed, in pages, and merged from the lists of every type."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.service import Place

from outlive import Outlive, Run, ids
from outlive.clock import MICROS, ManualClock
from outlive.kinds.processes.cells import Head, put_head, ref_of
from outlive.kinds.processes.search import Search, search_of
from outlive.model import Batch
from outlive.runtime.lists import ROWS, newest
from outlive.store import Store
from outlive.stores.memory import MemoryStore
from outlive.stores.postgres import PostgresStore
from outlive.stores.sqlite import SQLiteStore


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


# --- searches -------------------------------------------------------------------------------------

START = 1_700_000_000 * MICROS
CUSTOMERS, REGIONS = 40, 3


async def filled(store: Store, count: int, apart: int = MICROS) -> list[str]:
    """Processes number 0 to `count` - 1: of a customer, a region, a status and a version each."""
    await store.open()
    made: list[str] = []
    for first in range(0, count, 500):
        puts = []
        for number in range(first, min(first + 500, count)):
            started = START + number * apart
            head = Head(
                f"s{number}", "order" if number % 5 else "visit", 1 + number % 2,
                "stuck" if number % 97 == 0 else "done", started, started + MICROS,
                tags=(("customer", f"c {number % CUSTOMERS}"), ("region", f"r{number % REGIONS}")),
            )  # fmt: skip
            ref = ref_of(ids.public_id("t", store.shards), store.shards)
            puts.append(put_head(ref, head))
            made.append(ref.key)
        await store.commit(Batch(put=tuple(puts)))
    return made


async def all_pages(
    store: Store, search: Search, limit: int = 50, **bound: Any
) -> tuple[list[str], int]:
    """The ids of all pages, and how many of them were bounded."""
    found: list[str] = []
    page = await newest(store, search, limit, "", **bound)
    bounded = 0
    while True:
        assert len(page.items) <= limit
        bounded += page.bounded
        assert page.bounded == (page.cursor != "" and len(page.items) < limit)
        found += [line.id for line in page.items]
        if not page.cursor:
            return found, bounded
        page = await newest(store, search, limit, page.cursor, **bound)


def wanted(made: list[str], holds: Any) -> list[str]:
    return [id for number, id in enumerate(made) if holds(number)][::-1]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> Store:
    if request.param == "memory":
        return MemoryStore(clock=ManualClock())
    if request.param == "sqlite":
        return SQLiteStore(tmp_path / "store.db", shards=4)
    address: str = request.getfixturevalue("postgres")
    return PostgresStore(address, shards=4, schema=f"store_{ids.token(40)}")


async def test_any_combination_is_found_newest_first_in_pages(store: Store) -> None:
    made = await filled(store, 1200)
    try:
        searches: list[tuple[Search, Any]] = [
            (search_of(tags={"customer": "c 7"}), lambda n: n % 40 == 7),
            (
                search_of(tags={"customer": "c 7", "region": "r1"}, version=2),
                lambda n: n % 40 == 7 and n % 3 == 1 and n % 2 == 1,
            ),
            (search_of("stuck", "order"), lambda n: n % 97 == 0 and n % 5),
            (
                search_of("stuck", tags={"region": "r0"}),
                lambda n: n % 97 == 0 and n % 3 == 0,
            ),
            (search_of(type="visit", version=1), lambda n: n % 5 == 0 and n % 2 == 0),
            (search_of(tags={"customer": "c"}), lambda n: False),
            (
                Search(started=(START + 10 * MICROS, START + 20 * MICROS)),
                lambda n: 10 <= n < 20,
            ),
            (Search(changed=(0, START + 20 * MICROS)), lambda n: n < 19),
            (
                Search(type="order", changed=(START + 1190 * MICROS, START + 1195 * MICROS)),
                lambda n: 1189 <= n < 1194 and n % 5,
            ),
        ]
        for search, holds in searches:
            for limit in (7, 200):
                found, bounded = await all_pages(store, search, limit)
                assert found == wanted(made, holds), search
                assert not bounded
    finally:
        await store.close()


async def test_a_page_that_looked_at_enough_says_so_and_the_next_goes_on() -> None:
    store = MemoryStore(clock=ManualClock())
    made = await filled(store, 3000)
    rare = Search(type="order", changed=(START, START + 10**15), tags=(), version=7)
    found, bounded = await all_pages(store, rare, 50, rows_max=ROWS)
    assert found == [] and bounded > 2
    found, bounded = await all_pages(store, Search(version=2), 50, rows_max=ROWS)
    assert found == wanted(made, lambda n: n % 2)


async def test_several_marks_are_looked_up_by_the_rarest() -> None:
    store = MemoryStore(clock=ManualClock())
    made = await filled(store, 2000)
    looked: list[tuple[str, int]] = []
    select = store.select

    async def noted(spaces: Any, mark: str, low: str, high: str, limit: int, **options: Any) -> Any:
        rows = await select(spaces, mark, low, high, limit, **options)
        looked.append((mark, len(rows)))
        return rows

    store.select = noted  # type: ignore[method-assign]
    search = search_of("stuck", tags={"region": "r0", "customer": "c 0"})
    page = await newest(store, search, 20)
    holds = wanted(made, lambda n: n % 97 == 0 and n % 3 == 0 and n % 40 == 0)
    assert [line.id for line in page.items] == holds
    assert sorted({mark for mark, _ in looked}) == [
        "process.status", "process.tag.customer", "process.tag.region",
    ]  # fmt: skip
    assert [mark for mark, _ in looked[3:]] in ([], ["process.status"])


@pytest.mark.parametrize("apart", [0, 1])
async def test_what_began_in_one_moment_is_listed_whole(apart: int) -> None:
    store = MemoryStore(clock=ManualClock())
    made = await filled(store, 900, apart)
    for search in (Search(type="order"), Search(), search_of("done")):
        found, _ = await all_pages(store, search, 50)
        assert len(found) == len(set(found))
        assert set(found) <= set(made) and len(found) > 700


async def test_a_start_says_what_it_is_found_by_and_its_key_is_bound_to_that(place: Place) -> None:
    from outlive.errors import KeyReused

    def declare(app: Outlive) -> None:
        @app.process("/eggs", version=1, tags=("size",))
        async def egg(run: Run) -> None: ...

        app.egg = egg  # type: ignore[attr-defined]

    app = await place.open(declare)
    body: Any = app.egg  # type: ignore[attr-defined]
    first = await app.start(body, key="k", tags={"size": 3})
    assert (await app.start(body, key="k", tags={"size": 3})).id == first.id
    with pytest.raises(KeyReused):
        await app.start(body, key="k", tags={"size": 4})
    now = datetime.now(UTC)
    page = await app.processes(tags={"size": "3"}, started_since=now - timedelta(hours=1))
    assert [line.id for line in page.items] == [first.id]
    assert page.items[0].tags == {"size": "3"}
    assert (await app.processes(tags={"size": 3}, started_until=now - timedelta(hours=1)))[0] == []
    client = await place.client(lambda _: None)
    assert len((await client.processes(tags={"size": 3})).items) == 1, "it declares nothing"
    elsewhere = await client.processes(tags={"anything": 3})
    assert elsewhere.items == []


async def test_what_another_node_is_to_start_is_found_before_it_begins(place: Place) -> None:
    bodies: list[Any] = []

    def declare(app: Outlive) -> None:
        @app.process("/eggs", version=1, tags={"size": lambda size: size, "nest": None})
        async def egg(run: Run, size: int) -> str:
            run.tags["nest"] = f"{run.tags['nest']} {run.tags['size']}"
            return run.tags["nest"]

        bodies[:] = [egg]

    client = await place.client(declare)
    handle = await client.start(bodies[0], 3, tags={"nest": "north"})

    def carried(tables: Any) -> str:
        within = client.blocking().within(tables)
        return within.start(bodies[0], 4, tags={"nest": "south"}).id

    other = await client.transact(carried)
    for tags, id in (({"size": 3, "nest": "north"}, handle.id), ({"nest": "south"}, other)):
        (line,) = (await client.processes("queued", tags=tags)).items
        assert line.id == id
    node = await place.open(declare)
    assert await node.result(handle.id, within=20) == "north 3"
    assert await node.result(other, within=20) == "south 4"
    assert [line.id for line in (await node.processes(tags={"nest": "south 4"})).items] == [other]
    assert (await node.processes(tags={"nest": "south"})).items == []
