"""Blobs in files and in memory: durable before the name is out, verified, swept."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from outlive.clock import ManualClock
from outlive.errors import StoreCorrupt, StoreFull, StoreUnavailable, TooLarge
from outlive.stores.blobs import FileBlobs, MemoryBlobs
from outlive.stores.files import Files

AnyBlobs = FileBlobs | MemoryBlobs


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["file", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AnyBlobs:
    return (
        FileBlobs(tmp_path / "b" / "lobs", clock) if request.param == "file" else MemoryBlobs(clock)
    )


@pytest.fixture
def files(tmp_path: Path, clock: ManualClock) -> FileBlobs:
    return FileBlobs(tmp_path / "blobs", clock)


@pytest.mark.parametrize("data", [b"", b"\x00\xff", bytes(3 << 20)])
async def test_a_blob_comes_back_as_it_went(blobs: AnyBlobs, data: bytes) -> None:
    assert await blobs.get(await blobs.put(data)) == data


async def test_equal_blobs_have_names_of_their_own(blobs: AnyBlobs) -> None:
    one, two = await blobs.put(b"same"), await blobs.put(b"same")
    assert one != two
    await blobs.drop(one)
    assert await blobs.get(two) == b"same"


async def test_a_dropped_blob_is_gone_and_may_be_dropped_again(blobs: AnyBlobs) -> None:
    name = await blobs.put(b"x")
    await blobs.drop(name)
    await blobs.drop(name)
    with pytest.raises(KeyError):
        await blobs.get(name)


async def test_an_unknown_name_is_a_key_error(blobs: AnyBlobs) -> None:
    for name in ("", "0" * 16 + "-" + "0" * 64, "x\0y", ".new-" + await blobs.put(b"x")):
        with pytest.raises(KeyError):
            await blobs.get(name)


async def test_a_blob_over_the_limit_is_refused(tmp_path: Path) -> None:
    for small in (FileBlobs(tmp_path, bytes_max=4), MemoryBlobs(bytes_max=4)):
        assert await small.get(await small.put(b"1234")) == b"1234"
        with pytest.raises(TooLarge):
            await small.put(b"12345")


async def test_a_sweep_removes_only_old_blobs_nobody_names(
    blobs: AnyBlobs, clock: ManualClock
) -> None:
    named, orphan = await blobs.put(b"named"), await blobs.put(b"orphan")
    clock.advance(100)
    young = await blobs.put(b"young")
    assert await blobs.sweep({named}, 60) == 1
    assert await blobs.get(named) == b"named"
    assert await blobs.get(young) == b"young"
    with pytest.raises(KeyError):
        await blobs.get(orphan)
    assert await blobs.sweep({named}, 60) == 0


async def test_a_sweep_asks_about_each_old_blob(blobs: AnyBlobs, clock: ManualClock) -> None:
    names = {await blobs.put(b"%d" % number) for number in range(3)}
    asked: set[str] = set()

    async def is_kept(name: str) -> bool:
        asked.add(name)
        return name == min(names)

    clock.advance(10)
    await blobs.put(b"young")
    assert await blobs.sweep(is_kept, 5) == 2
    assert asked == names
    assert await blobs.get(min(names))


async def test_a_sweep_of_a_place_never_used_finds_nothing(blobs: AnyBlobs) -> None:
    assert await blobs.sweep(set(), 0) == 0


async def test_a_name_that_leads_out_of_the_folder_is_unknown(
    files: FileBlobs, tmp_path: Path
) -> None:
    name = await files.put(b"inside")
    outside = tmp_path / name
    outside.write_bytes(b"inside")
    for escape in (f"../{name}", str(outside), f"./{name}", f"{name}\n", f"../blobs/{name}"):
        with pytest.raises(KeyError):
            await files.get(escape)
        await files.drop(escape)
    assert outside.exists()
    assert await files.get(name) == b"inside"


@pytest.mark.parametrize("damage", [b"", b"insidE", b"inside and more"])
async def test_a_damaged_blob_is_never_given_out(files: FileBlobs, damage: bytes) -> None:
    name = await files.put(b"inside")
    (files.folder / name).write_bytes(damage)
    with pytest.raises(StoreCorrupt) as refusal:
        await files.get(name)
    assert refusal.value.facts["name"] == name


async def test_a_blob_is_readable_by_its_owner_only(files: FileBlobs) -> None:
    name = await files.put(b"private")
    assert (files.folder / name).stat().st_mode & 0o777 == 0o600
    assert files.folder.stat().st_mode & 0o777 == 0o700


async def test_file_and_folder_are_on_disk_before_the_name_is_out(
    files: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await files.put(b"makes the folder")
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def noted_fsync(descriptor: int) -> None:
        steps.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name[:5]}")
        fsync(descriptor)

    def noted_rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "rename", noted_rename)
    await files.put(b"x")
    assert steps == ["fsync .new-", "rename", "fsync blobs"]


def failing(code: int) -> Callable[[int], None]:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize(
    ("code", "error"),
    [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EIO, StoreUnavailable)],
)
async def test_a_blob_that_could_not_be_written_leaves_nothing(
    files: FileBlobs, monkeypatch: pytest.MonkeyPatch, code: int, error: type[StoreUnavailable]
) -> None:
    await files.put(b"makes the folder")
    before = sorted(files.folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(code))
        with pytest.raises(error) as refusal:
            await files.put(b"x")
    assert type(refusal.value) is error
    assert sorted(files.folder.iterdir()) == before
    assert await files.put(b"x")


async def test_a_temporary_left_by_a_death_is_swept(files: FileBlobs, clock: ManualClock) -> None:
    name = await files.put(b"x")
    (files.folder / name).rename(files.folder / f".new-{name}")
    with pytest.raises(KeyError):
        await files.get(name)
    clock.advance(10)
    assert await files.sweep({name}, 5) == 1
    assert list(files.folder.iterdir()) == []


async def test_a_sweep_goes_on_past_a_blob_that_another_has_removed_meanwhile(
    files: FileBlobs, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted([await files.put(str(number).encode()) for number in range(4)])
    clock.advance(10)
    scandir = os.scandir

    def racing(folder: Path) -> Any:
        entries = sorted(scandir(folder), key=lambda entry: entry.name)
        (folder / names[1]).unlink()
        return nullcontext(entries)

    monkeypatch.setattr(os, "scandir", racing)
    assert await files.sweep({names[3]}, 5) == 2
    assert files.names() == [names[3]]


async def test_a_sweep_leaves_files_alone_that_are_not_blobs(
    files: FileBlobs, clock: ManualClock
) -> None:
    await files.put(b"x")
    (files.folder / "README").write_text("mine")
    os.utime(files.folder / "README", (0, 0))
    clock.advance(10)
    assert await files.sweep(set(), 5) == 1
    assert [path.name for path in files.folder.iterdir()] == ["README"]


async def test_a_folder_that_another_process_made_is_flushed_before_a_name_is_out(
    files: FileBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have died, or not be there yet, between the making and the flush."""
    files.folder.mkdir()
    flushed: list[Path] = []
    monkeypatch.setattr(Files, "sync_folder", lambda _, folder: flushed.append(folder))
    await files.put(b"x")
    await files.put(b"x")
    assert flushed == [files.folder.parent, files.folder, files.folder]
