"""The store in one SQLite file: WAL, one writing thread a process, several processes a file.

    store.db          the file; store.db-wal and store.db-shm are SQLite's own (sqlite_file.py)
    store.db-lock     the queue in front of the write lock (writelock.py)
    store.db-nodes/   signs of life (presence.py)
    store.db-blobs/   blobs (blobs.py)

    event loop ──job──> writing lane ──one transaction, one fsync──> file
               ──job──> reading lanes
               ──few rows, no lock, no flush──> read or prepared at once

What "acknowledged" means: `durable` batches are committed with `synchronous=FULL`: the WAL is
flushed before the answer. A group of `relaxed` batches alone is committed with `NORMAL`: it
survives the death of the process, and power loss may take the last moments. `volatile` is refused:
use a memory store.

The clock is the host's, with a high-water mark in the file: it never goes back, and stands still
while the host's clock is behind it.

Not promised: anything on a network file system, anything when a second copy of SQLite in the same
process opens the file, and progress while another process is frozen inside a transaction, until it
is killed (writelock.py does).
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw

from outlive import codec
from outlive.clock import MICROS, Clock
from outlive.errors import Fenced, OutliveError, StoreUnavailable
from outlive.model import Batch, Cell, Committed, Event, Hold, Lease, Ref, Shard, Storage
from outlive.store import CLAIM_CELLS_MAX, GROUP_BATCHES_MAX, Blobs, Finding
from outlive.stores import place
from outlive.stores.blobs import FileBlobs
from outlive.stores.lanes import Lane
from outlive.stores.presence import Presence
from outlive.stores.refusals import demand_erasable
from outlive.stores.sql import Migration
from outlive.stores.sqlite_doctor import examine
from outlive.stores.sqlite_file import CHECKPOINT_PAGES, SQLiteFile
from outlive.stores.sqlite_group import PLACE_BITS, Group
from outlive.stores.user_tables import WorkFailed

T = TypeVar("T")
READING_LANES = 2
POLL_SECONDS = 0.02
"""How often another process's commits are looked for while somebody waits."""
GLANCE_ROWS_MAX = 64
"""Rows read on the event loop at most; more are read in a lane."""
GLANCE_CELLS_MAX = 256
"""The same for cells: what one turn of the event loop asks for at once."""
GLANCE_HISTORIES_MAX = 1024
"""The same for journals that are read together; apart they would cost as much, and more turns."""
SHARDS_MAX = 1024
FORK_WAIT_SECONDS_MAX = 5.0
FORK_PAUSE_SECONDS = 0.0005
_SEQ_MASK = (1 << PLACE_BITS) - 1


class SQLiteStore:
    """A store in the SQLite file at `path`.

    `shards` (1 to `SHARDS_MAX`) counts when the file is made; an existing file keeps its own.
    `frozen_seconds` is how long a writer waits before it ends a process that the kernel reports as
    stopped while it holds the write lock. Nothing is opened or checked before `open()`. After a
    fork the child's copy is closed: it opens a store of its own. A fork waits for what is under way
    here; where that lasts too long the file is refused to the child. `lane` makes what the file's
    calls run in: a thread, or what a simulation has in its place.
    """

    def __init__(
        self,
        path: str | Path,
        shards: int = 16,
        clock: Clock | None = None,
        *,
        frozen_seconds: float = 3.0,
        lane: Callable[[str], Lane] = Lane,
    ) -> None:
        if not 1 <= shards <= SHARDS_MAX:
            raise ValueError(f"shards must be 1 to {SHARDS_MAX}, not {shards}")
        self.path = Path(path).resolve()
        self._presence = Presence(self.path.with_name(self.path.name + "-nodes"))
        self._clock = clock or Clock()
        self.blobs: Blobs = FileBlobs(
            self.path.with_name(self.path.name + "-blobs"), clock=self._clock
        )
        self.keeps: tuple[Storage, ...] = ("relaxed", "durable")
        self.lacks: Mapping[str, str] = {}
        self.shards = shards
        self.incarnation = ""
        self.migrated: list[Migration] = []
        """What opening applied to the schema."""
        self._frozen_seconds = frozen_seconds
        self._lane = lane
        self._is_open = False
        self._ending: asyncio.Future[None] | None = None
        self._generation = 0
        self._seen_version = -1
        self._waiters: list[asyncio.Future[None]] = []
        self._poll: asyncio.TimerHandle | None = None
        _stores.add(self)

    # --- opening and closing ----------------------------------------------------------------------

    async def open(self) -> None:
        self._file = SQLiteFile(
            self.path,
            self.shards,
            self._clock,
            frozen_seconds=self._frozen_seconds,
            readers=READING_LANES,
        )
        self._writing = self._lane("outlive-write")
        self._reading = [self._lane(f"outlive-read-{number}") for number in range(READING_LANES)]
        self._next_reader = itertools.cycle(range(READING_LANES)).__next__
        try:
            await self._writing.do(self._file.open)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):  # of the waiting; the lane opens it still
                self._writing.do_later(self._file.close)
            for lane in (self._writing, *self._reading):
                await lane.end()
            raise
        self.shards, self.incarnation = self._file.shards, self._file.incarnation
        self.migrated = self._file.migrated
        self._is_open, self._ending = True, None

    async def refresh(self) -> bool:
        return False

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            if self._poll is not None:
                self._poll.cancel()
            self._tell()
            self._ending = asyncio.ensure_future(self._end())
        if self._ending is not None and not self._ending.done():
            await asyncio.shield(self._ending)  # it ends also when nobody waits for it any more

    async def _end(self) -> None:
        for lane in self._reading:
            await lane.end()
        closing = self._writing.do(self._file.close)
        await self._writing.end()
        await closing
        self._presence.close()

    def _at_rest(self) -> bool:
        if not self._is_open:
            return True
        lanes = (self._writing, *self._reading)
        return self._file.at_rest and all(lane.idle for lane in lanes)

    def _forked(self) -> None:
        self._presence.forget()
        if self._is_open:
            at_rest = self._at_rest()
            self._is_open = False
            self._file.forget(at_rest)
        self._ending = None

    async def doctor(self) -> list[Finding]:
        self._demand_open()
        return await asyncio.to_thread(examine, self._file, self._presence, self._clock)

    # --- writing ----------------------------------------------------------------------------------

    async def now(self) -> int:
        self._demand_open()
        return self._file.wall()

    async def commit(self, batch: Batch) -> Committed:
        result = (await self.commit_group((batch,)))[0]
        if isinstance(result, OutliveError):
            raise result
        return result

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        self._demand_open()
        if len(batches) > GROUP_BATCHES_MAX:
            raise ValueError(f"a group has at most {GROUP_BATCHES_MAX} batches")
        group, file = Group(batches), self._file
        if self._writing.idle and group.try_prepare(file):
            results = await self._write(lambda: group.finish(file))
        else:
            results = await self._write(lambda: group.write(file))
        self._tell()
        return results

    async def _write(self, job: Callable[[], T]) -> T:
        """Run `job` in the writing lane, and see to the log behind it."""
        self._demand_open()
        result = await self._writing.do(job)
        if self._file.wal_pages >= CHECKPOINT_PAGES:
            self._writing.do_later(self._file.checkpoint)
        return result

    async def transact(
        self, work: Callable[[Any], Batch], *, limit_seconds: float = 5.0
    ) -> Committed:
        self._demand_open()
        file = self._file
        context = contextvars.copy_context()  # the lane's would keep what it sets

        def inside(connection: apsw.Connection) -> Committed:
            batch = context.run(file.users.run, work, limit_seconds)
            return _settled(file, connection, Group((batch,)))

        try:
            committed = await self._write(lambda: file.transaction(inside, users=True))
        except WorkFailed as failed:
            raise failed.error from None
        self._tell()
        return committed

    async def erase(self, streams: Sequence[str], batch: Batch) -> Committed:
        self._demand_open()
        demand_erasable(streams, batch)
        file = self._file

        def inside(connection: apsw.Connection) -> Committed:
            committed = _settled(file, connection, Group((batch,)))
            connection.executemany(file.sql["erase"], [(stream,) for stream in streams])
            return committed

        committed = await self._write(lambda: file.transaction(inside))
        self._tell()
        return committed

    # --- claims -----------------------------------------------------------------------------------

    async def claim(self, spaces: Sequence[str], limit: int, hold_seconds: float) -> list[Cell]:
        limit = min(limit, CLAIM_CELLS_MAX)
        if not await self._read(lambda db: self._due(db, spaces, limit)):
            return []

        def inside(connection: apsw.Connection) -> list[Cell]:
            found = self._due(connection, spaces, limit)
            version, now = self._file.move(connection, len(found))
            due = now + round(hold_seconds * MICROS)
            claimed = [
                Cell(cell.space, cell.key, cell.value, version + at, due)
                for at, cell in enumerate(found)
            ]
            connection.executemany(
                self._file.sql["claim"],
                [(cell.version, cell.due, cell.space, cell.key) for cell in claimed],
            )
            for cell in claimed:
                self._file.cells.pop((cell.space, cell.key), None)
            return claimed

        claimed = await self._write(lambda: self._file.transaction(inside))
        self._tell()
        return claimed

    def _due(self, db: apsw.Connection, spaces: Sequence[str], limit: int) -> list[Cell]:
        now = self._file.wall()
        found = [
            Cell(*row)
            for space in dict.fromkeys(spaces)
            for row in db.execute(self._file.sql["due"], (space, now, limit))
        ]
        found.sort(key=lambda cell: (cell.due or 0, cell.space, cell.key))
        return found[:limit]

    async def next_due(self, spaces: Sequence[str]) -> int | None:
        def job(db: apsw.Connection) -> int | None:
            found = [
                due
                for space in spaces
                for (due,) in db.execute(self._file.sql["next_due"], (space,))
                if due is not None
            ]
            return min(found, default=None)

        return await self._read(job)

    # --- reading ----------------------------------------------------------------------------------

    async def _read(self, job: Callable[[apsw.Connection], T]) -> T:
        self._demand_open()
        file, at = self._file, self._next_reader()
        if file.unsure:  # what is in the file may still change without a writer
            await self._writing.do(file.settle)

        def guarded() -> T:
            db = file.readers[at]
            try:
                with db:  # one savepoint: all statements of a read see one moment
                    found = job(db)
            except apsw.Error as error:
                raise file.mapped(error) from error
            return found

        return await self._reading[at].do(guarded)

    def _glance(self, job: Callable[[apsw.Connection], T]) -> tuple[T] | None:
        """Read a few rows right here, which costs less than the way to a lane and back.

        Never waits for a lock, and a reader never waits for a flush. None when it cannot be done
        this moment: then a lane does it.
        """
        self._demand_open()
        file = self._file
        if file.unsure:
            return None
        file.in_hand = True
        try:
            return (job(file.glancer),)
        except apsw.Error:
            return None
        finally:
            file.in_hand = False

    async def read(self, refs: Sequence[Ref]) -> list[Cell | None]:
        def job(db: apsw.Connection) -> list[Cell | None]:
            return _cells(db, self._file.sql, refs)

        def of_one_moment(db: apsw.Connection) -> list[Cell | None]:
            with db:  # another process may commit between two statements
                found = job(db)
            return found

        if len(refs) <= GLANCE_CELLS_MAX:
            glanced = self._glance(job if len(refs) == 1 else of_one_moment)
            if glanced is not None:
                return glanced[0]
        return await self._read(job)

    async def scan(self, space: str, after: str = "", limit: int = 1000) -> list[Cell]:
        found = await self._read(
            lambda db: [
                Cell(*row) for row in db.execute(self._file.sql["scan"], (space, after, limit))
            ]
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
        found = await self._read(
            lambda db: [
                (row[0], Cell(*row[1:])) for row in db.execute(self._file.sql[name], values)
            ]
        )
        return found

    async def events(self, stream: str, after: int = -1, limit: int = 100_000) -> list[Event]:
        def job(db: apsw.Connection, most: int = limit) -> list[Event]:
            return _events(db.execute(self._file.sql["events"], (stream, after, most)))

        few = min(limit, GLANCE_ROWS_MAX)
        glanced = self._glance(lambda db: job(db, few))
        if glanced is not None and (len(glanced[0]) < few or few == limit):
            return glanced[0]
        return await self._read(job)

    async def histories(
        self, streams: Sequence[str], limit: int = 100_000
    ) -> dict[str, list[Event]]:
        wanted = dict.fromkeys(streams)

        def job(db: apsw.Connection, most: int = limit) -> dict[str, list[Event]]:
            found: dict[str, list[Event]] = {}
            for stream in wanted:
                events = _events(db.execute(self._file.sql["events"], (stream, -1, most + 1)))
                most -= len(events)
                if most < 0:
                    break
                found[stream] = events
            return found

        few = min(limit, GLANCE_HISTORIES_MAX)

        def of_one_moment(db: apsw.Connection) -> dict[str, list[Event]]:
            with db:  # another process may commit between two statements
                found = job(db, few)
            return found

        glanced = self._glance(of_one_moment)
        if glanced is not None and (few == limit or len(glanced[0]) == len(wanted)):
            return glanced[0]
        return await self._read(job)

    async def lengths(self, streams: Sequence[str]) -> dict[str, int]:
        def job(db: apsw.Connection) -> dict[str, int]:
            return {
                stream: length
                for stream in streams
                for (length,) in db.execute(self._file.sql["length"], (stream,))
                if length is not None
            }

        if len(streams) == 1 and (glanced := self._glance(job)) is not None:
            return glanced[0]
        return await self._read(job)

    async def tail(self, shard: int, after: int, limit: int = 1000) -> list[Event]:
        base = shard << PLACE_BITS
        bounds = (base | max(after, 0), (shard + 1) << PLACE_BITS, limit)
        found = await self._read(lambda db: _events(db.execute(self._file.sql["tail"], bounds)))
        return found

    # --- shards -----------------------------------------------------------------------------------

    async def owners(self) -> list[Shard]:
        found = await self._read(
            lambda db: [Shard(*row) for row in db.execute(self._file.sql["shards"])]
        )
        return found

    async def take(self, shard: int, epoch: int, owner: str) -> Lease:
        def inside(connection: apsw.Connection) -> Lease:
            self._file.forget_written()  # another owner may have written meanwhile
            before = connection.execute(self._file.sql["shard_read"], (shard,)).fetchone()
            row = connection.execute(self._file.sql["shard_take"], (owner, shard, epoch)).fetchone()
            if row is None:
                raise Fenced(f"Shard {shard} is not at epoch {epoch} any more; it was not taken.")
            _, now = self._file.move(connection, 0)
            previous = before[1] if before else ""
            connection.execute(
                self._file.sql["hold_write"], (shard, row[0], owner, row[1], now, previous)
            )
            return Lease(shard, owner, row[0])

        lease = await self._write(lambda: self._file.transaction(inside))
        self._tell()
        return lease

    async def release(self, lease: Lease) -> None:
        def inside(connection: apsw.Connection) -> None:
            connection.execute(
                self._file.sql["shard_release"], (lease.shard, lease.epoch, lease.owner)
            ).fetchall()

        await self._write(lambda: self._file.transaction(inside))
        self._tell()

    async def ledger(self, shard: int | None = None, limit: int = 1000) -> list[Hold]:
        name, values = ("holds", (limit,)) if shard is None else ("holds_of", (shard, limit))
        found = await self._read(
            lambda db: [Hold(*row) for row in db.execute(self._file.sql[name], values)]
        )
        return found

    async def announce(self, node: str, told: Callable[[bool], None] | None = None) -> None:
        """See `Store.announce`; the kernel keeps the sign, so nothing is ever told."""
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
        version = self._file.watch()
        if version is not None and version != self._seen_version:
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

    def _demand_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable("The store is closed; nothing was read or written.")


def _settled(file: SQLiteFile, connection: apsw.Connection, group: Group) -> Committed:
    """Write a group of one batch inside the open transaction. Raises its refusal."""
    result = group.results[0]
    if result is None:
        version, now = file.move(connection, group.versions_wanted((0,)))
        result = group.settle_alone(file, connection, (0,), version, now)[0][1]
    if isinstance(result, OutliveError):
        raise result
    return result


def _cells(db: apsw.Connection, sql: dict[str, str], refs: Sequence[Ref]) -> list[Cell | None]:
    """The cells of `refs`; those of one space are looked up by one statement."""
    if len(refs) == 1:
        row = db.execute(sql["cell_read"], (refs[0].space, refs[0].key)).fetchone()
        return [None if row is None else Cell(*row)]
    spaces: dict[str, list[str]] = {}
    for ref in refs:
        spaces.setdefault(ref.space, []).append(ref.key)
    found: dict[tuple[str, str], Cell] = {}
    for space, keys in spaces.items():
        for row in db.execute(sql["cells_read"], (space, codec.encode(keys).decode())):
            found[space, row[1]] = Cell(*row)
    if not found:
        return [None] * len(refs)
    return [found.get((ref.space, ref.key)) for ref in refs]


def _events(rows: Iterable[tuple[Any, ...]]) -> list[Event]:
    return [
        Event(place >> PLACE_BITS, place & _SEQ_MASK, stream, n, kind, data, time, chain)
        for place, stream, n, kind, time, data, chain in rows
    ]


_stores: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()


def _before_fork() -> None:
    """Let what is under way end, so that the child can close what it inherits."""
    ends = time.monotonic() + FORK_WAIT_SECONDS_MAX
    while not all(store._at_rest() for store in list(_stores)) and time.monotonic() < ends:
        time.sleep(FORK_PAUSE_SECONDS)


def _after_fork() -> None:
    with place.in_forked_child():
        for store in list(_stores):
            store._forked()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
