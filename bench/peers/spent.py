"""CPU seconds of a process and of all that it started, the ended ones too, as Linux counts them.

A PostgreSQL server is a process for each session, and a session that ends takes its count with it
to the postmaster, which waits for it: so a tree is the sum of what is alive and of what each one in
it has waited for. The count is in ticks of 10 ms, which a run of seconds can bear.
"""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
PARENT, USER_TICKS, REAPED_SYSTEM_TICKS = 1, 11, 14
"""Places in /proc/PID/stat after the name, which is in brackets and may hold anything."""


def tree_seconds(root: int, without: frozenset[int] = frozenset()) -> float:
    """User and system time of `root` and all below it, but for the processes `without`.

    0 for `root` 0. What has ended counts, where its parent waited for it and is still there."""
    if not root:
        return 0.0
    ticks: dict[int, int] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                pid = int(entry.name)
                ticks[pid] = sum(map(int, fields[USER_TICKS : REAPED_SYSTEM_TICKS + 1]))
                children[int(fields[PARENT])].append(pid)
    counted, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        waiting += children[pid]
        counted += 0 if pid in without else ticks.get(pid, 0)
    return counted / TICKS_A_SECOND
