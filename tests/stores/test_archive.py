"""An archive is whole or refused, and one that was not finished is not there."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stores.filling import facts, sound

from outlive.errors import ArchiveDamaged, BadPlace, StoreUnavailable
from outlive.stores import archive
from outlive.stores.archive import ArchiveSource, ArchiveWriter, Header
from outlive.stores.contents import SECTIONS, Inspection, Sums


def written(path: Path) -> Path:
    rows = sound()
    writer = ArchiveWriter(path, Header("id", 9, facts(rows)))
    inspection = Inspection(facts(rows))
    for section in SECTIONS:
        inspection.take(section, rows[section])
        for row in rows[section]:
            writer.add(section, [row])
    writer.end(inspection.end())
    writer.publish()
    return path


async def read(path: Path, after: dict[str, Any] | None = None) -> tuple[dict[str, Any], Sums]:
    source = ArchiveSource(path)
    try:
        found = {
            section: [
                tuple(row)
                async for page in source.pages(section, (after or {}).get(section))
                for row in page
            ]
            for section in SECTIONS
        }
        return found, source.end()
    finally:
        await source.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return written(tmp_path / "monday.archive")


async def test_what_is_read_is_what_was_written(file: Path) -> None:
    found, sums = await read(file)
    assert found == sound()
    assert sums.counts == {section: len(rows) for section, rows in sound().items()}
    source = ArchiveSource(file)
    assert source.header == Header("id", 9, facts(sound()))
    await source.close()


async def test_reading_goes_on_behind_a_key(file: Path) -> None:
    after = {"events": (0, 3), "cells": ("a", "1"), "blobs": ("z",)}
    found, _ = await read(file, after)
    rows = sound()
    assert found["events"] == rows["events"][3:] and found["cells"] == rows["cells"][1:]
    assert found["blobs"] == [] and found["holds"] == rows["holds"]


def test_the_file_is_for_its_owner_and_replaces_nothing(file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BadPlace, match="exists"):
        ArchiveWriter(file, Header("id", 9, facts(sound())))
    with pytest.raises(BadPlace, match="no folder"):
        ArchiveWriter(file.parent / "none" / "x", Header("id", 9, facts(sound())))


def test_one_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "x", Header("id", 9, facts(sound())))
    writer.add("holds", sound()["holds"])  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()
    writer.abandon()
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_was_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "x", Header("id", 9, facts(sound())))
    writer.end(Inspection(facts(sound())).end())
    (tmp_path / "x").write_text("somebody's")
    with pytest.raises(StoreUnavailable, match="was not written"):
        writer.publish()
    writer.abandon()
    assert (tmp_path / "x").read_text() == "somebody's" and len(list(tmp_path.iterdir())) == 1


async def test_one_that_is_cut_off_anywhere_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ArchiveDamaged):
            await read(file)


@settings(max_examples=150)
@given(st.data())
async def test_a_changed_byte_is_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = written(Path(folder) / "x")
        frames = bytearray(gzip.decompress(file.read_bytes()))
        at = data.draw(st.integers(0, len(frames) - 1))
        frames[at] ^= data.draw(st.integers(1, 255))
        file.write_bytes(gzip.compress(frames))
        with pytest.raises(ArchiveDamaged):
            await read(file)


def patched(file: Path, change: Callable[[bytes], bytes]) -> Path:
    file.write_bytes(change(file.read_bytes()))
    return file


@pytest.mark.parametrize(
    "change",
    [
        lambda whole: whole[:20] + bytes([whole[20] ^ 1]) + whole[21:],
        lambda whole: whole + gzip.compress(b"more"),
        lambda whole: whole + b"more",
        lambda whole: b"",
        lambda whole: gzip.compress(b"\0\0\0\1\1"),
        lambda whole: gzip.compress(b"\xff\xff\xff\xff"),
        lambda whole: b"not an archive, but long enough to look into" * 9,
    ],
)
async def test_what_is_no_archive_is_refused(file: Path, change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ArchiveDamaged):
        await read(patched(file, change))


async def test_a_later_format_is_refused_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "FORMAT", 2)
    later = written(tmp_path / "later")
    monkeypatch.setattr(archive, "FORMAT", 1)
    with pytest.raises(ArchiveDamaged, match=r"format 2; this release reads 1"):
        ArchiveSource(later)


def test_a_file_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(BadPlace, match="cannot be read"):
        ArchiveSource(tmp_path / "none")
