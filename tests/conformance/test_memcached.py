"""The memcached store against the suite of single cells, each test under its own prefix."""

from __future__ import annotations

import pytest
from tests.cell_servers import CellServer

from outlive import ids
from outlive.stores.memcached import MemcachedStore
from outlive.stores.memory import MemoryStore
from outlive.stores.redis import RedisStore
from outlive.testing.conformance import KeyedConformance


class TestMemcachedStore(KeyedConformance):
    @pytest.fixture(autouse=True)
    def _own_prefix(self, memcached: CellServer) -> None:
        self.servers, self.prefix = f"127.0.0.1:{memcached.port}", ids.token(40)

    async def open_store(self) -> MemcachedStore:
        store = MemcachedStore(self.servers, self.clock, prefix=self.prefix)
        await store.open()
        return store


class TestRedisStoreByKey(KeyedConformance):
    @pytest.fixture(autouse=True)
    def _own_prefix(self, valkey: CellServer) -> None:
        self.address, self.prefix = valkey.address, ids.token(40)

    async def open_store(self) -> RedisStore:
        store = RedisStore(self.address, self.clock, prefix=self.prefix)
        await store.open()
        return store


class TestMemoryStoreByKey(KeyedConformance):
    async def open_store(self) -> MemoryStore:
        store = MemoryStore(clock=self.clock)
        await store.open()
        return store
