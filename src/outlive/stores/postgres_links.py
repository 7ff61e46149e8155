"""The connections to a PostgreSQL server: bounded, renewed, and safe behind a pooler.

    link    one connection. It holds no state between two transactions: no LISTEN, no lock, nothing
            to reset when it is given back, so a PgBouncer in transaction mode may stand between.
    pooler  what answers in the server's place and lends its connections by the transaction. It is
            recognised by the backend's number, which it makes up.
    cut     an error after which nobody knows what the server did with the last statement: the
            connection broke, the server went down, or no answer came in time.

A link that failed is thrown away; so is one that has lived `LIFE_SECONDS` (a little less, at
random, so that they do not go all at once), and a server behind a moved address is found again. A
new one is tried `CONNECT_ATTEMPTS` times with jitter between.

Nothing is waited for without end, on either side of the line:

    statement   the server gives up after `STATEMENT_LIMIT_SECONDS`, we a little later
    lock        `LOCK_LIMIT_SECONDS`, then the work is tried again or refused as busy
    idle        a transaction of ours that stands idle holds its locks `FROZEN_MILLISECONDS` at most
    line        both kernels ask after `KEEPALIVE` and give up unsent bytes after `UNHEARD_SECONDS`

Statements are short here, so none is worth compiling to machine code (`jit`). Straight to the
server all of these are settings of the session, so that they hold for a statement alone
too; behind a pooler each transaction begins with them. What the address says of them wins.

Every error of the driver becomes one of ours here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import re
import socket
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import asyncpg
from msgspec import Struct

from outlive import ids
from outlive.clock import Clock
from outlive.errors import (
    OutliveError,
    Refused,
    StoreBusy,
    StoreCorrupt,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from outlive.stores import sql
from outlive.stores.halt import frozen
from outlive.stores.postgres_hosts import each_of, newest_primary
from outlive.stores.urls import split

Connection = Any
"""An `asyncpg.Connection`; the driver ships no types for what it gives back."""

LIFE_SECONDS = 1800.0
CONNECT_SECONDS = 5.0
CONNECT_ATTEMPTS = 3
CONNECT_BASE_SECONDS = 0.05
STATEMENT_SECONDS = 30.0
"""How long an answer is waited for; then the statement is cancelled and the link thrown away."""
STATEMENT_LIMIT_SECONDS = 25.0
LOCK_LIMIT_SECONDS = 5.0
FROZEN_MILLISECONDS = 2000
"""How long the server lets a transaction stand idle that holds locks; then it ends our session."""
CLOSE_SECONDS = 2.0
STALLED_SECONDS, DOUBT_SECONDS = 2.0, 0.5
"""Of several servers: how long an answer is waited for before all are asked who leads, and how
often then. One that is frozen or cut off would else hold us up for `STATEMENT_SECONDS`."""
REFRESH_SECONDS = 0.25
"""Who leads is asked at most so often only because something was not found."""
KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
UNHEARD_SECONDS = 20
LIFE_SPREAD = 0.1
STATEMENTS_KEPT = 100
"""Prepared statements kept by a link that leads straight to the server."""
SESSION_SETTINGS: dict[str, int | str] = {
    "jit": "off",
    "statement_timeout": round(STATEMENT_LIMIT_SECONDS * 1000),
    "lock_timeout": round(LOCK_LIMIT_SECONDS * 1000),
    "idle_in_transaction_session_timeout": FROZEN_MILLISECONDS,
    "client_connection_check_interval": 2000,
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": UNHEARD_SECONDS * 1000,
}
SYNC_WAIT_CANCELLED = "01000"
"""The warning of a commit that is on this server, and not known to be on its standby."""

HALTED = "OL003"
"""What the triggers of a store raise that is being moved, or was."""

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}\Z")
_WORD = re.compile(r"\boutlive\b")

CUT = (
    OSError,  # TimeoutError too
    EOFError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DatabaseDroppedError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
)
RACE = (
    asyncpg.UniqueViolationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.LockNotAvailableError,
)
"""Nothing was written because somebody else was faster: the same work may be tried again."""


def schema_checked(schema: str) -> str:
    """`schema`, if it is a plain name. Raises `ValueError`."""
    if not _SCHEMA.match(schema):
        raise ValueError(f"{schema!r} is no name for a schema: a-z, 0-9 and _, at most 63")
    return schema


def straight(dsn: str, direct: str) -> str:
    """`dsn` with the server at `direct`: `host:port`, or `host:port/database`.

    Raises `ValueError` when it names no host and port."""
    place = urlsplit(f"//{direct}")
    plain = not (place.query or place.username) and place.path.count("/") <= 1
    if not (place.hostname and place.port and plain):
        raise ValueError("direct is host:port of the server, or host:port/database")
    parts = split(dsn)
    who, at, _ = parts.netloc.rpartition("@")
    path = place.path if place.path.strip("/") else parts.path
    return urlunsplit(parts._replace(netloc=f"{who}{at}{place.netloc}", path=path))


def placed(text: str, schema: str) -> str:
    """SQL as shipped, with its tables and functions in `schema`."""
    return _WORD.sub(f'"{schema_checked(schema)}"', text)


def statements(schema: str) -> dict[str, str]:
    """The named statements of PostgreSQL for a store in `schema`."""
    return {name: placed(text, schema) for name, text in sql.statements("postgres").items()}


def is_cut(error: BaseException) -> bool:
    """Whether what the server did is unknown after `error`."""
    return isinstance(error, CUT) and not isinstance(error, asyncpg.DataError)


def mapped(error: BaseException) -> OutliveError:
    """A driver's error as one of ours; the only place where they are told apart."""
    if isinstance(error, OutliveError):
        return error
    text = f"PostgreSQL: {type(error).__name__}: {error}"
    if getattr(error, "sqlstate", None) == HALTED:
        return frozen("The database")
    if isinstance(error, (asyncpg.DiskFullError, asyncpg.OutOfMemoryError)):
        return StoreFull(f"{text}. Nothing was written; what was committed before is intact.")
    if isinstance(error, (*RACE, asyncpg.QueryCanceledError)):
        return StoreBusy(f"{text}. Nothing was written.")
    if isinstance(error, asyncpg.DataError):  # a text or number that it cannot hold: no use again
        return Refused(f"{text}. Nothing was written.")
    if isinstance(error, (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError)):
        return StoreCorrupt(f"{text}. The database is damaged.")
    refused = (
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
        asyncpg.InsufficientPrivilegeError,
        asyncpg.UndefinedTableError,
        asyncpg.UndefinedFunctionError,
        asyncpg.InvalidSchemaNameError,
    )
    if isinstance(error, refused):
        return StoreRefused(f"{text}. Nothing was written.")
    return StoreUnavailable(f"{text}. Nothing was written.")


class Link(asyncpg.Connection):  # type: ignore[misc]
    """A connection that needs no reset, because nothing is ever left in it."""

    __slots__ = ("born", "doubtful", "timeline")

    def get_reset_query(self) -> str:
        return ""


class Way(Struct, frozen=True):
    """How the server is reached, and as whom.

    `statement_cache_size=0` is for a pooler that knows no prepared statements; `name` is what the
    server shows for our sessions.
    """

    dsn: str
    statement_cache_size: int = 100
    is_pooled: bool = False
    name: str = "outlive"

    def settings(self) -> dict[str, str]:
        """What is said when a connection is made. A pooler takes no more than the name."""
        wanted = {"application_name": self.name}
        if not self.is_pooled:
            wanted |= {name: str(value) for name, value in SESSION_SETTINGS.items()}
        said = dict(parse_qsl(split(self.dsn).query))
        return {name: value for name, value in wanted.items() if name not in said}


async def way_to(dsn: str, name: str, statement_cache_size: int | None = None) -> Way:
    """Find out whether a pooler answers at `dsn`. Raises `OSError` or an error of the driver.

    A pooler gets no prepared statements unless `statement_cache_size` says that it knows them; 0
    says that there is one, also where it cannot be told.
    """
    probe = Links(Way(dsn, 0, True, name), 1, Clock())
    link = await probe.connect()
    try:
        ((number,),) = await probe.fetch(link, sql.statements("postgres")["backend"])
        is_pooled = number != link.get_server_pid() or statement_cache_size == 0
    finally:
        await probe.end(link)
    if statement_cache_size is None:
        statement_cache_size = 0 if is_pooled else STATEMENTS_KEPT
    return Way(dsn, statement_cache_size, is_pooled, name)


class Links:
    """At most `limit` connections on the `way` to the server, made when they are needed.

    `borrow` raises `StoreUnavailable` when there is no connection to be had; what is raised inside
    of it passes through, after the connection was thrown away if it may be in an unknown state.
    """

    def __init__(self, way: Way, limit: int, clock: Clock) -> None:
        self.way = way
        self._limit = asyncio.Semaphore(limit)
        self._clock = clock
        self._idle: list[Connection] = []
        self._made: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._closed = False
        self._doubts: set[asyncio.Task[None]] = set()
        self._refreshing, self._refreshed = asyncio.Lock(), -REFRESH_SECONDS
        self.check: Callable[[Connection], Awaitable[None]] | None = None
        """Asked about each new connection before it is used; raises to refuse it."""

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Connection]:
        """A connection outside any transaction, for the time of the block."""
        async with self._limit:
            link = await self._get()
            watch = self._watch(link)
            try:
                yield link
            except BaseException as error:
                known = isinstance(error, (OutliveError, asyncpg.PostgresError))
                if not known or is_cut(error):
                    link.terminate()
                if is_cut(error):
                    self.abandon()
                raise
            finally:
                if watch is not None:
                    watch.cancel()
                if self._closed or link.is_closed() or link.is_in_transaction():
                    link.terminate()
                else:
                    self._idle.append(link)

    async def _get(self) -> Connection:
        while self._idle:
            link = self._idle.pop()
            if not link.is_closed() and self._clock.boot() - link.born < LIFE_SECONDS:
                return link
            link.terminate()
        for attempt in range(1, CONNECT_ATTEMPTS + 1):
            if self._closed:
                break
            try:
                link = await self.connect()
                try:
                    if self.check is not None:
                        await self.check(link)
                except BaseException:
                    link.terminate()
                    raise
                return link
            except (*CUT, asyncpg.TooManyConnectionsError) as error:
                last = error
                wait = ids.full_jitter(CONNECT_BASE_SECONDS, CONNECT_SECONDS, attempt)
                await asyncio.sleep(wait)
            except asyncpg.PostgresError as error:
                raise mapped(error) from error
        else:
            raise StoreUnavailable(
                f"No connection to PostgreSQL ({type(last).__name__}: {last}); nothing was written."
            ) from last
        raise StoreUnavailable("The store is closed; nothing was read or written.")

    async def fetch(self, link: Connection, statement: str, *values: Any) -> list[Any]:
        """The rows of one statement, as a transaction of its own.

        Behind a pooler it is put between BEGIN and COMMIT: preparing and running it are two
        messages, and only a transaction keeps both on one server connection.
        """
        if not self.way.is_pooled and self.way.statement_cache_size:
            rows: list[Any] = await link.fetch(statement, *values)
            return rows
        await self.begin(link)
        try:
            rows = await link.fetch(statement, *values)
        except asyncpg.PostgresError:
            if link.is_in_transaction():
                await link.execute("ROLLBACK")
            raise
        await link.execute("COMMIT")
        return rows

    async def begin(
        self,
        link: Connection,
        idle_milliseconds: float = 0,
        statement_seconds: float = STATEMENT_LIMIT_SECONDS,
        lock_seconds: float = LOCK_LIMIT_SECONDS,
    ) -> None:
        """Begin a transaction with its limits, in one journey; 0 is `FROZEN_MILLISECONDS`."""
        said = self.limits(idle_milliseconds, statement_seconds, lock_seconds)
        await link.execute("; ".join(("BEGIN ISOLATION LEVEL READ COMMITTED", *said)))

    def limits(
        self, idle_milliseconds: float, statement_seconds: float, lock_seconds: float
    ) -> list[str]:
        """The statements that limit the transaction which they are in."""
        limits = {
            "jit": "off",
            "idle_in_transaction_session_timeout": idle_milliseconds or FROZEN_MILLISECONDS,
            "statement_timeout": round(statement_seconds * 1000),
            "lock_timeout": round(lock_seconds * 1000),
        }
        return [f"SET LOCAL {name} = {value}" for name, value in limits.items()]

    async def connect(self) -> Connection:
        """A new connection of its own, not counted and not kept; to the primary, of several."""
        hosts = each_of(self.way.dsn)
        if len(hosts) == 1:
            return await self._connect_to(hosts[0])
        return (await newest_primary(hosts, self._ask))[1]

    async def refresh(self) -> bool:
        """See `Store.refresh`: of several servers, all are asked anew who leads; what leads to
        another is thrown away by `check`."""
        if len(each_of(self.way.dsn)) == 1:
            return False
        asked = self._clock.boot()
        async with self._refreshing:
            if self._refreshed < asked:  # else somebody else has asked since
                await asyncio.sleep(self._refreshed + REFRESH_SECONDS - self._clock.boot())
                began = self._clock.boot()
                await self._try_another()
                self._refreshed = began
        return True

    async def _try_another(self) -> None:
        try:
            link = await self.connect()
        except (*CUT, asyncpg.PostgresError) as error:
            raise mapped(error) from error
        try:
            if self.check is not None:
                await self.check(link)
        except asyncpg.PostgresError as error:
            raise mapped(error) from error
        finally:
            link.terminate()

    async def _ask(self, dsn: str) -> tuple[int, Connection]:
        link = await self._connect_to(dsn)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                rows = await self.fetch(link, sql.statements("postgres")["timeline"])
        except BaseException:
            link.terminate()
            raise
        link.timeline = rows[0][0]
        return link.timeline, link

    async def _connect_to(self, dsn: str) -> Connection:
        link = await asyncpg.connect(
            dsn,
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            statement_cache_size=self.way.statement_cache_size,
            server_settings=self.way.settings(),
            connection_class=Link,
        )
        life = LIFE_SECONDS * LIFE_SPREAD
        self._made.add(link)
        link.born = self._clock.boot() - ids.full_jitter(life, life, 1)
        link.doubtful, link.timeline = False, 0
        link.add_log_listener(_note_warning)
        _keep_alive(link)
        return link

    def _watch(self, link: Connection) -> asyncio.TimerHandle | None:
        """Begin to doubt `link` when it is borrowed for long; see `STALLED_SECONDS`."""
        if not link.timeline:
            return None
        return asyncio.get_running_loop().call_later(STALLED_SECONDS, self._doubt, link)

    def _doubt(self, link: Connection) -> None:
        doubt = asyncio.get_running_loop().create_task(self._end_replaced(link))
        self._doubts.add(doubt)
        doubt.add_done_callback(self._doubts.discard)

    async def _end_replaced(self, link: Connection) -> None:
        """Cut `link` as soon as another server leads, for as long as it is borrowed."""
        while not self._closed and not link.is_closed() and link not in self._idle:
            await asyncio.sleep(DOUBT_SECONDS)
            try:
                newest = await self.connect()
            except (*CUT, asyncpg.PostgresError):
                continue
            newest.terminate()
            if newest.timeline > link.timeline:
                link.terminate()

    def abandon(self) -> None:
        """What lies idle leads nowhere any more: one link was cut, or another server leads."""
        idle, self._idle = self._idle, []
        for link in idle:
            link.terminate()

    def forget(self) -> None:
        """In a forked child: the sockets are the parent's, and are neither used nor shut down."""
        self._closed = True
        _inherited.extend(self._idle)
        self._idle = []

    async def close(self) -> None:
        """Close what lies idle; what is borrowed is closed when it comes back."""
        self._closed = True
        idle, self._idle = self._idle, []
        for link in idle:
            await self.end(link)

    def sever(self) -> None:
        """Cut every connection, lent or not, as the end of the process would."""
        self._closed = True
        for link in list(self._made):
            if not link.is_closed():
                link.terminate()
        self._idle = []

    async def end(self, link: Connection) -> None:
        """Close what `connect` gave, in order."""
        link.remove_log_listener(_note_warning)
        with suppress(*CUT, asyncpg.PostgresError):
            await link.close(timeout=CLOSE_SECONDS)

    def keep_for_parent(self, link: Connection) -> None:
        """In a forked child: see `forget`."""
        _inherited.append(link)


def _note_warning(link: Connection, message: Any) -> None:
    if message.sqlstate == SYNC_WAIT_CANCELLED:
        link.doubtful = True


def _keep_alive(link: Connection) -> None:
    """Let the kernel notice a server that vanished, where the connection goes over TCP."""
    transport = getattr(link, "_transport", None)
    plug = transport.get_extra_info("socket") if transport is not None else None
    if plug is None or plug.family not in (socket.AF_INET, socket.AF_INET6):
        return
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE:
        if hasattr(socket, name):
            plug.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_SECONDS * 1000)


_inherited: list[Connection] = []
"""Connections that a forked child must never close: it would end its parent's sessions."""
