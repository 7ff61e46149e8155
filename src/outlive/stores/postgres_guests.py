"""The caller's own driver inside our transaction: what a function's first parameter asks for.

    tables                       our door (postgres_tables.py), on a link of ours
    asyncpg.Connection           an `async` function; the connection itself
    sqlalchemy.AsyncSession      an `async` function; over that connection
    sqlalchemy.AsyncConnection   the same
    psycopg.Connection           a plain function, in a thread; the connection itself
    sqlalchemy.Session           a plain function, in a thread; over that connection

But for `tables` the connection is opened for this one function and closed after it: whatever it
leaves there (settings, codecs, listeners) is nobody's else. Its record is written on the same
connection after the function, the shard's row last, and then committed: one transaction.

The function works inside a savepoint: SQLAlchemy's `commit` and `rollback` mean that, asyncpg's
`transaction()` and psycopg's `transaction()` nest, and psycopg's `commit()` is refused. What ends
the transaction all the same (a COMMIT as a statement) is noticed and refused; this guards against
mistakes, not against malice.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any, TypeVar

import asyncpg

from outlive.errors import NotAllowed, StoreRefused
from outlive.store import MANNERS
from outlive.stores.postgres_hosts import each_of
from outlive.stores.postgres_links import CONNECT_SECONDS, SYNC_WAIT_CANCELLED, Links, Way

T = TypeVar("T")
PLAIN = ("psycopg.Connection", "sqlalchemy.Session")
_IN_TRANSACTION = (2, 3)
"""libpq's statuses of a connection in a transaction: sound, and failed."""
DEFERRED = (asyncpg.IntegrityConstraintViolationError, asyncpg.RaiseError)
"""What a commit is refused with by a constraint or trigger of the caller's that waited for it: none
of ours does."""


class Theirs(Exception):
    """The caller's function raised; the error is theirs, and not the store's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def demand_manner(work: Callable[..., Any]) -> str:
    """What `work` is to be given. Raises `NotAllowed` when it is async and must not be, or plain
    and must not be."""
    manner: str = getattr(work, "manner", MANNERS[0])
    is_async = inspect.iscoroutinefunction(work)
    if manner != MANNERS[0] and is_async is (manner in PLAIN):
        raise NotAllowed(
            f"A function that takes a {manner} is {'plain' if is_async else 'async'}: "
            f"`{'def' if is_async else 'async def'}`. Nothing was written."
        )
    return manner


@asynccontextmanager
async def opened(manner: str, links: Links) -> AsyncIterator[Any]:
    """A link for one function: borrowed for our own door, else opened and closed again."""
    if manner == MANNERS[0]:
        async with links.borrow() as link:
            yield link
        return
    link = await (PsycopgLink.connect(links.way, manner) if manner in PLAIN else links.connect())
    try:
        if links.check is not None:
            await links.check(link)
        yield link
    except BaseException:
        link.terminate()
        raise
    if link.is_closed() or link.is_in_transaction():
        link.terminate()
    else:
        await links.end(link)


class _Statements:
    """A transaction by its statements alone, on a link that is used again: no state in the driver
    outlasts it."""

    def __init__(self, link: Any, links: Links) -> None:
        self._link = link
        self._links = links

    async def start(self, *limits: float) -> None:
        await self._links.begin(self._link, *limits)

    async def demand_sound(self, statement: str, *values: Any) -> None:
        """The first statement behind the function. Raises `NotAllowed` if one of its own failed,
        and it went on."""
        try:
            await self._link.execute(statement, *values)
        except asyncpg.InFailedSQLTransactionError as error:
            raise NotAllowed(
                "A statement failed, and the function went on: PostgreSQL undoes all of such a"
                " transaction. Nothing was written. Let the error out, or ask first (ON CONFLICT)."
            ) from error

    async def commit(self) -> None:
        """Raises `Theirs` when a constraint of the caller's, that waited for it, is violated."""
        try:
            await self._commit()
        except DEFERRED as error:
            raise Theirs(error) from error

    async def _commit(self) -> None:
        await self._link.execute("COMMIT")


class _Drivers(_Statements):
    """A transaction of the driver's own, so that the guest's nest in it."""

    def __init__(self, link: Any, links: Links) -> None:
        super().__init__(link, links)
        self._transaction = link.transaction(isolation="read_committed")

    async def start(self, *limits: float) -> None:
        await self._transaction.start()
        for limit in self._links.limits(*limits):
            await self._link.execute(limit)

    async def _commit(self) -> None:
        await self._transaction.commit()


def transaction_on(link: Any, manner: str, links: Links) -> _Statements:
    """The transaction on `link`; `start` takes the limits that `Links.begin` takes."""
    return (_Statements if manner == MANNERS[0] else _Drivers)(link, links)


@asynccontextmanager
async def handed_out(manner: str, link: Any, tables: Any) -> AsyncIterator[Any]:
    """What an `async` function is given; what it did is in the transaction at the end."""
    if manner == MANNERS[0]:
        yield tables
    elif manner == "asyncpg.Connection":
        async with link.transaction():
            yield link
    else:
        async with _alchemy(link) as connection:
            if manner == "sqlalchemy.AsyncConnection":
                yield connection
            else:
                from sqlalchemy.ext.asyncio import AsyncSession

                async with AsyncSession(connection, expire_on_commit=False) as session:
                    yield session
                    await session.commit()
            await connection.commit()


@asynccontextmanager
async def _alchemy(link: Any) -> AsyncIterator[Any]:
    """SQLAlchemy's connection over `link`; its transaction is a savepoint of ours."""
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def lend(*_: Any, **__: Any) -> Any:
        return _Lent(link)

    engine = create_async_engine("postgresql+asyncpg://", poolclass=NullPool, async_creator=lend)
    async with engine.connect() as connection:
        yield connection


class _Lent:
    """A connection that its borrower cannot close."""

    def __init__(self, link: Any) -> None:
        self._link = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    async def close(self, **_: Any) -> None:
        """The store does that."""

    def terminate(self) -> None:
        """The store does that."""


class PsycopgLink:
    """A connection of psycopg's, used as asyncpg's is by the lane that writes the record.

    Its calls run in a thread. Its errors come out as asyncpg's, by their SQLSTATE.
    """

    doubtful = False

    def __init__(self, connection: Any, manner: str) -> None:
        self.connection = connection
        self._manner = manner
        self._busy = 0
        self._ended = False
        connection.add_notice_handler(self._note)

    @classmethod
    async def connect(cls, way: Way, manner: str) -> PsycopgLink:
        """A new connection, without prepared statements behind a pooler that knows none of them.
        Raises `StoreRefused` when psycopg is not installed."""
        try:
            import psycopg
        except ModuleNotFoundError as error:
            raise StoreRefused(
                "A function that takes psycopg's connection needs psycopg: pip install psycopg."
            ) from error

        def connect() -> Any:
            wish = {"target_session_attrs": "read-write"} if len(each_of(way.dsn)) > 1 else {}
            limit = round(CONNECT_SECONDS)
            made = _lendable().connect(way.dsn, connect_timeout=limit, **wish)
            if not way.statement_cache_size:
                made.prepare_threshold = None
            made.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
            return made

        try:
            return cls(await asyncio.to_thread(connect), manner)
        except psycopg.Error as error:
            raise ConnectionError(f"no connection by psycopg: {error}") from error

    def hand_out(self, work: Callable[[Any], Any]) -> Any:
        """Give `work` what it asks for, in the thread that calls this."""
        if self._manner == "psycopg.Connection":
            with self.connection.transaction():
                return work(self.connection)
        from sqlalchemy import create_engine
        from sqlalchemy.orm import Session
        from sqlalchemy.pool import NullPool

        lent = self.connection
        engine = create_engine("postgresql+psycopg://", poolclass=NullPool, creator=lambda: lent)
        savepoints: Any = {"join_transaction_mode": "create_savepoint", "expire_on_commit": False}
        with lent.transaction():
            lent.lent = True
            try:
                with engine.begin() as connection, Session(connection, **savepoints) as session:
                    done = work(session)
                    session.commit()
            finally:
                lent.lent = False
        return done

    # --- as the lane sees it ----------------------------------------------------------------------

    def transaction(self, isolation: str) -> PsycopgLink:
        """The one transaction of this link; it was opened for it."""
        return self

    async def start(self) -> None:
        """It begins with the first statement."""

    async def commit(self) -> None:
        await self._do(self.connection.commit)

    async def execute(self, statement: str, *values: Any) -> None:
        await self.fetchrow(statement, *values)

    async def fetchrow(self, statement: str, *values: Any) -> Any:
        rows = await self.fetch(statement, *values)
        return rows[0] if rows else None

    async def fetch(self, statement: str, *values: Any) -> list[Any]:
        def ask() -> list[Any]:
            import psycopg

            with psycopg.RawCursor(self.connection, row_factory=_row_factory) as cursor:
                cursor.execute(statement.encode(), values)
                return cursor.fetchall() if cursor.description else []

        return await self._do(ask)

    async def _do(self, job: Callable[[], T]) -> T:
        import psycopg

        try:
            return await asyncio.to_thread(job)
        except psycopg.Error as error:
            raise _as_asyncpg(error) from error

    def is_in_transaction(self) -> bool:
        return self.connection.info.transaction_status in _IN_TRANSACTION

    def is_closed(self) -> bool:
        return bool(self.connection.closed)

    def terminate(self) -> None:
        """The server rolls back. A function that still runs is interrupted first, and the
        connection closed behind it: libpq must not be closed under a call."""
        if self._ended:
            return
        self._ended = True
        if self._busy:  # a cancel travels on a connection of its own: not on the loop
            asyncio.get_running_loop().run_in_executor(None, self._cancel)
        else:
            self.connection.close()

    def _cancel(self) -> None:
        with suppress(Exception):
            self.connection.cancel()

    def remove_log_listener(self, _: Any) -> None:
        """There is none."""

    async def close(self, timeout: float) -> None:
        self._ended = True
        await asyncio.to_thread(self.connection.close)

    def run(self, work: Callable[[Any], Any]) -> Any:
        """`hand_out`, and close afterwards if nobody waits any more."""
        self._busy += 1
        try:
            return self.hand_out(work)
        finally:
            self._busy -= 1
            if self._ended:
                self.connection.close()

    def _note(self, notice: Any) -> None:
        if notice.sqlstate == SYNC_WAIT_CANCELLED:
            self.doubtful = True


@cache
def _lendable() -> Any:
    """A class of psycopg's connections that cannot be ended or closed while they are lent."""
    import psycopg

    class Lendable(psycopg.Connection[Any]):
        lent = False

        def commit(self) -> None:
            if not self.lent:
                super().commit()

        def rollback(self) -> None:
            if not self.lent:
                super().rollback()

        def close(self) -> None:
            if not self.lent:
                super().close()

    return Lendable


class _Row(tuple[Any, ...]):
    """A row by place and by name."""

    names: dict[str, int]

    def __getitem__(self, at: Any) -> Any:
        return super().__getitem__(self.names[at] if isinstance(at, str) else at)


def _row_factory(cursor: Any) -> Callable[[Any], Any]:
    names = {column.name: at for at, column in enumerate(cursor.description or ())}

    def made(values: Any) -> _Row:
        row = _Row(values)
        row.names = names
        return row

    return made


def _as_asyncpg(error: Any) -> Exception:
    if error.sqlstate is None:
        return ConnectionError(f"psycopg: {error}")
    found: Exception = asyncpg.PostgresError.new({"C": error.sqlstate, "M": str(error)})
    return found
