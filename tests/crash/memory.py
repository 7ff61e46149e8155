"""A control group of the test's own making, whose memory is bounded: in it the kernel kills.

    own group (/proc/self/cgroup) ── outlive-test-PID     limit, and the processes that were put in

Only groups made here are changed. What a process had before it was put in stays on the account of
the group that it came from; what it takes afterwards counts here. Versions 1 and 2 of the kernel's
control groups. Where none can be made the test fails and says why.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

NAME = "outlive-test-"
DEADLINE_SECONDS = 30.0


class MemoryGroup:
    """A group that was made for one test."""

    def __init__(self, folder: Path, version: int) -> None:
        self.folder, self.version = folder, version

    def limit(self, size: int) -> None:
        """At most `size` bytes from now on, and none of them in swap where that is counted."""
        limits = (
            {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size}
            if self.version == 1
            else {"memory.max": size, "memory.swap.max": 0}
        )
        for name, amount in limits.items():
            place = self.folder / name
            if place.exists() or not name.endswith(("memsw.limit_in_bytes", "swap.max")):
                place.write_text(str(amount))

    def put(self, pid: int) -> None:
        """Move one process into it, with all its threads."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def kills(self) -> int:
        """How many processes the kernel has killed in it, for want of memory."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        lines = (self.folder / name).read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def remove(self) -> None:
        """End what was put into it and still lives, and remove it."""
        end = time.monotonic() + DEADLINE_SECONDS
        while self.folder.exists():
            for pid in (self.folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                return
            if time.monotonic() > end:
                pytest.fail(f"{self.folder} still holds processes; remove it when they are gone")
            time.sleep(0.02)


@contextlib.contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """A new group below that of this process; it is removed with the block, and what was put into
    it ends with it."""
    above, version = own_group()
    swept(above)
    folder = above / f"{NAME}{os.getpid()}"
    try:
        if version == 2 and "memory" not in (above / "cgroup.subtree_control").read_text().split():
            (above / "cgroup.subtree_control").write_text("+memory")
        folder.mkdir()
    except OSError as error:
        pytest.fail(f"no memory control group can be made in {above} (run as root): {error}")
    group = MemoryGroup(folder, version)
    try:
        yield group
    finally:
        group.remove()


def own_group() -> tuple[Path, int]:
    """The folder of this process's own group that counts memory, and the version it is of."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            return below_its_mount("cgroup", "memory", path), 1
    for number, _, path in lines:
        if number == "0":
            return below_its_mount("cgroup2", "", path), 2
    pytest.fail("this kernel has no control groups that count memory: nothing can be killed so")


def below_its_mount(kind: str, option: str, path: str) -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place, _, more = line.partition(" - ")
        root, mounted = place.split()[3:5]
        found, _, options = more.split()[:3]
        if found == kind and (not option or option in options.split(",")):
            inside = path.removeprefix(root) if root != "/" else path
            return Path(mounted) / inside.lstrip("/")
    pytest.fail(f"no {kind} file system with {option or 'memory'} is mounted: mount it to run this")


def swept(above: Path) -> None:
    """Remove the groups of tests that were killed: they are empty, and their makers are gone."""
    for left in above.glob(f"{NAME}*"):
        if not Path(f"/proc/{left.name.removeprefix(NAME)}").exists():
            with contextlib.suppress(OSError):
                left.rmdir()
