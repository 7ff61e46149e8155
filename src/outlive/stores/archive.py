"""The archive: everything a store holds in one file, the same from SQLite and from PostgreSQL.

    gzip( frame, frame, … )      frame = length (4 bytes, big-endian) + MessagePack

    ["outlive archive", 1, {id, created, facts}]      the first
    [section, [row, row, …]]                          holds, events, cells, blobs; see contents.py
    ["end", {counts, digests}, SHA-256]               the last: over all frames before, and the sums

`created` is the store's clock when the snapshot was taken. A file without its last frame, with a
byte changed or with anything behind the end is refused whole. The sums show damage, not malice:
keep a signature of the file elsewhere if somebody could replace it. Nothing in it is encrypted; the
file is readable by its owner only.

A backup is written under a temporary name beside its own, flushed, read back and verified, and only
then renamed: a death at any point leaves no file of that name, or a whole one.
"""

from __future__ import annotations

import errno
import gzip
import os
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from struct import Struct as Packing
from typing import Any, BinaryIO

import msgspec
from msgspec import Struct

from outlive.errors import ArchiveDamaged, BadPlace, StoreFull, StoreUnavailable
from outlive.stores.contents import SECTIONS, Facts, Key, Row, Section, Sums, key_of

NAME = "outlive archive"
FORMAT = 1
FRAME_BYTES_MAX = 300 * 1024 * 1024
"""More than the largest blob, cell or page takes."""
LEVEL = 6
"""Of compression."""

_LENGTH = Packing(">I")
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class Header(Struct, frozen=True):
    """What the archive says of itself before anything else."""

    id: str
    """Drawn for each backup: a restore that died is known again by it."""
    created: int
    facts: Facts


class ArchiveWriter:
    """Writes an archive to `path`; nothing of that name appears before `end`.

    Raises `BadPlace` when the folder is missing or the file exists, `StoreFull` and
    `StoreUnavailable` when it cannot be written; `abandon` then removes what there is.
    """

    def __init__(self, path: Path, header: Header) -> None:
        if path.exists():
            raise BadPlace(f"{path} exists; it was not overwritten.")
        if not path.parent.is_dir():
            raise BadPlace(f"There is no folder {path.parent}.")
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{header.id}.new")
        self._digest = sha256()
        with _writing(self.path):
            descriptor = os.open(self._temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            self._raw: BinaryIO = os.fdopen(descriptor, "wb")
            self._file = gzip.GzipFile("", "wb", LEVEL, self._raw, mtime=0)
        self._frame([NAME, FORMAT, header])

    def add(self, section: Section, rows: list[Row]) -> None:
        """Append rows; sections in the order of `SECTIONS`."""
        self._frame([section, rows])

    def _frame(self, value: Any) -> None:
        packed = _pack(value)
        assert len(packed) <= FRAME_BYTES_MAX, "a page is larger than a frame may be"
        framed = _LENGTH.pack(len(packed)) + packed
        self._digest.update(framed)
        with _writing(self.path):
            self._file.write(framed)

    def end(self, sums: Sums) -> Path:
        """Write the last frame and flush; gives the temporary file, to be verified."""
        digest = self._digest.copy()
        digest.update(_pack(sums))
        self._frame(["end", sums, digest.digest()])
        with _writing(self.path):
            self._file.close()
            self._raw.flush()
            os.fsync(self._raw.fileno())
            self._raw.close()
        return self._temporary

    def publish(self) -> int:
        """Give the file its name, for good; gives its length in bytes."""
        with _writing(self.path):
            os.link(self._temporary, self.path)  # unlike a rename it replaces nothing
            self._temporary.unlink()
            descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            return self.path.stat().st_size

    def abandon(self) -> None:
        """Remove what was written, unless it has its name."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._raw.close()
        self._temporary.unlink(missing_ok=True)


class ArchiveSource:
    """The contents of the archive at `path`, read from its beginning to its end, once.

    Raises `BadPlace` when there is no file, `ArchiveDamaged` at whatever place it is not as it
    was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = sha256()
        self._next: Any = None
        self._before = sha256()
        try:
            self._raw = open(path, "rb")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise BadPlace(f"{path} cannot be read: {error.strerror}.") from error
        self._file = gzip.GzipFile(fileobj=self._raw, mode="rb")
        try:
            self.header = self._read_header()
        except BaseException:
            self._raw.close()
            raise
        self.facts = self.header.facts

    def _read_header(self) -> Header:
        try:
            first = self._frame()
        except ArchiveDamaged as error:
            raise ArchiveDamaged(f"{self.path} is no archive of outlive's.") from error
        if not isinstance(first, list) or len(first) != 3 or first[0] != NAME:
            raise ArchiveDamaged(f"{self.path} is no archive of outlive's.")
        if first[1] != FORMAT:
            raise ArchiveDamaged(
                f"{self.path} is of format {first[1]}; this release reads {FORMAT}."
            )
        try:
            return msgspec.convert(first[2], Header)
        except msgspec.ValidationError as error:
            raise self._damaged(str(error)) from error

    async def pages(self, section: Section, after: Key | None = None) -> AsyncIterator[list[Row]]:
        """See `Source.pages`; only once, and in the order of `SECTIONS`."""
        while True:
            frame = self._next if self._next is not None else self._frame()
            self._next = None
            if not isinstance(frame, list) or len(frame) < 2 or not isinstance(frame[0], str):
                raise self._damaged("a frame is malformed")
            if frame[0] != section:
                self._next = frame
                if frame[0] != "end" and frame[0] not in SECTIONS:
                    raise self._damaged(f"there is no section {frame[0]!r}")
                return
            rows = frame[1]
            if after is not None:
                rows = [row for row in rows if key_of(section, row) > after]
            if rows:
                yield rows

    def end(self) -> Sums:
        """The sums in the last frame, once all sections were read and nothing is behind it."""
        last, self._next = self._next if self._next is not None else self._frame(), None
        if not isinstance(last, list) or last[0] != "end" or len(last) != 3:
            raise self._damaged("a section is out of its order")
        try:
            sums = msgspec.convert(last[1], Sums)
        except msgspec.ValidationError as error:
            raise self._damaged(str(error)) from error
        self._before.update(_pack(sums))
        if last[2] != self._before.digest():
            raise self._damaged("its SHA-256 is not that of its contents")
        if self._read(1):
            raise self._damaged("something stands behind its end")
        return sums

    def _frame(self) -> Any:
        length = self._read(_LENGTH.size)
        if len(length) < _LENGTH.size:
            raise self._damaged("it is cut off")
        (size,) = _LENGTH.unpack(length)
        if size > FRAME_BYTES_MAX:
            raise self._damaged(f"a frame of {size} bytes")
        packed = self._read(size)
        if len(packed) < size:
            raise self._damaged("it is cut off")
        self._before = self._digest.copy()
        self._digest.update(length)
        self._digest.update(packed)
        try:
            return _unpack(packed)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._damaged(str(error)) from error

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise StoreUnavailable(f"{self.path} cannot be read: {error}.") from error

    def _damaged(self, why: str) -> ArchiveDamaged:
        return ArchiveDamaged(f"{self.path} is damaged: {why}.")

    async def close(self) -> None:
        """Close the file."""
        self._raw.close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = StoreFull if full else StoreUnavailable
        raise kind(f"The backup {path} was not written: {error.strerror or error}.") from error
