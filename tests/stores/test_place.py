"""Where a store may lie: each place that would lose data is refused, with its remedy.

Volumes are real mounts (the tests of disks run as root); a network file system is a line in a file
that looks like the kernel's list of mounts.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
from pathlib import Path

import pytest
from tests.stores.faults import small_disk

from outlive.errors import (
    BadAddress,
    EngineTooOld,
    NetworkFileSystem,
    ReadOnlyStore,
    SecondCopy,
    StoreFull,
)
from outlive.stores import place


@pytest.mark.parametrize("version", ["3.7.0", "3.40.1", "3.51.2", "2.8.17"])
def test_an_engine_that_may_corrupt_is_refused(version: str) -> None:
    with pytest.raises(EngineTooOld, match=version):
        place.check_engine(version)


@pytest.mark.parametrize("version", ["3.51.3", "3.51.10", "3.100.0", "4.0.0", "3.52.0.1"])
def test_an_engine_with_the_correction_is_accepted(version: str) -> None:
    place.check_engine(version)


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(BadAddress, match="is a folder"):
        place.check(tmp_path)


def test_missing_folders_are_made(tmp_path: Path) -> None:
    place.check(tmp_path / "a" / "b" / "store.db")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ReadOnlyStore, match="cannot be made"):
        place.check(tmp_path / "file" / "store.db")


def test_a_volume_mounted_read_only_is_refused(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16 * 1024) as folder:
        place.check(folder / "store.db")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(ReadOnlyStore):
            place.check(folder / "store.db")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # nothing of ours is open
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_this_user_may_not_write_is_refused(tmp_path: Path, what: str) -> None:
    """Root may write everything, so a child with another user id asks."""
    folder = tmp_path / "store"
    folder.mkdir()
    path = folder / "store.db"
    path.touch()
    os.chmod(path, 0o444 if what == "file" else 0o666)
    os.chmod(folder, 0o777 if what == "file" else 0o555)
    at = folder
    while at != at.parent:  # pytest's folders are for their owner only
        os.chmod(at, os.stat(at).st_mode | 0o005)
        at = at.parent
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            place.check_writable(path)
        except ReadOnlyStore as error:
            code = 0 if f"The {what} " in error.detail else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def mounts(folder: Path, *lines: str) -> Path:
    path = folder / "mountinfo"
    path.write_text("\n".join(lines) + "\n")
    return path


ROOT = "21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    share = f"40 21 0:50 / {tmp_path.resolve()} rw shared:1 - {kind} server:/x rw"
    monkeypatch.setattr(place, "MOUNTS", mounts(tmp_path, ROOT, share))
    with pytest.raises(NetworkFileSystem, match=kind):
        place.check(tmp_path / "store.db")
    assert not (tmp_path / "store.db").exists()


def test_the_innermost_and_latest_mount_counts(tmp_path: Path) -> None:
    listed = mounts(
        tmp_path,
        ROOT,
        "40 21 0:50 / /srv rw - nfs4 server:/x rw",
        "41 40 0:51 / /srv/a\\040b\\134c rw - xfs /dev/sdb rw",
        "42 21 0:52 / /over rw - ext4 /dev/sdc rw",
        "43 42 0:53 / /over rw - nfs server:/y rw",
    )
    found = [
        place.file_system(Path(folder), listed)
        for folder in ("/srv", "/srv/x", "/srv/a b\\c/d", "/srvx", "/over/1")
    ]
    assert found == ["nfs4", "nfs4", "xfs", "ext4", "nfs"]


def test_a_kernel_that_does_not_say_is_not_guessed_at(tmp_path: Path) -> None:
    assert place.file_system(tmp_path, tmp_path / "missing") == ""


def test_a_volume_without_space_is_refused_at_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1024) as folder, pytest.raises(StoreFull):
        place.check(folder / "store.db")


def test_another_descriptor_of_the_file_is_a_second_copy(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    place.check_second_copy(path)
    theirs = sqlite3.connect(path)
    theirs.execute("CREATE TABLE t (x)")
    with pytest.raises(SecondCopy):
        place.check_second_copy(path)
    assert place.foreign_descriptors(path) == 1
    assert place.second_copy_libraries()
    theirs.close()
    place.check_second_copy(path)


def test_our_own_connections_are_no_second_copy(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch()
    with path.open("rb"):
        identities = [place.opened(path), place.opened(path)]
        place.check_second_copy(path)
        path.rename(tmp_path / "moved.db")  # what was counted is the file, not its name
        for identity in identities:
            place.closed(identity)
        with pytest.raises(SecondCopy):
            place.check_second_copy(tmp_path / "moved.db")


def test_a_volume_that_cannot_be_asked_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        place.free_bytes(tmp_path / "missing" / "store.db")
    assert error.value.errno == errno.ENOENT
