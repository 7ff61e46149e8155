"""The door to the caller's own tables: their statements, our connection, one commit.

A function given to `run.transact` sees a `Tables` object instead of the connection. An authorizer
on that connection refuses what would break the promise: ending the transaction, attaching another
file, changing settings, and touching outlive's own tables. It is asked when a statement is
prepared, so the caller's statements are never taken from the cache, where ours lie too. A
transaction that was ended in another way (`ON CONFLICT ROLLBACK`, a failed disk) is noticed before
the next statement. A deadline interrupts statements that run too long; Python code between them is
not interrupted, so keep it short.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import apsw
from msgspec.structs import replace

from outlive.clock import Clock
from outlive.errors import NotAllowed, TransactTooLong
from outlive.model import ABSENT, Batch, Cell, Put, Ref, Require
from outlive.store import MANNERS, Carrier, Sight

if TYPE_CHECKING:
    from outlive.stores.sqlite_file import SQLiteFile

_TRANSACTION = frozenset(
    {apsw.SQLITE_TRANSACTION, apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH, apsw.SQLITE_PRAGMA}
)
OWN_PREFIX = "outlive_"
PROGRESS_OPCODES = 20_000
"""How many of the engine's instructions run between two looks at the deadline."""


_WITH_COLUMN = frozenset({apsw.SQLITE_READ, apsw.SQLITE_UPDATE})


_OF_THE_DISK = (
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.FullError,
    apsw.IOError,
    apsw.NotADBError,
)


class WorkFailed(Exception):
    """The caller's function raised an error of the engine's; it is theirs, and not the store's."""

    def __init__(self, error: apsw.Error) -> None:
        super().__init__(str(error))
        self.error = error


class Tables(Carrier):
    """The caller's own tables inside a transaction that is committed together with the step's
    record."""

    def __init__(self, users: UserTables) -> None:
        self._users = users
        self._connection: apsw.Connection | None = users.connection
        self._carried: dict[Ref, Put] = {}

    def execute(
        self, statement: str, values: Sequence[Any] | dict[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run one or more statements; gives the rows.

        Values are bound by position (`?`) or name (`:name`). Raises `NotAllowed`, or the engine's
        own `apsw.Error`.
        """
        connection = self._demand_open()
        try:
            return list(connection.execute(statement, values, can_cache=False))
        except apsw.AuthError as error:
            raise NotAllowed(
                f"Not allowed inside run.transact: {statement.strip()[:80]}"
            ) from error

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each of `rows`."""
        for values in rows:
            self.execute(statement, values)

    def look(self, ref: Ref) -> Sight:
        """See `Carrier.look`."""
        connection, file = self._demand_open(), self._users.file
        carried = self._carried.get(ref)
        if carried is not None:
            value: bytes | None = carried.value
        else:
            with self._users.ours():
                found = connection.execute(file.sql["cell_read"], (ref.space, ref.key)).fetchone()
            value = None if found is None else Cell(*found).value
        return Sight(file.wall(), file.shards, file.incarnation, value)

    def carry(self, puts: Sequence[Put]) -> bytes | None:
        """See `Carrier.carry`."""
        found = self.look(puts[0].ref).value
        if found is None:
            self._carried.update((put.ref, put) for put in puts)
        return found

    def with_carried(self, batch: Batch) -> Batch:
        """`batch` and the cells that were carried: all of them new."""
        new = self._carried
        if not new:
            return batch
        require = (*batch.require, *(Require(ref, ABSENT) for ref in new))
        return replace(batch, require=require, put=(*batch.put, *new.values()))

    def _demand_open(self) -> apsw.Connection:
        if self._connection is None:
            raise NotAllowed("The transaction has ended; this object can no longer be used.")
        demand_transaction(self._connection)
        return self._connection

    def end(self) -> None:
        self._connection = None


class UserTables:
    """Runs callers' functions on a connection of their own."""

    def __init__(self, connection: apsw.Connection, file: SQLiteFile) -> None:
        self.connection = connection
        self.file = file
        self._clock = Clock()
        self._theirs = False
        self._deadline = math.inf
        connection.authorizer = self._authorize
        connection.set_progress_handler(self._is_late, PROGRESS_OPCODES)

    def run(self, work: Callable[[Any], Batch], limit_seconds: float) -> Batch:
        """Run `work` inside the transaction that is open; gives its batch.

        Raises `TransactTooLong` when its statements were interrupted, `NotAllowed` when they ended
        the transaction, `WorkFailed` around an engine's error, the store's own error when the disk
        failed under them, or what else `work` raises.
        """
        demand_plain(work, "on SQLite")
        tables = Tables(self)
        self._deadline = self._clock.boot() + limit_seconds
        self._theirs = True
        late = f"The transaction ran past {limit_seconds} s and was rolled back."
        try:
            batch = work(tables)
        except apsw.InterruptError as error:
            raise TransactTooLong(late) from error
        except _OF_THE_DISK as error:  # no statement of theirs is wrong
            raise self.file.mapped(error) from error
        except apsw.Error as error:
            raise WorkFailed(error) from error
        finally:
            overdue = self._clock.boot() > self._deadline
            self._deadline = math.inf
            self._theirs = False
            tables.end()
        if overdue:
            raise TransactTooLong(late)
        demand_transaction(self.connection)
        return tables.with_carried(batch)

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Statements of our own between the caller's."""
        self._theirs = False
        try:
            yield
        finally:
            self._theirs = True

    def _is_late(self) -> bool:
        return self._clock.boot() > self._deadline

    def _authorize(
        self,
        action: int,
        first: str | None,
        second: str | None,
        _database: str | None,
        _trigger: str | None,
    ) -> int:
        if not self._theirs:
            return apsw.SQLITE_OK
        if action in _TRANSACTION:
            return apsw.SQLITE_DENY
        names = (name for name in (first, None if action in _WITH_COLUMN else second) if name)
        if any(name.lower().startswith(OWN_PREFIX) for name in names):
            return apsw.SQLITE_DENY
        return apsw.SQLITE_OK


def demand_plain(work: Callable[..., Any], where: str) -> None:
    """Raise `NotAllowed` if `work` is async, or asks for a connection that there is not."""
    manner = getattr(work, "manner", MANNERS[0])
    if manner != MANNERS[0]:
        raise NotAllowed(
            f"A function in a transaction {where} gets `tables`; there is no {manner}: it would be "
            "a second copy of the database's code. Nothing was written."
        )
    if inspect.iscoroutinefunction(work):
        raise NotAllowed(f"A function in a transaction {where} is plain, not async.")


def demand_transaction(connection: apsw.Connection) -> None:
    """Raise `NotAllowed` if the transaction is not open any more: nothing may be written outside
    of it."""
    if not connection.in_transaction:
        raise NotAllowed(
            "A statement ended the transaction (ON CONFLICT ROLLBACK, or the disk failed); all of "
            "it was rolled back."
        )
