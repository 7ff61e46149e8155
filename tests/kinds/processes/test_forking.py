"""What of a journal another process takes over, without any process running."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Raw

from outlive.errors import NoSuchStep, NotForkable, TooLargeToFork
from outlive.kinds.processes import forking
from outlive.kinds.processes import vocabulary as words
from outlive.kinds.processes.forking import share_of, taken_over
from outlive.kinds.processes.vocabulary import KIND_OF, pack
from outlive.model import Event


def events(*payloads: Any) -> list[Event]:
    return [
        Event(0, n + 1, "s", n, KIND_OF[type(payload)], pack(payload), 1000 + n, b"")
        for n, payload in enumerate(payloads)
    ]


def done(id: str, order: int, undo: str = "", error: words.Failure | None = None) -> words.StepDone:
    return words.StepDone(id, id, order, "[]", 5, undo=undo, error=error)


STARTED = words.Started("p", "t", 1, Raw(b"1"))
NO = words.Failure("E", "no")


def test_what_refers_to_a_signal_is_told_its_new_place() -> None:
    journal = events(
        STARTED, words.Taken("n", 2, True), done("a", 0),
        words.AttemptFailed("b", "b", 1, 1, NO, 2), words.Signal("go"),
        words.WaitBegan("wait go", "go", 1, None, 4), words.Signal("later"),
        words.WaitBegan("wait x", "x", 2), words.Signal("x"), words.WaitDone("wait x", 8),
        done("c", 3),
    )  # fmt: skip
    assert share_of("p", journal, "c").upto == 10
    found, times = taken_over(journal[:10], undo=True, first=1)
    assert [KIND_OF[type(each)] for each in found] == [
        "step", "signal", "wait", "signal", "wait", "signal", "waited",
    ]  # fmt: skip
    assert found[2].signal == 2 and found[6].signal == 6
    assert times == {"a": 1002, "wait go": 1005, "wait x": 1009}


def test_only_the_record_that_stands_is_taken_over() -> None:
    journal = events(
        STARTED, words.Pivot(), done("a", 0, error=NO), words.Stuck(NO, "a"), words.Resumed("ann"),
        done("a", 0), done("b", 1),
    )  # fmt: skip
    found, _ = taken_over(journal[:6], undo=True, first=1)
    assert [type(each) for each in found] == [words.Pivot, words.StepDone]
    assert found[1].error is None


def test_without_undo_nothing_that_is_taken_over_can_be_undone() -> None:
    journal = events(STARTED, done("a", 0, "unmake"), done("b", 1))
    assert share_of("p", journal, "b").undoable == ("a",)
    found, _ = taken_over(journal[:2], undo=False, first=1)
    assert found[0].undo == ""


def test_what_was_undone_or_handed_over_is_not_taken_over() -> None:
    undone = words.Compensating(NO), words.Undone("a", "a", 3)
    handed = words.Cancel(fork="q", kept=("a",))
    for later in (undone, (handed,)):
        journal = events(STARTED, done("a", 0, "unmake"), done("b", 1), *later)
        with pytest.raises(NotForkable):
            share_of("p", journal, "b")
        assert share_of("p", journal, "a").upto == 1


def test_a_step_that_is_not_there_and_one_too_far_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    journal = events(STARTED, done("a", 0), done("b", 1))
    with pytest.raises(NoSuchStep):
        share_of("p", journal, "z")
    monkeypatch.setattr(forking, "BYTES_MAX", 10)
    with pytest.raises(TooLargeToFork):
        share_of("p", journal, "b")
