"""The caller's own driver inside our transaction: each kind, its errors, and what it may not do."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tests.postgres_server import Pooler, server_of_its_own
from tests.stores.servers import line_to, note, session_at, store_at

from outlive import ids
from outlive.errors import Fenced, NotAllowed, OutliveError, StoreUnavailable, TransactTooLong
from outlive.model import Batch, Put, Ref
from outlive.steps import manner_of
from outlive.stores.postgres import PostgresStore


class Base(DeclarativeBase):
    pass


class Guest(Base):
    __tablename__ = "guest"
    name: Mapped[str] = mapped_column(primary_key=True)
    facts: Mapped[dict[str, Any] | None] = mapped_column(sqlalchemy.JSON)


async def by_asyncpg(connection: asyncpg.Connection, name: str) -> None:
    async with connection.transaction():
        await connection.execute("INSERT INTO guest VALUES ($1)", name)
    try:
        async with connection.transaction():
            await connection.execute("INSERT INTO guest VALUES ($1)", "never")
            raise LookupError
    except LookupError:
        pass
    await connection.execute("SET search_path = public")


async def by_async_session(session: AsyncSession, name: str) -> None:
    session.add(Guest(name=name, facts={"seats": [1, 2]}))
    await session.commit()
    session.add(Guest(name="never"))
    await session.flush()
    await session.rollback()
    found = await session.get(Guest, name)
    assert found is not None and found.facts == {"seats": [1, 2]}


async def by_async_connection(connection: AsyncConnection, name: str) -> None:
    await connection.execute(sqlalchemy.insert(Guest).values(name=name))


def by_psycopg(connection: psycopg.Connection[Any], name: str) -> None:
    connection.execute("INSERT INTO guest VALUES (%s)", (name,))
    try:
        with connection.transaction():
            connection.execute("INSERT INTO guest VALUES (%s)", ("never",))
            raise LookupError
    except LookupError:
        pass
    with pytest.raises(psycopg.ProgrammingError):
        connection.commit()


def by_session(session: Session, name: str) -> None:
    session.add(Guest(name=name, facts={"seats": [1, 2]}))
    session.commit()
    session.add(Guest(name="never"))
    session.flush()
    session.rollback()
    found = session.get(Guest, name)
    assert found is not None and found.facts == {"seats": [1, 2]}


GUESTS = [by_asyncpg, by_async_session, by_async_connection, by_psycopg, by_session]


def work(function: Callable[..., Any], batch: Batch, *args: Any, fail: bool = False) -> Any:
    """`function` as work of a store, which then gives `batch` or fails."""

    def end() -> Batch:
        if fail:
            raise LookupError("no such seat")
        return batch

    async def awaited(given: Any) -> Batch:
        await function(given, *args)
        return end()

    def plain(given: Any) -> Batch:
        function(given, *args)
        return end()

    made: Any = awaited if inspect.iscoroutinefunction(function) else plain
    made.manner = manner_of(function)
    return made


@pytest.fixture
async def store(postgres: str) -> AsyncIterator[PostgresStore]:
    async with session_at(postgres) as session:
        await session.execute("DROP TABLE IF EXISTS guest")
        await session.execute("CREATE TABLE guest (name text PRIMARY KEY, facts json)")
    async with store_at(postgres) as found:
        yield found


async def guests(address: str) -> list[str]:
    async with session_at(address) as session:
        return [row[0] for row in await session.fetch("SELECT name FROM guest ORDER BY name")]


@pytest.mark.parametrize("guest", GUESTS)
async def test_rows_and_record_are_one_transaction(
    postgres: str, store: PostgresStore, guest: Any
) -> None:
    lease = await store.take(0, 0, "n")
    receipt = await store.transact(work(guest, note(lease, "s", 0, "k"), "ann"))
    assert (receipt.seq, len(receipt.versions)) == (1, 1)
    assert await guests(postgres) == ["ann"]
    await store.commit(note(lease, "s", 1))
    assert (await store.transact(work(guest, note(lease, "s", 2), "bob"))).seq == 3
    assert await guests(postgres) == ["ann", "bob"]


@pytest.mark.parametrize("guest", GUESTS)
async def test_what_raises_or_is_refused_leaves_nothing(
    postgres: str, store: PostgresStore, guest: Any
) -> None:
    lease = await store.take(0, 0, "n")
    with pytest.raises(LookupError, match="no such seat"):
        await store.transact(work(guest, note(lease, "s", 0), "ann", fail=True))
    newer = await store.take(0, lease.epoch, "m")
    with pytest.raises(Fenced):
        await store.transact(work(guest, note(lease, "s", 0), "ann"))
    assert await guests(postgres) == [] and await store.tail(0, 0) == []
    await store.transact(work(guest, note(newer, "s", 0), "ann"))
    with pytest.raises((asyncpg.UniqueViolationError, psycopg.Error, sqlalchemy.exc.DBAPIError)):
        await store.transact(work(guest, note(newer, "s", 1), "ann"))
    assert await guests(postgres) == ["ann"] and len(await store.tail(0, 0)) == 1


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("error", [FileNotFoundError, TimeoutError, EOFError])
async def test_an_error_of_the_functions_own_is_not_taken_for_a_lost_line(
    store: PostgresStore, error: type[Exception], is_async: bool
) -> None:
    def plain(tables: Any) -> Batch:
        raise error("theirs")

    async def awaited(tables: Any) -> Batch:
        raise error("theirs")

    with pytest.raises(error, match="theirs"):
        await store.transact(awaited if is_async else plain)


async def test_a_statement_with_too_few_values_is_no_lost_line(store: PostgresStore) -> None:
    async def awaited(tables: Any) -> Batch:
        await tables.execute("INSERT INTO guest VALUES ($1)")
        return Batch()

    with pytest.raises(asyncpg.InterfaceError, match="expects 1 argument"):
        await store.transact(awaited)


async def test_a_function_that_goes_on_after_a_failed_statement_is_refused(
    postgres: str, store: PostgresStore
) -> None:
    async def awaited(tables: Any) -> Batch:
        await tables.execute("INSERT INTO guest VALUES ('ann')")
        with suppress(asyncpg.DivisionByZeroError):
            await tables.execute("SELECT 1 / 0")
        return Batch(put=(Put(Ref("s", "k"), b"1"),))

    with pytest.raises(NotAllowed, match="A statement failed"):
        await store.transact(awaited)
    assert await guests(postgres) == [] and await store.read((Ref("s", "k"),)) == [None]


@pytest.mark.parametrize("guest", [by_asyncpg, by_psycopg])
async def test_a_constraint_that_is_checked_at_the_commit_fails_the_function(
    postgres: str, store: PostgresStore, guest: Any
) -> None:
    async with session_at(postgres) as session:
        late = "UNIQUE (name) DEFERRABLE INITIALLY DEFERRED"
        await session.execute(f"ALTER TABLE guest DROP CONSTRAINT guest_pkey, ADD {late}")
        await session.execute("INSERT INTO guest VALUES ('ann')")
    put = Batch(put=(Put(Ref("s", "k"), b"1"),))
    with pytest.raises(asyncpg.UniqueViolationError, match="guest_name_key"):
        await store.transact(work(guest, put, "ann"))
    assert await guests(postgres) == ["ann"] and await store.read((Ref("s", "k"),)) == [None]
    await store.transact(work(guest, put, "bob"))


@pytest.mark.parametrize("is_cut_off", [False, True])
async def test_a_session_that_ends_under_a_function_is_a_lost_line(
    postgres: str, store: PostgresStore, is_cut_off: bool
) -> None:
    async def awaited(tables: Any) -> Batch:
        ((backend,),) = await tables.execute("SELECT pg_backend_pid()")
        async with session_at(postgres) as session:
            await session.execute("SELECT pg_terminate_backend($1, 10000)", backend)
        if is_cut_off:
            tables.demand_open().terminate()
        await tables.execute("SELECT 1")
        return Batch()

    with pytest.raises(StoreUnavailable, match="othing was written"):
        await store.transact(awaited)


async def test_a_shard_is_held_only_behind_the_function(
    postgres: str, store: PostgresStore
) -> None:
    lease = await store.take(0, 0, "n")

    async def slow(connection: asyncpg.Connection) -> None:
        await by_asyncpg(connection, "ann")
        await store.commit(note(lease, "s", 0))

    await store.transact(work(slow, note(lease, "t", 0)))
    assert [event.stream for event in await store.tail(0, 0)] == ["s", "t"]


async def test_a_function_that_ends_the_transaction_is_refused(
    postgres: str, store: PostgresStore
) -> None:
    async def ends(connection: asyncpg.Connection) -> None:
        await connection.execute("ROLLBACK")

    with pytest.raises((NotAllowed, asyncpg.PostgresError)):
        await store.transact(work(ends, Batch(put=(Put(Ref("s", "k"), b"1"),))))

    def ends_too(connection: psycopg.Connection[Any]) -> None:
        connection.execute("ROLLBACK")

    with pytest.raises((NotAllowed, psycopg.Error)):
        await store.transact(work(ends_too, Batch(put=(Put(Ref("s", "k"), b"1"),))))
    assert await store.read((Ref("s", "k"),)) == [None]
    await store.transact(work(by_psycopg, Batch(), "ann"))


async def test_behind_a_pooler_a_statement_that_is_repeated_is_not_left_prepared(
    pooler: Pooler,
) -> None:
    """The next function gets the same session of the server, by another name of the pooler's."""

    def repeats(connection: psycopg.Connection[Any], text: str) -> None:
        for number in range(8):
            asked = connection.execute(f"SELECT '{text}', %s::int".encode(), (number,))
            assert asked.fetchone() == (text, number)

    async with store_at(pooler.address) as store:
        for text in ("one", "two", "three"):
            await store.transact(work(repeats, Batch(), text))


async def test_of_several_servers_a_plain_function_gets_the_one_that_leads(postgres: str) -> None:
    with server_of_its_own() as standby:
        await standby.answering()
        standby.stop()
        (standby.folder / "database" / "standby.signal").touch()
        await standby.answering()
        both = postgres.replace("@", f"@127.0.0.1:{standby.port},")
        async with store_at(both) as store:
            first = work(lambda connection: connection.execute("SELECT 1"), Batch())
            first.manner = "psycopg.Connection"
            await store.transact(first)


async def test_plain_and_async_are_not_confused(store: PostgresStore) -> None:
    async def wrong(connection: psycopg.Connection[Any]) -> None: ...
    def wrong_too(connection: asyncpg.Connection) -> None: ...

    with pytest.raises(NotAllowed, match="`def`"):
        await store.transact(work(wrong, Batch()))
    with pytest.raises(NotAllowed, match="`async def`"):
        await store.transact(work(wrong_too, Batch()))


async def test_a_function_that_takes_too_long_is_rolled_back(
    postgres: str, store: PostgresStore
) -> None:
    ended = threading.Event()

    def sleeps(connection: psycopg.Connection[Any]) -> None:
        try:
            connection.execute("INSERT INTO guest VALUES ('late')")
            connection.execute("SELECT pg_sleep(60)")
        finally:
            ended.set()

    async def sleeps_too(connection: asyncpg.Connection) -> None:
        await connection.execute("INSERT INTO guest VALUES ('late')")
        await connection.execute("SELECT pg_sleep(60)")

    for function in (sleeps, sleeps_too):
        with pytest.raises(TransactTooLong):
            await store.transact(work(function, Batch()), limit_seconds=1.0)
    await asyncio.to_thread(ended.wait, 60)
    assert ended.is_set() and await guests(postgres) == []
    await store.transact(work(by_session, Batch(), "ann"))


@pytest.mark.parametrize("guest", [by_asyncpg, by_async_session, by_psycopg, by_session])
@pytest.mark.parametrize("where", ["drop", "deafen"])
async def test_a_line_cut_at_the_commit_is_looked_up(
    postgres: str, store: PostgresStore, guest: Any, where: str
) -> None:
    name = f"store_{ids.token(40)}"
    async with line_to(postgres) as line, store_at(line.address, schema=name) as distant:
        lease = await distant.take(0, 0, "n")
        passing = line.rule

        def cut(data: bytes) -> str:
            if b"COMMIT" not in data or b"COMMITTED" in data:
                return "pass"
            line.rule = passing
            return where

        line.rule = cut
        try:
            await distant.transact(work(guest, note(lease, "s", 0), "ann"))
            done = True
        except OutliveError:
            done = False
        assert line.cuts == [where]
        there = await guests(postgres)
        assert (there == ["ann"]) is done and len(await distant.tail(0, 0)) == done
        assert done is (where == "deafen")
