"""A disk that is watched: every call that SQLite and the blobs make is shown to somebody first.

    SQLite ── VFS ──┐
                    ├── Watch.before(call) ── the real call ── Watch.after(call)
    blobs ── Files ─┘

`before` may raise: then the call is not made, and who made it sees that error. `after` is told of a
call that succeeded. `powerloss.py` writes down what would be lost, `badcalls.py` lets one fail.

What passes by unseen: the shared memory beside the log (SQLite makes it anew when the first process
opens the file), the lock file and the signs of life (nothing that must last is in them).

SQLite flushes a folder by itself in two places, which are shown as calls of their own: behind the
first sync of a log or journal that was opened, and behind a delete that asks for it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal

import apsw
from msgspec import Struct

from outlive import ids
from outlive.stores.files import Files

PLAIN = "unix"
"""SQLite's own VFS, on which the calls are made."""
What = Literal[
    "access",
    "create",
    "delete",
    "folder",
    "lock",
    "open",
    "read",
    "rename",
    "size",
    "sync",
    "sync folder",
    "truncate",
    "write",
]
_NEW_NAMES = (
    apsw.SQLITE_OPEN_WAL,
    apsw.SQLITE_OPEN_MAIN_JOURNAL,
    apsw.SQLITE_OPEN_SUPER_JOURNAL,
)


class Call(Struct, frozen=True, gc=False):
    """One call on one file. `at` is an offset or a new size, in bytes; `target` a new name."""

    what: What
    path: str
    at: int = 0
    data: bytes = b""
    target: str = ""

    def __str__(self) -> str:
        sizes = {"write": f" {len(self.data)} bytes at {self.at}", "truncate": f" to {self.at}"}
        return f"{self.what}{sizes.get(self.what, '')} {Path(self.path).name}"


class Watch:
    """Sees every call; this one does nothing about them."""

    def before(self, call: Call) -> None:
        """`call` is about to be made. What this raises is what the caller sees; an `apsw.Error`
        becomes an `OSError` where the caller is not SQLite."""

    def after(self, call: Call) -> None:
        """`call` was made."""


class WatchedDisk(apsw.VFS):
    """SQLite's disk while it is registered, and by `files` that of blobs."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.files = WatchedFiles(watch)
        self.label = f"watched-{ids.token(40)}"
        super().__init__(self.label, PLAIN, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> Any:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        new = bool(flags[0] & apsw.SQLITE_OPEN_CREATE) and not os.path.exists(path)
        call = Call("create" if new else "open", path)
        self.watch.before(call)
        file = _WatchedFile(self.watch, name, path, flags)
        self.watch.after(call)
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:
        call = Call("delete", filename)
        self.watch.before(call)
        super().xDelete(filename, syncdir)
        self.watch.after(call)
        if syncdir:
            self.watch.after(Call("sync folder", os.path.dirname(filename)))

    def xAccess(self, pathname: str, flags: int) -> bool:
        self.watch.before(Call("access", pathname))
        return super().xAccess(pathname, flags)


class _WatchedFile(apsw.VFSFile):
    def __init__(self, watch: Watch, name: Any, path: str, flags: list[int]) -> None:
        self.watch, self.path = watch, path
        self.name_is_new = bool(flags[0] & apsw.SQLITE_OPEN_CREATE) and any(
            flags[0] & kind for kind in _NEW_NAMES
        )
        super().__init__(PLAIN, name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        self.watch.before(Call("read", self.path, offset))
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:
        call = Call("write", self.path, offset, bytes(data))
        self.watch.before(call)
        super().xWrite(data, offset)
        self.watch.after(call)

    def xTruncate(self, newsize: int) -> None:
        call = Call("truncate", self.path, newsize)
        self.watch.before(call)
        super().xTruncate(newsize)
        self.watch.after(call)

    def xSync(self, flags: int) -> None:
        call = Call("sync", self.path)
        self.watch.before(call)
        super().xSync(flags)
        self.watch.after(call)
        if self.name_is_new:
            self.name_is_new = False
            self.watch.after(Call("sync folder", os.path.dirname(self.path)))

    def xFileSize(self) -> int:
        self.watch.before(Call("size", self.path))
        return super().xFileSize()

    def xLock(self, level: int) -> None:
        self.watch.before(Call("lock", self.path))
        super().xLock(level)


class WatchedFiles(Files):
    """The same for the files of blobs."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def make_folder(self, folder: Path) -> None:
        with self._made("folder", folder):
            super().make_folder(folder)

    def create(self, path: Path) -> BinaryIO:
        with self._made("create", path):
            return super().create(path)

    def write(self, file: BinaryIO, data: bytes) -> None:
        with self._made("write", file.name, data=data):
            super().write(file, data)

    def sync(self, file: BinaryIO) -> None:
        with self._made("sync", file.name):
            super().sync(file)

    def rename(self, path: Path, target: Path) -> None:
        with self._made("rename", path, target=str(target)):
            super().rename(path, target)

    def remove(self, path: Path) -> None:
        with self._made("delete", path):
            super().remove(path)

    def sync_folder(self, folder: Path) -> None:
        with self._made("sync folder", folder):
            super().sync_folder(folder)

    @contextmanager
    def _made(self, what: What, path: Path | str, **said: Any) -> Iterator[None]:
        call = Call(what, str(path), **said)
        try:
            self._watch.before(call)
        except apsw.Error as error:
            raise OSError(error_number(error), str(error)) from error
        yield
        self._watch.after(call)


def error_number(error: apsw.Error) -> int:
    """What the operating system says where SQLite says `error`."""
    return errno.ENOSPC if isinstance(error, apsw.FullError) else errno.EIO


@contextmanager
def watched(watch: Watch) -> Iterator[WatchedDisk]:
    """Everything that this process opens meanwhile lies on a disk that `watch` sees.

    One at a time; what was opened within must be closed within.
    """
    disk = WatchedDisk(watch)
    try:
        yield disk
    finally:
        disk.unregister()
