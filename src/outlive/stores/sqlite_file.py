"""The SQLite file itself: its connections, its schema, and transactions of certain outcome.

    writer    writes and checkpoints; only the writing lane uses it
    users     the door of `transact`: a connection of its own, also of the writing lane
    readers   one for each reading lane
    watcher   sees that another process committed; used on the event loop, never waits
    glancer   reads a few rows on the event loop, never waits

    queue ─> BEGIN IMMEDIATE ─> work ─> writer's mark ─> COMMIT ──ok──> written
                                  │                        └─error─> look up, in fresh connections
                                  └─error─> rolled back: not written         │
                              found / not found, made a fact by a commit <───┤
                                                       fails too: unsure <───┘

The writer's mark is a row that says which group this store committed last: it is how a commit
whose answer was lost is looked up. What is found becomes a fact by a commit of its own and a
checkpoint: after a failed flush nothing that lies in the log is believed, because the kernel may
have dropped what it could not write. While the file is unsure, reads and writes settle it first.

Not promised: anything when a second copy of SQLite in the same process opens the file.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw

from outlive import ids
from outlive.clock import MICROS, Clock
from outlive.errors import (
    OutcomeUnknown,
    OutliveError,
    StoreBusy,
    StoreCorrupt,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from outlive.stores import place, sql
from outlive.stores.halt import FROZEN, demand_service, frozen
from outlive.stores.inserts import Insert
from outlive.stores.migrate import pending
from outlive.stores.sql import Migration
from outlive.stores.user_tables import UserTables
from outlive.stores.writelock import WriteLock

T = TypeVar("T")
CHECKPOINT_PAGES = 4000
"""Pages in the WAL (16 MiB) after which the writing lane moves them into the file, outside any
commit."""
BUSY_MILLISECONDS = 5000
STATEMENTS_KEPT = 256
"""Prepared statements of a connection: the library forgets one that was not used in so many
executions, and each row of a group is one."""
INSERTS = ("event_write", "cell_make", "mark_write")
BUSY_PAUSE_SECONDS = 0.005
WRITER_FORGET_MICROS = 86_400 * MICROS


class SQLiteFile:
    """The file at `path`; all but `wall` and `watch` is for the writing lane.

    `shards` counts when the file is made. `frozen_seconds` as in `WriteLock`. `readers` is how
    many reading connections are opened.
    """

    def __init__(
        self, path: Path, shards: int, clock: Clock, *, frozen_seconds: float, readers: int
    ) -> None:
        self.path = path
        self.shards = shards
        self.incarnation = ""
        self.sql = sql.statements("sqlite")
        self.inserts = {name: Insert(self.sql[name]) for name in INSERTS}
        """The statements that write many rows in one group."""
        self.chains: dict[int, tuple[int, bytes]] = {}
        """The head of each shard and its chain value, as this process wrote them last."""
        self.lengths: dict[str, int] = {}
        """How long streams are that this process wrote last; good while it keeps their shard."""
        self.cells: dict[tuple[str, str], tuple[int, tuple[tuple[str, str], ...]]] = {}
        """Version and marks of cells as this process wrote them last: believed, and checked by the
        statement that replaces them."""
        self.in_hand = False
        """The event loop has a reading connection in hand."""
        self.unsure = False
        """A commit's outcome is unknown and could not be looked up yet."""
        self.migrated: list[Migration] = []
        """What opening applied to the schema."""
        self.wal_pages = 0
        self.readers: list[apsw.Connection] = []
        self._reader_count = readers
        self._clock = clock
        self._frozen_seconds = frozen_seconds
        self._writer_id = ids.node_id()
        self._groups = itertools.count(1)
        self._group = 0
        self._full = True
        self._high = 0
        self._high_lock = threading.Lock()
        self._opened: list[tuple[apsw.Connection, place.Identity]] = []

    # --- opening and closing ----------------------------------------------------------------------

    def open(self) -> None:
        """Check the place, connect, bring the schema up to date. Raises `StoreRefused` or
        `StoreUnavailable`; then nothing stays open."""
        place.check(self.path)
        self._lock = WriteLock(self.path.with_name(self.path.name + "-lock"), self._frozen_seconds)
        try:
            with place.opening:
                place.check_second_copy(self.path)
                self._lock.acquire()  # two processes may make the file at the same moment
                try:
                    self.writer = self.connect()
                finally:
                    self._lock.release()
            self._migrate()
            self.users = UserTables(self.connect(), self)
            self.readers = [self.connect(writes=False) for _ in range(self._reader_count)]
            self._watcher = self.connect(writes=False)
            self._watcher.set_busy_timeout(0)
            self.glancer = self.connect(writes=False)
            self.glancer.set_busy_timeout(0)
            row = self.writer.execute(self.sql["store_read"]).fetchone()
            if row is None:
                raise StoreCorrupt(f"{self.path} has outlive's tables but no store row.")
            self.incarnation, self.shards = row[0], row[1]
            self._raise_high(row[3])
        except BaseException as error:
            self.close()
            if isinstance(error, apsw.Error):
                raise self.mapped(error) from error
            raise

    def connect(self, *, writes: bool = True) -> apsw.Connection:
        """A new connection with the settings every promise stands on."""
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOMUTEX
        with place.opening:
            connection = apsw.Connection(
                str(self.path),
                flags=flags | (apsw.SQLITE_OPEN_CREATE if writes else 0),
                statementcachesize=STATEMENTS_KEPT,
            )
            self._opened.append((connection, place.opened(self.path)))
        # Else a statement with ORDER BY or LIMIT is planned anew whenever its values are bound.
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        settings = ["wal_autocheckpoint=0", "mmap_size=0", "cache_size=-16000"]
        if writes:
            settings = ["journal_mode=wal", "synchronous=full", *settings]
        else:
            settings = [*settings, "query_only=1"]
        try:
            for setting in settings:
                self._set(connection, setting)
        except apsw.Error:
            self.disconnect(connection)
            raise
        if writes:
            connection.setwalhook(self._count_pages)
        return connection

    def _set(self, connection: apsw.Connection, setting: str) -> None:
        """Make a setting; the journal mode does not wait by itself for another process."""
        ends = time.monotonic() + BUSY_MILLISECONDS / 1000
        while True:
            try:
                connection.execute(f"PRAGMA {setting}").fetchall()
                return
            except apsw.BusyError:
                if time.monotonic() > ends:
                    raise
                time.sleep(BUSY_PAUSE_SECONDS)

    def disconnect(self, connection: apsw.Connection) -> None:
        """Close what `connect` gave; once is enough, twice does no harm."""
        with suppress(apsw.Error):
            connection.close()
        for entry in self._opened[:]:
            if entry[0] is connection:
                self._opened.remove(entry)
                place.closed(entry[1])

    def close(self) -> None:
        """Close whatever is open, the writer last: it moves the log into the file if it can."""
        for connection, _ in reversed(self._opened[:]):
            self.disconnect(connection)
        self._lock.close()

    @property
    def at_rest(self) -> bool:
        """Whether no connection does anything, as far as it is not in a lane that does it."""
        all_known = len(self._opened) == len(self.readers) + 4  # else somebody opens one, or closes
        return all_known and not self.in_hand and not self._lock.held

    def forget(self, at_rest: bool) -> None:
        """In a forked child: give everything up; what the parent has is not touched.

        SQLite knows a file by its inode, and would take the locks of the parent's connections for
        held in the child, where they are not. So they are closed if they were `at_rest` when the
        process was forked; else they stay, and `place` refuses the file to the child.
        """
        if at_rest:
            for connection, _ in reversed(self._opened[:]):
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                self.disconnect(connection)
        _inherited.extend(connection for connection, _ in self._opened)
        self._lock.close()

    def _migrate(self) -> None:
        shipped = sql.migrations("sqlite")
        connection = self.writer
        self._lock.acquire()
        try:
            connection.execute("BEGIN IMMEDIATE")
            exists = _one(connection, self.sql["migrations_exist"])[0]
            applied = list(connection.execute(self.sql["migrations"])) if exists else []
            wanted = pending(shipped, applied)
            if wanted:
                connection.execute(self.sql["migrations_table"])
            now = self.wall()
            for migration in wanted:
                for _ in connection.execute(migration.text):
                    pass
                connection.execute(
                    self.sql["migration_done"],
                    (migration.number, migration.name, migration.checksum, now),
                )
            demand_service(self.path.name, connection.execute(self.sql["halt_read"]).fetchone())
            connection.execute(self.sql["store_make"], (ids.token(130), self.shards))
            shards = _one(connection, self.sql["store_read"])[1]
            connection.executemany(self.sql["shard_make"], [(shard,) for shard in range(shards)])
            connection.execute(self.sql["writer_forget"], (now - WRITER_FORGET_MICROS,))
            connection.execute(self.sql["writer_mark"], (self._writer_id, 0, now))
            connection.execute("COMMIT")
            self.migrated = wanted
        except BaseException:
            self._rollback(connection)
            raise
        finally:
            self._lock.release()

    # --- the clock --------------------------------------------------------------------------------

    def wall(self) -> int:
        """The store's clock: the host's, but never behind what it once was. From any thread."""
        return self._raise_high(self._clock.wall())

    def _raise_high(self, micros: int) -> int:
        with self._high_lock:
            if micros > self._high:
                self._high = micros
            return self._high

    def move(self, connection: apsw.Connection, versions: int) -> tuple[int, int]:
        """Move the file's clock and version counter on; gives the first free version and the
        time."""
        row = _one(connection, self.sql["store_move"], (versions, self.wall()))
        self._raise_high(row[1])
        return row[0] - versions + 1, row[1]

    # --- writing ----------------------------------------------------------------------------------

    def transaction(
        self, work: Callable[[apsw.Connection], T], *, durable: bool = True, users: bool = False
    ) -> T:
        """Run `work` in one write transaction, and be certain of its outcome.

        On the connection of `users` if asked. Raises what `work` raises (rolled back),
        `StoreUnavailable` (not applied), or `OutcomeUnknown`.
        """
        self._lock.acquire()
        try:
            if self.unsure:
                self._settle()
            result = self._prepare(work, durable, users)
        except BaseException:
            self._lock.release()
            raise
        self.finish(users=users)
        return result

    def try_prepare(
        self, work: Callable[[apsw.Connection], T], *, durable: bool = True
    ) -> tuple[T] | None:
        """The first half of `transaction`, up to COMMIT, if nobody else writes this moment.

        Never waits and never flushes, so it may run on the event loop while the writing lane is
        idle; `finish` must follow in the lane. None when somebody writes: nothing was done. Raises
        what `work` raises (rolled back).
        """
        if self.unsure or not self._lock.try_acquire():
            return None
        self.writer.set_busy_timeout(0)
        try:
            return (self._prepare(work, durable, False),)
        except StoreBusy:
            self._lock.release()
            return None
        except BaseException:
            self._lock.release()
            raise
        finally:
            self.writer.set_busy_timeout(BUSY_MILLISECONDS)

    def _prepare(self, work: Callable[[apsw.Connection], T], durable: bool, users: bool) -> T:
        """Everything up to COMMIT, with the lock held; rolled back when it raises."""
        self._group = next(self._groups)
        connection = self.users.connection if users else self.writer
        try:
            if durable is not self._full and not users:
                level = "full" if durable else "normal"
                connection.execute(f"PRAGMA synchronous={level}").fetchall()
                self._full = durable
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection)
            connection.execute(self.sql["writer_mark"], (self._writer_id, self._group, self._high))
        except BaseException as error:
            self._rollback(connection)
            if isinstance(error, apsw.Error):
                raise self.mapped(error) from error
            raise
        return result

    def finish(self, *, users: bool = False) -> None:
        """COMMIT what was prepared, be certain of its outcome, and let the next writer in."""
        connection = self.users.connection if users else self.writer
        try:
            connection.execute("COMMIT")
        except apsw.Error as error:
            if isinstance(error, (apsw.FullError, apsw.BusyError)):
                self._rollback(connection)
                raise self.mapped(error) from error
            if not self._look_up(self._group, error):
                raise self.mapped(error) from error
        finally:
            self._lock.release()

    def _look_up(self, group: int, cause: apsw.Error) -> bool:
        """Whether the transaction `group` is in the file, made a fact. Raises `OutcomeUnknown` if
        that fails too. Runs with the write lock held."""
        try:
            return self._reopen() >= group
        except (apsw.Error, OSError) as error:
            self.unsure = True
            raise OutcomeUnknown(
                f"The store failed while committing ({cause}) and again while looking the commit "
                f"up ({error}); whether it was written is not known."
            ) from error

    def settle(self) -> None:
        """Make a fact of whatever is in the file after an unknown outcome. Raises
        `StoreUnavailable` when that fails again."""
        self._lock.acquire()
        try:
            if self.unsure:
                self._settle()
        finally:
            self._lock.release()

    def _settle(self) -> None:
        try:
            self._reopen()
        except (apsw.Error, OSError) as error:
            raise self.mapped(error) from error
        self.unsure = False

    def _reopen(self) -> int:
        """Replace both writing connections; gives the last group of this store in the file."""
        self.forget_written()
        self.disconnect(self.users.connection)
        self.disconnect(self.writer)
        self.writer = self.connect()
        self._full = True
        self.users = UserTables(self.connect(), self)
        self.writer.execute("BEGIN IMMEDIATE")
        row = self.writer.execute(self.sql["writer_read"], (self._writer_id,)).fetchone()
        self.writer.execute(
            self.sql["writer_mark"], (self._writer_id, next(self._groups), self._high)
        )
        self.writer.execute("COMMIT")
        with suppress(apsw.BusyError):  # a reader in the log: the next writer restarts it
            self.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        return row[0] if row else 0

    def forget_written(self) -> None:
        """What this process remembers of its own writes is not to be relied on any more."""
        self.chains.clear()
        self.lengths.clear()
        self.cells.clear()

    def _rollback(self, connection: apsw.Connection) -> None:
        self.forget_written()
        with suppress(apsw.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _count_pages(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self.wal_pages = pages
        return apsw.SQLITE_OK

    def checkpoint(self) -> None:
        """Move a log of `CHECKPOINT_PAGES` into the file; waits for nobody, and may fail."""
        if self.wal_pages >= CHECKPOINT_PAGES and not self.unsure:
            with suppress(apsw.Error):
                self.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self.wal_pages = 0

    # --- watching, and errors ---------------------------------------------------------------------

    def watch(self) -> int | None:
        """The file's change counter, a read of shared memory; None when it cannot be had now."""
        self.in_hand = True
        try:
            found: int = self._watcher.pragma("data_version")
        except apsw.Error:
            return None
        finally:
            self.in_hand = False
        return found

    def mapped(self, error: apsw.Error | OSError) -> OutliveError:
        """An error of the engine or the file system as one of ours; the only place where they are
        told apart."""
        text = f"{self.path.name}: {error}"
        if isinstance(error, apsw.ConstraintError) and FROZEN in text:
            return frozen(self.path.name)
        full = isinstance(error, apsw.FullError)
        if full or getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE:
            return StoreFull(f"{text}. Nothing was written; what was committed before is intact.")
        if isinstance(error, (apsw.BusyError, apsw.LockedError)):
            return StoreBusy(f"{text}. Nothing was written.")
        if isinstance(error, (apsw.NotADBError, apsw.CorruptError)):
            return StoreCorrupt(f"{self.path} is damaged or not a SQLite file ({error}).")
        if isinstance(error, apsw.CantOpenError):
            return StoreRefused(f"{self.path} cannot be opened ({error}).")
        return StoreUnavailable(f"{text}. Nothing was written.")


def _one(connection: apsw.Connection, statement: str, values: tuple[Any, ...] = ()) -> Any:
    """The one row that `statement` always gives. Raises `StoreCorrupt` when it is not there."""
    row = connection.execute(statement, values).fetchone()
    if row is None:  # a file that is shorter than it says reads as zeros
        raise StoreCorrupt("A row that is always there was not found; nothing was written.")
    return row


_inherited: list[apsw.Connection] = []
"""Connections that a forked child must never close: they were at work when it was made."""
