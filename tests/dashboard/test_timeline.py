"""The life of a process as bars."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from outlive.dashboard.timeline import ROWS_MAX, Axis, timeline
from outlive.kinds.processes import AttemptView, PastState, StepView, View

T = 1_790_000_000_000_000
S = 1_000_000


def view(**fields: Any) -> View:
    made: dict[str, Any] = {
        "id": "reg_1",
        "type": "register",
        "version": 1,
        "status": "running",
        "seq": 1,
        "data": Raw(b"{}"),
        "result": None,
        "failure": None,
        "started": T,
        "changed": T,
        "ended": None,
        "waits_for": "",
        "due": None,
        "history": (PastState("running", T),),
        "steps": (),
        "node": "n",
        "epoch": 1,
        "takeovers": 0,
        "cancel_requested": False,
    }
    return View(**(made | fields))


@given(st.sets(st.integers(T, T + 10**12), min_size=1, max_size=40))
def test_the_axis_keeps_the_order_of_moments_and_ends_at_a_hundred(moments: set[int]) -> None:
    axis = Axis(moments)
    places = [axis.at(moment) for moment in sorted(moments)]
    assert places == sorted(places) and places[0] == 0
    assert len(places) == 1 or abs(places[-1] - 100) < 1e-6


def test_a_millisecond_is_seen_beside_a_day() -> None:
    step = StepView("fast", "step", T, T + 1000, "done", (AttemptView(1, T, T + 1000, "done"),))
    wait = StepView("slow", "wait", T + 1000, None, "waiting")
    made = timeline(view(status="waiting", steps=(step, wait), changed=T + 1000), T + 86_400 * S)
    fast, slow = made.rows
    assert fast.bars[0].width > 3
    assert slow.bars[0].x >= fast.bars[0].x + fast.bars[0].width - 0.01
    assert (slow.bars[0].look, slow.took) == ("wait", "23 h 59 min")


def test_each_attempt_is_a_bar_and_a_killed_one_says_so() -> None:
    tries = (
        AttemptView(1, T, T + S, "interrupted", None, "a"),
        AttemptView(1, T + 2 * S, T + 3 * S, "done", None, "b"),
    )
    over = PastState("running", T + S, "taken over by b after a crash")
    step = StepView("charge", "step", T, T + 3 * S, "done", tries)
    made = timeline(
        view(steps=(step,), changed=T + 3 * S, history=(PastState("running", T), over)), T + 4 * S
    )
    assert [bar.look for bar in made.rows[0].bars] == ["interrupted", "done"]
    assert made.rows[0].note == "killed once"
    assert len(made.takeovers) == 1
    assert made.running is not None


def test_a_running_process_shows_what_is_not_recorded_yet_and_a_final_one_does_not() -> None:
    assert timeline(view(), T + 5 * S).running is not None
    done = view(status="done", ended=T + S, changed=T + S)
    assert timeline(done, T + 5 * S).running is None


def test_undos_have_a_look_of_their_own() -> None:
    undo = StepView("undo x", "undo", T, T + S, "undone", (AttemptView(1, T, T + S, "done"),))
    made = timeline(view(status="rolled_back", steps=(undo,), ended=T + S, changed=T + S), T + S)
    assert made.rows[0].bars[0].look == "undo-done"


def test_a_clock_that_went_back_breaks_nothing() -> None:
    assert timeline(view(changed=T + S), T - S).ticks


def test_only_the_latest_steps_are_drawn() -> None:
    steps = tuple(StepView(f"s{n}", "sleep", T, T, "done") for n in range(ROWS_MAX + 5))
    made = timeline(view(steps=steps), T)
    assert (len(made.rows), made.hidden) == (ROWS_MAX, 5)


def test_a_row_keeps_its_key_when_the_steps_before_it_are_drawn_no_more() -> None:
    def keys(many: int, era: int = 1) -> dict[str, str]:
        steps = tuple(StepView(f"s{n}", "sleep", T, T, "done") for n in range(many))
        made = timeline(view(steps=steps, era=era), T)
        return {row.step.name: row.key for row in made.rows}

    before, after = keys(ROWS_MAX), keys(ROWS_MAX + 1)
    assert len(set(after.values())) == ROWS_MAX
    assert {name: after[name] for name in before if name in after}.items() <= before.items()
    assert before.keys() - after.keys() == {"s0"}
    assert not set(keys(3).values()) & set(keys(3, era=2).values()), "other steps, other keys"


def test_what_gave_up_does_not_go_on_while_nobody_is_at_it() -> None:
    failed = AttemptView(1, T, T + S, "failed", None, "n")
    step = StepView("charge", "undo", T, None, "running", (failed,), None)
    stuck = timeline(view(status="stuck", steps=(step,), changed=T + S), T + 60 * S)
    (row,) = stuck.rows
    assert (row.took, row.note) == ("1 s", "gave up")
    trying = timeline(view(status="compensating", steps=(step,), changed=T + S), T + 60 * S)
    assert trying.rows[0].note == "running"


def test_the_axis_writes_no_label_twice() -> None:
    steps = tuple(
        StepView(f"s{n}", "step", T + 10 * S + n, T + 10 * S + n + 1, "done", (), None)
        for n in range(0, 9000, 1000)
    )
    labels = [tick.label for tick in timeline(view(steps=steps), T + 10 * S + 20_000).ticks]
    assert len(labels) == len(set(labels))
