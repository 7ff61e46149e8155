"""The journal line by line: every durable event is one sentence."""

from __future__ import annotations

from tests.kinds.processes.test_view import ERROR, STARTED, done, events

from outlive.kinds.processes import entries
from outlive.kinds.processes import vocabulary as words


def texts(*payloads: object) -> list[str]:
    return [entry.text for entry in entries(events(STARTED, *payloads))][1:]


def test_every_event_is_a_readable_line() -> None:
    lines = entries(events(STARTED, words.Signal("go"), done("a"), words.Ended("done")))
    assert [line.text for line in lines] == [
        "started as register version 1",
        "signal go",
        "a done at attempt 1",
        "ended: done",
    ]
    assert {line.node for line in lines} == {"node-a"}


def test_what_was_decided_is_said_in_words() -> None:
    assert texts(
        words.Decided("first", "first", 1, "fast/", waits=("slow/wait go",)),
        words.Decided("gather", "gather", 1, "a/", ERROR),
        words.Decided("scope", "scope", 2, error=ERROR, undo=("a/x",)),
    ) == [
        "first: fast has won",
        "gather: a has failed: E: went wrong",
        "scope is rolled back: E: went wrong",
    ]


def test_a_deadline_is_set_or_lifted() -> None:
    assert texts(words.Deadline(5), words.Deadline()) == ["deadline set", "no deadline"]
    assert texts(words.Tagged((("a", "b"),)), words.Tagged()) == ["tags set: a=b", "tags set: none"]


def test_children_and_events_are_said_in_words() -> None:
    assert texts(
        words.ChildStarted("start t", 0, "t_1", "t", 2, "h", detached=True),
        words.ChildEnded("t_1", "done"),
        words.ChildEnded("t_1", "failed", error=ERROR),
        words.WaitsOn("t_1"),
        words.Published("publish E", 1, "evt_1", "E", "h"),
    ) == [
        "start t: t_1 (t version 2, detached)",
        "child t_1 ended: done",
        "child t_1 ended: failed: went wrong",
        "waits for t_1",
        "published E as evt_1",
    ]
