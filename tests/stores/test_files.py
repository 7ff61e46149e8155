"""The calls that make a file durable do what their names say, and refuse what would do harm."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from outlive.stores.files import Files


def test_a_file_is_made_filled_renamed_and_removed(tmp_path: Path) -> None:
    files, folder = Files(), tmp_path / "a" / "b"
    for _ in range(2):
        files.make_folder(folder)
    with files.create(folder / "new") as file:
        files.write(file, b"abc")
        assert (folder / "new").read_bytes() == b"abc", "nothing stays in a buffer"
        files.sync(file)
    files.rename(folder / "new", folder / "old")
    files.sync_folder(folder)
    assert os.listdir(folder) == ["old"]
    for _ in range(2):
        files.remove(folder / "old")
    assert os.listdir(folder) == []


def test_files_and_folders_are_for_their_owner_only(tmp_path: Path) -> None:
    files = Files()
    files.make_folder(tmp_path / "a")
    with files.create(tmp_path / "a" / "b"):
        pass
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("kept")
    with pytest.raises(FileExistsError):
        Files().create(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "kept"
