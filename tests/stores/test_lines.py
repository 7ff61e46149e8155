"""Files of lines: whole once `append` has returned, whatever happens before or after."""

from __future__ import annotations

import errno
import gzip
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from outlive.errors import BadPlace, StoreFull, StoreUnavailable
from outlive.stores import lines
from outlive.stores.lines import LineFiles, files_in, folder_at, lines_in

LINES = [b'{"a":1}', b"{}", b'{"long":"' + b"x" * 700_000 + b'"}']


def test_what_was_appended_is_read_in_order_also_by_zcat(tmp_path: Path) -> None:
    files = LineFiles(tmp_path, "me")
    path = files.append("t/2026-01-01", LINES)
    assert files.append("t/2026-01-01", [b"last"]) == path
    torn: list[Path] = []
    assert list(lines_in(path, torn)) == [*LINES, b"last"] and not torn
    said = subprocess.run(["zcat", str(path)], capture_output=True, check=True).stdout
    assert said == b"\n".join([*LINES, b"last", b""])
    assert path.stat().st_mode & 0o777 == 0o600


def test_each_writer_has_a_file_of_its_own(tmp_path: Path) -> None:
    for writer in ("one", "two"):
        LineFiles(tmp_path, writer).append("t/day", [writer.encode()])
    found = files_in(tmp_path, "t/*")
    assert [path.name for path in found] == ["day.one.jsonl.gz", "day.two.jsonl.gz"]
    assert [line for path in found for line in lines_in(path)] == [b"one", b"two"]
    assert files_in(tmp_path, "other/*") == []
    with pytest.raises(BadPlace):
        files_in(tmp_path / "none")


def test_a_file_that_was_taken_away_begins_anew(tmp_path: Path) -> None:
    files, torn = LineFiles(tmp_path, "me"), list[Path]()
    path = files.append("t/day", [b"carried off"])
    path.rename(tmp_path / "elsewhere")
    assert files.append("t/day", [b"new"]) == path
    assert list(lines_in(path, torn)) == [b"new"] and not torn


def test_the_name_of_a_file_is_on_disk_before_its_lines_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, synced, failing = LineFiles(tmp_path, "me"), list[Path](), [True]

    def sync(folder: Path) -> None:
        if failing:
            failing.pop()
            raise OSError(errno.EIO, "input/output error")
        synced.append(folder)

    monkeypatch.setattr(lines, "_sync", sync)
    with pytest.raises(StoreUnavailable):
        files.append("t/day", [b"lost"])
    path = files.append("t/day", [b"kept"])
    assert synced == [tmp_path / "t", tmp_path], "the failure is made up for"
    files.append("t/day", [b"more"])
    assert len(synced) == 2 and list(lines_in(path)) == [b"kept", b"more"]


@pytest.mark.parametrize("cut", [1, 5, 12, 30])
def test_a_torn_end_gives_what_is_whole_and_is_named(tmp_path: Path, cut: int) -> None:
    files = LineFiles(tmp_path, "me")
    path = files.append("t", [b"whole", b"too"])
    size = path.stat().st_size
    files.append("t", [b"torn " * 100])
    os.truncate(path, path.stat().st_size - cut)
    torn: list[Path] = []
    assert list(lines_in(path, torn)) == [b"whole", b"too"]
    assert torn == [path] and size < path.stat().st_size


def test_damage_is_named_too(tmp_path: Path) -> None:
    path = LineFiles(tmp_path, "me").append("t", [b"line " * 50])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    torn: list[Path] = []
    list(lines_in(path, torn))
    assert torn == [path]


def test_a_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = LineFiles(tmp_path, "me")
    path = files.append("t", [b"one"])
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lines.os, "fsync", full)
    with pytest.raises(StoreFull, match="was not written"):
        files.append("t", [b"two"])
    monkeypatch.undo()
    assert path.read_bytes() == before
    files.append("t", [b"three"])
    assert list(lines_in(path)) == [b"one", b"three"]


def test_what_is_read_back_as_something_else_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = LineFiles(tmp_path, "me")
    path = files.append("t", [b"one"])
    pread = os.pread

    def lies(descriptor: int, size: int, at: int) -> bytes:
        return pread(descriptor, size, at)[:-1] + b"\xff"

    monkeypatch.setattr(lines.os, "pread", lies)
    with pytest.raises(StoreUnavailable, match="something else"):
        files.append("t", [b"two"])
    monkeypatch.undo()
    files.append("t", [b"three"])
    assert gzip.decompress(path.read_bytes()) == b"one\nthree\n"


@pytest.mark.parametrize(
    ("address", "folder"),
    [("/a/b", "/a/b"), ("file:///a/b%20c", "/a/b c"), (Path("/x"), "/x")],
)
def test_a_folder_is_a_path_or_a_url(address: Any, folder: str) -> None:
    assert folder_at(address) == Path(folder)


@pytest.mark.parametrize("address", ["", "s3://bucket/x", "file://host/x", "file://"])
def test_what_is_no_folder_is_refused(address: str) -> None:
    with pytest.raises(BadPlace):
        folder_at(address)
