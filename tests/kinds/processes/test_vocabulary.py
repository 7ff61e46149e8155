"""The words of a journal: small, stable JSON in which defaults are left out."""

import msgspec
import pytest

from outlive.kinds.processes import vocabulary as words
from outlive.kinds.processes.vocabulary import FINAL, KINDS, LIVE, STATUSES, pack, unpack

RAW = msgspec.Raw(b'{"a":1}')
ERROR = words.Failure("E", "message", "c", False)
ONE_OF_EACH = (
    words.Started("p", "t", 1, RAW, "n", 2, 7, "q", True, True, "00-1"),
    words.Admitted("n"),
    words.Taken("n", 3, True),
    words.StepDone("s#2", "s", 4, "hash", 5, 2, RAW, None, "undo", RAW, True),
    words.AttemptFailed("s", "s", 1, 2, ERROR, 3),
    words.WaitBegan("wait x", "x", 1, 9, 4),
    words.WaitDone("wait x", 4),
    words.Signal("x", RAW, "k"),
    words.Asked("x", RAW, "k"),
    words.Answered(3, RAW, ERROR),
    words.CallbackMade("callback x", "x", 1, 9, "https://example.org"),
    words.CalledBack("callback x", RAW),
    words.Signal("x", RAW, "k", "00-1"),
    words.SleepBegan("sleep", 1, 9),
    words.Woke("sleep"),
    words.StateSet(RAW, 2),
    words.Pivot(),
    words.Cancel("why", "who", 5),
    words.Deadline(5, 2),
    words.Tagged((("a", "b"),), 2),
    words.Decided(
        "first", "first", 3, "a/", ERROR, (words.Armed("s", "s", "u"),), ("w",), ("s",), ("c_1",)
    ),
    words.ChildStarted("start t", 3, "t_1", "t", 1, "hash", True, "undo", RAW),
    words.ChildEnded("t_1", "done", RAW, ERROR),
    words.WaitsOn("t_1", 5),
    words.Published("publish E", 3, "evt_1", "E", "hash"),
    words.Compensating(ERROR, True, (words.Armed("s", "s", "u", RAW, None),)),
    words.UndoFailed("s", "s", 1, 2, ERROR, 3),
    words.Undone("s", "s", 2, 3),
    words.Stuck(ERROR, "s"),
    words.Paused("drift", "diff"),
    words.Resumed("who", "why", True, True),
    words.Hastened(("s",), ("t",), "who", "why"),
    words.Skipped("s", RAW, ERROR, False, "who", "why"),
    words.Forked("p", "f", "s", 5, {"r": 4}, "who", "why"),
    words.Stranded("n"),
    words.Ended("done", RAW, ERROR),
    words.Again(2, 1, 3),
    words.Carried(("k",)),
    words.Imported((4, 5)),
)


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_every_event_comes_back_as_it_was_written(event: msgspec.Struct) -> None:
    kind = words.KIND_OF[type(event)]
    found = unpack(kind, pack(event))
    assert pack(found) == pack(event) and type(found) is type(event)


def test_there_is_a_sample_of_every_kind() -> None:
    assert {type(event) for event in ONE_OF_EACH} == set(KINDS.values())


def test_a_field_that_a_later_release_added_is_passed_over() -> None:
    assert unpack("woke", b'{"id":"sleep","later":1}') == words.Woke("sleep")


def test_defaults_are_left_out() -> None:
    assert pack(words.StepDone("s", "s", 0, "h", 1)) == (
        b'{"id":"s","name":"s","order":0,"args":"h","began":1}'
    )


def test_final_and_live_are_statuses_and_apart() -> None:
    assert set(STATUSES) > FINAL and set(STATUSES) > set(LIVE) and not FINAL & set(LIVE)
