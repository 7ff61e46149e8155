"""Blobs in a table: bounded, verified, and swept when nobody names them."""

from __future__ import annotations

import pytest
from tests.stores.servers import session_at, store_at

from outlive.clock import ManualClock
from outlive.errors import StoreCorrupt, StoreUnavailable, TooLarge
from outlive.stores.postgres_blobs import PostgresBlobs


async def test_an_altered_blob_is_noticed(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        name = await store.blobs.put(b"as it was")
        await session.execute(f"UPDATE {store.schema}.blob SET data = 'as it is'")
        with pytest.raises(StoreCorrupt, match="digest"):
            await store.blobs.get(name)


async def test_a_blob_has_a_largest_size(postgres: str) -> None:
    async with store_at(postgres) as store:
        small = PostgresBlobs(store, bytes_max=3)
        assert await small.get(await small.put(b"abc")) == b"abc"
        with pytest.raises(TooLarge):
            await small.put(b"abcd")


async def test_orphans_are_swept_by_age(postgres: str) -> None:
    clock = ManualClock()
    async with store_at(postgres, clock=clock) as store:
        blobs = PostgresBlobs(store)
        kept, orphan = await blobs.put(b"kept"), await blobs.put(b"orphan")
        clock.advance(3600)
        young = await blobs.put(b"young")
        assert await blobs.sweep({kept}, 1800) == 1
        assert [await blobs.get(name) for name in (kept, young)] == [b"kept", b"young"]
        with pytest.raises(KeyError):
            await blobs.get(orphan)


async def test_a_closed_store_keeps_no_blobs(postgres: str) -> None:
    async with store_at(postgres) as store:
        await store.close()
        with pytest.raises(StoreUnavailable):
            await store.blobs.put(b"x")
