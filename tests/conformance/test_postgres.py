"""The PostgreSQL store against the suite every store passes, each test in a schema of its own."""

from __future__ import annotations

from typing import Any

import pytest

from outlive import ids
from outlive.model import Batch
from outlive.store import Store
from outlive.stores.postgres import PostgresStore
from outlive.testing.conformance import StoreConformance

TABLE = "CREATE TABLE IF NOT EXISTS seat_{0} (key TEXT PRIMARY KEY, value TEXT)"
WRITE = "INSERT INTO seat_{0} VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = $2"
READ = "SELECT value FROM seat_{0} WHERE key = $1"


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
