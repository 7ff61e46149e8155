"""The SQLite store against the suite every store passes, on a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from outlive.model import Batch
from outlive.store import Store
from outlive.stores.sqlite import SQLiteStore
from outlive.testing.conformance import StoreConformance

TABLE = "CREATE TABLE IF NOT EXISTS seat (key TEXT PRIMARY KEY, value TEXT)"


class TestSQLiteStore(StoreConformance):
    durable = True

    @pytest.fixture(autouse=True)
    def _own_file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "store.db"

    async def open_store(self) -> Store:
        store = SQLiteStore(self.path, clock=self.clock)
        await store.open()
        return store

    async def reopen(self, store: Any) -> Store:
        await store.close()
        return await self.open_store()

    def write_row(self, connection: Any, key: str, value: str) -> None:
        connection.execute(TABLE)
        connection.execute("INSERT OR REPLACE INTO seat (key, value) VALUES (?, ?)", (key, value))

    async def read_row(self, store: Any, key: str) -> str | None:
        found: list[tuple[str]] = []

        def look(connection: Any) -> Batch:
            connection.execute(TABLE)
            found.extend(connection.execute("SELECT value FROM seat WHERE key = ?", (key,)))
            return Batch()

        await store.transact(look)
        return found[0][0] if found else None
