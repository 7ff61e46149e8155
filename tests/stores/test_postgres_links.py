"""Connections: bounded, thrown away when they failed, and errors told apart once."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import asyncpg
import pytest
from tests.stores.servers import session_at

from outlive import errors
from outlive.clock import ManualClock
from outlive.stores.postgres_links import LIFE_SECONDS, Links, is_cut, mapped, placed


async def pid(links: Links) -> int:
    async with links.borrow() as link:
        found: int = await link.fetchval("SELECT pg_backend_pid()")
        return found


async def test_a_link_is_used_again_until_it_is_old(postgres: str) -> None:
    clock = ManualClock()
    links = Links(postgres, 2, 100, clock)
    first = await pid(links)
    assert await pid(links) == first
    clock.advance(LIFE_SECONDS)
    assert await pid(links) != first
    await links.close()


async def test_there_are_never_more_links_than_allowed(postgres: str) -> None:
    links = Links(postgres, 1, 100, ManualClock())
    async with links.borrow():
        waiting = asyncio.create_task(pid(links))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    assert await waiting
    await links.close()


async def test_a_link_left_in_a_transaction_is_thrown_away(postgres: str) -> None:
    links = Links(postgres, 1, 100, ManualClock())
    first = await pid(links)
    with suppress(LookupError):
        async with links.borrow() as link:
            await link.execute("BEGIN")
            raise LookupError
    async with links.borrow() as link:
        await link.execute("BEGIN")
    second = await pid(links)
    assert second != first
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with links.borrow() as link:
            await links.fetch(link, "SELECT 1 / 0")
    assert await pid(links) == second  # an error of a statement alone leaves it well
    await links.close()


async def test_behind_a_pooler_each_statement_is_a_transaction(postgres: str) -> None:
    links = Links(postgres, 1, 0, ManualClock())
    async with links.borrow() as link, session_at(postgres):
        rows = await links.fetch(link, "SELECT now() = now(), $1::int", 5)
        assert [tuple(row) for row in rows] == [(True, 5)]
        with pytest.raises(asyncpg.DivisionByZeroError):
            await links.fetch(link, "SELECT 1 / 0")
        assert not link.is_in_transaction()
    await links.close()


@pytest.mark.parametrize(
    ("error", "kind", "cut"),
    [
        (asyncpg.DiskFullError("x"), errors.StoreFull, False),
        (asyncpg.UniqueViolationError("x"), errors.StoreBusy, False),
        (asyncpg.QueryCanceledError("x"), errors.StoreBusy, False),
        (asyncpg.InsufficientPrivilegeError("x"), errors.StoreRefused, False),
        (asyncpg.InvalidPasswordError("x"), errors.StoreRefused, False),
        (asyncpg.DataCorruptedError("x"), errors.StoreCorrupt, False),
        (asyncpg.AdminShutdownError("x"), errors.StoreUnavailable, True),
        (ConnectionResetError("x"), errors.StoreUnavailable, True),
        (TimeoutError(), errors.StoreUnavailable, True),
        (asyncpg.DataError("x"), errors.StoreUnavailable, False),
    ],
)
def test_an_error_of_the_driver_becomes_one_of_ours(
    error: Exception, kind: type[errors.OutliveError], cut: bool
) -> None:
    assert type(mapped(error)) is kind
    assert is_cut(error) is cut


def test_the_schema_is_put_where_outlive_stands() -> None:
    assert placed("SELECT outlive.clock(0) -- outlive_x", "own") == (
        'SELECT "own".clock(0) -- outlive_x'
    )
