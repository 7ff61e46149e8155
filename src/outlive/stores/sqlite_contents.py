"""The contents of a SQLite store, read at one moment and written anew.

Reading holds one read transaction, so it sees one moment while services go on writing; nobody
waits, but the log cannot be moved into the file past that moment until the reading ends.

Blobs are files. To see them as they were at the same moment, the write lock is held while the
snapshot begins and each file gets a second name in a folder of ours (a hard link, no copy): nothing
that a cell names can go before its cell has, and no cell can go meanwhile. The folder is removed at
the end; one that a death left is removed by the next reading.

Writing goes through a connection of its own, page by page, each page one flushed transaction. The
store is halted meanwhile, so nobody else opens it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

import apsw
import msgspec

from outlive import ids
from outlive.clock import Clock
from outlive.errors import SchemaBehind, StoreCorrupt, StoreNotEmpty, StoreRefused, StoreUnavailable
from outlive.model import Shard
from outlive.stores import place, sql
from outlive.stores.blobs import FileBlobs
from outlive.stores.contents import (
    PAGE_BYTES,
    PAGE_ROWS,
    SECTIONS,
    Facts,
    Key,
    Row,
    Section,
    size_of,
)
from outlive.stores.halt import Halt, Reason, demand_filling, demand_mine, halt_of
from outlive.stores.migrate import pending
from outlive.stores.sqlite_file import CHECKPOINT_PAGES, SQLiteFile
from outlive.stores.sqlite_group import PLACE_BITS
from outlive.stores.writelock import WriteLock

T = TypeVar("T")
FROZEN_SECONDS = 3.0
BLOB_BYTES_MAX = 256 * 1024 * 1024
_SEQ_MASK = (1 << PLACE_BITS) - 1
_decode_marks = msgspec.json.Decoder(tuple[tuple[str, str], ...]).decode


class SQLitePlace:
    """The file at `path`, which may hold a store; served or not."""

    def __init__(self, path: Path, clock: Clock | None = None) -> None:
        self.path = path
        self.address = f"sqlite:///{path}"
        self._clock = clock or Clock()
        self._file = SQLiteFile(path, 16, self._clock, frozen_seconds=FROZEN_SECONDS, readers=0)
        self.sql = self._file.sql
        self.blobs = FileBlobs(path.with_name(path.name + "-blobs"), clock=self._clock)
        self._lock: WriteLock | None = None
        self._token = ""
        self._writer: apsw.Connection | None = None
        self._sources: list[SQLiteSource] = []

    # --- reading ----------------------------------------------------------------------------------

    async def grant(self, role: str) -> None:
        """A file has no roles: raises `StoreRefused`."""
        raise StoreRefused(f"{self.path} is a file: {role} needs the rights to it and its folder.")

    async def pending(self) -> list[sql.Migration]:
        """The migrations the store lacks: all of them where there is no store yet."""
        return self._pending()

    def _pending(self) -> list[sql.Migration]:
        shipped = sql.migrations("sqlite")
        if not self.path.exists():
            return shipped
        with self._reading() as db:
            exists = _one(db, self.sql["migrations_exist"])
            return pending(shipped, list(db.execute(self.sql["migrations"])) if exists[0] else [])

    async def source(self) -> SQLiteSource:
        """Its contents as they are now. Raises `StoreRefused` and `StoreUnavailable`."""
        self._demand_store()
        source = SQLiteSource(self)
        self._sources.append(source)
        return source

    def _demand_store(self) -> None:
        if not self.path.exists():
            raise StoreRefused(f"There is no store at {self.path}.")
        lacking = self._pending()
        if lacking:
            names = ", ".join(f"{step.number} ({step.name})" for step in lacking)
            raise SchemaBehind(f"The store at {self.path} lacks the migrations {names}.")

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        place.check(self.path)
        with self.mapped():
            db = self._file.connect(writes=False)
            try:
                yield db
            finally:
                self._file.disconnect(db)

    def connect(self) -> apsw.Connection:
        """A connection that reads; to be given back to `disconnect`."""
        place.check(self.path)
        place.check_second_copy(self.path)
        return self._file.connect(writes=False)

    def disconnect(self, db: apsw.Connection) -> None:
        self._file.disconnect(db)

    @contextmanager
    def mapped(self) -> Iterator[None]:
        """Errors of the engine and of the file system as ours."""
        try:
            yield
        except apsw.Error as error:
            raise self._file.mapped(error) from error
        except OSError as error:
            raise StoreUnavailable(f"{self.path.name}: {error}.") from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody writes to the file during the block."""
        if self._lock is None:
            lock = self.path.with_name(self.path.name + "-lock")
            self._lock = WriteLock(lock, FROZEN_SECONDS)
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

    # --- the halt ---------------------------------------------------------------------------------

    async def halt(self) -> Halt | None:
        """Why its store is not served; None also where there is none."""
        if not self.path.exists() or self._pending():
            return None
        with self._reading() as db:
            return halt_of(db.execute(self.sql["halt_read"]).fetchone())

    async def freeze(self, reason: Reason, other: str, token: str) -> None:
        """Take no more writes from anybody; durable when it returns."""
        values = (reason, other, token, self._file.wall())

        def work(db: apsw.Connection) -> None:
            demand_mine(self.address, self._row(db), reason, token)
            db.execute(self.sql["freeze"]).fetchall()
            db.execute(self.sql["halt_write"], values)

        self._write(work)

    async def thaw(self, token: str) -> None:
        """Take writes again."""

        def work(db: apsw.Connection) -> None:
            demand_mine(self.address, self._row(db), "moving", token)
            db.execute(self.sql["thaw"]).fetchall()
            db.execute(self.sql["halt_end"])

        self._write(work)

    # --- writing ----------------------------------------------------------------------------------

    def _write(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run `work` in one flushed transaction of a connection that leaves no writer's mark."""
        with self.mapped(), self.locked():
            if self._writer is None:
                place.check(self.path)
                place.check_second_copy(self.path)
                self._writer = self._file.connect()
            db = self._writer
            try:
                db.execute("BEGIN IMMEDIATE")
                result = work(db)
                db.execute("COMMIT")
            except BaseException:
                with suppress(apsw.Error):
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                raise
            if self._file.wal_pages >= CHECKPOINT_PAGES:
                with suppress(apsw.Error):
                    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            return result

    async def prepare(self, facts: Facts, other: str, token: str) -> None:
        """See `Place.prepare`."""
        self._token = token
        halt = await self.halt()
        if halt is not None and halt.reason in ("filling", "filled"):
            if halt.token != token:
                raise StoreNotEmpty(f"{self.path} is already being filled from {halt.other}.")
            return
        if halt is not None and halt.token == token:
            raise StoreNotEmpty(f"{self.path} is the store that is to be moved.")
        if halt is not None:
            raise StoreNotEmpty(f"The store at {self.path} was moved to {halt.other}.")
        shards = len(facts.shards)
        made = SQLiteFile(self.path, shards, self._clock, frozen_seconds=FROZEN_SECONDS, readers=0)
        made.open()
        made.close()
        self._demand_empty()
        values = ("filling", other, token, self._file.wall())

        def work(db: apsw.Connection) -> None:
            db.execute(self.sql["halt_begin"], values)
            demand_filling(self.address, self._row(db), token)
            db.execute(self.sql["shards_drop"])
            db.execute(self.sql["shards_count"], (shards,))
            db.executemany(self.sql["shard_make"], [(shard,) for shard in range(shards)])

        self._write(work)

    def _row(self, db: apsw.Connection) -> Any:
        return db.execute(self.sql["halt_read"]).fetchone()

    def _demand_empty(self) -> None:
        with self._reading() as db:
            rows = [_one(db, self.sql[f"count_{name}"])[0] for name in SECTIONS[:3]]
        if any(rows) or self.blobs.names():
            raise StoreNotEmpty(f"The store at {self.path} has been used.")

    async def reached(self, section: Section) -> Key | None:
        """The last key of `section` that is there."""
        if section == "blobs":
            names = sorted(self.blobs.names())
            return (names[-1],) if names else None
        with self._reading() as db:
            row = db.execute(self.sql[f"last_{section[:-1]}"]).fetchone()
        if row is None or row[0] is None:
            return None
        return _split(row[0]) if section == "events" else tuple(row)

    async def write(self, section: Section, rows: Sequence[Row]) -> None:
        """See `Place.write`."""
        if section == "blobs":
            with self.mapped():
                for name, time, data in rows:
                    self.blobs.restore(name, time, data)
            return

        def work(db: apsw.Connection) -> None:
            demand_filling(self.address, self._row(db), self._token)
            if section == "holds":
                db.executemany(self.sql["hold_write"], [tuple(row) for row in rows])
            elif section == "events":
                values = [(row[0] << PLACE_BITS | row[1], *row[2:]) for row in rows]
                db.executemany(self.sql["event_write"], values)
            else:
                values = [(row[5], *row[2:5], *row[:2]) for row in rows]
                db.executemany(self.sql["cell_make"], values)
                db.executemany(
                    self.sql["mark_write"],
                    [(*mark, row[0], row[1]) for row in rows for mark in _decode_marks(row[4])],
                )

        self._write(work)

    async def conclude(self, facts: Facts) -> None:
        """See `Place.conclude`."""

        def work(db: apsw.Connection) -> None:
            demand_filling(self.address, self._row(db), self._token)
            db.executemany(
                self.sql["fill_shard"], [(row.id, row.epoch, row.head) for row in facts.shards]
            )
            db.execute(self.sql["fill_store"], (facts.incarnation, facts.version, facts.clock))
            db.execute(self.sql["halt_filled"])

        self._write(work)

    async def release(self) -> None:
        """May be served from now on."""
        self._write(lambda db: db.execute(self.sql["halt_release"]))

    async def close(self) -> None:
        """Close whatever is open; what was written stays."""
        for source in self._sources:
            await source.close()
        if self._writer is not None:
            self._file.disconnect(self._writer)
            self._writer = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class SQLiteSource:
    """The contents of a store as they were when this was made."""

    def __init__(self, whose: SQLitePlace) -> None:
        self._place = whose
        self._sql = whose.sql
        self._held: HeldBlobs | None = None
        with whose.mapped():
            self._db = whose.connect()
            try:
                with whose.locked():
                    self._db.execute("BEGIN")
                    self._held = HeldBlobs(whose.blobs)
                    row = self._db.execute(self._sql["store_read"]).fetchone()
                self.facts = self._read_facts(row)
            except BaseException:
                self._end()
                raise

    def _read_facts(self, row: Any) -> Facts:
        if row is None:
            raise StoreCorrupt(f"{self._place.path} has outlive's tables but no store row.")
        db = self._db
        assert self._held is not None
        counts: dict[str, int] = {
            section: _one(db, self._sql[f"count_{section}"])[0] for section in SECTIONS[:3]
        }
        return Facts(
            incarnation=row[0],
            version=row[2],
            clock=max(row[3], 0),
            shards=tuple(Shard(*found) for found in db.execute(self._sql["shards"])),
            counts={**counts, "blobs": len(self._held.names)},
            blob_bytes=self._held.largest,
            left=tuple(str(name) for (name,) in db.execute(self._sql["user_tables"])),
        )

    async def pages(self, section: Section, after: Key | None = None) -> AsyncIterator[list[Row]]:
        """See `Source.pages`."""
        page: list[Row] = []
        size = 0
        with self._place.mapped():
            for row in self._rows(section, after):
                size += size_of(section, row)
                page.append(row)
                if len(page) >= PAGE_ROWS or size >= PAGE_BYTES:
                    yield page
                    page, size = [], 0
            if page:
                yield page

    def _rows(self, section: Section, after: Key | None) -> Iterator[Row]:
        if section == "blobs":
            assert self._held is not None
            yield from self._held.rows(after[0] if after else "")
        elif section == "events":
            last = (after[0] << PLACE_BITS | after[1]) if after else -1
            for found in self._db.execute(self._sql["copy_events"], (last,)):
                yield (*_split(found[0]), *found[1:])
        else:
            first: Key = ("", "") if section == "cells" else (-1, -1)
            yield from self._db.execute(self._sql[f"copy_{section}"], after or first)

    async def faults(self) -> AsyncIterator[str]:
        """See `Kept.faults`."""
        for name, what in (
            ("check_integrity", "file: {0}"),
            ("check_streams", "stream {0}: {1} events, numbered {2} to {3}"),
            ("check_marks_missing", "cell {0}/{1}: its mark {2}={3} is missing"),
            ("check_marks_stray", "mark {2}={3} of cell {0}/{1}: the cell does not have it"),
        ):
            try:
                for row in self._db.execute(self._sql[name]):
                    if row != ("ok",):
                        yield what.format(*row)
            except apsw.Error as error:
                kind = what.split()[0].rstrip(":")
                yield f"{kind}: {name.replace('_', ' ')} could not be done ({error})"
        row = self._db.execute(self._sql["store_read"]).fetchone()
        if row is not None and row[1] != len(self.facts.shards):
            yield f"shards: {len(self.facts.shards)} rows, and the store counts {row[1]}"

    async def close(self) -> None:
        """Let the log be moved into the file again, and forget the second names of the blobs."""
        self._end()

    def _end(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None
        self._place.disconnect(self._db)


class HeldBlobs:
    """A second name for each blob, so that it stays while it is read; call with writers locked."""

    def __init__(self, blobs: FileBlobs) -> None:
        self.names: list[str] = []
        self.largest = 0
        self._folder: Path | None = None
        self._descriptor = -1
        prefix = blobs.folder.name + "-held-"
        _sweep(blobs.folder.parent, prefix)
        names = sorted(blobs.names())
        if not names:
            return
        self._folder = blobs.folder.with_name(prefix + ids.token(40))
        self._folder.mkdir(mode=0o700)
        self._descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in names:
            with suppress(FileNotFoundError):  # an orphan that is being swept: nobody names it
                os.link(blobs.folder / name, self._folder / name)
                self.names.append(name)
                self.largest = max(self.largest, (self._folder / name).stat().st_size)

    def rows(self, after: str) -> Iterator[Row]:
        """Name, time and bytes of each blob behind `after`, by name."""
        for name in self.names:
            if name > after and self._folder is not None:
                file = self._folder / name
                yield name, file.stat().st_mtime_ns // 1000, file.read_bytes()

    def release(self) -> None:
        """Give the second names up."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            os.close(self._descriptor)
            self._folder = None


def _sweep(folder: Path, prefix: str) -> None:
    """Remove the folders of readings that died: their lock is free."""
    for path in folder.glob(escape(prefix) + "*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _split(place_of_event: int) -> tuple[int, int]:
    return place_of_event >> PLACE_BITS, place_of_event & _SEQ_MASK


def _one(db: apsw.Connection, statement: str) -> Any:
    row = db.execute(statement).fetchone()
    assert row is not None
    return row
