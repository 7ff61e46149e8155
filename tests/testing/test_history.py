"""Histories: every operation ends once, times say what was before what, files keep them."""

from __future__ import annotations

from pathlib import Path

import pytest

from outlive.testing.history import History, by_key, load, shown


def test_an_operation_ends_once_and_what_is_under_way_is_unknown() -> None:
    history = History()
    first = history.invoke("a", "k", "read")
    second = history.invoke("b", "k", "put", "x", None, 0)
    first.ok("absent")
    with pytest.raises(ValueError, match="ended twice"):
        first.unknown()
    read, put = history.operations()
    assert (read.name, read.outcome, read.answered) == ("read", "ok", ("absent",))
    assert (put.outcome, put.ended) == ("unknown", None)
    assert not read.precedes(put) and not put.precedes(read)
    second.fail(3)
    later = history.invoke("a", "k", "read")
    later.fail()
    *_, put, again = history.operations()
    assert (put.outcome, put.answered) == ("fail", (3,))
    assert read.precedes(again) and put.precedes(again)
    assert again.answered is None


def test_histories_of_two_processes_are_put_together_by_their_times(tmp_path: Path) -> None:
    ticks = iter(range(1, 100))
    files = []
    for name in "ab":
        history = History(lambda: next(ticks))
        history.invoke(name, "k", "transaction", (("s", "x"),), ("s",)).ok(("s", ("y", "z")))
        files.append(tmp_path / f"{name}.jsonl")
        history.save(files[-1])
    found = load(files[1], files[0])
    assert [operation.process for operation in found] == ["a", "b"]
    assert found[0].precedes(found[1])
    assert found[0].asked == ("transaction", (("s", "x"),), ("s",)), "tuples all the way down"
    assert found[0].answered == (("s", ("y", "z")),)
    assert list(by_key(found)) == ["k"]


def test_a_table_shows_who_asked_what_and_marks_one() -> None:
    history = History()
    history.invoke("anna", "k", "read").ok("absent")
    history.invoke("b", "k", "drop", None).unknown()
    first, second = history.operations()
    lines = shown([first, second], second).splitlines()
    assert lines == [
        "      0 to 1    anna  read: ok absent",
        "->    2 to …    b     drop -: unknown",
    ]
