"""The one connection of a process that keeps something: signs of life, and an ear for hints.

All other links may be lent by a pooler and keep nothing. This one leads straight to the server
(the store's own address, or `direct=` beside a pooler's), is made when it is first needed, and made
again with jitter when it breaks; whoever keeps something in it says how it is kept again.

    none ──run, keep──> made ──broken──> being made again ──> made
      └── a pooler answers ──> impossible: nothing is kept, and nobody relies on it

What is kept here is a hint each time: losing it costs speed and never the truth.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg

from outlive import ids
from outlive.errors import NoSession, OutliveError, StoreUnavailable
from outlive.stores.postgres_links import CUT, Connection, Links, mapped

AGAIN_BASE_SECONDS, AGAIN_SECONDS_MAX = 0.1, 1.0
"""A sign of life must be there again before others, who were cut off too, believe in a death."""
Restore = Callable[[Connection], Awaitable[None]]


class Session:
    """One connection made by `links`, with what `restores` put into each new one.

    `backend` is the statement that gives the backend's number. A restore that raises has the
    connection thrown away and tried again later.
    """

    def __init__(self, links: Links, backend: str) -> None:
        self.restores: list[Restore] = []
        self.losses: list[Callable[[], None]] = []
        """Called when the connection was cut, before another is made."""
        self.gains: list[Callable[[], None]] = []
        """Called when there is a connection, with all that was kept in the last."""
        self.is_possible = True
        """False once a pooler was found to answer at the address."""
        self._links = links
        self._backend = backend
        self._link: Connection | None = None
        self._turn = asyncio.Lock()
        self._again: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def is_made(self) -> bool:
        return self._link is not None and not self._link.is_closed()

    async def run(self, statement: str, *values: Any) -> list[Any]:
        """The rows of a statement, in its turn; makes the connection if there is none.

        Raises `StoreUnavailable`.
        """
        async with self._turn:
            link = await self._made()
            try:
                rows: list[Any] = await link.fetch(statement, *values)
            except (*CUT, asyncpg.PostgresError) as error:
                raise mapped(error) from error
            return rows

    def keep(self) -> None:
        """See to it that there is a connection, now and until the end; comes back at once."""
        if self._closed or self.is_made or not self.is_possible:
            return
        if self._again is None or self._again.done():
            self._again = asyncio.get_running_loop().create_task(self._make_again())

    async def _make_again(self) -> None:
        attempt = 0
        while not self._closed and self.is_possible:
            attempt += 1
            try:
                async with self._turn:
                    await self._made()
                return
            except OutliveError:
                wait = ids.full_jitter(AGAIN_BASE_SECONDS, AGAIN_SECONDS_MAX, attempt)
                await asyncio.sleep(wait)

    async def _made(self) -> Connection:
        if self._closed:
            raise StoreUnavailable("The store is closed; nothing was read or written.")
        if self._link is not None and not self._link.is_closed():
            return self._link
        if not self.is_possible:
            raise NoSession("A pooler stands between; nothing can be kept in a session.")
        link: Connection | None = None
        try:
            link = await self._links.connect()
            ((number,),) = await self._links.fetch(link, self._backend)
            if number != link.get_server_pid():
                self.is_possible = False
                raise NoSession("A pooler stands between; nothing can be kept in a session.")
            if self._links.check is not None:
                await self._links.check(link)
            for restore in self.restores:
                await restore(link)
            if self._closed:  # meanwhile: nobody would end it, and it says that this node lives
                raise StoreUnavailable("The store is closed; nothing was read or written.")
        except BaseException as error:
            if link is not None:
                link.terminate()
            if isinstance(error, (*CUT, asyncpg.PostgresError)):
                raise mapped(error) from error
            raise
        self._link = link
        link.add_termination_listener(self._lost)
        for gain in self.gains:
            gain()
        return link

    def _lost(self, _link: Any) -> None:
        if not self._closed:
            for loss in self.losses:
                loss()
            self.keep()

    def drop(self) -> None:
        """Another server leads: what is kept in this session is kept where nobody looks."""
        if self._link is not None and not self._link.is_closed():
            self._link.terminate()

    async def close(self, farewell: Restore) -> None:
        """End in order; `farewell` is said first, if there is anybody to say it to."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()
            await asyncio.wait((self._again,))
        link, self._link = self._link, None
        if link is None or link.is_closed():
            return
        async with self._turn:
            with suppress(*CUT, asyncpg.PostgresError):
                await farewell(link)
            await self._links.end(link)

    def sever(self) -> None:
        """What cuts it ends it: no other is made."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()

    def forget(self) -> None:
        """In a forked child: the session is the parent's."""
        self._closed = True
        if self._link is not None:
            self._links.keep_for_parent(self._link)
            self._link = None
