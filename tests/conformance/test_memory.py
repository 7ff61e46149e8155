"""The memory store against the suite it is the specification of, and its own limits."""

from __future__ import annotations

from typing import Any

import pytest

from outlive.model import Batch
from outlive.store import GROUP_BATCHES_MAX, Store
from outlive.stores.memory import MemoryStore
from outlive.testing.conformance import StoreConformance


class TestMemoryStore(StoreConformance):
    async def open_store(self) -> Store:
        store = MemoryStore(clock=self.clock)
        await store.open()
        return store

    def write_row(self, connection: Any, key: str, value: str) -> None:
        connection.setdefault("table", {})[key] = value

    async def read_row(self, store: Any, key: str) -> str | None:
        found: str | None = store.rows.get("table", {}).get(key)
        return found

    async def test_rows_changed_deep_inside_are_taken_back_too(self, store: MemoryStore) -> None:
        store.rows["table"] = {"k": "old"}

        def work(connection: Any) -> Batch:
            connection["table"]["k"] = "new"
            raise LookupError

        with pytest.raises(LookupError):
            await store.transact(work)
        assert store.rows == {"table": {"k": "old"}}

    async def test_a_group_over_its_limit_is_a_mistake(self, store: Store) -> None:
        with pytest.raises(ValueError, match="split the group"):
            await store.commit_group([Batch()] * (GROUP_BATCHES_MAX + 1))

    async def test_a_store_that_was_never_opened_has_the_number_of_shards_asked_for(self) -> None:
        store = MemoryStore(shards=3)
        assert store.shards == 3
        await store.open()
        assert [row.id for row in await store.owners()] == [0, 1, 2]
