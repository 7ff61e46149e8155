"""What the page of a process says of its journal."""

from __future__ import annotations

from msgspec import Raw
from tests.web.fake import START, Fake

from outlive.dashboard.pages.process import failing, input_of, is_masked, lanes_of, told_of
from outlive.dashboard.timeline import timeline
from outlive.kinds.processes import Entry, Failure, StepView


def entry(kind: str, data: bytes) -> Entry:
    return Entry(0, kind, START, "n", kind, Raw(data))


def test_a_step_tells_what_it_gave_and_what_its_undo_is_given() -> None:
    told = told_of(
        [
            entry("step", b'{"id":"pay","result":{"a":1},"given":[5]}'),
            entry("step", b'{"id":"ship","error":{"type":"E","message":"no"}}'),
            entry("attempt", b'{"id":"late"}'),
        ]
    )
    assert [title for title, _ in told["pay"]] == ["Result", "Given to it and to its undo"]
    assert told["pay"][0][1] == '{\n  "a": 1\n}'
    assert told["ship"][0][0] == "Error" and "late" not in told


def test_the_input_is_that_of_the_start_also_where_the_state_has_changed() -> None:
    view = Fake().add("reg_1", "register", Raw(b'{"now":2}'))
    assert input_of([entry("started", b'{"id":"x","input":{"was":1}}')], view) == Raw(b'{"was":1}')
    assert input_of([], view) == view.data


def test_a_mask_is_found_wherever_it_stands() -> None:
    assert is_masked(Raw('{"a":[{"b":"…"}]}'.encode()))
    assert not is_masked(Raw(b'{"a":[{"b":"."}]}')) and not is_masked(Raw(b""))


def test_undos_have_a_lane_of_their_own() -> None:
    steps = (
        StepView("pay", "step", START, START + 5, "done"),
        StepView("undo pay", "undo", START + 6, START + 9, "undone"),
    )
    view = Fake().add("reg_1", "register", steps=steps, changed=START + 9, ended=START + 9)
    lanes = lanes_of(timeline(view, START + 9).rows)
    assert [(name, [row.step.name for row in rows]) for name, rows in lanes] == [
        ("", ["pay"]), ("Undo", ["undo pay"]),
    ]  # fmt: skip


def test_the_step_that_would_be_skipped_is_the_last_that_failed_and_did_not_end() -> None:
    error = Failure("E", "no")
    steps = [
        StepView("a", "step", START, START, "failed", (), error),
        StepView("b", "step", START, None, "running", (), error),
        StepView("c", "step", START, None, "running"),
    ]
    assert failing(steps) == "b" and failing(steps[:1]) == ""
