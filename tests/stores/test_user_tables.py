"""The caller's own tables: their rows and the batch are one commit, and nothing else is theirs."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.stores.faults import note, opened

from outlive.errors import Conflict, NotAllowed, StoreUnavailable, TransactTooLong
from outlive.model import Batch, Put, Ref, Require
from outlive.stores.sqlite import SQLiteStore
from outlive.stores.user_tables import Tables
from outlive.testing.disk import Call, Watch, watched

FOREVER = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
whose: ContextVar[str] = ContextVar("whose", default="nobody's")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    made = await opened(tmp_path / "store.db")

    def table(tables: Tables) -> Batch:
        tables.execute("CREATE TABLE seat (id INTEGER PRIMARY KEY, outlive_note TEXT)")
        return Batch()

    await made.transact(table)
    yield made
    await made.close()


def seats(store: SQLiteStore) -> list[Any]:
    with closing(apsw.Connection(str(store.path))) as db:
        return [row[0] for row in db.execute("SELECT id FROM seat ORDER BY id")]


def saying(*statements: str) -> Callable[[Tables], Batch]:
    def work(tables: Tables) -> Batch:
        for statement in statements:
            tables.execute(statement)
        return Batch()

    return work


async def test_rows_and_batch_are_one_commit(store: SQLiteStore) -> None:
    lease = await store.take(0, 0, "n")

    def work(tables: Tables) -> Batch:
        tables.executemany("INSERT INTO seat VALUES (?, ?)", [(1, "a"), (2, "b")])
        assert tables.execute("SELECT outlive_note FROM seat WHERE id = :id", {"id": 2}) == [("b",)]
        tables.execute("UPDATE seat SET outlive_note = 'c'")
        return note(lease, "s", 0)

    await store.transact(work)
    assert (seats(store), len(await store.tail(0, 0))) == ([1, 2], 1)


async def test_a_refused_batch_takes_the_rows_with_it(store: SQLiteStore) -> None:
    def work(tables: Tables) -> Batch:
        tables.execute("INSERT INTO seat VALUES (1, '')")
        return Batch(require=(Require(Ref("s", "k"), 7),))

    with pytest.raises(Conflict):
        await store.transact(work)
    assert seats(store) == []


async def test_a_batch_that_only_fails_while_it_is_written_takes_the_rows_with_it(
    store: SQLiteStore,
) -> None:
    lease = await store.take(0, 0, "n")
    for batch in (note(lease, "s", 5), note(lease, "s", 0), note(lease, "s", 0)):

        def work(tables: Tables, batch: Batch = batch) -> Batch:
            tables.execute("INSERT INTO seat VALUES (NULL, '')")
            return batch

        with suppress(Exception):
            await store.transact(work)
    assert (seats(store), len(await store.tail(0, 0))) == ([1], 1)


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        "END",
        "ROLLBACK",
        "BEGIN",
        "BEGIN IMMEDIATE",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "PRAGMA synchronous = off",
        "PRAGMA synchronous=full",
        "SELECT * FROM pragma_journal_mode",
        "SELECT * FROM outlive_cell",
        "INSERT INTO outlive_shard (id) VALUES (99)",
        "UPDATE outlive_store SET version = 0",
        "DELETE FROM outlive_event",
        "DROP TABLE outlive_event",
        "ALTER TABLE outlive_event RENAME TO mine",
        "CREATE TABLE outlive_mine (id)",
        "CREATE TRIGGER t AFTER INSERT ON outlive_event BEGIN SELECT 1; END",
        "CREATE INDEX i ON outlive_event (kind)",
        "CREATE VIEW v AS SELECT * FROM outlive_cell; SELECT * FROM v",
        "SELECT 1; COMMIT",
        "  commit -- in another spelling",
    ],
)
async def test_what_is_not_theirs_is_refused_also_when_we_said_the_same_before(
    store: SQLiteStore, statement: str
) -> None:
    for _ in range(2):
        with pytest.raises(NotAllowed):
            await store.transact(saying("INSERT INTO seat VALUES (1, '')", statement))
        assert seats(store) == []
        await store.transact(lambda tables: Batch())


async def test_our_own_statements_are_not_theirs_for_having_been_prepared(
    store: SQLiteStore,
) -> None:
    for name in ("store_read", "shards", "writer_read", "cell_state"):
        statement = store._file.sql[name]
        values = ("s",) * statement.count("?")
        store._file.users.connection.execute(statement, values).fetchall()

        def work(tables: Tables, statement: str = statement, values: Any = values) -> Batch:
            tables.execute(statement, values)
            return Batch()

        with pytest.raises(NotAllowed):
            await store.transact(work)


@pytest.mark.parametrize("swallowed", [True, False])
async def test_a_statement_that_rolls_everything_back_ends_the_work(
    store: SQLiteStore, swallowed: bool
) -> None:
    lease = await store.take(0, 0, "n")

    def work(tables: Tables) -> Batch:
        tables.execute("INSERT INTO seat VALUES (1, '')")
        with pytest.raises(apsw.ConstraintError):
            tables.execute("INSERT OR ROLLBACK INTO seat VALUES (1, '')")
        if not swallowed:
            tables.execute("INSERT INTO seat VALUES (2, '')")
        return note(lease, "s", 0)

    with pytest.raises(NotAllowed, match="ended the transaction"):
        await store.transact(work)
    assert (seats(store), await store.tail(0, 0)) == ([], [])


async def test_nobody_writes_between_what_the_work_reads_and_what_it_writes(
    store: SQLiteStore,
) -> None:
    refused: list[Exception] = []

    def work(tables: Tables) -> Batch:
        tables.execute("SELECT count(*) FROM seat")
        with closing(apsw.Connection(str(store.path))) as other:
            try:
                other.execute("INSERT INTO seat VALUES (7, '')")
            except apsw.BusyError as error:
                refused.append(error)
        tables.execute("INSERT INTO seat VALUES (1, '')")
        return Batch()

    await store.transact(work)
    assert len(refused) == 1
    assert seats(store) == [1]


async def test_savepoints_of_their_own_are_theirs(store: SQLiteStore) -> None:
    await store.transact(
        saying(
            "SAVEPOINT mine",
            "INSERT INTO seat VALUES (1, '')",
            "ROLLBACK TO mine",
            "RELEASE mine",
            "INSERT INTO seat VALUES (2, '')",
        )
    )
    assert seats(store) == [2]


async def test_the_tables_cannot_be_used_after_the_end(store: SQLiteStore) -> None:
    kept: list[Tables] = []

    def work(tables: Tables) -> Batch:
        kept.append(tables)
        return Batch()

    await store.transact(work)
    with pytest.raises(NotAllowed, match="has ended"):
        kept[0].execute("SELECT 1")


@pytest.mark.parametrize("swallowed", [True, False])
async def test_a_statement_that_runs_too_long_is_interrupted(
    store: SQLiteStore, swallowed: bool
) -> None:
    def work(tables: Tables) -> Batch:
        tables.execute("INSERT INTO seat VALUES (1, '')")
        if swallowed:
            with suppress(apsw.InterruptError):
                tables.execute(FOREVER)
        else:
            tables.execute(FOREVER)
        return Batch()

    with pytest.raises(TransactTooLong):
        await store.transact(work, limit_seconds=0.05)
    assert seats(store) == []
    await store.transact(saying("INSERT INTO seat VALUES (2, '')"))
    assert seats(store) == [2]


async def test_an_error_of_their_statement_is_raised_as_it_is(store: SQLiteStore) -> None:
    with pytest.raises(apsw.ConstraintError):
        await store.transact(saying(*["INSERT INTO seat VALUES (1, '')"] * 2))
    with pytest.raises(apsw.SQLError, match="no such table"):
        await store.transact(saying("SELECT * FROM nowhere"))
    assert seats(store) == []


async def test_another_engine_reads_the_rows_after_the_store_is_closed(tmp_path: Path) -> None:
    store = await opened(tmp_path / "other.db")
    await store.transact(saying("CREATE TABLE t (x)", "INSERT INTO t VALUES (1)"))
    await store.close()
    with closing(sqlite3.connect(store.path)) as db:
        assert db.execute("SELECT x FROM t").fetchall() == [(1,)]


class DiskThatFails(Watch):
    """Refuses every read while it is `bad`."""

    bad = False

    def before(self, call: Call) -> None:
        if self.bad and call.what == "read":
            raise apsw.IOError(f"the disk failed at {call}")


async def test_a_disk_that_fails_under_the_users_statements_is_the_stores_error(
    tmp_path: Path,
) -> None:
    disk = DiskThatFails()
    with watched(disk):
        store = await opened(tmp_path / "store.db")
        for table in ("seat", "row"):
            await store.transact(saying(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY)"))
        await store.commit(Batch(put=(Put(Ref("s", "k"), b""),)))  # now nothing of it is cached

        def work(tables: Tables) -> Batch:
            tables.execute("INSERT INTO seat VALUES (1)")
            disk.bad = True
            tables.execute("SELECT count(*) FROM row")
            raise AssertionError("the disk was not asked")

        with pytest.raises(StoreUnavailable, match="Nothing was written"):
            await store.transact(work)
        disk.bad = False
        await store.transact(saying("INSERT INTO seat VALUES (2)"))
        assert seats(store) == [2]
        await store.close()


async def test_what_a_function_sets_in_its_context_is_not_left_to_the_next(
    store: SQLiteStore,
) -> None:
    seen: list[str] = []

    def sets(tables: Tables) -> Batch:
        seen.append(whose.get())
        whose.set("a stranger's")
        return Batch()

    whose.set("the caller's")
    await store.transact(sets)
    await store.transact(sets)
    assert seen == ["the caller's"] * 2
    assert whose.get() == "the caller's"
