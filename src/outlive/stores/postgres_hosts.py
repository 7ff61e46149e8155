"""Several servers behind one address, of which one leads at a time: find the one that does.

    postgresql://user@one:5432,two:5432,three:5432/database

All are asked at once, because one that is frozen or cut off gives no answer and must not keep the
others waiting. A standby leads nobody. Of two that both take themselves to lead, the one on the
higher timeline was promoted later: the other has not noticed yet. So after the first that leads the
rest have `RIVAL_SECONDS` more; after the first standby, as long as nobody leads, `LEADER_SECONDS`:
most likely the one that does not answer is the one that is lost, and another is about to lead.

    timeline   a number of the server's that each promotion raises; 0 stands for a standby

That is a hint, and no more: what an old primary still does is refused by the synchronous standby
that it lost, or is lost and said (postgres_recall.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlunsplit

import asyncpg

from outlive.stores.urls import split

RIVAL_SECONDS, LEADER_SECONDS = 0.25, 2.0
Ask = Callable[[str], Awaitable[tuple[int, Any]]]
"""Connects to one server; gives its timeline and the connection."""


def each_of(dsn: str) -> tuple[str, ...]:
    """An address for each server that `dsn` names; `dsn` itself when it names one.

    The wish which of them to take (`target_session_attrs`) is left out: it is always the primary.
    """
    parts = split(dsn)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    who, at, place = parts.netloc.rpartition("@")
    hosts = place.split(",")
    if not place and "host" in query:
        names, ports = query.pop("host").split(","), query.pop("port", "5432").split(",")
        if len(ports) == 1:
            ports *= len(names)
        hosts = [f"{name}:{port}" for name, port in zip(names, ports, strict=False)]
    if len(hosts) == 1:
        return (dsn,)
    query.pop("target_session_attrs", None)
    said = urlencode(query)
    return tuple(
        urlunsplit(parts._replace(netloc=f"{who}{at}{host}", query=said)) for host in hosts
    )


async def newest_primary(dsns: tuple[str, ...], ask: Ask) -> tuple[int, Any]:
    """The timeline and a connection of whoever leads.

    Raises `ConnectionError` when those that answer are standbys, or else what went wrong last. A
    connection that is not given out is cut.
    """
    asking = {asyncio.ensure_future(ask(dsn)) for dsn in dsns}
    best: tuple[int, Any] | None = None
    wrong: Exception | None = None
    standbys = 0
    try:
        while asking:
            limit = RIVAL_SECONDS if best is not None else LEADER_SECONDS if standbys else None
            done, asking = await asyncio.wait(
                asking, timeout=limit, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for answer in done:
                try:
                    timeline, link = answer.result()
                except (OSError, EOFError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                    wrong = error
                    continue
                if timeline > (best[0] if best is not None else 0):
                    if best is not None:
                        best[1].terminate()
                    best = timeline, link
                else:
                    link.terminate()
                    standbys += not timeline
        if best is None:
            if wrong is None or standbys:
                text = f"none of {len(dsns)} servers leads, and {standbys} are standbys"
                raise ConnectionError(text) from wrong
            raise wrong
        found, best = best, None
        return found
    finally:
        for late in asking:
            late.add_done_callback(_refuse)
            late.cancel()
        if best is not None:
            best[1].terminate()


def _refuse(late: asyncio.Future[tuple[int, Any]]) -> None:
    """Whatever came too late is cut."""
    if not late.cancelled() and late.exception() is None:
        late.result()[1].terminate()
