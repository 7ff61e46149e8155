"""The PostgreSQL store against the suite every store passes, each test in a schema of its own.

On the newest server, with all rights; on an older one from the system's packages, as a role that
owns one schema and may do nothing else; and through a pooler that lends connections by the
transaction.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.postgres_server import Pooler

from outlive import ids
from outlive.model import Batch
from outlive.store import Store
from outlive.stores.postgres import PostgresStore
from outlive.testing.conformance import StoreConformance

TABLE = "CREATE TABLE IF NOT EXISTS seat_{0} (key TEXT PRIMARY KEY, value TEXT)"
WRITE = "INSERT INTO seat_{0} VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = $2"
READ = "SELECT value FROM seat_{0} WHERE key = $1"

NARROW = """
CREATE ROLE narrow LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
REVOKE ALL ON DATABASE narrow FROM PUBLIC;
GRANT CONNECT ON DATABASE narrow TO narrow;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
"""


class TestPostgresStore(StoreConformance):
    durable = True

    @pytest.fixture(autouse=True)
    def _own_schema(self, postgres: str) -> None:
        self.address, self.name = postgres, ids.token(40)

    async def open_store(self) -> Store:
        schema = f"store_{self.name}"
        store = PostgresStore(self.address, clock=self.clock, schema=schema)
        await store.open()
        return store

    async def reopen(self, store: Any) -> Store:
        await store.close()
        return await self.open_store()

    def write_row(self, connection: Any, key: str, value: str) -> None:
        connection.execute(TABLE.format(self.name))
        connection.execute(WRITE.format(self.name), (key, value))

    async def read_row(self, store: Any, key: str) -> str | None:
        found: list[tuple[str]] = []

        def look(connection: Any) -> Batch:
            connection.execute(TABLE.format(self.name))
            found.extend(connection.execute(READ.format(self.name), (key,)))
            return Batch()

        await store.transact(look)
        return found[0][0] if found else None


class TestPostgresStoreOfANarrowRoleOnAnOlderServer(TestPostgresStore):
    operations = 60

    @pytest.fixture(autouse=True)
    async def _own_schema(self, narrow: str) -> None:  # type: ignore[override]
        self.name = ids.token(40)
        admin = await asyncpg.connect(narrow)
        await admin.execute(f"CREATE SCHEMA store_{self.name} AUTHORIZATION narrow")
        await admin.close()
        own = f"?search_path=store_{self.name}"
        self.address = narrow.replace("postgres@", "narrow@") + own


class TestPostgresStoreBehindAPooler(TestPostgresStore):
    operations = 40

    @pytest.fixture(autouse=True)
    def _own_schema(self, pooler: Pooler) -> None:  # type: ignore[override]
        self.address, self.name = pooler.address, ids.token(40)


@pytest.fixture(scope="session")
def narrow(older_postgres: str) -> str:
    """The address of a database in which `public` is nobody's, for its administrator."""
    address = older_postgres.replace("/postgres", "/narrow").replace("//narrow@", "//postgres@")

    async def make() -> None:
        for place, statements in ((older_postgres, "CREATE DATABASE narrow"), (address, NARROW)):
            admin = await asyncpg.connect(place)
            await admin.execute(statements)
            await admin.close()

    asyncio.run(make())
    return address
