"""A service's own tables: several nodes that open at one moment do not stop each other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.stores.servers import session_at, store_at

from outlive import Outlive, ids
from outlive.runtime.tables import TRIES_MAX, make_tables


class Racing:
    """A service whose transactions fail `failures` times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.made: list[Any] = []

    async def transact(self, schema: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise ValueError("another was faster")
        schema("tables")


async def test_what_failed_because_another_was_faster_is_done_again() -> None:
    store: Any = Racing(TRIES_MAX - 1)
    await make_tables(store.transact, store.made.append)
    assert store.made == ["tables"]


async def test_what_fails_every_time_is_raised() -> None:
    store: Any = Racing(TRIES_MAX)
    with pytest.raises(ValueError, match="faster"):
        await make_tables(store.transact, store.made.append)
    assert not store.made


async def test_nodes_that_open_at_one_moment_all_open(postgres: str) -> None:
    name = f"seat_{ids.token(40)}"

    def tables(db: Any) -> None:
        db.execute(f"CREATE TABLE IF NOT EXISTS {name} (id TEXT PRIMARY KEY)")

    async with store_at(postgres) as store:
        address = f"{postgres}?schema={store.schema}"
        apps = [Outlive(address) for _ in range(4)]
        for app in apps:
            app.schema(tables)
        await asyncio.gather(*(app.open() for app in apps))
        await asyncio.gather(*(app.close() for app in apps))
    async with session_at(postgres) as session:
        assert await session.fetchval(f"SELECT count(*) FROM {name}") == 0
