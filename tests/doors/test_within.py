"""A process and a signal inside the caller's own transaction: with every driver, and killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import django
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from tests.doors.manual import TRANSACTIONS, written_out
from tests.doors.programs import (
    WISHING_IN_ITS_OWN,
    WISHING_IN_THE_STORES,
    line_of,
    node,
    program,
    until,
)
from tests.stores.servers import session_at, store_at

from outlive import Outlive, Run, ids
from outlive.errors import (
    InvalidInput,
    KeyReused,
    NoSuchProcess,
    NotAllowed,
    ProcessTerminal,
    SignalNotExpected,
    TooLarge,
)
from outlive.stores.memory import MemoryStore

TABLE = "CREATE TABLE IF NOT EXISTS basket (id serial, what text)"
INSERT = "INSERT INTO basket (what) VALUES ('tea')"
COUNT = "SELECT count(*) FROM basket"


async def order(run: Run, what: str) -> str:
    paid = await run.wait("paid", within=600)
    return f"{what} for {paid}"


async def bill(run: Run, what: str) -> str:
    """Goes on after its payment, so that a second one always finds it alive."""
    paid = await run.wait("paid", within=600)
    await run.wait("closed", within=600)
    return f"{what} for {paid}"


async def greeting(run: Run, name: str) -> str:
    return f"hello {name}"


def shop(store: Any) -> Outlive:
    app = Outlive(store)
    app.process("/orders", version=1, signals={"paid": int})(order)
    app.process("/bills", version=1, signals={"paid": int, "closed": None})(bill)
    app.process("/greetings", version=1)(greeting)
    return app


class Site:
    """A schema of the test's own, the caller's table, and a node."""

    def __init__(self, address: str, schema: str) -> None:
        self.plain, self.schema = address, schema
        self.app = shop(f"{address}?schema={schema}")
        self.client_app = shop(f"{address}?schema={schema}")

    async def rows(self) -> int:
        async with session_at(self.plain) as session:
            count: int = await session.fetchval(COUNT)
            return count


@pytest.fixture
async def site(postgres: str) -> AsyncIterator[Site]:
    found = Site(postgres, f"store_{ids.token(40)}")
    async with session_at(postgres) as session:
        await session.execute(TABLE)
        await session.execute("TRUNCATE basket")
    async with found.app:
        yield found


def url(address: str, driver: str) -> str:
    return address.replace("postgresql:", f"postgresql+{driver}:")


# --- every kind of connection -------------------------------------------------------------------


@asynccontextmanager
async def with_asyncpg(address: str) -> AsyncIterator[tuple[Any, Any]]:
    async with session_at(address) as session:
        await session.execute("SELECT 1")
        async with session.transaction():
            yield session, session.execute


@asynccontextmanager
async def with_an_asyncpg_pool(address: str) -> AsyncIterator[tuple[Any, Any]]:
    async with asyncpg.create_pool(address, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection, connection.transaction(isolation="serializable"):
            yield connection, connection.execute


@asynccontextmanager
async def with_async_psycopg(address: str) -> AsyncIterator[tuple[Any, Any]]:
    async with await psycopg.AsyncConnection.connect(address) as connection:
        yield connection, connection.execute


@asynccontextmanager
async def with_an_async_session(address: str) -> AsyncIterator[tuple[Any, Any]]:
    engine = create_async_engine(url(address, "asyncpg"))
    try:
        async with AsyncSession(engine) as session, session.begin():
            yield session, lambda statement: session.execute(sqlalchemy.text(statement))
    finally:
        await engine.dispose()


@asynccontextmanager
async def with_an_async_engine(address: str) -> AsyncIterator[tuple[Any, Any]]:
    engine = create_async_engine(url(address, "psycopg"))
    try:
        async with engine.begin() as connection:
            yield connection, lambda statement: connection.execute(sqlalchemy.text(statement))
    finally:
        await engine.dispose()


@contextmanager
def with_psycopg(address: str) -> Iterator[tuple[Any, Any]]:
    with psycopg.connect(address, row_factory=psycopg.rows.dict_row) as connection:
        yield connection, connection.execute


@contextmanager
def with_a_session(address: str) -> Iterator[tuple[Any, Any]]:
    engine = sqlalchemy.create_engine(url(address, "psycopg"))
    try:
        with Session(engine) as session, session.begin():
            yield session, lambda statement: session.execute(sqlalchemy.text(statement))
    finally:
        engine.dispose()


@contextmanager
def with_django(address: str) -> Iterator[tuple[Any, Any]]:
    from django.db import transaction

    connection = django_connection(address)
    try:
        with transaction.atomic(using="default"):
            yield connection, lambda statement: connection.cursor().execute(statement)
    finally:
        connection.close()


def django_connection(address: str) -> Any:
    from urllib.parse import urlsplit

    from django.conf import settings
    from django.db import connections

    if not settings.configured:
        settings.configure(DATABASES={"default": {}})
        django.setup()
    parts = urlsplit(address)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path.strip("/"),
        "USER": parts.username,
        "HOST": parts.hostname,
        "PORT": parts.port,
    }
    connections.settings = connections.configure_settings({"default": database})
    return connections["default"]


ASYNC = [
    with_asyncpg,
    with_an_asyncpg_pool,
    with_async_psycopg,
    with_an_async_session,
    with_an_async_engine,
]
PLAIN = [with_psycopg, with_a_session, with_django]


class Regret(Exception):
    """The caller rolls back."""


@pytest.mark.parametrize("connect", ASYNC)
async def test_an_async_transaction_starts_and_signals(site: Site, connect: Any) -> None:
    async with connect(site.plain) as (connection, execute):
        await execute(INSERT)
        handle = await site.client_app.within(connection).start(order, "tea", key="k")
        again = await site.client_app.within(connection).start(order, "tea", key="k")
        assert again.id == handle.id
        await site.client_app.within(connection).signal(handle.id, "paid", 3)
        with pytest.raises(NoSuchProcess):
            await site.app.view(handle.id)
    assert await site.app.handle(handle.id).result(within=60) == "tea for 3"
    assert await site.rows() == 1
    with suppress(Regret):
        async with connect(site.plain) as (connection, execute):
            await execute(INSERT)
            never = await site.client_app.within(connection).start(order, "salt")
            raise Regret
    with pytest.raises(NoSuchProcess):
        await site.app.view(never.id)
    assert await site.rows() == 1


@pytest.mark.parametrize("connect", PLAIN)
async def test_a_plain_transaction_starts_and_signals(site: Site, connect: Any) -> None:
    client = site.client_app.blocking()

    def commit() -> str:
        with connect(site.plain) as (connection, execute):
            execute(INSERT)
            handle = client.within(connection).start(order, "tea", key="k")
            assert client.within(connection).start(order, "tea", key="k").id == handle.id
            client.within(connection).signal(handle.id, "paid", 3)
            with pytest.raises(NoSuchProcess):
                handle.view()
        assert handle.result(within=60) == "tea for 3"
        return handle.id

    def regret() -> str:
        with connect(site.plain) as (connection, execute):
            execute(INSERT)
            never = client.within(connection).start(order, "salt")
            kept.append(never.id)
            raise Regret

    kept: list[str] = []
    try:
        id = await asyncio.to_thread(commit)
        assert (await site.app.view(id)).status == "done"
        with pytest.raises(Regret):
            await asyncio.to_thread(regret)
        with pytest.raises(NoSuchProcess):
            await site.app.view(kept[0])
        assert await site.rows() == 1
    finally:
        await asyncio.to_thread(client.close)


# --- what is seen when --------------------------------------------------------------------------


async def test_after_the_commit_and_before_the_claim_it_is_queued(postgres: str) -> None:
    app = shop(f"{postgres}?schema=store_{ids.token(40)}")
    await app.open_client()
    try:
        async with session_at(postgres) as session, session.transaction():
            handle = await app.within(session).start(order, "tea")
        assert await handle.status() == "queued"
        assert [line.id for line in (await app.processes("queued"))[0]] == [handle.id]
        await handle.signal("paid", 4)
        node = shop(app.store_address)
        async with node:
            assert await handle.result(within=60) == "tea for 4"
    finally:
        await app.close()


async def test_a_nudge_after_the_commit_makes_it_begin_at_once(site: Site) -> None:
    async with session_at(site.plain) as session, session.transaction():
        handle = await site.app.within(session).start(greeting, "you")
    await site.app.nudge()
    assert await handle.result(within=60) == "hello you"
    async with store_at(site.plain, schema=site.schema) as other:
        seen = await other.changed(await other.changed(-1, 0.0), 0.0)
        await site.client_app.open_client()
        await site.client_app.nudge()
        assert await other.changed(seen, 20.0) > seen
    await site.client_app.close()


async def test_nodes_go_on_while_a_callers_transaction_stays_open(site: Site) -> None:
    async with session_at(site.plain) as session, session.transaction():
        held = await site.app.within(session).start(greeting, "late", key="k")
        await site.app.within(session).signal(held.id, "any", 1, key="s")
        for number in range(30):
            other = await site.app.start(greeting, f"{number}", key="k" if number == 0 else None)
            assert await other.result(within=60) == f"hello {number}"
    assert await held.result(within=60) == "hello late"


async def test_one_key_in_two_transactions_is_one_process(site: Site) -> None:
    async def start() -> str:
        async with session_at(site.plain) as session, session.transaction():
            handle = await site.app.within(session).start(greeting, "you", key="k")
            await session.execute(INSERT)
            return handle.id

    assert len(set(await asyncio.gather(*(start() for _ in range(6))))) == 1
    async with session_at(site.plain) as session, session.transaction():
        with pytest.raises(KeyReused):
            await site.app.within(session).start(greeting, "somebody else", key="k")


async def test_a_signal_with_a_key_counts_once(site: Site) -> None:
    handle = await site.app.start(bill, "tea")
    for cents in (1, 2):
        async with session_at(site.plain) as session, session.transaction():
            await site.app.within(session).signal(handle.id, "paid", cents, key="k")
    await handle.signal("closed")
    assert await handle.result(within=60) == "tea for 1"
    kinds = [entry.kind for entry in await site.app.journal(handle.id)]
    assert kinds.count("signal") == 2, "paid once, and closed"


async def test_what_is_refused_leaves_the_transaction_as_it_is(site: Site) -> None:
    done = await site.app.start(greeting, "you")
    await done.result(within=60)
    waiting = await site.app.start(order, "tea")
    async with session_at(site.plain) as session, session.transaction():
        within = site.app.within(session)
        with pytest.raises(InvalidInput):
            await within.start(order, 7)
        with pytest.raises(TooLarge):
            await within.start(order, "x" * 2_000_000)
        with pytest.raises(NoSuchProcess):
            await within.signal("order_nobody", "paid", 1)
        with pytest.raises(ProcessTerminal):
            await within.signal(done.id, "any")
        with pytest.raises(SignalNotExpected):
            await within.signal(waiting.id, "unpaid", 1)
        with pytest.raises(InvalidInput):
            await within.signal(waiting.id, "paid", "much")
        await session.execute(INSERT)
    assert await site.rows() == 1


# --- what is no such connection -----------------------------------------------------------------


async def test_connections_that_cannot_carry_are_refused_with_the_remedy(
    site: Site, tmp_path: Path
) -> None:
    client = site.app.blocking()
    async with session_at(site.plain) as session:
        with pytest.raises(NotAllowed, match="No transaction is open"):
            site.app.within(session)
        async with session.transaction():
            with pytest.raises(NotAllowed, match=r"await app\.within"):
                client.within(session)
            with pytest.raises(NotAllowed, match="none but its own"):
                shop(f"sqlite:///{tmp_path}/store.db").within(session)
    with psycopg.connect(site.plain, autocommit=True) as plain:
        with pytest.raises(NotAllowed, match="No transaction is open"):
            client.within(plain)
        with plain.transaction(), pytest.raises(NotAllowed, match=r"app\.blocking"):
            site.app.within(plain)
    with pytest.raises(NotAllowed, match="no connection"):
        site.app.within(object())
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as light, pytest.raises(NotAllowed, match="leads to sqlite"):
        client.within(light)
    engine.dispose()
    engine = sqlalchemy.create_engine(
        url(site.plain, "psycopg"), execution_options={"isolation_level": "AUTOCOMMIT"}
    )
    with engine.connect() as alone, pytest.raises(NotAllowed, match="No transaction"):
        client.within(alone)
    engine.dispose()


async def test_a_connection_to_another_store_is_refused(site: Site) -> None:
    async with shop(f"{site.plain}?schema=store_{ids.token(40)}") as other:
        other._given = site.app._given  # as after a change of the database behind an address
        async with session_at(site.plain) as session, session.transaction():
            with pytest.raises(NotAllowed, match="another store"):
                await other.within(session).start(order, "tea")


# --- the store's own transaction ----------------------------------------------------------------


def stores(path: Path, postgres: str) -> dict[str, Any]:
    return {
        "sqlite": f"sqlite:///{path}/store.db",
        "postgres": f"{postgres}?schema=store_{ids.token(40)}",
        "memory": MemoryStore(),
    }


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "memory"])
async def test_the_stores_own_transaction_carries_on_every_store(
    tmp_path: Path, postgres: str, kind: str
) -> None:
    app = shop(stores(tmp_path, postgres)[kind])

    def buy(tables: Any, what: str, fail: bool) -> str:
        within = app.blocking().within(tables)
        id = within.start(order, what, key=what).id
        assert within.start(order, what, key=what).id == id
        within.signal(id, "paid", 3, key="once")
        within.signal(id, "paid", 4, key="once")
        if fail:
            kept.append(id)
            raise Regret
        return id

    kept: list[str] = []
    async with app:
        with pytest.raises(Regret):
            await app.transact(buy, "tea", True)
        with pytest.raises(NoSuchProcess):
            await app.view(kept[0])
        id = await app.transact(buy, "tea", False)
        assert await app.handle(id).result(within=60) == "tea for 3"
        assert await app.transact(buy, "tea", False) == id, "answered as before, also after the end"
        with pytest.raises(ProcessTerminal):
            await app.handle(id).signal("paid", 3)


async def test_a_step_starts_another_process_with_its_own_record(tmp_path: Path) -> None:
    app = shop(f"sqlite:///{tmp_path}/store.db")

    def book(tables: Any, name: str) -> str:
        tables.execute("CREATE TABLE IF NOT EXISTS booked (name text)")
        tables.execute("INSERT INTO booked VALUES (?)", (name,))
        return app.blocking().within(tables).start(greeting, name).id

    @app.process("/bookings", version=1)
    async def booking(run: Run, name: str) -> str:
        return await run.transact(book, name)

    async with app:
        child = await (await app.start(booking, "you")).result(within=60)
        assert await app.handle(child).result(within=60) == "hello you"
        assert len((await app.processes(type="greeting"))[0]) == 1


async def test_an_async_function_of_the_stores_own_transaction(site: Site, tmp_path: Path) -> None:
    async def buy(tables: Any) -> str:
        await tables.execute(INSERT)
        return (await site.app.within(tables).start(greeting, "you")).id

    id = await site.app.transact(buy)
    assert await site.app.handle(id).result(within=60) == "hello you"
    assert await site.rows() == 1
    for other in (shop(f"sqlite:///{tmp_path}/store.db"), shop(MemoryStore())):
        async with other:
            with pytest.raises(NotAllowed, match="plain"):
                await other.transact(buy)


async def test_any_text_is_taken_as_it_is(site: Site) -> None:
    name = "ü' \u0000 \U0001f600 %s $1"
    async with session_at(site.plain) as session, session.transaction():
        handle = await site.app.within(session).start(greeting, name)
    assert await handle.result(within=60) == f"hello {name}"


# --- the manual ---------------------------------------------------------------------------------


def test_the_programs_of_the_manual_do_what_they_say(tmp_path: Path, postgres: str) -> None:
    names = written_out("transactions.md", tmp_path)
    tried = ["booking.py", "drivers.py", "orders.py", "django_orders.py", "lite.py"]
    assert names == tried
    address = f"{postgres}?schema=store_{ids.token(40)}"
    for code in TRANSACTIONS:
        with program(address, "-c", code, folder=tmp_path) as trying:
            assert line_of(trying) == "well", code


async def test_the_rights_that_the_manual_names_are_enough(site: Site) -> None:
    schema, role = site.schema, f"clerk_{ids.token(40)}"
    async with session_at(site.plain) as session:
        await session.execute(
            f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA {schema} TO {role};"
            f"GRANT SELECT ON {schema}.store, {schema}.cell TO {role};"
            f"GRANT INSERT, UPDATE ON {schema}.cell TO {role};"
            f"GRANT INSERT ON {schema}.mark TO {role};"
            f"GRANT SELECT, USAGE ON SEQUENCE {schema}.version_block TO {role}"
        )
        async with session.transaction():
            await session.execute(f"SET LOCAL ROLE {role}")
            handle = await site.app.within(session).start(order, "tea", key="k")
            await site.app.within(session).signal(handle.id, "paid", 3, key="k")
    assert await handle.result(within=60) == "tea for 3"


# --- death --------------------------------------------------------------------------------------


def wishes(app: Outlive) -> tuple[list[str], list[str]]:
    """What was wished for and committed, and what was granted."""

    def look(tables: Any) -> tuple[list[str], list[str]]:
        rows = [tables.execute(f"SELECT name FROM {table}") for table in ("wish", "granted")]
        wished, granted = (sorted(name for (name,) in found) for found in rows)
        return wished, granted

    return app.blocking().transact(look)


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_whoever_is_killed_what_was_committed_begins_exactly_once(
    tmp_path: Path, postgres: str, kind: str
) -> None:
    address, wishing = f"sqlite:///{tmp_path}/store.db", WISHING_IN_THE_STORES
    if kind == "postgres":
        address, wishing = f"{postgres}?schema=store_{ids.token(40)}", WISHING_IN_ITS_OWN
        asyncio.run(clean(postgres))
    app = Outlive(address)
    chance = ids.seeded("who is killed when")
    told: set[str] = set()
    with node(address):
        pass  # the tables are there
    for _ in range(6):
        with program(address, "-c", wishing) as wisher, node(address) as worker:
            for _ in range(chance.randint(5, 30)):
                told.add(line_of(wisher))
            for process in chance.sample([wisher, worker], 2):
                process.kill()
    with node(address):
        until(lambda: len(set(wishes(app)[1])) == len(wishes(app)[0]), "all is granted")
        wished, granted = wishes(app)
    app.blocking().close()
    assert granted == wished, "each began once, and what it did with its record is there once"
    assert told - {""} <= set(wished), "what was acknowledged is there"
    assert len(wished) >= 30


async def clean(address: str) -> None:
    async with session_at(address) as session:
        await session.execute("DROP TABLE IF EXISTS wish, granted")
