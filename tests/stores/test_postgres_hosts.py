"""Several servers behind one address: whoever leads is found, whatever the others do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import asyncpg
import pytest
from tests.ports import free_port
from tests.postgres_server import server_of_its_own
from tests.stores.servers import DEADLINE_SECONDS, store_at

from outlive.clock import Clock
from outlive.errors import StoreUnavailable
from outlive.model import Batch, Put, Ref
from outlive.stores import postgres_hosts, postgres_links
from outlive.stores.postgres_hosts import each_of, newest_primary
from outlive.stores.postgres_links import Links, Way


def test_an_address_of_one_server_stays_as_it_is() -> None:
    address = "postgresql://u:p%40@h/db?target_session_attrs=read-write&host=x"
    assert each_of(address) == (address,)
    assert each_of("postgresql:///db?host=/run/postgresql") == (
        "postgresql:///db?host=/run/postgresql",
    )


def test_each_server_gets_an_address_of_its_own() -> None:
    wish = "?target_session_attrs=read-write&sslmode=require"
    assert each_of(f"postgresql://u:p@one:1,[::1]:2,two/db{wish}") == (
        "postgresql://u:p@one:1/db?sslmode=require",
        "postgresql://u:p@[::1]:2/db?sslmode=require",
        "postgresql://u:p@two/db?sslmode=require",
    )
    assert each_of("postgresql:///db?host=one,two&port=1,2&user=u") == (
        "postgresql://one:1/db?user=u",
        "postgresql://two:2/db?user=u",
    )
    assert each_of("postgresql:///db?host=one,two") == (
        "postgresql://one:5432/db",
        "postgresql://two:5432/db",
    )


class Connection:
    is_cut = False

    def terminate(self) -> None:
        self.is_cut = True


async def found(**timelines: int | type[Exception]) -> tuple[str, dict[str, Connection]]:
    """Who is taken of servers on these timelines; an error is raised, -1 never answers."""
    made = {name: Connection() for name in timelines}

    async def ask(name: str) -> tuple[int, Any]:
        timeline = timelines[name]
        if isinstance(timeline, int):
            if timeline < 0:
                await asyncio.Event().wait()
            return timeline, made[name]
        raise timeline

    async with asyncio.timeout(DEADLINE_SECONDS):
        _, taken = await newest_primary(tuple(timelines), ask)
    (name,) = (name for name, one in made.items() if one is taken)
    return name, made


async def test_the_primary_promoted_last_is_taken_and_the_others_are_cut() -> None:
    name, made = await found(standby=0, old=2, new=3, late=-1)
    assert name == "new"
    assert [one for one, link in made.items() if link.is_cut] == ["standby", "old"]


async def test_who_fails_does_not_keep_the_others_waiting() -> None:
    starting = asyncpg.CannotConnectNowError
    assert (await found(a=OSError, b=starting, c=TimeoutError, d=1))[0] == "d"


async def test_who_is_lost_is_not_waited_for_while_the_others_elect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_hosts, "LEADER_SECONDS", 0.05)
    with pytest.raises(ConnectionError, match="none of 2 servers leads"):
        await found(lost=-1, standby=0)


async def test_without_a_primary_there_is_no_connection() -> None:
    with pytest.raises(ConnectionError, match="standbys"):
        await found(a=0, b=0)
    with pytest.raises(ConnectionError, match="of 2 servers leads, and 1 are standbys"):
        await found(a=0, b=TimeoutError)
    with pytest.raises(TimeoutError):
        await found(a=TimeoutError)


@contextmanager
def deaf_server() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


def among(address: str, *ports: int) -> str:
    """`address` behind servers at `ports`."""
    before = ",".join(f"127.0.0.1:{port}" for port in ports)
    return address.replace("@", f"@{before},") + "?target_session_attrs=read-write"


async def test_a_store_is_opened_behind_servers_that_are_gone_or_frozen(postgres: str) -> None:
    with deaf_server() as deaf:
        async with asyncio.timeout(DEADLINE_SECONDS):
            async with store_at(among(postgres, deaf, free_port())) as store:
                put = Batch(put=(Put(Ref("s", "k"), b"x"),))
                await store.commit(put)
                await store.transact(lambda tables: put)
                assert await store.read([Ref("s", "k")]) != [None]


async def test_nobody_leads_and_nothing_is_written() -> None:
    with pytest.raises(StoreUnavailable, match="Nothing was written"):
        async with store_at(f"postgresql://u@127.0.0.1:{free_port()},127.0.0.1:{free_port()}/db"):
            pass


async def test_a_link_to_a_server_that_was_replaced_is_cut(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is frozen, so it never answers; meanwhile another server is promoted."""
    monkeypatch.setattr(postgres_links, "STALLED_SECONDS", 0.05)
    monkeypatch.setattr(postgres_links, "DOUBT_SECONDS", 0.05)
    links = Links(Way(among(postgres, free_port())), 2, Clock())

    async def frozen() -> None:
        async with links.borrow() as link:
            link.timeline -= 1
            await link.execute("SELECT pg_sleep(60)")

    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(postgres_links.CUT):
            await frozen()
    async with links.borrow() as link:
        await link.execute("SELECT pg_sleep(0.3)")  # on the newest there is: it is left alone
    await links.close()


async def test_a_server_that_became_a_standby_is_not_used() -> None:
    with server_of_its_own() as server:
        await server.answering()
        server.stop()
        (server.folder / "database" / "standby.signal").touch()
        server.start()
        address = among(server.address, free_port())
        links = Links(Way(address), 1, Clock())
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                try:
                    await links.connect()
                except ConnectionError as error:
                    if "standbys" in str(error):
                        break
                except (OSError, asyncpg.PostgresError):
                    continue
