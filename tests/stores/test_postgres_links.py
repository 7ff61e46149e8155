"""Connections: bounded, thrown away when they failed, and errors told apart once."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import asyncpg
import pytest
from tests.postgres_server import Pooler
from tests.stores.servers import session_at

from outlive import errors
from outlive.clock import Clock, ManualClock
from outlive.stores.postgres_links import (
    LIFE_SECONDS,
    Links,
    Way,
    is_cut,
    mapped,
    placed,
    straight,
    way_to,
)


async def pid(links: Links) -> int:
    async with links.borrow() as link:
        found: int = await link.fetchval("SELECT pg_backend_pid()")
        return found


async def test_a_link_is_used_again_until_it_is_old(postgres: str) -> None:
    clock = ManualClock()
    links = Links(Way(postgres), 2, clock)
    first = await pid(links)
    assert await pid(links) == first
    clock.advance(LIFE_SECONDS)
    assert await pid(links) != first
    await links.close()


async def test_there_are_never_more_links_than_allowed(postgres: str) -> None:
    links = Links(Way(postgres), 1, ManualClock())
    async with links.borrow():
        waiting = asyncio.create_task(pid(links))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.05)
    assert await waiting
    await links.close()


async def test_a_link_left_in_a_transaction_is_thrown_away(postgres: str) -> None:
    links = Links(Way(postgres), 1, ManualClock())
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
    links = Links(Way(postgres, 0, is_pooled=True), 1, ManualClock())
    async with links.borrow() as link, session_at(postgres):
        rows = await links.fetch(link, "SELECT now() = now(), $1::int", 5)
        assert [tuple(row) for row in rows] == [(True, 5)]
        with pytest.raises(asyncpg.DivisionByZeroError):
            await links.fetch(link, "SELECT 1 / 0")
        assert not link.is_in_transaction()
    await links.close()


async def test_links_do_not_grow_old_all_at_once(postgres: str) -> None:
    links = Links(Way(postgres), 3, ManualClock())
    made = [await links.connect() for _ in range(3)]
    assert len({link.born for link in made}) == 3
    assert all(link.born > -LIFE_SECONDS / 2 for link in made)
    for link in made:
        await links.end(link)


LIMITS = {
    "jit": "off",
    "statement_timeout": "25s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "2s",
}


async def test_nothing_is_waited_for_without_end(postgres: str) -> None:
    links = Links(await way_to(postgres, "outlive test"), 1, ManualClock())
    async with links.borrow() as link:
        shown = {name: await link.fetchval(f"SHOW {name}") for name in LIMITS}
        assert shown == LIMITS
        assert await link.fetchval("SHOW tcp_user_timeout") == "20000"
        assert await link.fetchval("SHOW application_name") == "outlive test"
        plug = link._transport.get_extra_info("socket")
        for level, option, wanted in (
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000),
        ):
            assert plug.getsockopt(level, option) == wanted
    await links.close()


async def test_behind_a_pooler_each_transaction_brings_its_limits(pooler: Pooler) -> None:
    links = Links(await way_to(pooler.address, "outlive test"), 1, ManualClock())
    assert links.way.is_pooled and links.way.statement_cache_size == 0
    async with links.borrow() as link, session_at(pooler.server) as session:
        await links.begin(link)
        shown = {name: await link.fetchval(f"SHOW {name}") for name in LIMITS}
        assert shown == LIMITS
        backend = await link.fetchval("SELECT pg_backend_pid()")
        named = "SELECT application_name FROM pg_stat_activity WHERE pid = $1"
        assert await session.fetchval(named, backend) == "outlive test"
        await link.execute("COMMIT")
        assert await link.fetchval("SHOW lock_timeout") == "0"
    await links.close()


async def test_a_lock_that_is_held_too_long_is_busy(postgres: str) -> None:
    links = Links(Way(postgres), 1, ManualClock())
    async with session_at(postgres) as session, links.borrow() as link:
        await session.execute("SELECT pg_advisory_lock(4711)")
        await links.begin(link, lock_seconds=0.05)
        with pytest.raises(asyncpg.LockNotAvailableError) as refusal:
            await link.fetch("SELECT pg_advisory_xact_lock(4711)")
        assert type(mapped(refusal.value)) is errors.StoreBusy
        await link.execute("ROLLBACK")
    await links.close()


async def test_what_the_address_says_of_a_limit_wins(postgres: str) -> None:
    way = await way_to(f"{postgres}?lock_timeout=1234", "outlive test")
    links = Links(way, 1, ManualClock())
    async with links.borrow() as link:
        assert await link.fetchval("SHOW lock_timeout") == "1234ms"
        assert await link.fetchval("SHOW statement_timeout") == "25s"
    await links.close()


async def test_a_pooler_is_noticed_and_a_server_is_not_taken_for_one(
    postgres: str, pooler: Pooler
) -> None:
    assert not (await way_to(postgres, "n")).is_pooled
    assert (await way_to(postgres, "n", 0)).is_pooled  # the user knows better
    assert (await way_to(pooler.address, "n", 50)).statement_cache_size == 50


@pytest.mark.parametrize(
    ("direct", "led_to"),
    [
        ("db:5432", "postgresql://u:p%40@db:5432/name?sslmode=require"),
        ("[::1]:5432/other", "postgresql://u:p%40@[::1]:5432/other?sslmode=require"),
    ],
)
def test_the_direct_address_is_the_same_but_for_its_place(direct: str, led_to: str) -> None:
    assert straight("postgresql://u:p%40@pooler:6432/name?sslmode=require", direct) == led_to


@pytest.mark.parametrize("direct", ["db", ":5432", "db:x", "u@db:5432", "postgresql://db:5432"])
def test_a_direct_address_names_a_host_and_a_port(direct: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)port"):
        straight("postgresql://pooler/name", direct)


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
        (asyncpg.DataError("x"), errors.Refused, False),
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


async def test_of_several_servers_all_are_asked_anew_but_not_by_each_who_misses_something(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await Links(Way(postgres), 1, Clock()).refresh() is False, "there is no other"
    monkeypatch.setattr("outlive.stores.postgres_links.each_of", lambda dsn: (dsn, dsn))
    links = Links(Way(postgres), 1, Clock())
    asked: list[int] = []

    async def check(link: asyncpg.Connection) -> None:
        asked.append(link.get_server_pid())

    links.check = check
    assert await asyncio.gather(*(links.refresh() for _ in range(20))) == [True] * 20
    assert len(asked) == 1
    assert await links.refresh() and len(asked) == 2, "who misses something later asks again"
    await links.close()


async def test_nobody_leads_is_said_and_is_not_taken_for_absence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        port = deaf.getsockname()[1]
        links = Links(Way(f"postgresql://x@127.0.0.1:{port},127.0.0.1:{port}/x"), 1, Clock())
        with pytest.raises(errors.StoreUnavailable, match="Nothing was written"):
            await links.refresh()
