"""The store in one SQLite file: WAL, one writing thread a process, several processes a file.

    store.db          the file; store.db-wal and store.db-shm are SQLite's own
    store.db-lock     the queue in front of the write lock (writelock.py)
    store.db-nodes/   signs of life (presence.py)
    store.db-blobs/   blobs

    event loop ──job──> writing lane ──one transaction, one fsync──> file
               ──job──> reading lanes

What "acknowledged" means: `durable` batches are committed with `synchronous=FULL`: the WAL is
flushed before the answer.
A group of `relaxed` batches alone is committed with `NORMAL`: it survives the death of the
process, and power loss may
take the last moments. `volatile` is refused: use a memory store.

The clock is the host's, with a high-water mark in the file: it never goes back, and stands still
while the host's clock
is behind it. A commit that fails after COMMIT was sent is looked up under the write lock in a
fresh connection; what is
found there is made a fact by a commit of its own before it is believed.

Not promised: anything on a network file system, anything when a second copy of SQLite in the same
process opens the
file, and progress while another process is frozen inside a transaction, until it is killed
(writelock.py does).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw

from outlive import codec, ids
from outlive.clock import MICROS, Clock
from outlive.errors import (
    Fenced,
    OutcomeUnknown,
    OutliveError,
    StoreBusy,
    StoreCorrupt,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from outlive.model import Batch, Cell, Committed, Event, Hold, Lease, Ref, Shard
from outlive.store import CLAIM_CELLS_MAX, GROUP_BATCHES_MAX, Blobs
from outlive.stores import place, sql
from outlive.stores.blobs import FileBlobs
from outlive.stores.lanes import Lane
from outlive.stores.migrate import pending
from outlive.stores.presence import Presence
from outlive.stores.sqlite_group import PLACE_BITS, Again, Group, stream_conflict
from outlive.stores.user_tables import UserTables
from outlive.stores.writelock import WriteLock

READING_LANES = 2
POLL_SECONDS = 0.02
"""How often another process's commits are looked for while somebody waits."""
CHECKPOINT_PAGES = 4000
"""Pages in the WAL (16 MiB) after which the writing lane moves them into the file, outside any
commit."""
BUSY_MILLISECONDS = 5000
WRITER_FORGET_MICROS = 86_400 * MICROS
_SEQ_MASK = (1 << PLACE_BITS) - 1


class SQLiteStore:
    """A store in the SQLite file at `path`.

    `shards` (1 to 1024) counts when the file is made; an existing file keeps its own.
    `frozen_seconds` is how long a
    writer waits before it ends a process that the kernel reports as stopped while it holds the
    write lock. Nothing is
    opened or checked before `open()`.
    """

    def __init__(
        self,
        path: str | Path,
        shards: int = 16,
        clock: Clock | None = None,
        *,
        frozen_seconds: float = 6.0,
    ) -> None:
        self.path = Path(path).absolute()
        self.shards = shards
        self.incarnation = ""
        self._presence = Presence(self.path.with_name(self.path.name + "-nodes"))
        self._clock = clock or Clock()
        self.blobs: Blobs = FileBlobs(
            self.path.with_name(self.path.name + "-blobs"), clock=self._clock
        )
        self._frozen_seconds = frozen_seconds
        self._writer_id = ids.node_id()
        self._groups = itertools.count(1)
        self._sql: dict[str, str] = {}
        self._high = 0
        self._chains: dict[int, tuple[int, bytes]] = {}
        self._full = True
        self._wal_pages = 0
        self._is_open = False
        self._generation = 0
        self._seen_version = -1
        self._waiters: list[asyncio.Future[None]] = []
        self._poll: asyncio.TimerHandle | None = None

    # --- opening and closing ----------------------------------------------------------------------

    async def open(self) -> None:
        self._sql = sql.statements("sqlite")
        self._writing = Lane("outlive-write")
        self._reading = [Lane(f"outlive-read-{number}") for number in range(READING_LANES)]
        self._next_reader = itertools.cycle(range(READING_LANES)).__next__
        try:
            await self._writing.do(self._open_files)
        except BaseException:
            for lane in (self._writing, *self._reading):
                await lane.end()
            raise
        self._is_open = True

    def _open_files(self) -> None:
        place.check(self.path)
        self._lock = WriteLock(self.path.with_name(self.path.name + "-lock"), self._frozen_seconds)
        place_known = False
        try:
            self._writer = self._connect()
            place.opened(self.path)
            place_known = True
            self._migrate()
            self._users = UserTables(self._connect())
            self._readers = [self._connect(writes=False) for _ in range(READING_LANES)]
            self._watcher = self._connect(writes=False)
            row = self._writer.execute(self._sql["store_read"]).fetchone()
            if row is None:
                raise StoreCorrupt(f"{self.path} has outlive's tables but no store row.")
            self.incarnation, self.shards = row[0], row[1]
            self._high = max(self._high, row[3])
        except BaseException as error:
            if place_known:
                place.closed(self.path)
            self._lock.close()
            if isinstance(error, apsw.Error):
                raise self._mapped(error) from error
            raise

    def _connect(self, *, writes: bool = True) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_NOMUTEX
        connection = apsw.Connection(
            str(self.path), flags=flags | (apsw.SQLITE_OPEN_CREATE if writes else 0)
        )
        connection.set_busy_timeout(BUSY_MILLISECONDS)
        settings = ["wal_autocheckpoint=0", "mmap_size=0", "cache_size=-16000"]
        if writes:
            settings = ["journal_mode=wal", "synchronous=full", *settings]
        else:
            settings = [*settings, "query_only=1"]
        for setting in settings:
            connection.execute(f"PRAGMA {setting}").fetchall()
        return connection

    def _migrate(self) -> None:
        shipped = sql.migrations("sqlite")
        connection = self._writer
        connection.setwalhook(self._count_pages)
        self._lock.acquire()
        try:
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                exists = connection.execute(self._sql["migrations_exist"]).fetchone()[0]
                applied = list(connection.execute(self._sql["migrations"])) if exists else []
                wanted = pending(shipped, applied)
                if wanted:
                    connection.execute(self._sql["migrations_table"])
                now = self._wall()
                for migration in wanted:
                    for _ in connection.execute(migration.text):
                        pass
                    connection.execute(
                        self._sql["migration_done"],
                        (migration.number, migration.name, migration.checksum, now),
                    )
                connection.execute(self._sql["store_make"], (ids.token(130), self.shards))
                row = connection.execute(self._sql["store_read"]).fetchone()
                connection.executemany(
                    self._sql["shard_make"], [(shard,) for shard in range(row[1])]
                )
                connection.execute(self._sql["writer_forget"], (now - WRITER_FORGET_MICROS,))
                connection.execute(self._sql["writer_mark"], (self._writer_id, 0, now))
            connection.execute("COMMIT")
        except BaseException:
            self._rollback()
            raise
        finally:
            self._lock.release()

    async def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        if self._poll is not None:
            self._poll.cancel()
        self._tell()
        for lane in self._reading:
            await lane.end()
        closing = self._writing.do(self._close_files)
        await self._writing.end()
        await closing

    def _close_files(self) -> None:
        for connection in (*self._readers, self._watcher, self._users.connection, self._writer):
            with suppress(apsw.Error):
                connection.close()
        self._lock.close()
        self._presence.close()
        place.closed(self.path)

    # --- the clock --------------------------------------------------------------------------------

    def _wall(self) -> int:
        self._high = max(self._high, self._clock.wall())
        return self._high

    async def now(self) -> int:
        self._demand_open()
        return self._wall()

    # --- writing ----------------------------------------------------------------------------------

    async def commit(self, batch: Batch) -> Committed:
        result = (await self.commit_group((batch,)))[0]
        if isinstance(result, OutliveError):
            raise result
        return result

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        self._demand_open()
        if len(batches) > GROUP_BATCHES_MAX:
            raise ValueError(f"a group has at most {GROUP_BATCHES_MAX} batches")
        group = Group(batches)
        results = await self._writing.do(lambda: self._write_group(group))
        self._tell()
        return results

    def _write_group(self, group: Group) -> list[Committed | OutliveError]:
        one_by_one = False
        while open_batches := group.open_batches():
            which = open_batches[:1] if one_by_one else open_batches
            settled_before = len(group.batches) - len(open_batches)

            def work(
                connection: apsw.Connection, group: Group = group, which: list[int] = which
            ) -> list[tuple[int, Committed | OutliveError]]:
                version, now = self._move(connection, group.versions_wanted(which))
                return group.settle(connection, self._sql, self._chains, which, version, now)

            try:
                receipts = self._transaction(self._writer, work, durable=group.durable)
            except Again:
                if one_by_one and group.results[which[0]] is None:
                    group.results[which[0]] = stream_conflict(
                        group.batches[which[0]].append[0], None
                    )
                elif len(group.batches) - len(group.open_batches()) == settled_before:
                    one_by_one = True
                continue
            for at, result in receipts:
                group.results[at] = result
        return [result for result in group.results if result is not None]

    def _move(self, connection: apsw.Connection, versions: int) -> tuple[int, int]:
        """Move the file's clock and version counter on; gives the first free version and the
        time."""
        row = connection.execute(
            self._sql["store_move"], (versions, max(self._high, self._clock.wall()))
        ).fetchone()
        self._high = max(self._high, row[1])
        return row[0] - versions + 1, row[1]

    def _transaction(
        self,
        connection: apsw.Connection,
        work: Callable[[apsw.Connection], Any],
        *,
        durable: bool = True,
    ) -> Any:
        """Run `work` in one write transaction, and be certain of its outcome.

        Raises what `work` raises (rolled back), `StoreUnavailable` (not applied), or
        `OutcomeUnknown`.
        """
        group = next(self._groups)
        self._lock.acquire()
        try:
            try:
                if connection is self._writer and durable is not self._full:
                    level = "full" if durable else "normal"
                    connection.execute(f"PRAGMA synchronous={level}").fetchall()
                    self._full = durable
                connection.execute("BEGIN IMMEDIATE")
                result = work(connection)
                connection.execute(self._sql["writer_mark"], (self._writer_id, group, self._high))
            except BaseException as error:
                self._rollback(connection)
                if isinstance(error, apsw.Error):
                    raise self._mapped(error) from error
                raise
            try:
                connection.execute("COMMIT")
            except apsw.Error as error:
                if isinstance(error, (apsw.FullError, apsw.BusyError)):
                    self._rollback(connection)
                    raise self._mapped(error) from error
                if not self._look_up(group, error):
                    raise self._mapped(error) from error
        finally:
            self._lock.release()
        if self._wal_pages >= CHECKPOINT_PAGES:
            self._writing.do_later(self._checkpoint)
        return result

    def _look_up(self, group: int, cause: apsw.Error) -> bool:
        """Whether the transaction `group` is in the file, made a fact. Raises `OutcomeUnknown` if
        that fails too.

        Runs with the write lock held. A failed flush is never repeated on the same connection and
        believed.
        """
        self._chains.clear()
        try:
            with suppress(apsw.Error):
                self._users.connection.close()
            with suppress(apsw.Error):
                self._writer.close()
            self._writer = self._connect()
            self._full = True
            self._writer.setwalhook(self._count_pages)
            self._users = self._users.over(self._connect())
            self._writer.execute("BEGIN IMMEDIATE")
            row = self._writer.execute(self._sql["writer_read"], (self._writer_id,)).fetchone()
            found = row is not None and row[0] >= group
            self._writer.execute(
                self._sql["writer_mark"], (self._writer_id, next(self._groups), self._high)
            )
            self._writer.execute("COMMIT")
        except apsw.Error as error:
            raise OutcomeUnknown(
                f"The store failed while committing ({cause}) and again while looking the commit "
                f"up ({error}); whether it was written is not known."
            ) from error
        return found

    def _rollback(self, connection: apsw.Connection | None = None) -> None:
        connection = connection or self._writer
        self._chains.clear()
        with suppress(apsw.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _count_pages(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _checkpoint(self) -> None:
        if self._wal_pages >= CHECKPOINT_PAGES:
            with suppress(apsw.Error):
                self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._wal_pages = 0

    async def transact(
        self, work: Callable[[Any], Batch], *, limit_seconds: float = 5.0
    ) -> Committed:
        self._demand_open()

        def inside(connection: apsw.Connection) -> Committed:
            batch = self._users.run(work, limit_seconds)
            group = Group((batch,))
            result: Committed | OutliveError | None = group.results[0]
            if result is None:
                version, now = self._move(connection, group.versions_wanted((0,)))
                try:
                    result = group.settle(connection, self._sql, self._chains, (0,), version, now)[
                        0
                    ][1]
                except Again:
                    result = group.results[0] or stream_conflict(batch.append[0], None)
            if isinstance(result, OutliveError):
                raise result
            return result

        def job() -> Committed:
            committed: Committed = self._transaction(self._users.connection, inside)
            return committed

        committed = await self._writing.do(job)
        self._tell()
        return committed

    # --- claims -----------------------------------------------------------------------------------

    async def claim(self, spaces: Sequence[str], limit: int, hold_seconds: float) -> list[Cell]:
        limit = min(limit, CLAIM_CELLS_MAX)
        candidates = await self._read(lambda db: self._due(db, spaces, limit))
        if not candidates:
            return []

        def inside(connection: apsw.Connection) -> list[Cell]:
            found = self._due(connection, spaces, limit)
            version, now = self._move(connection, len(found))
            due = now + round(hold_seconds * MICROS)
            claimed = [
                Cell(cell.space, cell.key, cell.value, version + at, due)
                for at, cell in enumerate(found)
            ]
            connection.executemany(
                self._sql["claim"],
                [(cell.version, cell.due, cell.space, cell.key) for cell in claimed],
            )
            return claimed

        claimed: list[Cell] = await self._writing.do(
            lambda: self._transaction(self._writer, inside)
        )
        self._tell()
        return claimed

    def _due(self, db: apsw.Connection, spaces: Sequence[str], limit: int) -> list[Cell]:
        now = self._wall()
        found = [
            Cell(*row)
            for space in dict.fromkeys(spaces)
            for row in db.execute(self._sql["due"], (space, now, limit))
        ]
        found.sort(key=lambda cell: (cell.due or 0, cell.space, cell.key))
        return found[:limit]

    async def next_due(self, spaces: Sequence[str]) -> int | None:
        def job(db: apsw.Connection) -> int | None:
            found = [db.execute(self._sql["next_due"], (space,)).fetchone()[0] for space in spaces]
            return min((due for due in found if due is not None), default=None)

        return await self._read(job)

    # --- reading ----------------------------------------------------------------------------------

    async def _read(self, job: Callable[[apsw.Connection], Any]) -> Any:
        self._demand_open()
        at = self._next_reader()

        def guarded() -> Any:
            db = self._readers[at]
            try:
                with db:  # one savepoint: all statements of a read see one moment
                    return job(db)
            except apsw.Error as error:
                raise self._mapped(error) from error

        return await self._reading[at].do(guarded)

    async def read(self, refs: Sequence[Ref]) -> list[Cell | None]:
        def job(db: apsw.Connection) -> list[Cell | None]:
            rows = (
                db.execute(self._sql["cell_read"], (ref.space, ref.key)).fetchone() for ref in refs
            )
            return [None if row is None else Cell(*row) for row in rows]

        found: list[Cell | None] = await self._read(job)
        return found

    async def scan(self, space: str, after: str = "", limit: int = 1000) -> list[Cell]:
        found: list[Cell] = await self._read(
            lambda db: [Cell(*row) for row in db.execute(self._sql["scan"], (space, after, limit))]
        )
        return found

    async def select(
        self,
        spaces: Sequence[str],
        mark: str,
        low: str,
        high: str,
        limit: int = 1000,
        *,
        newest: bool = False,
    ) -> list[tuple[str, Cell]]:
        name = "select_newest" if newest else "select_oldest"
        values = (mark, low, high, codec.encode(list(spaces)).decode(), limit)
        found: list[tuple[str, Cell]] = await self._read(
            lambda db: [
                (row[0], Cell(*row[1:]))
                for row in db.execute(self._sql[name], values)
            ]
        )
        return found

    async def events(self, stream: str, after: int = -1, limit: int = 100_000) -> list[Event]:
        found: list[Event] = await self._read(
            lambda db: _events(db.execute(self._sql["events"], (stream, after, limit)))
        )
        return found

    async def lengths(self, streams: Sequence[str]) -> dict[str, int]:
        def job(db: apsw.Connection) -> dict[str, int]:
            found = {
                stream: db.execute(self._sql["length"], (stream,)).fetchone()[0]
                for stream in streams
            }
            return {stream: length for stream, length in found.items() if length is not None}

        lengths: dict[str, int] = await self._read(job)
        return lengths

    async def tail(self, shard: int, after: int, limit: int = 1000) -> list[Event]:
        base = shard << PLACE_BITS
        bounds = (base | max(after, 0), (shard + 1) << PLACE_BITS, limit)
        found: list[Event] = await self._read(
            lambda db: _events(db.execute(self._sql["tail"], bounds))
        )
        return found

    # --- shards -----------------------------------------------------------------------------------

    async def owners(self) -> list[Shard]:
        found: list[Shard] = await self._read(
            lambda db: [Shard(*row) for row in db.execute(self._sql["shards"])]
        )
        return found

    async def take(self, shard: int, epoch: int, owner: str) -> Lease:
        self._demand_open()

        def inside(connection: apsw.Connection) -> Lease:
            before = connection.execute(self._sql["shard_read"], (shard,)).fetchone()
            row = connection.execute(self._sql["shard_take"], (owner, shard, epoch)).fetchone()
            if row is None:
                raise Fenced(f"Shard {shard} is not at epoch {epoch} any more; it was not taken.")
            _, now = self._move(connection, 0)
            connection.execute(
                self._sql["hold_write"], (shard, row[0], owner, row[1], now, before[1])
            )
            return Lease(shard, owner, row[0])

        lease: Lease = await self._writing.do(lambda: self._transaction(self._writer, inside))
        self._tell()
        return lease

    async def release(self, lease: Lease) -> None:
        self._demand_open()

        def inside(connection: apsw.Connection) -> None:
            connection.execute(
                self._sql["shard_release"], (lease.shard, lease.epoch, lease.owner)
            ).fetchall()

        await self._writing.do(lambda: self._transaction(self._writer, inside))
        self._tell()

    async def ledger(self, shard: int | None = None, limit: int = 1000) -> list[Hold]:
        name, values = ("holds", (limit,)) if shard is None else ("holds_of", (shard, limit))
        found: list[Hold] = await self._read(
            lambda db: [Hold(*row) for row in db.execute(self._sql[name], values)]
        )
        return found

    async def announce(self, node: str) -> None:
        self._demand_open()
        self._presence.announce(node)

    async def departed(self, nodes: Sequence[str]) -> set[str]:
        return self._presence.departed(nodes)

    # --- hints ------------------------------------------------------------------------------------

    async def changed(self, seen: int, timeout_seconds: float) -> int:
        self._demand_open()
        if seen == self._generation:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            if self._poll is None:
                self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await waiter
        return self._generation

    def _look(self) -> None:
        """Compare the file's change counter; a read of shared memory, never of the disk."""
        self._poll = None
        self._waiters = [waiter for waiter in self._waiters if not waiter.done()]
        if not self._waiters or not self._is_open:
            return
        with suppress(apsw.Error):
            version = self._watcher.pragma("data_version")
            if version != self._seen_version:
                self._seen_version = version
                self._tell()
                return
        self._poll = asyncio.get_running_loop().call_later(POLL_SECONDS, self._look)

    def _tell(self) -> None:
        self._generation += 1
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # --- errors -----------------------------------------------------------------------------------

    def _demand_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("The store is closed; nothing was read or written.")

    def _mapped(self, error: apsw.Error) -> OutliveError:
        """An engine's error as one of ours; the only place where they are told apart."""
        text = f"{self.path.name}: {error}"
        if isinstance(error, apsw.FullError):
            return StoreFull(f"{text}. Nothing was written; what was committed before is intact.")
        if isinstance(error, (apsw.BusyError, apsw.LockedError)):
            return StoreBusy(f"{text}. Nothing was written.")
        if isinstance(error, (apsw.NotADBError, apsw.CorruptError)):
            return StoreCorrupt(f"{self.path} is damaged or not a SQLite file ({error}).")
        if isinstance(error, apsw.CantOpenError):
            return StoreRefused(f"{self.path} cannot be opened ({error}).")
        return StoreUnavailable(f"{text}. Nothing was written.")


def _events(rows: Iterable[tuple[Any, ...]]) -> list[Event]:
    return [
        Event(place >> PLACE_BITS, place & _SEQ_MASK, stream, n, kind, data, time, chain)
        for place, stream, n, kind, time, data, chain in rows
    ]
