"""Real faults for the stores' tests: a disk that fails at a chosen call, a disk that is small.

`FaultyDisk` is a VFS over SQLite's own. It counts the calls that matter for a promise (writes to
and syncs of the log) and asks `fails` for each whether it shall be an I/O error.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from outlive.model import Append, Batch, Lease, Put, Ref
from outlive.stores.sqlite import SQLiteStore

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_SECONDS = 60.0
PLAIN = "unix"  # SQLite's own VFS
COMMIT_PHASE_TWO = 22  # SQLITE_FCNTL_COMMIT_PHASETWO: sent when the commit is visible to readers


class FaultyDisk(apsw.VFS):
    """The default VFS while it is registered. `fails(call)` is asked before a call is made, where
    `call` is `write`, `sync` (of the log) or `committed` (after the commit); `calls` has them
    all."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails: Callable[[str], bool] = lambda call: False
        super().__init__("faulty", PLAIN, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        return _File(self, name, flags)

    def fails_once(self, call: str) -> list[str]:
        """Fail at the next such `call` only; gives a list that is empty when it has."""
        left = [call]

        def fails(met: str) -> bool:
            if met in left:
                left.remove(met)
                return True
            return False

        self.fails = fails
        return left

    def meets(self, call: str) -> None:
        self.calls.append(call)
        if self.fails(call):
            raise apsw.IOError(f"the disk failed at {call}")


class _File(apsw.VFSFile):
    def __init__(self, disk: FaultyDisk, name: Any, flags: list[int]) -> None:
        self.disk = disk
        self.is_log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        self.is_main = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_DB)
        super().__init__(PLAIN, name, flags)

    def xWrite(self, data: Any, offset: int) -> None:
        if self.is_log:
            self.disk.meets("write")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        if self.is_log:
            self.disk.meets("sync")
        super().xSync(flags)

    def xFileControl(self, op: int, pointer: int) -> bool:
        if self.is_main and op == COMMIT_PHASE_TWO:
            self.disk.meets("committed")
        return super().xFileControl(op, pointer)


@contextmanager
def faulty_disk() -> Iterator[FaultyDisk]:
    """SQLite on a disk whose failures the test chooses."""
    disk = FaultyDisk()
    try:
        yield disk
    finally:
        disk.fails = lambda call: False
        disk.unregister()


@contextmanager
def small_disk(folder: Path, kilobytes: int, options: str = "") -> Iterator[Path]:
    """A file system of its own of that size. Needs root, as the tests of disks do."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k{options}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def script(text: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Another Python process that runs `text`, its output piped."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        **options,
    )


def until(condition: Callable[[], bool], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Look again and again until `condition` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.005)


async def opened(path: Path, **options: Any) -> SQLiteStore:
    store = SQLiteStore(path, **options)
    await store.open()
    return store


def note(lease: Lease, stream: str, n: int, key: str = "", size: int = 10) -> Batch:
    """A batch of one event and, if `key` is given, one cell."""
    put = (Put(Ref("noted", key), b"c" * size),) if key else ()
    return Batch(lease=lease, put=put, append=(Append(stream, n, "noted", b"e" * size),))
