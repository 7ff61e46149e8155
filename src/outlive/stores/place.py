"""Whether a place on disk may hold a store, asked before anything there is touched.

SQLite in WAL mode needs shared memory and honest POSIX locks. Neither exists on network file
systems, and locks are
lost when a second copy of SQLite in the same process opens and closes the file (closing *any*
descriptor of a file
drops the process's POSIX locks on it). Every refusal names its remedy.
"""

from __future__ import annotations

import os
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

_ours: dict[tuple[int, int], int] = {}


def check(path: Path) -> None:
    """Raise a `StoreRefused` (or `StoreFull`) with its remedy if `path` may not hold a store."""
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
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ReadOnlyStore(f"The folder {path.parent} cannot be written by this user.")
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise ReadOnlyStore(f"The file {path} cannot be read and written by this user.")
    if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
        raise ReadOnlyStore(f"{path} lies on a volume that is mounted read-only.")
    if free_bytes(path) < FREE_BYTES_MIN:
        raise StoreFull(
            f"The volume of {path} has {free_bytes(path)} bytes free; at least {FREE_BYTES_MIN} "
            "are needed to start. Nothing was written."
        )
    check_second_copy(path)


def check_engine(version: str) -> None:
    """Raise `EngineTooOld` unless `version` (as SQLite reports it) is at least `ENGINE_MIN`."""
    if tuple(int(part) for part in version.split(".")[:3]) < ENGINE_MIN:
        wanted = ".".join(map(str, ENGINE_MIN))
        raise EngineTooOld(f"This process runs SQLite {version}; at least {wanted} is needed.")


def check_second_copy(path: Path) -> None:
    """Raise `SecondCopy` when a descriptor of the file is open that no store of this process
    opened."""
    if not path.exists() or (identity := _identity(path)) in _ours:
        return
    for entry in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").exists() else ():
        try:
            found = os.stat(entry)
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == identity:
            raise SecondCopy(f"{path} is already open in this process, and not by outlive.")


def opened(path: Path) -> None:
    """Remember that this process's own copy of SQLite has `path` open."""
    identity = _identity(path)
    _ours[identity] = _ours.get(identity, 0) + 1


def closed(path: Path) -> None:
    """Forget what `opened` remembered."""
    if path.exists():
        identity = _identity(path)
        if _ours.get(identity, 0) <= 1:
            _ours.pop(identity, None)
        else:
            _ours[identity] -= 1


def free_bytes(path: Path) -> int:
    """Bytes an ordinary user can still write to the volume of `path`."""
    facts = os.statvfs(path.parent)
    return facts.f_bavail * facts.f_frsize


def file_system(folder: Path) -> str:
    """The type of file system `folder` lies on, as the kernel names it; empty when it does not
    say."""
    try:
        lines = Path("/proc/self/mountinfo").read_text("utf-8").splitlines()
    except OSError:
        return ""
    resolved = str(folder.resolve())
    best, kind = "", ""
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = left.split()[4].replace("\\040", " ")
        inside = resolved == mount or resolved.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    return kind


def _identity(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_dev, facts.st_ino
