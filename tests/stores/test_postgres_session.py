"""The process's own session: made when needed, made again, and never behind a pooler."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.postgres_server import Pooler
from tests.stores.servers import line_to, until

from outlive.clock import Clock
from outlive.errors import StoreUnavailable
from outlive.stores.postgres_links import Links, Way
from outlive.stores.postgres_session import NoSession, Session

BACKEND = "SELECT pg_backend_pid()"


async def nothing(link: Any) -> None:
    """A farewell with nothing to say."""


async def test_what_is_kept_is_put_into_each_new_session(postgres: str) -> None:
    async with line_to(postgres) as line:
        session = Session(Links(Way(line.address), 1, Clock()), BACKEND)
        kept: list[int] = []

        async def restore(link: Any) -> None:
            kept.append(await link.fetchval(BACKEND))

        session.restores.append(restore)
        assert not session.is_made
        ((first,),) = await session.run(BACKEND)
        assert kept == [first]
        assert session._link is not None
        session._link.terminate()

        async def is_made_again() -> bool:
            return len(kept) == 2 and session.is_made

        await until(is_made_again, "the session is made again by itself")
        assert await session.run(BACKEND) == [(kept[1],)]
        await session.close(nothing)


async def test_a_session_that_cannot_be_restored_is_tried_again(postgres: str) -> None:
    session = Session(Links(Way(postgres), 1, Clock()), BACKEND)
    tries: list[int] = []

    async def restore(link: Any) -> None:
        tries.append(1)
        if len(tries) < 3:
            raise StoreUnavailable("not yet")

    session.restores.append(restore)
    with pytest.raises(StoreUnavailable):
        await session.run(BACKEND)
    session.keep()

    async def is_made() -> bool:
        return session.is_made

    await until(is_made, "the session is made at last")
    assert len(tries) == 3
    await session.close(nothing)


async def test_a_server_that_is_away_does_not_hold_up_who_keeps(postgres: str) -> None:
    async with line_to(postgres) as line:
        line.is_open = False
        session = Session(Links(Way(line.address), 1, Clock()), BACKEND)
        session.keep()
        await asyncio.sleep(0)
        await session.close(nothing)
        assert not session.is_made
        with pytest.raises(StoreUnavailable):
            await session.run(BACKEND)


async def test_nothing_is_kept_behind_a_pooler(pooler: Pooler) -> None:
    session = Session(Links(Way(pooler.address, 0, is_pooled=True), 1, Clock()), BACKEND)
    session.keep()

    async def is_known() -> bool:
        return not session.is_possible

    await until(is_known, "the pooler is noticed")
    with pytest.raises(NoSession):
        await session.run(BACKEND)
    await session.close(nothing)


async def test_a_session_that_is_closed_while_it_is_made_is_not_left_behind(postgres: str) -> None:
    session = Session(Links(Way(postgres), 1, Clock()), BACKEND)
    begun, go_on = asyncio.Event(), asyncio.Event()
    links: list[Any] = []

    async def restore(link: Any) -> None:
        links.append(link)
        begun.set()
        await go_on.wait()

    session.restores.append(restore)
    running = asyncio.create_task(session.run(BACKEND))
    await begun.wait()
    await session.close(nothing)
    go_on.set()
    with pytest.raises(StoreUnavailable):
        await running
    assert links[0].is_closed() and not session.is_made
