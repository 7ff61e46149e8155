"""A disk that fails at its N-th call: the answers are true, and detectors that must find false ones.

A slice of the calls; `make powerloss` fails every one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest

from outlive.errors import StoreUnavailable
from outlive.stores.sqlite_file import SQLiteFile
from outlive.testing.badcalls import FAULTS, BadDisk, Fault, count_calls, fail_at, fail_each
from outlive.testing.disk import Call

EVERY = {"error": 7, "full": 9, "short": 5, "broken": 11}
"""Which share of the calls is failed here."""
KINDS_OF_CALLS = {
    "access", "create", "delete", "folder", "lock", "open", "read", "rename", "size", "sync",
    "sync folder", "truncate", "write",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_call_that_fails_makes_no_answer_false(
    fault: Fault, tmp_path: Path, record_property: Any
) -> None:
    counting, failing = tmp_path / "count", tmp_path / "fail"
    counting.mkdir()
    failing.mkdir()
    whats = await count_calls(counting, fault)
    if fault in ("error", "broken"):
        assert set(whats) == KINDS_OF_CALLS, "the plan makes every sort of call"
    found = await fail_each(failing, fault, range(1, len(whats) + 1, EVERY[fault]))
    record_property("figures", str(found))
    assert found.runs >= len(whats) // EVERY[fault] - 2, "nearly every one was met"
    assert (found.lost, found.corrupt) == (0, 0), found.flaws
    assert found.errors > 0
    if fault == "broken":
        assert found.unknown > 0, "what cannot be looked up is said to be unknown"


async def first_at(folder: Path, what: str, after: int) -> int:
    """The number of the first such call behind that many calls."""
    folder.mkdir()
    whats = await count_calls(folder, "error")
    return after + whats[after:].index(what) + 1


async def test_an_acknowledgement_before_the_commit_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = await first_at(tmp_path / "count", "sync", 200)
    plain = SQLiteFile.finish

    def planted(self: SQLiteFile, *, users: bool = False) -> None:
        try:
            plain(self, users=users)
        except StoreUnavailable:  # the error is swallowed: all is well
            self.forget_written()

    monkeypatch.setattr(SQLiteFile, "finish", planted)
    (tmp_path / "fail").mkdir()
    bad, _, verdict = await fail_at(tmp_path / "fail", "error", at)
    assert bad.failed is not None and verdict.lost


async def test_a_denial_of_what_was_written_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error from the flush is taken for "nothing was written", and the log is not looked at."""
    at = await first_at(tmp_path / "count", "sync", 200)

    def planted(self: SQLiteFile, group: int, cause: apsw.Error) -> bool:
        connection = self.connect()
        self.disconnect(self.users.connection)
        self.disconnect(self.writer)
        self.writer = connection
        self.users = type(self.users)(self.connect(), self)
        self.forget_written()
        return False

    monkeypatch.setattr(SQLiteFile, "_look_up", planted)
    (tmp_path / "fail").mkdir()
    bad, witness, verdict = await fail_at(tmp_path / "fail", "error", at)
    assert bad.failed is not None and witness.errors
    assert "nothing was written" in " ".join(verdict.corrupt), verdict


def test_only_the_calls_that_a_fault_concerns_are_counted() -> None:
    calls = [Call("read", "a"), Call("write", "a"), Call("write", "a"), Call("sync", "a")]
    full = BadDisk("full", 2)
    for call in calls[:2]:
        full.before(call)
    with pytest.raises(apsw.FullError):
        full.before(calls[2])
    full.before(calls[3])
    assert full.whats == ["write", "write"] and full.failed is calls[2]
    short = BadDisk("short", 1)
    assert (short.cut(calls[0], b"1234"), short.cut(calls[0], b"1234")) == (b"12", b"1234")


def test_a_broken_disk_stays_broken_until_it_is_sound() -> None:
    bad, call = BadDisk("broken", 2), Call("sync", "a")
    bad.before(call)
    for _ in range(2):
        with pytest.raises(apsw.IOError):
            bad.before(call)
    bad.sound = True
    bad.before(call)
