"""The door to the caller's own tables: plain and async functions, and what they may not do."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import asyncpg
import pytest
from tests.stores.servers import DEADLINE_SECONDS, note, session_at, store_at

from outlive.errors import Fenced, NotAllowed, TransactTooLong
from outlive.model import Batch
from outlive.stores.postgres_tables import first_word


async def test_an_async_function_writes_rows_and_batch_together(postgres: str) -> None:
    async with store_at(postgres) as store:
        lease = await store.take(0, 0, "n")

        async def work(tables: Any) -> Batch:
            await tables.execute("CREATE TABLE seats_a (id int)")
            await tables.executemany("INSERT INTO seats_a VALUES ($1)", [(1,), (2,)])
            assert await tables.execute("SELECT id FROM seats_a ORDER BY id") == [(1,), (2,)]
            return note(lease, "s", 0)

        assert (await store.transact(work)).seq == 1
        async with session_at(postgres) as session:
            assert await session.fetchval("SELECT count(*) FROM seats_a") == 2


async def test_a_plain_function_does_not_block_the_loop(postgres: str) -> None:
    async with store_at(postgres) as store:
        begun, may_end = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def work(tables: Any) -> Batch:
            loop.call_soon_threadsafe(begun.set)
            assert may_end.wait(DEADLINE_SECONDS)
            return Batch()

        working = asyncio.create_task(store.transact(work))
        await begun.wait()
        await store.commit(Batch())
        may_end.set()
        await working


async def test_an_error_of_a_statement_is_the_callers(postgres: str) -> None:
    async with store_at(postgres) as store:
        with pytest.raises(asyncpg.UndefinedTableError):
            await store.transact(lambda tables: tables.execute("SELECT * FROM nowhere"))
        await store.transact(lambda tables: Batch())


async def test_a_statement_that_runs_too_long_is_ended(postgres: str) -> None:
    async with store_at(postgres) as store:

        async def work(tables: Any) -> Batch:
            await tables.execute("SELECT pg_sleep(60)")
            return Batch()

        for function in (work, lambda tables: tables.execute("SELECT pg_sleep(60)")):
            with pytest.raises(TransactTooLong):
                await store.transact(function, limit_seconds=0.1)  # type: ignore[arg-type]
        await store.transact(lambda tables: Batch())


async def test_the_fence_is_taken_last(postgres: str) -> None:
    async with store_at(postgres) as store, store_at(postgres, schema=store.schema) as other:
        lease = await store.take(0, 0, "n")

        async def work(tables: Any) -> Batch:
            await other.take(0, lease.epoch, "b")  # is not held up by this transaction
            return note(lease, "s", 0)

        with pytest.raises(Fenced):
            await store.transact(work)


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        " -- now\n rollback",
        "/* a /* b */ c */ End",
        "NOTIFY news",
        "SET search_path TO x",
        "SELECT * FROM {schema}.shard",
        'DELETE FROM "{schema}" . cell',
    ],
)
async def test_what_would_break_the_promise_is_refused(postgres: str, statement: str) -> None:
    async with store_at(postgres) as store:
        text = statement.replace("{schema}", store.schema)
        with pytest.raises(NotAllowed):
            await store.transact(lambda tables: tables.execute(text))


async def test_tables_are_of_no_use_after_the_transaction(postgres: str) -> None:
    async with store_at(postgres) as store:
        kept: list[Any] = []

        async def work(tables: Any) -> Batch:
            kept.append(tables)
            return Batch()

        await store.transact(work)
        with pytest.raises(NotAllowed, match="has ended"):
            await kept[0].execute("SELECT 1")


def test_the_first_word_stands_behind_blanks_and_comments() -> None:
    for text, word in (
        ("select 1", "select"),
        ("\n\t--x\n--y\nCommit;", "commit"),
        ("/* /* */ */END", "end"),
        ("/* open", ""),
        ("", ""),
        ("(SELECT 1)", ""),
    ):
        assert first_word(text) == word
