"""Children in a fold: who is open, who was let go, and whose undo is armed when."""

from __future__ import annotations

from msgspec import Raw

from outlive.kinds.processes import Journal
from outlive.kinds.processes import vocabulary as words

ERROR = words.Failure("E", "went wrong")


def started(
    at: int, *, undo: str = "", detached: bool = False, path: str = ""
) -> words.ChildStarted:
    id = f"{path}start t#{at}"
    return words.ChildStarted(id, at, f"t_{at}", "t", 1, "h", detached, undo, Raw(b"7"))


def journal(*events: object) -> Journal:
    made = Journal()
    for at, event in enumerate(events, 1):
        made.apply(event, at)
    return made


def test_a_process_without_children_has_no_family() -> None:
    assert journal(words.StepDone("a", "a", 0, "h", 1)).family is None


def test_detached_and_ended_children_are_not_open() -> None:
    found = journal(
        started(1), started(2, detached=True), started(3), words.ChildEnded("t_1", "done")
    )
    assert found.family is not None
    assert [child.child for child in found.family.open()] == ["t_3"]
    assert found.family.under_way == 1
    assert found.times["t_1"] == 4


def test_undos_of_children_stand_where_they_ended() -> None:
    step = words.StepDone("a", "a", 2, "h", 1, undo="u")
    found = journal(
        started(1, undo="back"), started(2, undo="back"), started(3, undo="back"), step,
        words.ChildEnded("t_2", "done", Raw(b"2")), words.ChildEnded("t_3", "failed", error=ERROR),
    )  # fmt: skip
    assert [(armed.id, armed.child) for armed in found.armed()] == [("start t#2", "t_2"), ("a", "")]
    found.apply(words.ChildEnded("t_1", "done", Raw(b"1")), 9)
    assert [armed.id for armed in found.armed()] == ["start t#1", "start t#2", "a"]
    assert bytes(found.armed()[0].given) == b"7" and bytes(found.armed()[0].result or b"") == b"1"


def test_children_of_a_part_that_is_over_are_let_go_and_the_open_ones_closed() -> None:
    over = words.Decided("first", "first", 3, "b/", children=("t_1", "t_2"))
    found = journal(
        started(1, path="a/"), started(2, path="a/"), words.ChildEnded("t_1", "done"), over
    )  # fmt: skip
    assert found.family is not None and found.family.let_go == {"t_1", "t_2"}
    assert found.closed == {"a/start t#2"}


def test_a_step_that_is_tried_again_lets_the_children_it_cost_be_started_anew() -> None:
    failed = words.StepDone("a/s", "s", 2, "h", 1, error=ERROR)
    over = words.Decided("gather", "gather", 3, "a/", ERROR, children=("t_1",))
    stuck = words.Stuck(ERROR, "a/s")
    found = journal(started(1, path="b/"), failed, over, stuck, words.Resumed())
    assert "b/start t#1" not in found.records


def test_a_child_that_is_not_asked_for_any_more_is_drift_unless_detached() -> None:
    assert "start t#1 is recorded (t_1)" in journal(started(1)).forgotten()
    assert journal(started(1, detached=True)).forgotten() == ""
    found = journal(started(1))
    record, against = found.find("start t#1", words.ChildStarted, "other")
    assert record is not None and "recorded with arguments h" in against
    assert "start of a child" in found.find("start t#1", words.StepDone)[1]
