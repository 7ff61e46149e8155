"""Callers' functions that share a transaction: one flush, and nobody hurts whoever is beside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.stores.faults import note, opened

from outlive.clock import ManualClock
from outlive.errors import (
    Conflict,
    NotAllowed,
    OutcomeUnknown,
    StoreFull,
    StoreUnavailable,
    TransactTooLong,
)
from outlive.model import Batch, Committed, Put, Ref, Require
from outlive.stores.sqlite import SQLiteStore
from outlive.stores.sqlite_works import GROUP_SECONDS, GROUP_WORKS_MAX
from outlive.stores.user_tables import Tables

FOREVER = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
Result = Committed | BaseException


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    made = await opened(tmp_path / "store.db")
    await made.transact(saying("CREATE TABLE seat (id INTEGER PRIMARY KEY)"))
    yield made
    await made.close()


def saying(*statements: str) -> Callable[[Tables], Batch]:
    def work(tables: Tables) -> Batch:
        for statement in statements:
            tables.execute(statement)
        return Batch()

    return work


def taking(id: int) -> Callable[[Tables], Batch]:
    return saying(f"INSERT INTO seat VALUES ({id})")


def seats(store: SQLiteStore) -> list[Any]:
    with closing(apsw.Connection(str(store.path))) as db:
        return [row[0] for row in db.execute("SELECT id FROM seat ORDER BY id")]


async def together(store: SQLiteStore, *works: Callable[[Tables], Batch]) -> list[Result]:
    """What comes of `works` that are asked for at one time."""
    asked = (store.transact(work, limit_seconds=0.5) for work in works)
    return await asyncio.gather(*asked, return_exceptions=True)


@contextmanager
def counted(store: SQLiteStore) -> Iterator[list[None]]:
    """Each COMMIT of the store's while this lasts."""
    commits: list[None] = []
    finish = store._file.finish

    def counting(*, users: bool = False) -> None:
        commits.append(None)
        finish(users=users)

    store._file.finish = counting  # type: ignore[method-assign]
    yield commits
    store._file.finish = finish  # type: ignore[method-assign]


async def test_many_share_one_commit_in_the_order_in_which_they_came(store: SQLiteStore) -> None:
    def work(number: int) -> Callable[[Tables], Batch]:
        def take(tables: Tables) -> Batch:
            seen = tables.execute("SELECT count(*) FROM seat")[0][0]
            tables.execute("INSERT INTO seat VALUES (?)", (seen,))
            return Batch(put=(Put(Ref("s", str(number)), b"%d" % seen),))

        return take

    with counted(store) as commits:
        results = await together(store, *(work(n) for n in range(GROUP_WORKS_MAX)))
    assert len(commits) == 1
    versions = [result.versions for result in results if isinstance(result, Committed)]
    assert len(versions) == GROUP_WORKS_MAX
    assert versions == sorted(versions)
    assert seats(store) == list(range(GROUP_WORKS_MAX))
    cells = await store.read([Ref("s", str(n)) for n in range(GROUP_WORKS_MAX)])
    assert [cell.value for cell in cells if cell] == [b"%d" % n for n in range(GROUP_WORKS_MAX)]


async def test_more_than_a_group_holds_follow_in_the_next(store: SQLiteStore) -> None:
    count = 2 * GROUP_WORKS_MAX + 1
    with counted(store) as commits:
        results = await together(store, *(taking(n) for n in range(count)))
    assert all(isinstance(result, Committed) for result in results)
    assert 3 <= len(commits) < count / 2
    assert len(seats(store)) == count


async def test_what_fails_leaves_nothing_and_those_beside_it_are_written(
    store: SQLiteStore,
) -> None:
    lease = await store.take(0, 0, "n")

    def lost(tables: Tables) -> Batch:
        tables.execute("INSERT INTO seat VALUES (2)")
        return Batch(require=(Require(Ref("s", "none"), 7),))

    def raises(tables: Tables) -> Batch:
        tables.execute("INSERT INTO seat VALUES (3)")
        raise LookupError("no seat")

    def forgets(tables: Tables) -> Batch:
        tables.execute("SAVEPOINT mine; INSERT INTO seat VALUES (4)")
        return note(lease, "s", 0)

    def again(tables: Tables) -> Batch:
        tables.execute("INSERT INTO seat VALUES (5)")
        return note(lease, "s", 1)

    with counted(store) as commits:
        results = await together(store, taking(1), lost, raises, taking(1), forgets, again)
    kinds = [Committed, Conflict, LookupError, apsw.ConstraintError, Committed, Committed]
    assert [type(result) for result in results] == kinds
    assert len(commits) == 1
    assert seats(store) == [1, 4, 5]
    assert [(event.seq, event.n) for event in await store.tail(0, 0)] == [(1, 0), (2, 1)]


@pytest.mark.parametrize(
    "statement",
    ["INSERT OR ROLLBACK INTO seat VALUES (1)", "ROLLBACK TO outlive_work", "RELEASE outlive_work"],
)
async def test_what_ends_everything_ends_only_its_own(store: SQLiteStore, statement: str) -> None:
    def ends(tables: Tables) -> Batch:
        tables.execute("INSERT INTO seat VALUES (8)")
        tables.execute(statement)
        return Batch()

    results = await together(store, taking(1), ends, taking(2), taking(3))
    kinds = [Committed, type(results[1]), Committed, Committed]
    assert [type(result) for result in results] == kinds
    assert isinstance(results[1], apsw.ConstraintError | NotAllowed)
    assert seats(store) == [1, 2, 3]


async def test_an_end_that_is_swallowed_is_found_out(store: SQLiteStore) -> None:
    def swallows(tables: Tables) -> Batch:
        with pytest.raises(apsw.ConstraintError):
            tables.execute("INSERT OR ROLLBACK INTO seat VALUES (1)")
        return Batch()

    results = await together(store, taking(1), swallows, taking(2))
    assert [type(result) for result in results] == [Committed, NotAllowed, Committed]
    assert seats(store) == [1, 2]


async def test_who_is_too_late_does_not_run_again(store: SQLiteStore) -> None:
    runs: list[None] = []

    def late(tables: Tables) -> Batch:
        runs.append(None)
        tables.execute("INSERT INTO seat VALUES (9)")
        tables.execute(f"INSERT INTO seat {FOREVER}")
        return Batch()

    results = await together(store, taking(1), late, taking(2))
    assert [type(result) for result in results] == [Committed, TransactTooLong, Committed]
    assert (len(runs), seats(store)) == (1, [1, 2])


@pytest.mark.parametrize("error", [StoreFull, OutcomeUnknown])
async def test_nobody_hears_that_it_is_written_when_the_commit_failed(
    store: SQLiteStore, error: type[StoreUnavailable]
) -> None:
    def refuses(*, users: bool = False) -> None:
        file.users.connection.execute("ROLLBACK")
        file._lock.release()
        raise error("the disk")

    file = store._file
    finish, file.finish = file.finish, refuses  # type: ignore[method-assign]
    results = await together(store, taking(1), taking(1), taking(2))
    file.finish = finish  # type: ignore[method-assign]
    assert [type(result) for result in results] == [error] * 3
    assert seats(store) == []
    await store.transact(taking(1))


async def test_a_group_does_not_keep_the_file_for_long(tmp_path: Path) -> None:
    clock = ManualClock()
    store = await opened(tmp_path / "store.db", clock=clock)

    def slow(tables: Tables) -> Batch:
        clock.advance(GROUP_SECONDS)
        return Batch()

    with counted(store) as commits:
        results = await together(store, slow, slow, slow)
    assert ([type(result) for result in results], len(commits)) == ([Committed] * 3, 3)
    await store.close()


async def test_who_waits_when_the_store_is_closed_is_told(store: SQLiteStore) -> None:
    count = 3 * GROUP_WORKS_MAX
    asked = [asyncio.ensure_future(store.transact(taking(n))) for n in range(count)]
    await asyncio.sleep(0)
    closing_now = asyncio.ensure_future(store.close())
    async with asyncio.timeout(60):
        results = await asyncio.gather(*asked, return_exceptions=True)
        await closing_now
    written = [n for n, result in enumerate(results) if isinstance(result, Committed)]
    assert all(isinstance(result, Committed | StoreUnavailable) for result in results)
    assert len(written) < count
    assert seats(store) == written


async def test_whatever_a_function_raises_reaches_who_asked(store: SQLiteStore) -> None:
    def raising(error: BaseException) -> Callable[[Tables], Batch]:
        def work(tables: Tables) -> Batch:
            raise error

        return work

    async with asyncio.timeout(60):
        works = (raising(StopIteration(1)), raising(asyncio.CancelledError()), taking(1))
        results = await together(store, *works)
    assert [type(result) for result in results] == [
        RuntimeError,
        asyncio.CancelledError,
        Committed,
    ]
    with pytest.raises(RuntimeError, match="StopIteration"):
        await store.transact(raising(StopIteration(1)))


async def test_who_gives_up_waiting_changes_nothing_for_the_others(store: SQLiteStore) -> None:
    asked = [asyncio.ensure_future(store.transact(taking(n))) for n in range(5)]
    await asyncio.sleep(0)
    asked[2].cancel()
    async with asyncio.timeout(60):
        results = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(result, Committed) for result in results] == [True, True, False, True, True]
    assert [n for n in seats(store) if n != 2] == [0, 1, 3, 4]
