"""Lines in compressed files that only grow: what leaves the store and is still kept.

    folder/NAME.WRITER.jsonl.gz      one writer a file, so nobody waits for anybody, on any host
    append                           one gzip member: write · fsync · read back and compare

A file is what `zcat` reads. When `append` returns its lines are on disk and were read back; when it
raises or the process dies, a part of them may be there. So a reader may find a line twice, and the
last member of a file cut off: it gives what is whole, and says which files are not.

Not promised: that the lines are secret, or an order between files.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from outlive.errors import BadPlace, StoreFull, StoreUnavailable

SUFFIX = ".jsonl.gz"
LEVEL = 6
CHUNK_BYTES = 256 * 1024
_GZIP = 16 + zlib.MAX_WBITS


def folder_at(address: str | Path) -> Path:
    """The folder that a path or a `file:` URL names. Raises `BadPlace`."""
    text = str(address)
    if "://" in text:
        parts = urlsplit(text)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not parts.path:
            raise BadPlace(f"{text} is no folder: write a path, or file:///a/path.")
        text = unquote(parts.path)
    if not text:
        raise BadPlace("The archive has no name: write a path, or file:///a/path.")
    return Path(text).absolute()


class LineFiles:
    """The files of one writer in `folder`. Blocks, so not for an event loop.

    `writer`: a name that no other process and no other start of this one has.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        self.folder = folder
        self._writer = writer
        self._sizes: dict[str, int] = {}

    def prepare(self) -> None:
        """Make the folder, and be certain that it can be written. Raises `BadPlace`."""
        probe = self.folder / f".{self._writer}.new"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe.touch(mode=0o600)
            probe.unlink()
        except OSError as error:
            raise BadPlace(f"{self.folder} cannot be written: {error.strerror}.") from error

    def append(self, name: str, lines: Sequence[bytes]) -> Path:
        """Add `lines` (none has a line break in it) to the file `name`; gives its path.

        Raises `StoreFull` or `StoreUnavailable`: then the lines do not count, and what there is of
        them is cut off again, or follows as the torn end of the file.
        """
        path = self.folder / f"{name}.{self._writer}{SUFFIX}"
        text = b"".join(line + b"\n" for line in lines)
        packer = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP)
        packed = packer.compress(text) + packer.flush()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            try:
                self._write(name, descriptor, packed)
                self._compare(path, descriptor, self._sizes[name], packed, text)
            finally:
                os.close(descriptor)
            if not self._sizes[name]:  # new, or its name was not seen to be on disk yet
                _sync(path.parent)
                _sync(self.folder)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            kind = StoreFull if full else StoreUnavailable
            raise kind(f"{path} was not written: {error.strerror or error}.") from error
        self._sizes[name] += len(packed)
        return path

    def _write(self, name: str, descriptor: int, packed: bytes) -> None:
        """Write behind what is known to be whole: what a failure left there is cut off. A file that
        somebody has taken away begins anew."""
        there = os.fstat(descriptor).st_size
        size = self._sizes[name] = min(self._sizes.get(name, there), there)
        os.ftruncate(descriptor, size)
        try:
            at = 0
            while at < len(packed):
                at += os.pwrite(descriptor, packed[at:], size + at)
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise

    def _compare(self, path: Path, descriptor: int, size: int, packed: bytes, text: bytes) -> None:
        found = b""
        while len(found) < len(packed):
            more = os.pread(descriptor, len(packed) - len(found), size + len(found))
            if not more:
                break
            found += more
        try:
            same = found == packed and zlib.decompress(found, _GZIP) == text
        except zlib.error:
            same = False
        if not same:
            os.ftruncate(descriptor, size)
            raise StoreUnavailable(f"{path} was not written: what was read back is something else.")


def files_in(folder: Path, pattern: str = "**/*") -> list[Path]:
    """The files below `folder` that match `pattern`, by name. Raises `BadPlace` when there is no
    such folder."""
    if not folder.is_dir():
        raise BadPlace(f"There is no folder {folder}.")
    return sorted(path for path in folder.glob(pattern + SUFFIX) if path.is_file())


def lines_in(path: Path, torn: list[Path] | None = None) -> Iterator[bytes]:
    """The lines of one file that were written whole, in order.

    `path` is added to `torn` when it is cut off or damaged, and its lines end there. Holds what one
    `append` wrote in memory. Raises `StoreUnavailable` when it cannot be read.
    """
    try:
        for member in _members(path):
            yield from member.split(b"\n")[:-1]
    except (zlib.error, EOFError):
        if torn is not None:
            torn.append(path)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be read: {error.strerror or error}.") from error


def _members(path: Path) -> Iterator[bytes]:
    """What is in each gzip member of a file, once its sum was seen to be right. Raises `EOFError`
    inside of one."""
    with open(path, "rb") as file:
        data = file.read(CHUNK_BYTES)
        while data:
            unpacker, pieces = zlib.decompressobj(_GZIP), list[bytes]()
            while not unpacker.eof:
                if not data:
                    raise EOFError
                pieces.append(unpacker.decompress(data))
                data = unpacker.unused_data or file.read(CHUNK_BYTES)
            yield b"".join(pieces)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
