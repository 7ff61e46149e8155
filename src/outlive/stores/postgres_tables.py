"""The door to the caller's own tables on PostgreSQL: their statements, our transaction, one commit.

A function given to `run.transact` sees `Tables`. A plain function runs in a thread, and each of its
statements is carried to the event loop and back; an `async` function gets `AsyncTables` and runs on
the loop. Either way it has a time limit, after which the connection is ended and the server rolls
everything back; a plain function that does not come back keeps its thread, but reaches nothing.

Refused before they are sent: statements that would end the transaction, change the session, or
take the lock that NOTIFY takes at commit, and statements that name outlive's own schema. PostgreSQL
runs one statement at a time here, so no second one can be hidden behind the first. This guards
against mistakes, not against malice: give the caller's tables another owner for that.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from outlive.errors import NotAllowed, TransactTooLong
from outlive.model import Batch, Put, Ref
from outlive.store import MANNERS, AsyncCarrier, Carrier, Sight
from outlive.stores.postgres_carry import carried_of, packed, sight_of
from outlive.stores.postgres_guests import handed_out
from outlive.stores.postgres_links import Connection

DENIED = frozenset(
    "abort begin checkpoint close cluster commit copy deallocate discard end listen load move"
    " notify prepare release reset rollback savepoint set start unlisten vacuum".split()
)
_BLANK = re.compile(r"\s+|--[^\n]*(?:\n|\Z)")
_WORD = re.compile(r"[A-Za-z_]+")


class AsyncTables(AsyncCarrier):
    """The caller's own tables inside a transaction that is committed together with the step's
    record, for an `async` function."""

    def __init__(
        self, link: Connection, schema: str, sql: Mapping[str, str], wall: int | None
    ) -> None:
        self._link: Connection | None = link
        self._sql, self._wall = sql, wall
        self._own = re.compile(rf"(?<![\w$])\"?{schema}\"?\s*\.", re.IGNORECASE)

    async def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with `values` for `$1`, `$2` …; gives the rows.

        Raises `NotAllowed`, or the driver's own `asyncpg.PostgresError`.
        """
        link = self.demand_open()
        if first_word(statement) in DENIED or self._own.search(statement):
            raise NotAllowed(f"Not allowed inside run.transact: {statement.strip()[:80]}")
        rows = await link.fetch(statement, *values)
        if not link.is_in_transaction():
            raise NotAllowed("A statement ended the transaction; what came before is not certain.")
        return [tuple(row) for row in rows]

    async def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each of `rows`."""
        for values in rows:
            await self.execute(statement, values)

    async def look(self, ref: Ref) -> Sight:
        """See `Carrier.look`."""
        link = self.demand_open()
        return sight_of(
            await link.fetchrow(self._sql["carry_look"], self._wall, ref.space, ref.key)
        )

    async def carry(self, puts: Sequence[Put]) -> bytes | None:
        """See `Carrier.carry`."""
        link = self.demand_open()
        return carried_of(await link.fetchrow(self._sql["carry"], packed(puts)))

    def demand_open(self) -> Connection:
        """The connection, as long as the transaction lasts. Raises `NotAllowed` after it."""
        if self._link is None:
            raise NotAllowed("The transaction has ended; this object can no longer be used.")
        return self._link

    def end(self) -> None:
        self._link = None


class Tables(Carrier):
    """The same for a plain function, which runs in a thread."""

    def __init__(self, tables: AsyncTables, loop: asyncio.AbstractEventLoop) -> None:
        self._tables = tables
        self._loop = loop

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement with `values` for `$1`, `$2` …; gives the rows.

        Raises `NotAllowed`, or the driver's own `asyncpg.PostgresError`.
        """
        self._tables.demand_open()
        asked = self._tables.execute(statement, values)
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each of `rows`."""
        for values in rows:
            self.execute(statement, values)

    def look(self, ref: Ref) -> Sight:
        """See `Carrier.look`."""
        self._tables.demand_open()
        return asyncio.run_coroutine_threadsafe(self._tables.look(ref), self._loop).result()

    def carry(self, puts: Sequence[Put]) -> bytes | None:
        """See `Carrier.carry`."""
        self._tables.demand_open()
        return asyncio.run_coroutine_threadsafe(self._tables.carry(puts), self._loop).result()


Work = Callable[[Any], Batch | Awaitable[Batch]]


async def run_work(
    work: Work,
    link: Connection,
    schema: str,
    limit_seconds: float,
    sql: Mapping[str, str],
    wall: int | None,
    manner: str = MANNERS[0],
) -> Batch:
    """Run `work` inside the transaction that is open on `link`; gives its batch.

    Raises `TransactTooLong` after `limit_seconds` (the connection is ended then), `NotAllowed`, or
    what `work` raises.
    """
    tables = AsyncTables(link, schema, sql, wall)
    running: asyncio.Future[Any] | None = None
    try:
        async with asyncio.timeout(limit_seconds) as limit:
            if inspect.iscoroutinefunction(work):
                async with handed_out(manner, link, tables) as given:
                    batch: Batch = await work(given)
            else:
                if manner == MANNERS[0]:
                    plain = Tables(tables, asyncio.get_running_loop())
                    running = asyncio.ensure_future(asyncio.to_thread(work, plain))
                else:
                    running = asyncio.ensure_future(asyncio.to_thread(link.run, work))
                batch = await asyncio.shield(running)
    except TimeoutError as error:
        if not limit.expired():
            raise
        link.terminate()
        if running is not None:
            running.add_done_callback(_look_away)
        raise TransactTooLong(
            f"The transaction ran past {limit_seconds} s and was rolled back."
        ) from error
    finally:
        tables.end()
    if not link.is_in_transaction():
        raise NotAllowed("A statement ended the transaction; nothing of the batch was written.")
    return batch


def _look_away(running: asyncio.Future[Any]) -> None:
    """What a function says that was given up is of no interest."""
    if not running.cancelled():
        running.exception()


def first_word(statement: str) -> str:
    """The first word of a statement in lower case, behind blanks and comments."""
    at = 0
    while at < len(statement):
        if blank := _BLANK.match(statement, at):
            at = blank.end()
        elif statement.startswith("/*", at):
            depth, at = 1, at + 2
            while depth and at < len(statement):
                pair = statement[at : at + 2]
                depth += (pair == "/*") - (pair == "*/")
                at += 2 if pair in ("/*", "*/") else 1
        else:
            break
    word = _WORD.match(statement, at)
    return word.group().lower() if word else ""
