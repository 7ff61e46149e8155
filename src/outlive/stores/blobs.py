"""Blobs: bytes too large for a cell, kept in files beside the store or in memory.

    name    a random token, a hyphen, and the BLAKE2b digest of the bytes in hexadecimal: it cannot
            be guessed, equal blobs do not share a fate, and every `get` verifies what it read.
    orphan  a blob whose name no commit took up: its writer died between `put` and the commit.
            `sweep` removes it once it is so old that no commit can still be on its way.

Order of a put: write a temporary in the same folder · fsync it · rename it · fsync the folder ·
only then give the name out. A death at any point leaves a whole blob, a temporary, or nothing.

Not promised: that a blob is kept which nobody names, or encryption: the bytes lie there as given.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from outlive.clock import MICROS, Clock
from outlive.errors import StoreCorrupt, StoreFull, StoreUnavailable, TooLarge
from outlive.ids import ALPHABET, token
from outlive.stores.files import Files

BLOB_BYTES_MAX = 256 * 1024 * 1024
"""Bytes of one blob."""
_DIGEST_BYTES = 32
_TEMPORARY = ".new-"
_NAME = re.compile(rf"[{ALPHABET}]{{16}}-[0-9a-f]{{{2 * _DIGEST_BYTES}}}")
_FULL = (errno.ENOSPC, errno.EDQUOT)

Kept = Callable[[str], Awaitable[bool]] | set[str]
"""Which blobs somebody names: a set of names, or a question to ask for each."""


class FileBlobs:
    """Blobs as files in one folder, which is made when it is missing.

    `clock` dates the files, so that `sweep` judges their age by the clock that wrote them. At most
    `bytes_max` for one blob. `files` are the calls that make a file durable.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock | None = None,
        *,
        bytes_max: int = BLOB_BYTES_MAX,
        files: Files | None = None,
    ) -> None:
        self.folder = folder
        self._clock = clock or Clock()
        self._bytes_max = bytes_max
        self._files = files or Files()
        self._made = False

    async def put(self, data: bytes) -> str:
        """Keep `data`; its name comes back when file and folder are on disk.

        Raises `TooLarge`, `StoreFull` or `StoreUnavailable`: then no name was given and what may be
        left is an orphan for `sweep`, as it is when the process dies before the name came back.
        """
        name = named(data, self._bytes_max)
        await asyncio.to_thread(self._write, name, data)
        return name

    async def get(self, name: str) -> bytes:
        """The bytes, verified.

        Raises `KeyError` when there are none of that name, `StoreCorrupt` when they were altered,
        `StoreUnavailable` when they could not be read.
        """
        return verified(name, await asyncio.to_thread(self._read, checked(name)))

    async def drop(self, name: str) -> None:
        """Forget the bytes; no error when they are gone already.

        Not promised: that a power loss right after does not bring them back, as an orphan.
        """
        if _NAME.fullmatch(name):
            await asyncio.to_thread(self._files.remove, self.folder / name)

    async def sweep(self, kept: Kept, older_than_seconds: float) -> int:
        """Remove what is older than `older_than_seconds` and named by nobody; gives how many.

        Temporaries that a death left behind go too. Choose an age far above the longest time
        between a `put` and the commit that names it: hours.
        """
        before = self._clock.wall() - round(older_than_seconds * MICROS)
        removed = 0
        for name in await asyncio.to_thread(self._older, before):
            if name.startswith(_TEMPORARY) or not await is_kept(kept, name):
                await asyncio.to_thread(self._files.remove, self.folder / name)
                removed += 1
        return removed

    def names(self) -> list[str]:
        """The names of all blobs, in no order."""
        if not self.folder.is_dir():
            return []
        return [name for name in os.listdir(self.folder) if _NAME.fullmatch(name)]

    def restore(self, name: str, time: int, data: bytes) -> None:
        """Keep `data` under the name and the date it had elsewhere; again does no harm.

        On disk when it returns. Raises `KeyError` for a name that is none of ours, `StoreFull` or
        `StoreUnavailable`. Blocks.
        """
        self._files.remove(self.folder / f"{_TEMPORARY}{checked(name)}")
        self._write(name, data, time)

    def _write(self, name: str, data: bytes, time: int | None = None) -> None:
        temporary, files = self.folder / f"{_TEMPORARY}{name}", self._files
        try:
            self._make_folder()
            with files.create(temporary) as file:
                files.write(file, data)
                wall = (self._clock.wall() if time is None else time) * 1000
                os.utime(file.fileno(), ns=(wall, wall))
                files.sync(file)
            files.rename(temporary, self.folder / name)
            files.sync_folder(self.folder)
        except OSError as error:
            with suppress(OSError):
                files.remove(temporary)
            kind = StoreFull if error.errno in _FULL else StoreUnavailable
            raise kind(f"a blob of {len(data)} bytes was not kept: {error}") from error

    def _make_folder(self) -> None:
        """Another process may have made it a moment ago and not flushed its name: each does."""
        if not (self._made and self.folder.is_dir()):
            self._files.make_folder(self.folder)
            self._files.sync_folder(self.folder.parent)
            self._made = True

    def _read(self, name: str) -> bytes:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            raise KeyError(name) from None
        except OSError as error:
            raise StoreUnavailable(f"blob {name} could not be read: {error}") from error

    def _older(self, before: int) -> list[str]:
        if not self.folder.is_dir():
            return []
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name) or entry.name.startswith(_TEMPORARY):
                    with suppress(FileNotFoundError):  # kept, dropped or swept a moment ago
                        if entry.stat().st_mtime_ns // 1000 < before:
                            found.append(entry.name)
        return found


class MemoryBlobs:
    """Blobs in this process, and nothing longer than it."""

    def __init__(self, clock: Clock | None = None, *, bytes_max: int = BLOB_BYTES_MAX) -> None:
        self._clock = clock or Clock()
        self._bytes_max = bytes_max
        self._kept: dict[str, tuple[int, bytes]] = {}

    async def put(self, data: bytes) -> str:
        """Keep `data` until it is dropped or swept. Raises `TooLarge`."""
        name = named(data, self._bytes_max)
        self._kept[name] = (self._clock.wall(), bytes(data))
        return name

    async def get(self, name: str) -> bytes:
        """The bytes. Raises `KeyError` when there are none of that name."""
        return self._kept[name][1]

    async def drop(self, name: str) -> None:
        """Forget the bytes; no error when they are gone already."""
        self._kept.pop(name, None)

    async def sweep(self, kept: Kept, older_than_seconds: float) -> int:
        """Remove blobs older than `older_than_seconds` that nobody names; gives how many."""
        before = self._clock.wall() - round(older_than_seconds * MICROS)
        older = [name for name, (time, _) in self._kept.items() if time < before]
        orphans = [name for name in older if not await is_kept(kept, name)]
        for name in orphans:
            await self.drop(name)
        return len(orphans)


def named(data: bytes, bytes_max: int) -> str:
    if len(data) > bytes_max:
        raise TooLarge(f"a blob of {len(data)} bytes; the limit is {bytes_max}")
    return f"{token(80)}-{_digest(data)}"


def checked(name: str) -> str:
    """`name`, once it is certain that it is one of ours and leads out of no folder."""
    if not _NAME.fullmatch(name):
        raise KeyError(name)
    return name


def verified(name: str, data: bytes) -> bytes:
    if name.rpartition("-")[2] != _digest(data):
        raise StoreCorrupt(f"blob {name} is not what was put: its digest differs", name=name)
    return data


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


async def is_kept(kept: Kept, name: str) -> bool:
    return name in kept if isinstance(kept, set) else await kept(name)
