"""Death on the own host, seen at once: the kernel knows which processes live.

A node says in its cell where it lives: the boot of the kernel, the name space of its pid, the pid
and when that process started. Who lives there too can look whether it still does; who lives
elsewhere cannot, and waits for the store's hint or for the end of the lease. A hint like those: who
*may* write is decided by the epoch.

Not promised: anything where there is no `/proc`.
"""

from __future__ import annotations

import os
from pathlib import Path

from outlive.stores.writelock import start_time

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def home() -> str:
    """Where pids mean what they mean to this process; empty when that cannot be told."""
    try:
        return f"{_BOOT.read_text('ascii').strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def has_ended(pid: int, started: int) -> bool:
    """Whether the process `pid` of this home that started at `started` has certainly ended."""
    if pid <= 0 or started <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    now = start_time(pid)
    return now not in (0, started) or _waits_for_its_parent(pid)


def _waits_for_its_parent(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state in ("Z", "X")
