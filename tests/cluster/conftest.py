"""A machine for each test, whose services share one store on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.crash.service import Machine

from outlive import ids


@pytest.fixture
async def machine(tmp_path: Path, postgres: str) -> AsyncIterator[Machine]:
    database = f"machine_{ids.token(40)}"
    await make_database(postgres, database)
    made = Machine(tmp_path, address=postgres.rpartition("/")[0] + f"/{database}")
    yield made
    await made.clean()


async def make_database(address: str, name: str) -> None:
    """A database of its own: a service's own tables are not in the store's schema."""
    import asyncpg

    link = await asyncpg.connect(address)
    try:
        await link.execute(f"CREATE DATABASE {name}")
    finally:
        await link.close()
