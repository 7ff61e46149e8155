"""Who may write to a SQLite file now: a queue in front of SQLite's own write lock.

SQLite's busy handler sleeps for up to 100 ms between tries, which is unfair between busy
processes. A `flock` on a file beside the store is tried every 50 to 250 µs instead, and the kernel
frees it the moment its holder dies. It is a queue, not the lock: correctness rests on
`BEGIN IMMEDIATE` and on the fence.

A holder that was *frozen* (SIGSTOP, a debugger, a suspended container) inside a transaction blocks
every writer of the file, and no expiry helps, because SQLite's lock belongs to the process. So the
holder writes its pid and start time into the file while it holds the lock, and who has waited
longer than `frozen_seconds` for a process that the kernel reports as stopped, on this host and
with that start time, kills it. Its transaction was not committed and rolls back; its work is taken
over.

Not promised: that a process frozen in the few instructions between taking the lock and signing it
is found. Its waiters get `StoreBusy`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from outlive.errors import ReadOnlyStore, StoreBusy

PAUSE_SECONDS_MIN = 0.00005
PAUSE_SECONDS_MAX = 0.00025
WAIT_SECONDS_MAX = 30.0
"""Longer than this for the lock of a process that is not frozen is `StoreBusy`."""
JUDGE_SECONDS = 0.5
"""How long a waiter lets pass between two looks at whether the holder is frozen."""
_NOBODY = b"%-10d %-20d\n" % (0, 0)
_CLOSED = -1


class WriteLock:
    """The queue of the writing processes of one file; used by one thread.

    `frozen_seconds`: how long to wait before a stopped holder is killed. `wait_seconds`: how long
    to wait for one that is not.
    """

    def __init__(
        self, path: Path, frozen_seconds: float = 3.0, wait_seconds: float = WAIT_SECONDS_MAX
    ) -> None:
        self._frozen_seconds = frozen_seconds
        self._wait_seconds = wait_seconds
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ReadOnlyStore(
                f"The lock file {path} cannot be opened: {error.strerror}."
            ) from error
        self.held = False
        """Whether this one has the lock."""
        self._mark = b""
        self._pid = 0

    def acquire(self) -> None:
        """Wait for the lock. Raises `StoreBusy` after `wait_seconds`; nothing is held then."""
        pause, began, judged = PAUSE_SECONDS_MIN, 0.0, 0.0
        while not self.try_acquire():
            now = time.monotonic()
            began = began or now
            if now - began > self._frozen_seconds and now - judged > JUDGE_SECONDS:
                judged = now
                self.end_frozen_holder()
            if now - began > self._wait_seconds:
                raise StoreBusy(
                    f"Process {self.holder()[0] or 'unknown'} has held the write lock of the store "
                    f"for more than {self._wait_seconds:g} s; nothing was written."
                )
            time.sleep(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAX)

    def try_acquire(self) -> bool:
        """Take the lock if it is free this moment."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR):
                raise
            return False
        self.held = True
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._mark = b"%-10d %-20d\n" % (self._pid, start_time(self._pid))
        self._sign(self._mark)
        return True

    def release(self) -> None:
        """Let the next one in."""
        self._sign(_NOBODY)
        self.held = False
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def _sign(self, mark: bytes) -> None:
        with suppress(OSError):  # a full disk: the lock holds without a name on it
            os.pwrite(self._file, mark, 0)

    def close(self) -> None:
        """Let go of the file; again does nothing: by then its number may be another file's."""
        file, self._file = self._file, _CLOSED
        if file != _CLOSED:
            os.close(file)

    def holder(self) -> tuple[int, int]:
        """Pid and start time of the process that holds the lock; zeros when nobody does, or
        unknown."""
        try:
            pid, started = os.pread(self._file, 64, 0).split()[:2]
            return int(pid), int(started)
        except (OSError, ValueError):
            return 0, 0

    def end_frozen_holder(self) -> bool:
        """Kill the holder if it is a stopped process of this host that is the one that took the
        lock."""
        pid, started = self.holder()
        if not pid or pid == os.getpid() or not is_stopped(pid) or start_time(pid) != started:
            return False
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            if start_time(pid) == started and is_stopped(pid):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                return True
        except OSError:
            return False
        finally:
            os.close(handle)
        return False


def start_time(pid: int) -> int:
    """When `pid` started, in clock ticks since boot; 0 when it does not live. With the pid it
    names one process."""
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def is_stopped(pid: int) -> bool:
    """Whether the kernel reports `pid` as stopped by a signal or a tracer."""
    return _stat(pid)[:1] in (["T"], ["t"])


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (the name before it may hold spaces)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    except OSError:
        return []
