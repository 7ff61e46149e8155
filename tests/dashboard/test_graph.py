"""Steps of journals as boxes and arrows."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.web.fake import SECOND, START, Fake

from outlive.dashboard.graph import BOX_HEIGHT, BOXES_MAX, PITCH, graph_of, name_of
from outlive.kinds.processes import StepView, View


def view(*steps: tuple[str, str], kind: str = "step") -> View:
    made = tuple(
        StepView(name, "undo" if name.startswith("undo ") else kind, START + n * SECOND,
                 START + n * SECOND + 500, outcome)
        for n, (name, outcome) in enumerate(steps)
    )  # fmt: skip
    return Fake().add("reg_1", "register", steps=made)


def test_steps_stand_in_the_order_of_what_was_recorded() -> None:
    graph = graph_of(
        [
            view(("pay", "done"), ("pack", "done"), ("ship", "done")),
            view(("pay", "done"), ("ship", "failed"), ("undo pay", "undone")),
        ]
    )
    assert [box.name for box in graph.boxes] == ["pay", "pack", "ship", "undo pay"]
    assert graph.processes == 2 and graph.hidden == 0
    told = {box.name: box.told for box in graph.boxes}
    assert told["pay"].startswith("2 times") and "1 failed" in told["ship"]
    assert {arrow.title for arrow in graph.arrows} == {
        "pay → pack: 1", "pack → ship: 1", "pay → ship: 1", "ship → undo pay: 1",
    }  # fmt: skip
    ys = [box.y for box in graph.boxes]
    assert all(b - a == PITCH > BOX_HEIGHT for a, b in pairwise(ys))


def test_a_step_again_is_the_same_box_and_a_loop() -> None:
    graph = graph_of([view(("poll", "done"), ("poll#2", "done"), ("poll:x", "done"))])
    assert [box.name for box in graph.boxes] == ["poll"]
    assert [arrow.title for arrow in graph.arrows] == ["poll → poll: 2"]
    assert graph.left == 0, "there is room for the loop"


def test_no_room_is_kept_for_arrows_that_lead_back_where_there_are_none() -> None:
    graph = graph_of([view(("pay", "done"), ("ship", "done"))])
    assert 0 < graph.left < graph.boxes[0].x


@pytest.mark.parametrize(
    ("name", "kind", "box"),
    [
        ("a#3", "step", "a"),
        ("a:key", "step", "a"),
        ("p/a#2", "step", "p/a"),
        ("a", "undo", "undo a"),
    ],
)
def test_a_step_is_named_without_its_number_and_key(name: str, kind: str, box: str) -> None:
    assert name_of(StepView(name, kind, 0, 1, "done")) == box


def test_more_steps_than_can_be_drawn_are_counted() -> None:
    graph = graph_of([view(*((f"s{n}", "done") for n in range(BOXES_MAX + 3)))])
    assert len(graph.boxes) == BOXES_MAX and graph.hidden == 3
    assert graph_of([]).boxes == ()
