"""The SQLite file on disks that fail, fill up or lie: the truth is reported, or that it is unknown.

The disks are real file systems and a VFS that fails at a chosen call; the other processes are real
processes, killed with SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from tests.stores.faults import FaultyDisk, faulty_disk, note, opened, script, small_disk

from outlive.clock import MICROS, ManualClock
from outlive.errors import (
    NewerSchema,
    OutcomeUnknown,
    OutliveError,
    SchemaAltered,
    SecondCopy,
    StoreCorrupt,
    StoreFull,
    StoreUnavailable,
)
from outlive.model import Batch, Committed, Lease, Put, Ref
from outlive.stores.chain import verify
from outlive.stores.sqlite import SQLiteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    with faulty_disk() as made:
        yield made


async def stored(store: SQLiteStore, shard: int = 0) -> list[tuple[str, int]]:
    """Stream and n of every event of a shard; the chain and the numbering are checked on the
    way."""
    events = await store.tail(shard, 0, 1_000_000)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert verify(events) is None
    assert (await store.owners())[shard].head == len(events)
    return [(event.stream, event.n) for event in events]


async def reopened(store: SQLiteStore) -> SQLiteStore:
    await store.close()
    return await opened(store.path)


class InTheWay:
    """A connection that is refused twice, as when two processes make one file at one moment."""

    def __init__(self) -> None:
        self.tries = 0

    def execute(self, _statement: str) -> Any:
        self.tries += 1
        if self.tries < 3:
            raise apsw.BusyError("database is locked")
        return self

    def fetchall(self) -> list[Any]:
        return []


async def test_a_setting_is_tried_again_while_another_process_is_in_the_way(path: Path) -> None:
    store = await opened(path)
    connection: Any = InTheWay()
    await asyncio.to_thread(store._file._set, connection, "journal_mode=wal")
    assert connection.tries == 3
    await store.close()


# --- what is opened -------------------------------------------------------------------------------


async def test_a_statement_is_planned_once_whatever_is_bound_to_it(path: Path) -> None:
    store = await opened(path)
    glancer, planned = store._file.glancer, list[str | None]()

    def note_read(action: int, name: str | None, *_: str | None) -> int:
        if action == apsw.SQLITE_SELECT:
            planned.append(name)
        return apsw.SQLITE_OK

    glancer.authorizer = note_read
    for name, bound in (("events", ("s", -1, 9)), ("due", ("process/1", 0, 9))):
        planned.clear()
        for number in range(5):
            glancer.execute(store._file.sql[name], (*bound[:-1], number)).fetchall()
        assert len(planned) == 1, f"{name} was planned {len(planned)} times"
    await store.close()


async def test_a_file_of_the_users_own_is_accepted_and_left_intact(path: Path) -> None:
    with closing(sqlite3.connect(path)) as theirs, theirs:
        theirs.execute("CREATE TABLE seat (id INTEGER PRIMARY KEY, name TEXT)")
        theirs.execute("INSERT INTO seat VALUES (1, '1A')")
    store = await opened(path)
    assert [row.id for row in await store.owners()] == list(range(16))
    await store.close()
    with closing(sqlite3.connect(path)) as theirs:
        assert theirs.execute("SELECT * FROM seat").fetchall() == [(1, "1A")]


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt):
        await opened(path)
    assert path.read_bytes() == before


async def test_a_file_torn_in_the_middle_is_refused(path: Path) -> None:
    store = await opened(path)
    for number in range(20):
        await store.commit(Batch(put=(Put(Ref("s", f"{number}"), b"x" * 5000),)))
    await store.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(StoreCorrupt, match="damaged"):
        await opened(path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("UPDATE outlive_migration SET checksum = 'edited'", SchemaAltered),
        ("INSERT INTO outlive_migration VALUES (9999, 'later', 'x', 0)", NewerSchema),
        ("DELETE FROM outlive_store", None),
    ],
)
async def test_a_schema_of_another_release_is_refused(
    path: Path, change: str, error: type[OutliveError] | None
) -> None:
    await (await opened(path)).close()
    with closing(sqlite3.connect(path)) as theirs, theirs:
        theirs.execute(change)
    if error is None:  # a store whose row is lost gets a new incarnation
        await (await opened(path)).close()
        return
    for _ in range(2):  # the second time too: a refusal leaves nothing open
        with pytest.raises(error):
            await opened(path)
    with closing(apsw.Connection(str(path))) as db:
        assert db.execute("SELECT count(*) FROM outlive_shard").fetchone() == (16,)


async def test_a_row_that_is_always_there_and_is_gone_is_said_to_be_damage(path: Path) -> None:
    """SQLite reads zeros where a file has become shorter, and finds nothing there."""
    store = await opened(path)
    with closing(apsw.Connection(str(path))) as db:
        db.execute("DELETE FROM outlive_store")
    with pytest.raises(StoreCorrupt, match="nothing was written"):
        await store.commit(Batch(put=(Put(Ref("s", "k"), b""),)))
    assert await store.scan("s") == []
    await store.close()


async def test_a_second_copy_of_sqlite_with_the_file_open_is_refused(path: Path) -> None:
    await (await opened(path)).close()
    theirs = sqlite3.connect(path)
    theirs.execute("SELECT count(*) FROM sqlite_master").fetchone()
    with pytest.raises(SecondCopy):
        await opened(path)
    theirs.close()
    await (await opened(path)).close()


async def test_two_stores_of_one_process_may_open_one_file_at_the_same_time(path: Path) -> None:
    stores = await asyncio.gather(*(opened(path) for _ in range(4)))
    lease = await stores[0].take(0, 0, "n")
    for n, store in enumerate(stores):
        await store.commit(note(lease, "s", n))
    for store in stores:
        assert await stored(store) == [("s", n) for n in range(4)]
        await store.close()


async def test_the_clock_never_goes_back_over_a_restart(path: Path) -> None:
    clock = ManualClock()
    store = await opened(path, clock=clock)
    before = (await store.commit(Batch())).time
    await store.close()
    clock.advance(-3600)
    store = await opened(path, clock=clock)
    assert await store.now() == before
    clock.advance(3601)
    assert await store.now() == before + MICROS
    await store.close()


# --- a full disk ----------------------------------------------------------------------------------


async def test_a_full_disk_at_start_is_said_at_once(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1024) as folder:
        with pytest.raises(StoreFull, match="bytes free"):
            await opened(folder / "store.db")
        assert list(folder.iterdir()) == []


async def test_a_disk_that_fills_up_takes_nothing_back_and_work_goes_on_after(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", 8 * 1024) as folder:
        store = await opened(folder / "store.db")
        lease = await store.take(0, 0, "n")
        ballast = folder / "ballast"
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        ballast.write_bytes(bytes(free - 600 * 1024))
        acknowledged: list[tuple[str, int]] = []
        refused = 0
        while refused < 5:
            n = len(acknowledged)
            try:
                await store.commit(note(lease, "s", n, key=f"k{n}", size=20_000))
                acknowledged.append(("s", n))
            except StoreFull:
                refused += 1
        assert acknowledged
        assert await stored(store) == acknowledged
        assert len(await store.scan("noted")) == len(acknowledged)
        ballast.unlink()
        await store.commit(note(lease, "s", len(acknowledged)))
        acknowledged.append(("s", len(acknowledged)))
        store = await reopened(store)
        assert await stored(store) == acknowledged
        await store.close()


# --- outcomes that are lost -----------------------------------------------------------------------


@pytest.mark.parametrize(("call", "written"), [("sync", False), ("write", False), ("committed", 1)])
async def test_a_commit_whose_answer_was_lost_is_looked_up(
    path: Path, disk: FaultyDisk, call: str, written: bool
) -> None:
    store = await opened(path)
    lease = await store.take(0, 0, "n")
    await store.commit(note(lease, "s", 0))
    before = (store._file.writer, store._file.users.connection)
    left = disk.fails_once(call)
    if written:
        await store.commit(note(lease, "s", 1, key="k"))
    else:
        with pytest.raises(StoreUnavailable):
            await store.commit(note(lease, "s", 1, key="k"))
    assert not left
    assert len(await stored(store)) == 1 + written
    assert len(await store.scan("noted")) == written
    assert store._file.writer is not before[0]
    assert store._file.users.connection is not before[1]
    await store.commit(note(lease, "s", 1 + written))
    await store.transact(lambda tables: note(lease, "s", 2 + written))
    store = await reopened(store)
    assert len(await stored(store)) == 3 + written
    await store.close()


async def test_an_outcome_that_cannot_be_looked_up_is_unknown_and_settled_later(
    path: Path, disk: FaultyDisk
) -> None:
    store = await opened(path)
    lease = await store.take(0, 0, "n")
    for call, after in (("sync", 0), ("committed", 1)):
        disk.fails = lambda met, call=call: met == call  # type: ignore[misc]
        with pytest.raises(OutcomeUnknown):
            await store.commit(note(lease, "s", 0))
        with pytest.raises(StoreUnavailable):
            await store.commit(note(lease, "s", 0))
        with pytest.raises(StoreUnavailable):  # a read must not see what may still vanish
            await store.tail(0, 0)
        disk.fails = lambda met: False
        assert len(await stored(store)) == after
    await store.commit(note(lease, "s", 1))
    store = await reopened(store)
    assert await stored(store) == [("s", 0), ("s", 1)]
    await store.close()


async def test_a_file_system_that_fails_while_an_outcome_is_looked_up_leaves_it_unknown(
    path: Path, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(path)
    lease = await store.take(0, 0, "n")

    def fails(_: Path) -> Any:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr("outlive.stores.place.opened", fails)
        disk.fails_once("sync")
        with pytest.raises(OutcomeUnknown):
            await store.commit(note(lease, "s", 0))
        with pytest.raises(StoreUnavailable):
            await store.commit(note(lease, "s", 0))
    await store.commit(note(lease, "s", 0))
    assert len(await stored(store)) == 1
    await store.close()


async def test_a_commit_reported_as_not_written_does_not_come_back_from_the_log(
    path: Path, disk: FaultyDisk, tmp_path: Path
) -> None:
    """When only the sync failed, its frames lie in the log whole, and recovery would take them."""
    store = await opened(path)
    lease = await store.take(0, 0, "n")
    left = disk.fails_once("sync")
    with pytest.raises(StoreUnavailable):
        await store.commit(note(lease, "s", 0, key="k"))
    assert not left
    for suffix in ("", "-wal"):  # as after a power loss; cp, because closing a file drops its locks
        source, target = f"{path}{suffix}", tmp_path / f"copy.db{suffix}"
        await asyncio.to_thread(subprocess.run, ["cp", source, target], check=True)
    copy = await opened(tmp_path / "copy.db")
    assert await stored(copy) == []
    assert await copy.scan("noted") == []
    await copy.close()
    await store.close()


async def test_users_rows_share_the_fate_of_the_batch_when_the_answer_is_lost(
    path: Path, disk: FaultyDisk
) -> None:
    store = await opened(path)
    lease = await store.take(0, 0, "n")

    def make(tables: Any) -> Batch:
        tables.execute("CREATE TABLE seat (id INTEGER)")
        return Batch()

    await store.transact(make)
    for call, count in (("sync", 0), ("committed", 1)):
        disk.fails_once(call)

        def work(tables: Any) -> Batch:
            tables.execute("INSERT INTO seat VALUES (1)")
            return note(lease, "s", 0)

        if count:
            await store.transact(work)
        else:
            with pytest.raises(StoreUnavailable):
                await store.transact(work)
        rows: list[Any] = []

        def look(tables: Any, rows: list[Any] = rows) -> Batch:
            rows.extend(tables.execute("SELECT * FROM seat"))
            return Batch()

        await store.transact(look)
        assert (len(rows), len(await stored(store))) == (count, count)
    await store.close()


async def workload(path: Path) -> tuple[list[str], list[str], list[str]]:
    """Which batches were acknowledged, refused for good, and reported unknown."""
    acknowledged, refused, unknown = [], [], []
    store = await opened(path)
    try:
        lease = await store.take(0, 0, "n")
        for number in range(3):
            names = [f"{number}-{at}" for at in range(3)]
            try:
                results = await store.commit_group(
                    [note(lease, name, 0, key=name, size=3000) for name in names]
                )
                assert all(isinstance(result, Committed) for result in results)
                acknowledged += names
            except OutcomeUnknown:
                unknown += names
            except StoreUnavailable:
                refused += names
    except (OutcomeUnknown, StoreUnavailable):
        pass
    finally:
        await store.close()
    return acknowledged, refused, unknown


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory: a sync costs nothing there, and who asks whether it failed is the VFS."""
    with small_disk(tmp_path / "quick", 128 * 1024) as folder:
        yield folder


@pytest.mark.parametrize("lasting", [False, True])
async def test_an_io_error_at_any_call_loses_nothing_and_brings_nothing_back(
    quick: Path, disk: FaultyDisk, lasting: bool
) -> None:
    await workload(quick / "whole.db")
    total = len(disk.calls)
    assert total > 30
    outcomes: set[str] = set()
    for at in range(total):
        path = quick / f"{at}.db"
        seen: list[str] = []

        def fails(call: str, seen: list[str] = seen, at: int = at) -> bool:
            seen.append(call)
            return len(seen) > at if lasting else len(seen) == at + 1

        disk.fails = fails
        try:
            acknowledged, refused, unknown = await workload(path)
        except StoreUnavailable:
            acknowledged, refused, unknown = [], [], []
        disk.fails = lambda call: False
        store = await opened(path)
        streams = {stream for stream, _ in await stored(store)}
        cells = {cell.key for cell in await store.scan("noted")}
        await store.close()
        assert streams == cells, f"torn at call {at}"
        assert set(acknowledged) <= streams, f"lost at call {at}"
        assert not streams & set(refused), f"refused but there at call {at}"
        assert streams <= set(acknowledged) | set(unknown)
        outcomes |= {name for name, found in (("a", acknowledged), ("u", unknown)) if found}
    assert outcomes == ({"a", "u"} if lasting else {"a"})


# --- syncs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "syncs"),
    [(["durable"] * 20, 1), (["relaxed"] * 20, 0), (["relaxed", "durable", "relaxed"], 1)],
)
async def test_a_group_syncs_the_log_once_or_not_at_all(
    path: Path, disk: FaultyDisk, classes: list[Any], syncs: int
) -> None:
    store = await opened(path)
    await store.commit(Batch())
    for number in range(3):
        disk.calls.clear()
        await store.commit_group(
            [
                Batch(put=(Put(Ref("s", f"{number}-{at}"), b"x"),), storage=storage)
                for at, storage in enumerate(classes)
            ]
        )
        assert disk.calls.count("sync") == syncs
        assert disk.calls.count("committed") == 1
    await store.close()


# --- several processes ----------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from outlive.model import Append, Batch, Put, Ref
from outlive.stores.sqlite import SQLiteStore

async def main(path, name, shard, count):
    store = SQLiteStore(path)
    await store.open()
    held = (await store.owners())[shard]
    lease = await store.take(shard, held.epoch, name)
    for n in range(count):
        put = Put(Ref("noted", f"{name}-{n}"), b"c")
        done = await store.commit(Batch(lease, (), (put,), (), (Append(name, n, "did", b"e"),)))
        print(n, done.versions[0], flush=True)
    await store.close()

path, name, shard, count = sys.argv[1:]
asyncio.run(main(path, name, int(shard), int(count)))
"""


async def test_three_processes_write_one_file_without_a_hole_or_a_version_twice(path: Path) -> None:
    await (await opened(path)).close()
    writers = [script(WRITER, path, f"w{shard}", shard, 300) for shard in range(3)]
    said = [(await asyncio.to_thread(writer.communicate))[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    versions = [version for words in said for version in words[1::2]]
    assert len(set(versions)) == 900
    store = await opened(path)
    for shard in range(3):
        assert await stored(store, shard) == [(f"w{shard}", n) for n in range(300)]
    assert len(await store.scan("noted", limit=2000)) == 900
    await store.close()


@pytest.mark.crash
async def test_a_writer_killed_at_any_moment_loses_nothing_it_acknowledged(path: Path) -> None:
    store = await opened(path)
    random_moments = random.Random(7)
    for turn in range(20):
        writer = script(WRITER, path, f"w{turn}", 0, 1_000_000)
        assert writer.stdout is not None
        with writer.stdout as lines:
            said = [lines.readline() for _ in range(random_moments.randrange(1, 40))]
            writer.kill()
            said += lines.readlines()
        writer.wait()
        acknowledged = sum(line.endswith("\n") for line in said)
        events = [n for stream, n in await stored(store) if stream == f"w{turn}"]
        assert events == list(range(len(events)))
        assert len(events) in (acknowledged, acknowledged + 1)  # one may have been on its way
        cells = await store.scan("noted", f"w{turn}-", 100_000)
        assert sum(cell.key.startswith(f"w{turn}-") for cell in cells) == len(events)
    await store.commit(note(Lease(0, "w19", (await store.owners())[0].epoch), "end", 0))
    await store.close()


async def test_a_transaction_has_the_write_lock_from_its_beginning(path: Path) -> None:
    """What it reads first is then still so when it writes, whoever else has the file open."""
    store = await opened(path)
    other = apsw.Connection(str(path))
    other.set_busy_timeout(0)

    def work(tables: Any) -> Batch:
        with pytest.raises(apsw.BusyError):
            other.execute("BEGIN IMMEDIATE")
        return Batch()

    await store.transact(work)
    other.execute("BEGIN IMMEDIATE")
    other.execute("COMMIT")
    other.close()
    await store.close()
