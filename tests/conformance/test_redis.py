"""The Redis store against the suite every store of cells passes, each test under its own prefix."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cell_servers import CellServer

from outlive import ids
from outlive.model import Storage
from outlive.stores.redis import RedisStore
from outlive.testing.conformance import CellConformance


class TestRedisStore(CellConformance):
    durable = True  # what is in the server is there after a close; its own death is another matter
    storage: Storage = "volatile"
    operations = 60

    @pytest.fixture(autouse=True)
    def _own_prefix(self, valkey: CellServer) -> None:
        self.address, self.prefix = valkey.address, ids.token(40)

    async def open_store(self) -> RedisStore:
        store = RedisStore(self.address, self.clock, prefix=self.prefix)
        await store.open()
        return store

    async def reopen(self, store: Any) -> RedisStore:
        await store.close()
        return await self.open_store()
