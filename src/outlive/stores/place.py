"""Whether a place on disk may hold a store, asked before anything there is touched.

SQLite in WAL mode needs shared memory and honest POSIX locks. Neither exists on network file
systems, and locks are lost when a second copy of SQLite in the same process opens and closes the
file (closing *any* descriptor of a file drops the process's POSIX locks on it). Every refusal
names its remedy.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import apsw

from outlive.errors import (
    BadAddress,
    EngineTooOld,
    NetworkFileSystem,
    ReadOnlyStore,
    SecondCopy,
    StoreFull,
)

ENGINE_MIN = (3, 51, 3)
"""The first SQLite release without the WAL-reset corruption bug."""
FREE_BYTES_MIN = 4 * 1024 * 1024
"""Less free space than this at start-up counts as a full disk."""
NETWORK_TYPES = frozenset(
    "9p afs ceph cifs fuse.ceph fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs glusterfs gfs2 "
    "lustre ncpfs nfs nfs4 ocfs2 smb3 smbfs virtiofs".split()
)

MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(r"\\([0-7]{3})")

Identity = tuple[int, int]
"""A file's device and inode."""

opening = threading.RLock()
"""Held from the check for a second copy until `opened`: two stores of one process may open one
file at the same time."""
_ours: dict[Identity, tuple[int, int]] = {}
"""Connections of our own copy to each file: how many, and how many there were at most. SQLite keeps
the descriptor of a closed connection for the next one, so the second number counts descriptors."""


_inherited: set[Identity] = set()
"""Files that a parent had at work when this process was forked: what our copy of SQLite believes
about their locks is true of the parent only."""


def check(path: Path) -> None:
    """Raise a `StoreRefused` (or `StoreFull`) with its remedy if `path` may not hold a store.

    Its folder is made when it is missing. `check_second_copy` is asked for apart.
    """
    check_engine(apsw.sqlite_lib_version())
    if path.is_dir():
        raise BadAddress(f"{path} is a folder; the address must name a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ReadOnlyStore(
            f"The folder {path.parent} cannot be made: {error.strerror}."
        ) from error
    kind = file_system(path.parent)
    if kind in NETWORK_TYPES:
        raise NetworkFileSystem(
            f"{path} lies on a network file system ({kind}); it was not opened."
        )
    check_writable(path)
    if free_bytes(path) < FREE_BYTES_MIN:
        raise StoreFull(
            f"The volume of {path} has {free_bytes(path)} bytes free; at least {FREE_BYTES_MIN} "
            "are needed to start. Nothing was written."
        )


def check_writable(path: Path) -> None:
    """Raise `ReadOnlyStore` if the file, its folder or its volume is read-only for this user."""
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ReadOnlyStore(f"The folder {path.parent} cannot be written by this user.")
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise ReadOnlyStore(f"The file {path} cannot be read and written by this user.")
    if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
        raise ReadOnlyStore(f"{path} lies on a volume that is mounted read-only.")


def check_engine(version: str) -> None:
    """Raise `EngineTooOld` unless `version` (as SQLite reports it) is at least `ENGINE_MIN`."""
    if tuple(int(part) for part in version.split(".")[:3]) < ENGINE_MIN:
        wanted = ".".join(map(str, ENGINE_MIN))
        raise EngineTooOld(f"This process runs SQLite {version}; at least {wanted} is needed.")


def check_second_copy(path: Path) -> None:
    """Raise `SecondCopy` when a descriptor of the file is open that no store of this process
    opened, or when this process was forked while its parent had the file at work."""
    if path.exists() and _identity(path) in _inherited:
        raise SecondCopy(
            f"{path} was at work in the parent when this process was forked; it was not opened. "
            "Fork before the store is opened, or while nothing is read or written."
        )
    if path.exists() and (identity := _identity(path)) not in _ours and _descriptors(identity):
        raise SecondCopy(f"{path} is already open in this process, and not by outlive.")


def second_copy_libraries() -> list[str]:
    """Files of other SQLite engines that are loaded into this process; empty where the kernel does
    not say. They do no harm until one of them opens the store's file."""
    try:
        lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
    except OSError:
        return []
    files = {line.split(maxsplit=5)[5] for line in lines if line.count("/") and len(line) > 72}
    return sorted(file for file in files if Path(file).name.startswith(("libsqlite3", "_sqlite3")))


def opened(path: Path) -> Identity:
    """Count a connection of this process's own copy of SQLite to `path`; gives what `closed`
    takes. Call it, and open the connection, with `opening` held."""
    identity = _identity(path)
    now, most = _ours.get(identity, (0, 0))
    _ours[identity] = (now + 1, max(most, now + 1))
    return identity


def closed(identity: Identity) -> None:
    """Take back what `opened` counted."""
    with opening:
        now, most = _ours.pop(identity, (1, 0))
        if now > 1:
            _ours[identity] = (now - 1, most)


@contextmanager
def in_forked_child() -> Iterator[None]:
    """In the block a forked child gives up what its parent has open; what is left it never opens
    itself."""
    global opening
    opening = threading.RLock()  # another thread of the parent may have held it
    yield
    _inherited.update(_ours)
    _ours.clear()


def foreign_descriptors(path: Path) -> int:
    """How many descriptors of the file are open in this process that are not our own copy's."""
    with opening:
        identity = _identity(path)
        return max(0, _descriptors(identity) - _ours.get(identity, (0, 0))[1])


def free_bytes(path: Path) -> int:
    """Bytes an ordinary user can still write to the volume of `path`."""
    facts = os.statvfs(path.parent)
    return facts.f_bavail * facts.f_frsize


def file_system(folder: Path, mounts: Path | None = None) -> str:
    """The type of file system `folder` lies on, as the kernel names it in `mounts`; empty when it
    does not say."""
    try:
        lines = (mounts or MOUNTS).read_text("utf-8").splitlines()
    except OSError:
        return ""
    resolved = str(folder.resolve())
    best, kind = "", ""
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = _ESCAPED.sub(lambda code: chr(int(code[1], 8)), left.split()[4])
        inside = resolved == mount or resolved.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    return kind


def _descriptors(identity: Identity) -> int:
    """How many of this process's descriptors are of that file; 0 where the kernel does not say."""
    count = 0
    with suppress(OSError):
        for entry in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                found = os.stat(f"/proc/self/fd/{entry}")
                count += (found.st_dev, found.st_ino) == identity
    return count


def _identity(path: Path) -> Identity:
    facts = path.stat()
    return facts.st_dev, facts.st_ino
