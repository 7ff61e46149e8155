"""Power loss at every write of the production store, and detectors that must be able to find it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import pytest

from outlive.errors import OutliveError, StoreUnavailable
from outlive.model import Batch
from outlive.stores.blobs import FileBlobs, named
from outlive.stores.files import Files
from outlive.stores.sqlite import SQLiteStore
from outlive.stores.sqlite_file import SQLiteFile
from outlive.testing.badcalls import count_calls
from outlive.testing.disk import Call
from outlive.testing.powerloss import (
    MEMORY,
    Disk,
    Powerless,
    distinct_states,
    lose_power,
    record,
    record_recovery,
    spread,
)
from outlive.testing.witness import SHORT_PLAN, Do


@pytest.fixture
def folders() -> Iterator[tuple[Path, Path]]:
    """Where the witness works, and where states are opened: in memory, as there are many."""
    with TemporaryDirectory(dir=MEMORY) as place:
        run, states = Path(place, "run"), Path(place, "states")
        run.mkdir()
        states.mkdir()
        yield run, states


def text(found: Powerless) -> str:
    return "\n".join(
        f"{flaw.kind} at {flaw.position} behind {flaw.before!r}: "
        f"{[*flaw.verdict.lost, *flaw.verdict.corrupt]}"
        for flaw in found.flaws
    )


# --- the store ------------------------------------------------------------------------------------


async def test_a_store_that_takes_nothing_has_nothing_to_lose_and_is_no_proof(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(self: SQLiteStore, batches: Sequence[Batch]) -> list[OutliveError]:
        return [StoreUnavailable("nothing was written") for _ in batches]

    monkeypatch.setattr(SQLiteStore, "commit_group", refuses)
    with pytest.raises(AssertionError, match=r"without a fault .* refused"):
        await record(folders[0], SHORT_PLAN)
    (folders[0] / "again").mkdir()
    with pytest.raises(AssertionError, match="without a fault"):
        await count_calls(folders[0] / "again", "error")


async def test_a_power_loss_takes_nothing_that_was_acknowledged(
    folders: tuple[Path, Path], record_property: Any
) -> None:
    """A slice; `make powerloss` judges every state."""
    found = await lose_power(await record(folders[0], SHORT_PLAN), folders[1], judge_max=300)
    assert found.judged >= 300 and found.distinct >= 3000 and found.states > found.distinct
    assert (found.lost, found.corrupt) == (0, 0), text(found)
    assert found.relaxed > 0, "what may be lost is lost somewhere, so the states are real"
    assert all(found.faults.values()) and len(found.faults) == 6
    record_property("figures", str(found))


async def test_a_power_loss_while_it_recovers_takes_nothing_either(
    folders: tuple[Path, Path],
) -> None:
    recording = await record(folders[0], ("group", "blob", "checkpoint", "group"))
    _, distinct = distinct_states(recording)
    for number, state in enumerate(spread(distinct, 3)):
        place = folders[0] / f"again-{number}"
        place.mkdir()
        again = await record_recovery(recording, state, place)
        found = await lose_power(again, folders[1], judge_max=30)
        assert found.judged and (found.lost, found.corrupt) == (0, 0), text(found)


# --- planted bugs ---------------------------------------------------------------------------------


def with_setting(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    plain = SQLiteFile._set

    def planted(self: SQLiteFile, connection: Any, setting: str) -> None:
        plain(self, connection, setting.replace("synchronous=full", f"synchronous={level}"))

    monkeypatch.setattr(SQLiteFile, "_set", planted)


async def test_a_commit_that_is_not_flushed_is_found(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_setting(monkeypatch, "normal")
    plan: tuple[Do, ...] = ("group", "group", "checkpoint", "group")
    found = await lose_power(await record(folders[0], plan), folders[1], judge_max=100)
    assert found.lost > 0 and found.corrupt == 0, text(found)
    assert "was acknowledged" in text(found)


async def test_a_store_that_never_flushes_is_found_corrupt(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_setting(monkeypatch, "off")
    plan: tuple[Do, ...] = ("group", "checkpoint", "group")
    found = await lose_power(await record(folders[0], plan), folders[1], judge_max=150)
    assert found.lost > 0 and found.corrupt > 0, text(found)


class LateBlobs(FileBlobs):
    """Gives the name out at once, and writes the blob when the next one comes."""

    late: tuple[str, bytes] | None = None

    async def put(self, data: bytes) -> str:
        if self.late is not None:
            self._write(*self.late)
        self.late = named(data, len(data)), data
        return self.late[0]


async def test_a_blob_that_is_written_after_the_commit_is_found(
    folders: tuple[Path, Path],
) -> None:
    recording = await record(
        folders[0], ("blob", "blob"), blobs=lambda files, folder: LateBlobs(folder, files=files)
    )
    found = await lose_power(recording, folders[1], judge_max=80)
    assert found.lost > 0 and found.corrupt > 0, text(found)
    assert "the blob of batch 1 is gone" in text(found)


class Unsynced(Files):
    """Files that leave out one of the calls."""

    def __init__(self, inner: Files, without: str) -> None:
        self._inner, self._without = inner, without

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        return (lambda _: None) if name == self._without else getattr(self._inner, name)


@pytest.mark.parametrize("without", ["sync", "sync_folder"])
async def test_a_blob_without_one_of_its_flushes_is_found(
    folders: tuple[Path, Path], without: str
) -> None:
    recording = await record(
        folders[0],
        ("group", "blob", "group"),
        blobs=lambda files, folder: FileBlobs(folder, files=Unsynced(files, without)),
    )
    found = await lose_power(recording, folders[1], judge_max=80)
    assert found.lost > 0, text(found)


async def test_a_folder_of_blobs_whose_own_name_is_not_flushed_is_found(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another process has just made it: its name lies in the folder above."""
    monkeypatch.setattr(
        FileBlobs, "_make_folder", lambda self: self._files.make_folder(self.folder)
    )
    # What comes before makes the names of the store's own files durable, and that one too.
    recording = await record(folders[0], ("group", "blob", "group"))
    found = await lose_power(recording, folders[1], judge_max=80)
    assert found.lost > 0, text(found)


# --- the states -----------------------------------------------------------------------------------


def kept(calls: list[Call], before: dict[str, bytes] | None = None) -> set[tuple[Any, ...]]:
    """What may lie on the disk after `calls`: sets of (path, bytes)."""
    disk = Disk(calls, before)
    for at in range(len(calls)):
        disk.apply(at)
    return {
        tuple((path, content.made()) for path, content in state.files)
        for state in disk.states(len(calls))
    }


def test_a_file_may_be_missing_until_its_folder_is_flushed() -> None:
    calls = [Call("create", "f/a"), Call("write", "f/a", 0, b"x"), Call("sync", "f/a")]
    assert kept(calls) == {(), (("f/a", b"x"),)}
    assert kept([*calls, Call("sync folder", "f")]) == {(("f/a", b"x"),)}


def test_what_lies_in_a_folder_is_missing_until_the_folder_is_flushed_above() -> None:
    calls = [
        Call("folder", "r/f"), Call("create", "r/f/a"), Call("write", "r/f/a", 0, b"x"),
        Call("sync", "r/f/a"), Call("sync folder", "r/f"),
    ]  # fmt: skip
    assert kept(calls) == {(), (("r/f/a", b"x"),)}
    assert kept([*calls, Call("sync folder", "r")]) == {(("r/f/a", b"x"),)}
    again = [Call("folder", "r/f"), Call("create", "r/f/b")]
    old = ("r/f/a", b"x")
    assert kept(again, {"r/f/a": b"x"}) == {(old,), (old, ("r/f/b", b""))}


def test_of_writes_that_were_not_flushed_any_may_be_there() -> None:
    calls = [Call("write", "a", 0, b"1"), Call("write", "a", 1, b"2"), Call("write", "a", 2, b"3")]
    found = {files[0][1] for files in kept(calls, {"a": b"..."})}
    assert found == {b"...", b"123", b"1..", b".2.", b"..3", b"12.", b".23", b"1.3"}


def test_a_write_is_torn_where_sectors_meet() -> None:
    call = Call("write", "a", 500, bytes([1]) * 600)
    found = {files[0][1] for files in kept([call], {"a": bytes(1536)})}
    one = bytes([1])
    first, second, third = (500, 512), (512, 1024), (1024, 1100)
    wanted = [(), (first,), (first, second), (first, second, third), (second,), (third,)]
    assert found == {
        b"".join(
            one if any(begin <= at < end for begin, end in parts) else b"\0" for at in range(1536)
        )
        for parts in wanted
    }


def test_a_truncated_or_renamed_file_may_be_as_it_was() -> None:
    assert kept([Call("truncate", "a", 1)], {"a": b"abc"}) == {(("a", b"abc"),), (("a", b"a"),)}
    renamed = [Call("rename", "f/a", target="f/b")]
    assert kept(renamed, {"f/a": b"1"}) == {(("f/a", b"1"),), (("f/b", b"1"),)}
    deleted = [Call("delete", "f/a"), Call("sync folder", "f")]
    assert kept(deleted[:1], {"f/a": b"1"}) == {(("f/a", b"1"),), ()}
    assert kept(deleted, {"f/a": b"1"}) == {()}


class OneFile(Files):
    """Proof that the planted files above leave out what they say."""

    def sync(self, file: BinaryIO) -> None:
        raise AssertionError("it was called")


def test_a_planted_omission_is_one(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        Unsynced(OneFile(), "sync").sync(file)
        with pytest.raises(AssertionError):
            Unsynced(OneFile(), "rename").sync(file)
