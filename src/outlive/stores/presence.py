"""Signs of life on one host: a locked file for each node, unlocked when its process dies.

The kernel lets go of the lock the moment the process is gone, however it died. A hint about who
*should* own shards: a frozen process keeps its lock (its lease ends instead), and a node on another
host is never reported as dead. Who *may* write is decided by the epoch in the commit.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from outlive.errors import StoreFull, StoreUnavailable

SWEEP_SECONDS = 7 * 86_400
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}\Z")


class Presence:
    """The locked files of the nodes of one store, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mine: dict[str, int] = {}

    def announce(self, node: str) -> None:
        """Lock the file of `node` until this process ends; again does nothing.

        Raises `StoreFull` or `StoreUnavailable`. Files of nodes long dead are swept on the way.
        """
        file = self._file(node)
        if node in self._mine:
            return
        try:
            self._folder.mkdir(exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                raise
        except OSError as error:
            kind = StoreFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreUnavailable
            raise kind(f"The sign of life {file} cannot be given: {error.strerror}.") from error
        self._mine[node] = handle
        self._sweep(os.fstat(handle).st_mtime)

    def departed(self, nodes: Sequence[str]) -> set[str]:
        """Those of `nodes` whose file exists here and is locked by nobody."""
        return {node for node in nodes if node not in self._mine and self._is_free(node)}

    def close(self) -> None:
        """End our own signs of life, in order."""
        for node, handle in self._mine.items():
            with suppress(OSError):
                os.unlink(self._file(node))
            os.close(handle)
        self._mine.clear()

    def _is_free(self, node: str) -> bool:
        if not _NAME.match(node):
            return False  # never announced here
        try:
            handle = os.open(self._file(node), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True

    def _sweep(self, now: float) -> None:
        """Remove the files of nodes that gave their sign `SWEEP_SECONDS` ago or more and died."""
        with suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.stat().st_mtime < now - SWEEP_SECONDS and self.departed([entry.name]):
                    os.unlink(entry)

    def _file(self, node: str) -> Path:
        if not _NAME.match(node):
            raise ValueError(f"{node!r} is no name of a node")
        return self._folder / node

    def forget(self) -> None:
        """In a forked child: give the inherited descriptors up, or they would keep a dead parent
        alive."""
        for handle in self._mine.values():
            with suppress(OSError):
                os.close(handle)
        self._mine.clear()
