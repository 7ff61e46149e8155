"""A disk that fails at its N-th call: the answers are true, and false ones are found.

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

EVERY = {"error": 23, "full": 31, "short": 11, "broken": 37}
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
    if fault == "short":  # what was not done is asked for again
        assert found.power_losses == 0
    else:
        assert found.power_losses > 0
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
    run = await fail_at(tmp_path / "fail", "error", at)
    assert run.bad.failed is not None and run.verdict.lost


async def test_a_denial_of_what_was_written_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed flush is taken for "nothing was written"; but it lies in the log, and is whole."""
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
    run = await fail_at(tmp_path / "fail", "error", at)
    assert run.bad.failed is not None and run.witness.errors
    assert not run.verdict.corrupt, "as long as the power stays on, the next commit hides it"
    found = [flaw for state in run.power.flaws for flaw in state.verdict.corrupt]
    assert "nothing was written" in " ".join(found)


def test_only_the_calls_that_a_fault_concerns_are_counted(tmp_path: Path) -> None:
    calls = [Call("read", "a"), Call("write", "a"), Call("write", "a"), Call("sync", "a")]
    full = BadDisk(tmp_path, "full", 2)
    for call in calls[:2]:
        full.before(call)
    with pytest.raises(apsw.FullError):
        full.before(calls[2])
    full.before(calls[3])
    assert full.whats == ["write", "write"] and full.failed is calls[2]


def test_a_broken_disk_stays_broken_until_it_is_sound(tmp_path: Path) -> None:
    bad, call = BadDisk(tmp_path, "broken", 2), Call("sync", "a")
    bad.before(call)
    for _ in range(2):
        with pytest.raises(apsw.IOError):
            bad.before(call)
    bad.sound = True
    bad.before(call)
