"""`run.transact`: the caller's rows and the step's record are there, or neither."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import asyncpg
import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from tests.service import Dying, Outside, Place, check_grammar, crash, has_status, until
from tests.service import process as plain_process
from tests.stores.servers import session_at

from outlive import Outlive, Retry, Run, StepFailed, Unknown, attempt, ids, step
from outlive.stores.postgres import PostgresStore

world = Outside()


@pytest.fixture(autouse=True)
def fresh(outside: Outside) -> None:
    global world
    world = outside


def insert(tables: Any, name: str) -> int:
    world.do("", f"insert {name}")
    tables.execute("INSERT INTO person VALUES (?)", (name,))
    return len(tables.execute("SELECT * FROM person"))


def process(body: Any) -> Any:
    def declare(app: Outlive) -> None:
        app.schema(lambda db: db.execute("CREATE TABLE IF NOT EXISTS person (name TEXT UNIQUE)"))

        async def thing(run: Run) -> Any:
            return await body(run)

        app.process("/things", version=1)(thing)

    return declare


@pytest.mark.parametrize("when", ["before", "after"])
async def test_rows_and_record_are_written_together_or_not_at_all(place: Place, when: str) -> None:
    body = process(lambda run: run.transact(insert, "ann"))
    store = Dying(place.store(), 0, when)
    app = await place.open(body, store=store)
    store._at = store.commits + 2
    begun = await app.begin("thing", b"null")
    await until(store.died.is_set)
    await crash(app)
    app = await place.open(body)
    assert await app.result(begun.id, within=60) == 1
    assert world.calls["insert ann"] == 1, "before: it had not begun; after: it is recorded"
    check_grammar(await app.journal(begun.id))


async def test_a_violated_constraint_is_the_step_s_own_failure_and_leaves_nothing(
    place: Place,
) -> None:
    twice = step(retry=Retry(attempts=2, base_seconds=0.001), name="twice")(insert)

    async def body(run: Run) -> str:
        await run.transact(insert, "ann")
        try:
            await run.transact(twice, "ann")
        except StepFailed as error:
            return error.failure_type
        return "?"

    app = await place.open(process(body))
    begun = await app.begin("thing", b"null")
    assert await app.result(begun.id, within=60) == "ConstraintError"
    assert world.calls["insert ann"] == 3
    shown = (await app.view(begun.id)).steps
    assert [(found.kind, found.outcome) for found in shown] == [
        ("transact", "done"), ("transact", "failed"),
    ]  # fmt: skip


async def test_what_a_function_must_not_do_is_refused_and_recorded(place: Place) -> None:
    def forbidden(tables: Any) -> None:
        tables.execute("DELETE FROM outlive_event")

    async def body(run: Run) -> str:
        try:
            await run.transact(forbidden)
        except StepFailed as error:
            return error.failure_type
        return "?"

    app = await place.open(process(body))
    begun = await app.begin("thing", b"null")
    assert await app.result(begun.id, within=60) == "NotAllowed"


async def test_a_function_that_raises_is_tried_again_and_its_rows_are_taken_back(
    place: Place,
) -> None:
    tries = []

    def second_time(tables: Any) -> int:
        tables.execute("INSERT INTO person VALUES (?)", (f"try {len(tries)}",))
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("first")
        return len(tables.execute("SELECT * FROM person"))

    declared = step(retry=Retry(attempts=2, base_seconds=0.001), name="second_time")(second_time)
    app = await place.open(process(lambda run: run.transact(declared)))
    begun = await app.begin("thing", b"null")
    assert await app.result(begun.id, within=60) == 1
    view = await app.view(begun.id)
    assert [found.outcome for found in view.steps[0].attempts] == ["failed", "done"]


async def test_one_that_fails_when_its_branch_is_over_is_not_tried_again(place: Place) -> None:
    begun, over = threading.Event(), threading.Event()

    @step(retry=Retry(attempts=3, base_seconds=0.01, cap_seconds=0.02))
    def slow(tables: Any) -> None:
        world.do("", "slow")
        begun.set()
        assert over.wait(60)
        if world.calls["slow"] == 1:
            raise ConnectionError("not now")

    async def writes(run: Run) -> None:
        await run.transact(slow)

    async def breaks(run: Run) -> None:
        await asyncio.to_thread(begun.wait, 60)
        asyncio.get_running_loop().call_later(0.05, over.set)  # the other one is cut off by then
        raise LookupError("no")

    async def both(run: Run) -> str:
        try:
            await run.gather(writes, breaks)
        except LookupError:
            return "on"
        return "never"

    app = await place.open(process(both))
    begun_id = (await app.begin("thing", b"null")).id
    assert await app.result(begun_id, within=60) == "on"
    assert world.calls["slow"] == 1
    assert [line.kind for line in await app.journal(begun_id)] == ["started", "decided", "ended"]


async def test_a_signal_that_comes_during_a_transaction_is_kept(place: Place) -> None:
    async def body(run: Run) -> Any:
        for number in range(10):
            await run.keyed(number).transact(insert, f"{number}")
        return [await run.wait("go") for _ in range(10)]

    app = await place.open(process(body))
    begun = await app.begin("thing", b"null")
    for number in range(10):
        await app.signal(begun.id, "go", str(number).encode())
    assert await app.result(begun.id, within=60) == list(range(10))
    check_grammar(await app.journal(begun.id))


async def test_state_set_before_a_transaction_is_durable_with_it(place: Place) -> None:
    async def body(run: Run) -> None:
        run.state = "with the row"
        await run.transact(insert, "ann")
        await run.wait("go")

    app = await place.open(process(body))
    begun = await app.begin("thing", b"null")
    view = await has_status(app, begun.id, "waiting")
    assert bytes(view.data) == b'"with the row"'
    kinds = [entry.kind for entry in await app.journal(begun.id)]
    assert kinds[1:3] == ["state", "step"]


# --- with the caller's own driver, on PostgreSQL ------------------------------------------------

MAKE = "CREATE TABLE IF NOT EXISTS traveller (name text PRIMARY KEY)"


async def by_asyncpg(connection: asyncpg.Connection, name: str) -> int:
    world.do(attempt().key, f"insert {name}")
    await connection.execute("INSERT INTO traveller VALUES ($1)", name)
    count: int = await connection.fetchval("SELECT count(*) FROM traveller")
    return count


async def by_session(session: AsyncSession, name: str) -> int:
    world.do(attempt().key, f"insert {name}")
    await session.execute(text("INSERT INTO traveller VALUES (:name)"), {"name": name})
    count: int = await session.scalar(text("SELECT count(*) FROM traveller"))
    return count


def by_psycopg(connection: psycopg.Connection[Any], name: str) -> int:
    world.do(attempt().key, f"insert {name}")
    connection.execute("INSERT INTO traveller VALUES (%s)", (name,))
    row = connection.execute("SELECT count(*) FROM traveller").fetchone()
    assert row is not None
    return int(row[0])


async def by_tables(tables: Any, name: str) -> int:
    world.do(attempt().key, f"insert {name}")
    await tables.execute("INSERT INTO traveller VALUES ($1)", (name,))
    return len(await tables.execute("SELECT * FROM traveller"))


async def take_back(connection: asyncpg.Connection, name: str, made: int | Unknown) -> None:
    world.do(attempt().key, f"delete {name}")
    assert made == 1 and attempt().undoing
    await connection.execute("DELETE FROM traveller WHERE name = $1", name)


@pytest.mark.parametrize("insert", [by_asyncpg, by_session, by_psycopg, by_tables])
async def test_the_callers_driver_writes_rows_and_record_once(
    place: Place, postgres: str, insert: Any
) -> None:
    async with session_at(postgres) as session:
        await session.execute(f"{MAKE}; TRUNCATE traveller")
    schema = f"store_{ids.token(40)}"

    async def body(run: Run) -> int:
        count = await run.transact(insert, "ann")
        await run.wait("on", within=600)
        return count + await run.transact(insert, "bob")

    store = PostgresStore(postgres, schema=schema, shards=4)
    app = await place.open(plain_process(body), store=store)
    begun = await app.begin("thing", b"null")
    await has_status(app, begun.id, "waiting")
    await app.close()
    app = await place.open(
        plain_process(body), store=PostgresStore(postgres, schema=schema, shards=4)
    )
    await app.handle(begun.id).signal("on")
    assert await app.result(begun.id, within=60) == 3
    assert world.calls == {"insert ann": 1, "insert bob": 1}
    check_grammar(await app.journal(begun.id))
    async with session_at(postgres) as session:
        assert await session.fetchval("SELECT count(*) FROM traveller") == 2


@pytest.mark.parametrize("inserting", [by_asyncpg, by_psycopg])
async def test_an_undo_uses_the_callers_driver_too(
    place: Place, postgres: str, inserting: Any
) -> None:
    async with session_at(postgres) as session:
        await session.execute(f"{MAKE}; TRUNCATE traveller")
    undone = step(undo=take_back, name=f"undone {inserting.__name__}")(inserting)

    async def body(run: Run) -> None:
        await run.transact(undone, "ann")
        raise ValueError("no")

    store = PostgresStore(postgres, schema=f"store_{ids.token(40)}", shards=4)
    app = await place.open(plain_process(body), store=store)
    begun = await app.begin("thing", b"null")
    await has_status(app, begun.id, "rolled_back")
    assert world.calls == {"insert ann": 1, "delete ann": 1}
    async with session_at(postgres) as session:
        assert await session.fetchval("SELECT count(*) FROM traveller") == 0


@pytest.mark.parametrize("insert", [by_asyncpg, by_psycopg, by_tables])
async def test_on_sqlite_there_is_no_such_connection(place: Place, insert: Any) -> None:
    once = step(retry=Retry(attempts=1), name=f"once {insert.__name__}")(insert)

    async def body(run: Run) -> str:
        try:
            await run.transact(once, "ann")
        except StepFailed as error:
            return str(error)
        return ""

    app = await place.open(plain_process(body))
    begun = await app.begin("thing", b"null")
    assert "NotAllowed" in await app.result(begun.id, within=60)
    assert world.calls == {}
