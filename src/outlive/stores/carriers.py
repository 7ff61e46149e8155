"""A caller's own PostgreSQL connection, of whatever driver, as something that carries cells.

    asyncpg                    Connection, and what its pool hands out
    psycopg 3                  Connection, AsyncConnection
    SQLAlchemy                 Session, Connection, scoped_session; AsyncSession, AsyncConnection
    Django                     connection, connections["…"]

All of them run two statements of ours in the transaction that is open there, and nothing else: it
is neither begun nor ended here. They are told apart by the package their class comes from, so that
none of these is imported.

On SQLite there is no such thing: a connection of the caller's own would be a second copy of SQLite
on one file, which breaks its locks, or wait for ever for the lock that our own holds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from outlive.clock import Clock
from outlive.errors import NotAllowed
from outlive.model import Put, Ref
from outlive.store import AsyncCarrier, Carrier, Sight
from outlive.stores.address import store_at
from outlive.stores.postgres_carry import carried_of, packed, sight_of

_PLACE = re.compile(r"\$(\d)")


def carrier_of(connection: Any, store: Any, clock: Clock) -> Carrier | AsyncCarrier:
    """`connection`, with a transaction open on it, as a carrier for the store `store` (or its
    address). Raises `NotAllowed` for what is none, or when no transaction is open."""
    if isinstance(store, str):
        store = store_at(store)
    sql: Mapping[str, str] | None = getattr(store, "sql", None)
    if sql is None:
        raise NotAllowed(
            f"A {type(connection).__name__} cannot take part in a transaction of "
            f"{type(store).__name__}: it has none but its own. Use `app.transact(function)` and "
            "give `within` what the function gets. Nothing was written."
        )
    wall = clock.wall() if type(clock) is not Clock else None
    for package, made in _CARRIERS.items():
        if package in _packages(connection):
            found: Carrier | AsyncCarrier = made(connection, sql, wall)
            return found
    raise NotAllowed(
        f"{type(connection).__module__}.{type(connection).__qualname__} is no connection that can "
        "carry a process or signal. Nothing was written."
    )


def _packages(connection: Any) -> set[str]:
    """The packages that the class of `connection` and its bases come from, with `.ext.asyncio`."""
    modules = {base.__module__ for base in type(connection).__mro__}
    return {module.split(".")[0] for module in modules} | {
        "sqlalchemy.ext.asyncio" for module in modules if "sqlalchemy.ext.asyncio" in module
    }


def _demand(is_open: bool) -> None:
    if not is_open:
        raise NotAllowed(
            "No transaction is open on this connection: a process or signal would not go with "
            "anything. Begin one first. Nothing was written."
        )


class _Asyncpg(AsyncCarrier):
    def __init__(self, connection: Any, sql: Mapping[str, str], wall: int | None) -> None:
        _demand(connection.is_in_transaction())
        self._connection, self._sql, self._wall = connection, sql, wall

    async def look(self, ref: Ref) -> Sight:
        values = (self._wall, ref.space, ref.key)
        return sight_of(await self._connection.fetchrow(self._sql["carry_look"], *values))

    async def carry(self, puts: Sequence[Put]) -> bytes | None:
        return carried_of(await self._connection.fetchrow(self._sql["carry"], packed(puts)))


class _Cursor(Carrier):
    """Anything that gives cursors in the manner of PEP 249: psycopg and Django."""

    def __init__(self, connection: Any, sql: Mapping[str, str], wall: int | None) -> None:
        self._connection, self._wall = connection, wall
        self._sql = {name: _formatted(sql[name]) for name in ("carry_look", "carry")}

    def look(self, ref: Ref) -> Sight:
        return sight_of(self._ask("carry_look", (self._wall, ref.space, ref.key)))

    def carry(self, puts: Sequence[Put]) -> bytes | None:
        return carried_of(self._ask("carry", (packed(puts),)))

    def _ask(self, name: str, values: Sequence[Any]) -> Any:
        with self._cursor() as cursor:
            cursor.execute(self._sql[name], values)
            return cursor.fetchone()

    def _cursor(self) -> Any:
        return self._connection.cursor()


class _Django(_Cursor):
    def __init__(self, connection: Any, sql: Mapping[str, str], wall: int | None) -> None:
        if connection.vendor != "postgresql":
            raise NotAllowed(f"Django's connection leads to {connection.vendor}, not PostgreSQL.")
        _demand(connection.in_atomic_block or not connection.get_autocommit())
        super().__init__(connection, sql, wall)


class _Psycopg(_Cursor):
    def __init__(self, connection: Any, sql: Mapping[str, str], wall: int | None) -> None:
        _demand(not connection.autocommit or connection.info.transaction_status != _IDLE)
        super().__init__(connection, sql, wall)

    def _cursor(self) -> Any:
        from psycopg.rows import tuple_row

        return self._connection.cursor(row_factory=tuple_row)


class _AsyncPsycopg(AsyncCarrier):
    def __init__(self, connection: Any, sql: Mapping[str, str], wall: int | None) -> None:
        _demand(not connection.autocommit or connection.info.transaction_status != _IDLE)
        self._connection, self._wall = connection, wall
        self._sql = {name: _formatted(sql[name]) for name in ("carry_look", "carry")}

    async def look(self, ref: Ref) -> Sight:
        return sight_of(await self._ask("carry_look", (self._wall, ref.space, ref.key)))

    async def carry(self, puts: Sequence[Put]) -> bytes | None:
        return carried_of(await self._ask("carry", (packed(puts),)))

    async def _ask(self, name: str, values: Sequence[Any]) -> Any:
        from psycopg.rows import tuple_row

        async with self._connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(self._sql[name], values)
            return await cursor.fetchone()


class _Alchemy(Carrier):
    def __init__(self, connection: Any, sql: Mapping[str, str], wall: int | None) -> None:
        _demand_postgresql(connection)
        if hasattr(connection, "get_bind") and connection.in_transaction():
            _demand_postgresql(connection.connection())  # may be told otherwise than its engine
        self._connection, self._sql, self._wall = connection, sql, wall

    def look(self, ref: Ref) -> Sight:
        return sight_of(self._ask("carry_look", (self._wall, ref.space, ref.key)))

    def carry(self, puts: Sequence[Put]) -> bytes | None:
        return carried_of(self._ask("carry", (packed(puts),)))

    def _ask(self, name: str, values: Sequence[Any]) -> Any:
        statement, named = _bound(self._sql[name], values)
        return self._connection.execute(statement, named).one()


class _AsyncAlchemy(AsyncCarrier):
    def __init__(self, connection: Any, sql: Mapping[str, str], wall: int | None) -> None:
        _demand_postgresql(connection)
        self._connection, self._sql, self._wall = connection, sql, wall

    async def look(self, ref: Ref) -> Sight:
        if hasattr(self._connection, "get_bind"):  # of a session's own only here can be awaited
            _demand_postgresql(await self._connection.connection())
        return sight_of(await self._ask("carry_look", (self._wall, ref.space, ref.key)))

    async def carry(self, puts: Sequence[Put]) -> bytes | None:
        return carried_of(await self._ask("carry", (packed(puts),)))

    async def _ask(self, name: str, values: Sequence[Any]) -> Any:
        statement, named = _bound(self._sql[name], values)
        return (await self._connection.execute(statement, named)).one()


def _psycopg(connection: Any, sql: Mapping[str, str], wall: int | None) -> Carrier | AsyncCarrier:
    from psycopg import AsyncConnection

    kind = _AsyncPsycopg if isinstance(connection, AsyncConnection) else _Psycopg
    return kind(connection, sql, wall)


def _formatted(statement: str) -> str:
    """A statement with `%s` for its values, which stand in order."""
    return _PLACE.sub("%s", statement.replace("%", "%%"))


def _bound(statement: str, values: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    """A statement of SQLAlchemy's and its values by name."""
    from sqlalchemy import text

    named = {f"v{at}": value for at, value in enumerate(values, 1)}
    return text(_PLACE.sub(r":v\1", statement)), named


def _demand_postgresql(connection: Any) -> None:
    """SQLAlchemy begins a transaction by itself, unless it was told to commit each statement."""
    bind = getattr(connection, "sync_connection", connection)  # what an AsyncConnection stands for
    bind = bind.get_bind() if hasattr(bind, "get_bind") else bind
    if bind.dialect.name != "postgresql":
        raise NotAllowed(
            f"SQLAlchemy's connection leads to {bind.dialect.name}, not PostgreSQL. Nothing was "
            "written."
        )
    level = bind.get_execution_options().get("isolation_level")
    _demand((level or getattr(bind.dialect, "_on_connect_isolation_level", "")) != "AUTOCOMMIT")


_IDLE = 0
"""libpq's status of a connection without a transaction."""
_CARRIERS: Mapping[str, Any] = {
    "django": _Django,
    "sqlalchemy.ext.asyncio": _AsyncAlchemy,
    "sqlalchemy": _Alchemy,
    "asyncpg": _Asyncpg,
    "psycopg": _psycopg,
}
