"""The stores that the kinds on cells are tried on: each open, empty, and on a clock of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from outlive import ids
from outlive.clock import Clock

STORES = ("memory", "postgres", "sqlite", "valkey")
ALL_STORES = ("memcached", *STORES)
"""With the one that keeps single cells only."""


def made(request: pytest.FixtureRequest, clock: Clock) -> Any:
    """A store of the kind that the test is parametrised with; not open."""
    if request.param == "memory":
        from outlive.stores.memory import MemoryStore

        return MemoryStore(clock=clock)
    if request.param == "sqlite":
        from outlive.stores.sqlite import SQLiteStore

        folder: Path = request.getfixturevalue("tmp_path")
        return SQLiteStore(str(folder / "store.db"), clock=clock)
    if request.param == "postgres":
        from outlive.stores.postgres import PostgresStore

        schema = f"store_{ids.token(40)}"
        return PostgresStore(request.getfixturevalue("postgres"), clock=clock, schema=schema)
    if request.param == "memcached":
        from outlive.stores.memcached import MemcachedStore

        server = request.getfixturevalue("memcached")
        return MemcachedStore(f"127.0.0.1:{server.port}", clock, prefix=ids.token(40))
    from outlive.stores.redis import RedisStore

    server = request.getfixturevalue("valkey")
    return RedisStore(server.address, clock, prefix=ids.token(40))


@asynccontextmanager
async def opened(store: Any) -> AsyncIterator[Any]:
    """`store`, open for as long as the block lasts."""
    await store.open()
    try:
        yield store
    finally:
        await store.close()
