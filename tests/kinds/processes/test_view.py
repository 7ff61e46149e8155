"""The fold that people read: status, past, steps and attempts, from durable events only."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from outlive.kinds.processes import Failure, Head, View, summary_of, view_of
from outlive.kinds.processes import vocabulary as words
from outlive.kinds.processes.vocabulary import KIND_OF, pack
from outlive.model import Cell, Event

HEAD = Head("stream", "register", 1, "running", 1000)
ERROR = Failure("E", "went wrong")
STARTED = words.Started("reg_1", "register", 1, Raw(b'"in"'), "node-a")


def events(*payloads: Any) -> list[Event]:
    return [
        Event(0, n + 1, "stream", n, KIND_OF[type(payload)], pack(payload), 1000 + n, b"")
        for n, payload in enumerate(payloads)
    ]


def view(*payloads: Any) -> View:
    return view_of("reg_1", HEAD, events(*payloads))


def done(id: str, **other: Any) -> words.StepDone:
    return words.StepDone(id, id, 0, "h", 1000, **other)


def test_before_it_is_started_it_is_queued_and_shows_its_input() -> None:
    found = view_of("reg_1", Head("s", "t", 1, "queued", 7, input=Raw(b"5")), [])
    assert (found.status, found.seq, bytes(found.data), found.node) == ("queued", 0, b"5", "")


def test_data_is_the_input_until_the_body_sets_its_state() -> None:
    assert bytes(view(STARTED).data) == b'"in"'
    assert bytes(view(STARTED, words.StateSet(Raw(b'"now"'))).data) == b'"now"'


def test_a_result_is_shown_only_when_it_is_done() -> None:
    found = view(STARTED, done("a"), words.Ended("done", Raw(b"7")))
    assert (found.status, found.result and bytes(found.result), found.ended) == ("done", b"7", 1002)
    assert found.final and found.failure is None


def test_a_wait_shows_what_for_and_until_when_and_how_it_ended() -> None:
    began = words.WaitBegan("wait go", "go", 0, 5000)
    found = view(STARTED, began)
    assert (found.status, found.waits_for, found.due) == ("waiting", "go", 5000)
    over = view(STARTED, began, words.WaitDone("wait go"))
    assert (over.status, over.waits_for, over.due) == ("running", "", None)
    assert over.steps[0].outcome == "timeout"
    early = view(STARTED, words.Signal("go"), words.WaitBegan("wait go", "go", 0, None, 1))
    assert early.status == "running" and early.steps[0].outcome == "done"


def test_every_attempt_is_shown_with_its_error_and_its_node() -> None:
    found = view(
        STARTED, words.AttemptFailed("a", "a", 1, 1000, ERROR, 0), done("a", attempt=2)
    ).steps[0]
    assert [one.outcome for one in found.attempts] == ["failed", "done"]
    assert found.attempts[0].error == ERROR and found.attempts[1].node == "node-a"


def test_a_crash_shows_the_attempt_it_interrupted_and_counts_one_take_over() -> None:
    found = view(STARTED, words.Taken("node-b", 2, True), done("a"))
    assert [one.outcome for one in found.steps[0].attempts] == ["interrupted", "done"]
    assert (found.takeovers, found.node, found.epoch) == (1, "node-b", 2)
    handed = view(STARTED, words.Taken("node-b", 2), done("a"))
    assert handed.takeovers == 0 and len(handed.steps[0].attempts) == 1


def test_a_step_that_gives_up_behind_a_crash_shows_both_attempts_and_why() -> None:
    lost = words.Taken("node-b", 2, True)
    found = view(STARTED, lost, done("a", error=ERROR)).steps[0]
    assert [one.outcome for one in found.attempts] == ["interrupted", "failed"]
    assert found.attempts[1].error == ERROR and found.attempts[1].node == "node-b"
    again = words.AttemptFailed("a", "a", 1, 1000, ERROR, 0)
    found = view(STARTED, again, lost, done("a", attempt=2)).steps[0]
    assert [(one.number, one.outcome) for one in found.attempts] == [
        (1, "failed"), (2, "interrupted"), (2, "done"),
    ]  # fmt: skip
    anew = (words.Stuck(ERROR, "a"), words.Resumed(), lost, done("a"))
    found = view(STARTED, done("a", attempt=3, error=ERROR), *anew).steps[0]
    assert [one.number for one in found.attempts] == [3, 1, 1], "counted anew"


def test_a_transaction_that_is_tried_again_stays_one_step_and_a_transaction() -> None:
    failed = words.AttemptFailed("a", "a", 1, 1000, ERROR, 0)
    gave_up = done("a", attempt=2, error=ERROR, transact=True)
    stuck, again = words.Stuck(ERROR, "a"), words.Resumed()
    over = done("a", attempt=2, transact=True)
    found = view(STARTED, failed, gave_up, stuck, again, failed, over)
    (shown,) = found.steps
    assert (shown.kind, shown.outcome, len(shown.attempts)) == ("transact", "done", 4)


def test_a_roll_back_shows_why_and_every_undo() -> None:
    found = view(
        STARTED, done("a", undo="u"), words.Compensating(ERROR), words.Undone("a", "a", 1001),
        words.Ended("rolled_back", error=ERROR),
    )  # fmt: skip
    assert [past.status for past in found.history] == ["running", "compensating", "rolled_back"]
    assert [(step.kind, step.outcome) for step in found.steps] == [
        ("step", "done"),
        ("undo", "undone"),
    ]
    assert found.failure == ERROR and found.result is None


def test_stuck_paused_and_stranded_say_what_is_wrong_until_somebody_goes_on() -> None:
    assert view(STARTED, words.Stuck(ERROR)).failure == ERROR
    paused = view(STARTED, words.Paused("drift", "the diff"))
    assert paused.status == "paused" and paused.failure is not None
    assert (paused.failure.type, paused.failure.message) == ("drift", "the diff")
    resumed = view(STARTED, words.Paused("drift"), words.Resumed("ann"))
    assert (resumed.status, resumed.failure) == ("running", None)
    stranded = view(STARTED, words.Stranded("node-b"))
    assert stranded.status == "no_worker_for_version"
    again = view(STARTED, words.Stranded("node-b"), words.Taken("node-c", 3))
    assert again.status == "running"


def test_a_cancel_is_shown_before_it_has_taken_effect() -> None:
    found = view(STARTED, words.Cancel("enough", "ann"))
    assert found.cancel_requested and found.status == "running"
    assert found.history[-1].why == "cancel requested by ann: enough"


def test_a_summary_has_no_due_once_it_has_ended() -> None:
    for status, due in (("waiting", 9), ("done", None)):
        cell = Cell("process/0", "reg_1", pack(Head("s", "t", 1, status, 7)), 1, 9)
        assert summary_of(cell).due == due


def test_what_was_decided_is_a_line_of_its_own_and_ends_what_it_left_behind() -> None:
    won = words.Decided("first", "first", 1, "fast/", waits=("slow/wait go",))
    found = view(STARTED, words.WaitBegan("slow/wait go", "go", 0), won)
    assert found.status == "running" and found.waits_for == ""
    assert [(one.name, one.kind, one.outcome) for one in found.steps] == [
        ("slow/wait go", "wait", "abandoned"),
        ("first: fast won", "first", "done"),
    ]
    failed = words.Decided("gather", "gather", 1, "a/", ERROR)
    rolled = words.Decided("scope", "scope", 2, error=ERROR, undo=("a/x",))
    found = view(STARTED, failed, rolled, words.Undone("a/x", "x", 1))
    assert [(one.name, one.outcome) for one in found.steps] == [
        ("gather: a failed", "failed"), ("scope", "undone"), ("a/x", "undone"),
    ]  # fmt: skip


def test_a_deadline_that_passes_is_no_request_to_cancel() -> None:
    found = view(STARTED, words.Deadline(2000), words.Cancel(deadline=2000))
    assert not found.cancel_requested
    assert found.history[-1].why == "its deadline has passed"


CHILD = words.ChildStarted("start t", 0, "t_1", "t", 2, "h")


def test_children_are_shown_with_how_they_stand_and_as_points_of_their_parent() -> None:
    apart = words.ChildStarted("start u", 1, "u_1", "u", 1, "h", detached=True)
    found = view(STARTED, CHILD, apart)
    assert [(one.id, one.status) for one in found.children] == [
        ("t_1", "open"),
        ("u_1", "detached"),
    ]
    assert [(one.kind, one.outcome) for one in found.steps] == [
        ("child", "running"),
        ("child", "done"),
    ]
    told = view(STARTED, CHILD, words.Compensating(ERROR, children=("t_1",)))
    assert [one.status for one in told.children] == ["cancelling"]
    ended = view(STARTED, CHILD, words.ChildEnded("t_1", "rolled_back", error=ERROR))
    assert [(one.status, one.ended is None) for one in ended.children] == [("rolled_back", False)]
    assert [(one.outcome, one.error) for one in ended.steps] == [("failed", ERROR)]


def test_a_parent_that_waits_for_a_child_says_for_which() -> None:
    found = view(STARTED, CHILD, words.WaitsOn("t_1"))
    assert (found.status, found.waits_for) == ("waiting", "t_1")
    found = view(STARTED, CHILD, words.WaitsOn("t_1"), words.ChildEnded("t_1", "done"))
    assert (found.status, found.history[-1].why) == ("running", "child t_1 ended: done")


def test_what_was_published_is_a_point_of_its_own() -> None:
    (step,) = view(STARTED, words.Published("publish E", 0, "evt_1", "E", "h")).steps
    assert (step.name, step.kind, step.outcome) == ("publish E", "publish", "done")
