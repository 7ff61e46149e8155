"""The words of a journal: small, stable JSON in which defaults are left out."""

import msgspec
import pytest

from outlive.kinds.processes import vocabulary as words
from outlive.kinds.processes.vocabulary import FINAL, KINDS, LIVE, STATUSES, Head, pack, unpack
from outlive.model import Ref, shard_of

RAW = msgspec.Raw(b'{"a":1}')
ERROR = words.Failure("E", "message", "c", False)
ONE_OF_EACH = (
    words.Started("p", "t", 1, RAW, "n"),
    words.Taken("n", 3, True),
    words.StepDone("s#2", "s", 4, "hash", 5, 2, RAW, None, "undo", RAW, True),
    words.AttemptFailed("s", "s", 1, 2, ERROR, 3),
    words.WaitBegan("wait x", "x", 1, 9, 4),
    words.WaitDone("wait x", 4),
    words.Signal("x", RAW, "k"),
    words.SleepBegan("sleep", 1, 9),
    words.Woke("sleep"),
    words.StateSet(RAW, 2),
    words.Pivot(),
    words.Cancel("why", "who", 5),
    words.Deadline(5, 2),
    words.Tagged((("a", "b"),), 2),
    words.Decided("first", "first", 3, "a/", ERROR, (words.Armed("s", "s", "u"),), ("w",), ("s",)),
    words.Compensating(ERROR, True, (words.Armed("s", "s", "u", RAW, None),)),
    words.UndoFailed("s", "s", 1, 2, ERROR, 3),
    words.Undone("s", "s", 2, 3),
    words.Stuck(ERROR, "s"),
    words.Paused("drift", "diff"),
    words.Resumed("who"),
    words.Stranded("n"),
    words.Ended("done", RAW, ERROR),
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


def test_a_head_lies_in_its_shard_and_can_be_listed_by_time_status_and_type() -> None:
    ref = words.ref_of("reg_1", 16)
    assert ref == Ref(f"process/{shard_of('reg_1', 16)}", "reg_1")
    put = words.put_head(ref, Head("s", "register", 1, "done", 17), 5)
    assert words.read_head(put.value).status == "done" and put.due == 5
    marks = dict(put.marks)
    assert marks["process.status"] == "done 0000000000000017"
    assert sorted(marks) == ["process.status", "process.type"]
