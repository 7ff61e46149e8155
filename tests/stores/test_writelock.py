"""The queue of writers: one at a time, and a frozen one is ended, if it is surely the right one."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.stores.faults import note, opened, script, until

from outlive.errors import ReadOnlyStore, StoreBusy
from outlive.model import Batch
from outlive.stores.writelock import WriteLock, is_stopped, start_time

HOLDS = """
import sys
from pathlib import Path
from outlive.stores.writelock import WriteLock
lock = WriteLock(Path(sys.argv[1]))
lock.acquire()
print("ready", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
sys.stdin.readline()
"""
IN_TRANSACTION = """
import asyncio, sys
from outlive.model import Batch
from outlive.stores.sqlite import SQLiteStore
def work(tables):
    tables.execute("CREATE TABLE seat (id INTEGER)")
    print("ready", flush=True)
    sys.stdin.readline()
    return Batch()
async def main():
    store = SQLiteStore(sys.argv[1])
    await store.open()
    await store.transact(work, limit_seconds=60)
asyncio.run(main())
"""


@contextmanager
def running(text: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    with script(text, path, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def frozen(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    until(lambda: is_stopped(process.pid), "stopped")


async def test_a_process_frozen_inside_a_transaction_is_killed_and_rolled_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.db"
    store = await opened(path, frozen_seconds=0.5)
    lease = await store.take(0, 0, "n")
    with running(IN_TRANSACTION, path) as process:
        frozen(process)
        await store.commit(note(lease, "s", 0))
        assert process.wait(60) == -signal.SIGKILL
    rows: list[object] = []

    def look(tables: Any) -> Batch:
        rows.extend(tables.execute("SELECT * FROM sqlite_master WHERE name = 'seat'"))
        return note(lease, "s", 1)

    await store.transact(look)
    assert rows == []
    assert len(await store.tail(0, 0)) == 2
    await store.close()


def test_a_slow_holder_that_lives_is_waited_for_and_named(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with running(HOLDS, path) as process:
        lock = WriteLock(path, frozen_seconds=0.1, wait_seconds=0.8)
        assert lock.holder() == (process.pid, start_time(process.pid))
        with pytest.raises(StoreBusy, match=rf"Process {process.pid} .* 0\.8 s"):
            lock.acquire()
        assert process.poll() is None
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "released\n"
        lock.acquire()
        assert lock.holder() == (os.getpid(), start_time(os.getpid()))
        lock.release()
        assert lock.holder() == (0, 0)
        lock.close()


def test_a_frozen_process_of_another_start_time_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with running(HOLDS, path) as process:
        frozen(process)
        path.write_bytes(b"%-10d %-20d\n" % (process.pid, start_time(process.pid) + 1))
        lock = WriteLock(path, frozen_seconds=0.05, wait_seconds=0.7)
        with pytest.raises(StoreBusy):
            lock.acquire()
        assert is_stopped(process.pid)
        lock.close()
        path.write_bytes(b"%-10d %-20d\n" % (process.pid, start_time(process.pid)))
        patient = WriteLock(path, frozen_seconds=0.05)
        patient.acquire()
        assert process.wait(60) == -signal.SIGKILL
        patient.close()


def test_a_frozen_process_that_let_go_of_the_lock_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with running(HOLDS, path) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "released\n"
        frozen(process)
        mine = WriteLock(path)
        mine.acquire()
        os.pwrite(mine._file, b"%-10d %-20d\n" % (0, 0), 0)  # taken, and not signed yet
        assert not WriteLock(path).end_frozen_holder()
        assert is_stopped(process.pid)
        mine.close()


@pytest.mark.parametrize("text", [b"", b"nonsense", b"1", b"\0" * 40])
def test_a_lock_file_that_says_nothing_names_nobody(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "lock"
    path.write_bytes(text)
    lock = WriteLock(path)
    assert lock.holder() == (0, 0)
    assert not lock.end_frozen_holder()
    lock.close()


def test_what_is_closed_again_closes_nobody_elses_file(tmp_path: Path) -> None:
    lock = WriteLock(tmp_path / "lock")
    number = lock._file
    lock.close()
    with open(tmp_path / "other", "wb") as other:
        assert other.fileno() == number, "the number is given to the next file"
        lock.close()
        other.write(b"still open")


def test_the_kernel_frees_the_lock_of_a_dead_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with running(HOLDS, path) as process:
        process.kill()
        process.wait()
        lock = WriteLock(path)
        lock.acquire()
        lock.close()


def test_two_holders_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    one, two = WriteLock(tmp_path / "lock"), WriteLock(tmp_path / "lock")
    order: list[str] = []
    one.acquire()

    def wait() -> None:
        two.acquire()
        order.append("two")
        two.release()

    waiting = threading.Thread(target=wait)
    waiting.start()
    order.append("one")
    one.release()
    waiting.join(60)
    assert order == ["one", "two"]
    one.close()
    two.close()


def test_a_lock_file_that_cannot_be_opened_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReadOnlyStore):
        WriteLock(tmp_path / "missing" / "lock")
