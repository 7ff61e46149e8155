"""Which files have changed: looked at again and again, by name, time and size.

A look instead of the kernel's messages (inotify and its kin, by `watchfiles`): it sees the same on
a mounted folder, in a container and on a network drive, needs no dependency, and there is one way
that is tried instead of two. It costs a few milliseconds of CPU a second for a thousand files. What
an editor does in several writes counts once: files must stand still for one look.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

LOOK_SECONDS = 0.3
FILES_MAX = 20_000
"""Files that are watched; those beyond are not."""
STILL_LOOKS_MAX = 20
"""Looks that are waited for files to stand still."""
SUFFIX = ".py"
SKIPPED = frozenset(("__pycache__", "node_modules", "site-packages"))

Mark = tuple[int, int, int]
"""Of one file: when it was written, its size, and which file it is."""


class Watch:
    """The files below `roots`: all of Python's in a folder, and a file that is named itself.

    Left out are hidden folders, virtual environments and what Python itself writes.
    """

    def __init__(self, roots: Sequence[Path], look_seconds: float = LOOK_SECONDS) -> None:
        self.roots = roots
        self.look_seconds = look_seconds
        self.seen = self.look()

    def look(self) -> dict[str, Mark]:
        """Every watched file as it is now."""
        found: dict[str, Mark] = {}
        for root in self.roots:
            for path in _files(root):
                try:
                    stat = os.stat(path)
                except OSError:  # gone between the list and the look
                    continue
                found[path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
                if len(found) >= FILES_MAX:
                    return found
        return found

    async def changed(self) -> list[str]:
        """Wait for the next change; gives the files that were changed, made or removed."""
        while True:
            await asyncio.sleep(self.look_seconds)
            now = await asyncio.to_thread(self.look)
            if now == self.seen:
                continue
            for _ in range(STILL_LOOKS_MAX):
                await asyncio.sleep(self.look_seconds / 3)
                before, now = now, await asyncio.to_thread(self.look)
                if now == before:
                    break
            old, self.seen = self.seen, now
            if found := sorted(path for path in old | now if old.get(path) != now.get(path)):
                return found


def _files(root: Path) -> Iterator[str]:
    if root.is_file():
        yield str(root)
        return
    for folder, inside, names in os.walk(root):
        inside[:] = sorted(
            name
            for name in inside
            if name not in SKIPPED
            and not name.startswith(".")
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        )
        for name in sorted(names):
            if name.endswith(SUFFIX):
                yield os.path.join(folder, name)
