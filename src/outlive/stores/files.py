"""The calls by which a file becomes durable, in one place, so that a test can watch and fail them.

    create ─> write ─> sync ─> rename ─> sync_folder

A file that was not synced may be empty, torn or missing after a power loss; a name whose folder was
not synced may be missing, or be the old one. Nothing here catches an error or tries again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


class Files:
    """The file system, as the operating system has it. All raise `OSError`."""

    def make_folder(self, folder: Path) -> None:
        """Make `folder` and what it lies in, for this user only; it may be there already."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, path: Path) -> BinaryIO:
        """A new, empty file to write to, for this user only. Refused when it is there already."""
        return open(path, "xb", opener=_private)

    def write(self, file: BinaryIO, data: bytes) -> None:
        """Hand `data` to the operating system; it is not on disk yet."""
        file.write(data)
        file.flush()

    def sync(self, file: BinaryIO) -> None:
        """Have the bytes of `file` on disk when this returns. An error means: nothing is known."""
        os.fsync(file.fileno())

    def rename(self, path: Path, target: Path) -> None:
        """Give `path` another name, in one step."""
        path.rename(target)

    def remove(self, path: Path) -> None:
        """Take the name away; no error when it is gone already."""
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        """Have the names in `folder` on disk when this returns."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
