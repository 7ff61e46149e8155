"""Reads and writes that do half of what was asked for, as the operating system may answer.

`pread` and `pwrite` say how many bytes they did; who takes that for all of them has torn pages.
They are replaced beneath SQLite's own code, so that this code is on trial too. Its system calls are
one table for the process: while one of these is open, every file that SQLite has is concerned.

Not the same, and not covered: a file that has *become* shorter. What is missing of a page at the
end of the file SQLite takes for zeros, without an error, and nothing above it can tell.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import TracebackType

import apsw

from outlive import ids
from outlive.testing.disk import PLAIN

NAMES = ("pread64", "pwrite64")
SystemCall = Callable[[int, int, int, int], int]
"""Descriptor, address, bytes and offset; gives how many bytes were done."""
_CALL = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
)


class ShortCalls:
    """While it is open, the call number `at` (from 1) does half; 0: none, None: each of them.

    `names`: what each call was, in order. Raises `RuntimeError` where SQLite has no such calls.
    """

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.names: list[str] = []
        self._table = apsw.VFS(f"short-{ids.token(40)}", PLAIN)
        self._kept: list[object] = []

    def __enter__(self) -> ShortCalls:
        for name in NAMES:
            address = self._table.xGetSystemCall(name)
            if not address:
                raise RuntimeError(f"SQLite does not call {name} here; nothing was replaced")
            made = _CALL(self._halving(name, _CALL(address)))
            self._kept.append(made)  # SQLite only has its address
            self._table.xSetSystemCall(name, ctypes.cast(made, ctypes.c_void_p).value or 0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in NAMES:
            self._table.xSetSystemCall(name, 0)
        self._table.unregister()

    def _halving(self, name: str, real: SystemCall) -> SystemCall:
        def call(descriptor: int, buffer: int, count: int, offset: int) -> int:
            self.names.append(name)
            short = self.at is None or len(self.names) == self.at
            asked = max(1, count // 2) if short else count
            return real(descriptor, buffer, asked, offset)

        return call
