"""The SQLite store beyond what every store does: other processes are seen, a fork harms nobody."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.stores.faults import note, opened, script

from outlive.clock import Clock, ManualClock
from outlive.errors import Refused, SecondCopy, StoreUnavailable
from outlive.model import Append, Batch, Committed, Put, Ref
from outlive.stores import place, sqlite
from outlive.stores.sqlite import GLANCE_CELLS_MAX, POLL_SECONDS, SHARDS_MAX, SQLiteStore
from outlive.stores.sqlite_file import CHECKPOINT_PAGES, SQLiteFile
from outlive.stores.sqlite_group import Group

SOON_SECONDS = 2.0
"""With room for a busy machine; who is not told waits for ten."""
COMMITS_WHEN_TOLD = """
import asyncio, sys
from outlive.model import Batch, Put, Ref
from outlive.stores.sqlite import SQLiteStore
async def main():
    store = SQLiteStore(sys.argv[1])
    await store.open()
    print("ready", flush=True)
    for line in sys.stdin:
        await store.commit(Batch(put=(Put(Ref("s", line.strip()), b"x"),)))
        print("done", flush=True)
    await store.close()
asyncio.run(main())
"""


async def settled(store: SQLiteStore) -> int:
    """The count once hints of older commits have passed."""
    seen = await store.changed(-1, 0)
    while (later := await store.changed(seen, 0.1)) != seen:
        seen = later
    return seen


async def test_a_commit_of_another_process_is_seen_soon(
    tmp_path: Path,
) -> None:
    store = await opened(tmp_path / "store.db")
    with script(COMMITS_WHEN_TOLD, store.path, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
        delays = []
        for number in range(5):
            seen = await settled(store)
            waiting = asyncio.create_task(store.changed(seen, 10))
            await asyncio.sleep(0)
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            await asyncio.to_thread(process.stdout.readline)
            began = time.monotonic()
            assert await waiting > seen
            delays.append(time.monotonic() - began)
            assert len(await store.scan("s")) == number + 1
        assert sorted(delays)[2] < SOON_SECONDS and POLL_SECONDS < 0.1
        process.stdin.close()
    await store.close()


async def test_a_wait_for_a_change_ends_with_its_time_and_with_the_store(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    seen = await settled(store)
    assert await store.changed(seen, 0.05) == seen
    waiting = asyncio.create_task(store.changed(seen, 30))
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.wait_for(waiting, 20) > seen
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.commit(Batch())


async def test_an_own_commit_is_seen_at_once_by_every_store_of_the_process(tmp_path: Path) -> None:
    one, two = await opened(tmp_path / "store.db"), await opened(tmp_path / "store.db")
    seen = await settled(two)
    waiting = asyncio.create_task(two.changed(seen, 10))
    await asyncio.sleep(0)
    await one.commit(Batch(put=(Put(Ref("s", "k"), b"x"),)))
    assert await waiting > seen
    assert await two.scan("s")
    await one.close()
    await two.close()


async def test_a_cancelled_caller_does_not_cancel_its_commit(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    lease = await store.take(0, 0, "n")
    waiting = asyncio.create_task(store.commit(note(lease, "s", 0)))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await store.commit(note(lease, "s", 1))
    assert [event.n for event in await store.tail(0, 0)] == [0, 1]
    await store.close()


async def test_the_log_is_moved_into_the_file_and_does_not_grow_for_ever(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    log = store.path.with_name("store.db-wal")
    value = b"x" * 1_000_000
    for number in range(40):
        await store.commit(Batch(put=(Put(Ref("s", str(number % 5)), value),), storage="relaxed"))
    assert log.stat().st_size < 2 * CHECKPOINT_PAGES * 4096

    def make(tables: Any) -> Batch:
        tables.execute("CREATE TABLE IF NOT EXISTS mine (id INTEGER PRIMARY KEY, value BLOB)")
        tables.execute("INSERT OR REPLACE INTO mine VALUES (1, ?)", (value,))
        return Batch()

    for _ in range(40):
        await store.transact(make)
    assert log.stat().st_size < 2 * CHECKPOINT_PAGES * 4096
    await store.close()
    assert not log.exists()


async def test_blobs_are_dated_by_the_clock_of_the_store(tmp_path: Path) -> None:
    from outlive.clock import ManualClock

    clock = ManualClock()
    store = await opened(tmp_path / "store.db", clock=clock)
    name = await store.blobs.put(b"x")
    stamp = (tmp_path / "store.db-blobs" / name).stat().st_mtime_ns // 1000
    assert stamp == clock.wall()
    await store.close()


async def test_a_store_reached_by_a_link_has_the_same_neighbours(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    one = await opened(tmp_path / "real" / "store.db")
    two = await opened(tmp_path / "link" / "store.db")
    assert one.path == two.path
    await one.announce("n")
    assert await two.departed(["n"]) == set()
    await one.close()
    await two.close()


@pytest.mark.parametrize("shards", [0, -1, SHARDS_MAX + 1])
def test_a_number_of_shards_out_of_bounds_is_a_mistake(tmp_path: Path, shards: int) -> None:
    with pytest.raises(ValueError, match="shards"):
        SQLiteStore(tmp_path / "store.db", shards=shards)


async def test_histories_are_of_one_moment_although_another_store_commits_between(
    tmp_path: Path,
) -> None:
    reading, writing = [await opened(tmp_path / "store.db") for _ in range(2)]
    lease = await reading.take(0, 0, "n")
    both = Batch(
        lease=lease,
        append=(Append("s", 0, "noted", b"e"), Append("t", 0, "noted", b"e")),
    )
    statements: list[str] = []

    def between(cursor: Any, statement: str, values: Any) -> bool:
        if "stream" in statement:
            statements.append(statement)
            if len(statements) == 2:
                Group((both,)).write(writing._file)
        return True

    reading._file.glancer.exec_trace = between
    found = await reading.histories(["s", "t"])
    reading._file.glancer.exec_trace = None
    assert len(statements) == 2
    assert {stream: len(events) for stream, events in found.items()} == {"s": 0, "t": 0}
    assert {k: len(v) for k, v in (await reading.histories(["s", "t"])).items()} == {"s": 1, "t": 1}
    await reading.close()
    await writing.close()


async def test_a_process_whose_clock_is_behind_does_not_set_the_store_back(tmp_path: Path) -> None:
    ahead, behind = ManualClock(), ManualClock()
    ahead.advance(60)
    first = await opened(tmp_path / "store.db", clock=ahead)
    second = await opened(tmp_path / "store.db", clock=behind)
    await second.now()
    put = Batch(put=(Put(Ref("s", "k"), b"v"),))
    late = (await first.commit(put)).time
    assert (await second.commit(put)).time >= late
    third = await opened(tmp_path / "store.db", clock=behind)
    assert await third.now() >= late
    for store in (first, second, third):
        await store.close()


@pytest.mark.parametrize("count", [2, GLANCE_CELLS_MAX, GLANCE_CELLS_MAX + 1])
async def test_cells_that_are_read_together_come_in_the_order_they_were_asked_for(
    tmp_path: Path, count: int
) -> None:
    store = SQLiteStore(tmp_path / "store.db")
    await store.open()
    try:
        odd = ["", "a", "a\0b", "\\", '"', "é", "\u2028", "\U0001f600", "null", "1", "1.0"]
        keys = [*odd, *(f"k{number:04}" for number in range(count))][:count]
        refs = [Ref(space, key) for key in reversed(keys) for space in ("y", "x")][:count]
        made = refs[::2]
        await store.commit(Batch(put=tuple(Put(ref, ref.key.encode()) for ref in made)))
        found = await store.read(refs)
        assert [cell and cell.ref for cell in found] == [
            ref if ref in made else None for ref in refs
        ]
        assert all(cell is None or cell.value == cell.key.encode() for cell in found)
        assert await store.read([refs[0], refs[0]]) == [found[0], found[0]]
    finally:
        await store.close()


# --- cancelled -----------------------------------------------------------------------------------


async def cut(work: Coroutine[Any, Any, None]) -> None:
    """Cancel `work` as soon as it waits for the first time."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_opening_that_is_cancelled_leaves_nothing_open(tmp_path: Path) -> None:
    before = dict(place._ours)
    await cut(SQLiteStore(tmp_path / "store.db").open())
    assert place._ours == before


async def test_a_closing_that_is_cancelled_is_carried_to_its_end(tmp_path: Path) -> None:
    before = dict(place._ours)
    store = await opened(tmp_path / "store.db")
    await store.announce("node")
    await cut(store.close())
    await store.close()
    assert place._ours == before
    assert list((tmp_path / "store.db-nodes").iterdir()) == []


# --- batches that no file can keep ----------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        Put(Ref("s", "half \udc80"), b"x"),
        Put(Ref("s", "marked"), b"x", marks=(("m", "half \udc80"),)),
        Put(Ref("s", "late"), b"x", due=1 << 63),
        Put(Ref("s", "late"), b"x", due=1.5),  # type: ignore[arg-type]
        Put(Ref("s", "text"), "x"),  # type: ignore[arg-type]
    ],
    ids=["key", "mark", "far deadline", "deadline", "value"],
)
async def test_a_batch_that_cannot_be_kept_is_refused_alone(tmp_path: Path, wrong: Put) -> None:
    store = await opened(tmp_path / "store.db")
    before, behind = (Batch(put=(Put(Ref("s", key), b"x"),)) for key in ("a", "b"))
    results = await store.commit_group((before, Batch(put=(wrong,)), behind))
    assert [type(result) for result in results] == [Committed, Refused, Committed]
    assert [cell.key for cell in await store.scan("s")] == ["a", "b"]
    await store.close()


# --- forks ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the danger is the point
async def test_a_forked_child_finds_the_store_closed_and_does_not_harm_it(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            store._demand_open()
        except StoreUnavailable:
            code = 0
        finally:
            os._exit(code)
    assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == 0
    lease = await store.take(0, 0, "n")
    await store.commit(note(lease, "s", 0))
    await store.close()
    store = await opened(tmp_path / "store.db")
    assert [(event.stream, event.n) for event in await store.tail(0, 0)] == [("s", 0)]
    await store.close()


CHILD_OUTLIVES_PARENT = """
import asyncio, os, signal, sys
from pathlib import Path
from outlive.model import Batch, Put, Ref
from outlive.stores.sqlite import SQLiteStore

async def opened():
    store = SQLiteStore(Path(sys.argv[1]))
    await store.open()
    await store.commit(Batch(put=(Put(Ref("by", str(os.getpid())), b"x"),)))
    return store

async def child():
    store = await opened()
    os.write(told, b"1")
    os.read(tell, 1)
    await store.commit(Batch(put=(Put(Ref("by", "last"), b"x"),)))
    os.kill(os.getpid(), signal.SIGKILL)

tell, say = os.pipe()
hear, told = os.pipe()
loop = asyncio.new_event_loop()
store = loop.run_until_complete(opened())
pid = os.fork()
if pid == 0:
    asyncio.new_event_loop().run_until_complete(child())
os.read(hear, 1)
loop.run_until_complete(store.close())
os.write(say, b"1")
print(pid, -os.waitpid(pid, 0)[1])
"""


async def test_what_a_forked_child_commits_outlives_it_and_its_parent(tmp_path: Path) -> None:
    with script(CHILD_OUTLIVES_PARENT, tmp_path / "store.db") as parent:
        out, _ = await asyncio.to_thread(parent.communicate, timeout=60)
    child, ended_by = out.split()
    assert ended_by == "-9"
    store = await opened(tmp_path / "store.db")
    last, first = await store.read((Ref("by", "last"), Ref("by", child)))
    assert last is not None and first is not None
    await store.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_child_forked_in_the_middle_of_a_write_is_refused_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "FORK_WAIT_SECONDS_MAX", 0.05)
    store = await opened(tmp_path / "store.db")
    begun, go_on = threading.Event(), threading.Event()

    def work(_tables: Any) -> Batch:
        begun.set()
        go_on.wait(60)
        return Batch(put=(Put(Ref("a", "b"), b"c"),))

    writing = asyncio.create_task(store.transact(work, limit_seconds=60))
    await asyncio.to_thread(begun.wait, 60)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            SQLiteFile(tmp_path / "store.db", 1, Clock(), frozen_seconds=3.0, readers=0).open()
        except SecondCopy:
            code = 0
        finally:
            os._exit(code)
    assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == 0
    go_on.set()
    await writing
    await store.close()
