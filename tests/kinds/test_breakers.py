"""What is decided about a dependency, tried against plain models of windows, budget and probes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from outlive.clock import MICROS
from outlive.errors import AttemptTooLong, BreakerOpen, NonRetryable
from outlive.kinds.breakers.budget import Purse
from outlive.kinds.breakers.rule import Breaker, RetryBudget, is_failure, retry_after
from outlive.kinds.breakers.standing import (
    CONTROLS_MAX,
    FORGET_MICROS,
    NEW,
    TURNS_MAX,
    Breakers,
    Control,
    Ended,
    Probe,
    Report,
    Standing,
    decided,
    put_of,
    read,
    ref_of,
)
from outlive.kinds.breakers.windows import Windows
from outlive.model import Batch, Cell, Put

RULE = Breaker(calls_min=4, window_calls=8, window_seconds=10.0, open_seconds=5.0, successes=2)
KEY = "payments"


def after(standing: Standing, *commands: tuple[int, Any]) -> Standing:
    """What becomes of `standing` by `commands`, each at its second."""
    for second, command in commands:
        standing, _ = decided(standing, command, second * MICROS)
    return standing


def report(calls: int = 0, failures: int = 0, slow: int = 0, **more: Any) -> Report:
    return Report(KEY, RULE, "a", calls, failures, slow, **more)


# --- windows --------------------------------------------------------------------------------------

OUTCOMES = st.lists(
    st.tuples(st.sampled_from(("well", "failed", "slow", "both")), st.sampled_from((0.0, 0.3, 4.0)))
)


@given(OUTCOMES)
def test_the_windows_say_what_counting_everything_again_says(
    calls: list[tuple[str, float]],
) -> None:
    windows, now = Windows(RULE), 100.0
    seen: list[tuple[float, bool, bool]] = []
    for outcome, pause in calls:
        now += pause
        failed, slow = outcome in ("failed", "both"), outcome in ("slow", "both")
        seen.append((now, failed, slow))
        why = windows.badly(now, failed, slow) if failed or slow else windows.well(now)
        last = seen[-RULE.window_calls :]
        sure = [one for one in seen if one[0] > now - RULE.window_seconds]
        slot = RULE.window_seconds / 10
        perhaps = [one for one in seen if one[0] > now - RULE.window_seconds - slot]
        if not failed and not slow:
            assert why is None
            continue
        opened = [bool(verdict_of(part)) for part in (last, sure, perhaps)]
        if opened[0] or all(opened[1:]):
            assert why
        if not any(opened):
            assert not why


def verdict_of(calls: list[tuple[float, bool, bool]]) -> str:
    failures, slow = sum(one[1] for one in calls), sum(one[2] for one in calls)
    return RULE.verdict(len(calls), failures, slow, "")


def test_nothing_is_judged_by_fewer_calls_than_the_minimum() -> None:
    windows = Windows(RULE)
    assert [windows.badly(1.0, True, False) for _ in range(3)] == ["", "", ""]
    assert (
        windows.badly(1.0, True, False) == "4 of 4 calls failed in the last calls of one instance"
    )


def test_what_is_told_is_told_once_and_forgotten_with_the_windows() -> None:
    windows = Windows(RULE)
    windows.well(1.0)
    windows.badly(1.0, True, True)
    assert windows.tell() == (2, 1, 1) and windows.tell() == (0, 0, 0)
    windows.well(1.0)
    windows.forget()
    assert windows.tell() == (0, 0, 0) and windows.verdict(2.0) == ""


# --- the budget -----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.booleans(), st.sampled_from((0.0, 0.4, 3.0))), max_size=80))
def test_retries_never_pass_the_ratio_and_the_floor(tries: list[tuple[bool, float]]) -> None:
    budget = RetryBudget(ratio=0.2, floor_per_second=0.3, window_seconds=5.0)
    purse, now = Purse(budget), 50.0
    earned: list[float] = []
    spent: list[float] = []
    for well, pause in tries:
        now += pause
        if well:
            purse.earn(now)
            earned.append(now)
        elif purse.spend(now):
            spent.append(now)
            since = now - budget.window_seconds
            retries = sum(1 for at in spent if at > since)
            slot = budget.window_seconds / 10
            firsts = sum(1 for at in earned if at > since - slot)
            assert retries <= budget.ratio * firsts + 1.5
    assert len(spent) + purse.refused + len(earned) == len(tries)


def test_a_purse_begins_at_its_floor_and_is_never_filled_by_waiting() -> None:
    purse = Purse(RetryBudget(ratio=0.5, floor_per_second=0.2, window_seconds=10.0))
    assert purse.left(0.0) == pytest.approx(2.0)
    assert [purse.spend(1000.0) for _ in range(3)] == [True, True, False]


# --- the standing ---------------------------------------------------------------------------------


def test_a_dependency_that_is_well_costs_no_write() -> None:
    assert after(NEW, (1, report(100)), (2, report())) is NEW or after(NEW, (1, report(9))) == NEW
    view = {ref_of(KEY): None}
    assert Breakers().decide(view, report(50), 7).batch.put == ()


def test_the_counts_of_all_instances_open_it_together() -> None:
    standing = after(NEW, (1, report(2, 1)), (2, report(2, 0)))
    assert standing.mode == "closed"
    standing = after(standing, (3, replace(report(2, 2), who="b")))
    assert (standing.mode, standing.until, standing.turn) == ("open", 8 * MICROS, 1)
    assert standing.turns[-1].why == "3 of 6 calls failed in 10 s of all instances"


def test_what_is_older_than_the_window_is_not_counted() -> None:
    standing = after(NEW, (1, report(3, 3)), (12, report(3, 1)))
    assert standing.mode == "closed"
    assert after(standing, (23, report(5))).slots == ()


def test_a_verdict_opens_it_unless_it_was_seen_before_the_last_opening() -> None:
    opened = after(NEW, (1, report(verdict="down")))
    assert opened.mode == "open"
    closed = after(opened, (2, Control(KEY, RULE, "reset", "ann", "it is well")))
    assert after(closed, (3, report(verdict="down", turn=0))).mode == "closed"
    assert after(closed, (3, report(verdict="down", turn=1))).mode == "open"


def test_it_is_tried_when_its_rest_is_over_and_closed_when_enough_went_well() -> None:
    opened = after(NEW, (0, report(verdict="down")))
    assert decided(opened, Probe(KEY, RULE, "t"), 5 * MICROS - 1) == (opened, None)
    half, right = decided(opened, Probe(KEY, RULE, "t1"), 5 * MICROS)
    assert half.mode == "half-open" and right is not None and right.token == "t1"
    half = after(half, (6, Ended(KEY, RULE, "t1", "well")))
    assert (half.mode, half.succeeded, half.rights) == ("half-open", 1, ())
    closed = after(half, (6, Probe(KEY, RULE, "t2")), (7, Ended(KEY, RULE, "t2", "well")))
    assert (closed.mode, closed.turn) == ("closed", 1)


def test_each_failed_probe_doubles_the_rest_up_to_its_most() -> None:
    standing, second = after(NEW, (0, report(verdict="down"))), 0
    rests = []
    for number in range(9):
        rests.append(standing.until // MICROS - second)
        second = standing.until // MICROS
        token = str(number)
        standing = after(
            standing, (second, Probe(KEY, RULE, token)), (second, Ended(KEY, RULE, token, "failed"))
        )
    assert rests == [5, 10, 20, 40, 80, 160, 320, 600, 600]


def test_a_right_that_has_ended_says_nothing_any_more() -> None:
    opened = after(NEW, (0, report(verdict="down")))
    half = after(opened, (5, Probe(KEY, RULE, "dead")))
    assert decided(half, Probe(KEY, RULE, "next"), 14 * MICROS)[1] is None
    half, right = decided(half, Probe(KEY, RULE, "next"), 15 * MICROS)
    assert right is not None
    assert after(half, (16, Ended(KEY, RULE, "dead", "failed"))) == half


OFTEN = ("probe",) * 8 + ("verdict",) * 3 + ("well", "failed", "given back", "report")
SELDOM = ("reset", "force open", "force closed", "release")
COMMANDS = st.lists(
    st.tuples(
        st.sampled_from(OFTEN + SELDOM), st.integers(0, 5), st.sampled_from((0.0, 0.5, 2.0, 11.0))
    ),
    min_size=10,
    max_size=60,
)


@given(COMMANDS, st.integers(1, 3))
def test_probes_under_way_are_never_more_than_declared(
    commands: list[tuple[str, int, float]], probes: int
) -> None:
    rule = replace(RULE, probes=probes, probe_seconds=4.0, open_seconds=1.0)
    standing, now, drawn = NEW, 0, 0
    under_way: dict[str, int] = {}
    for what, which, pause in commands:
        now += round(pause * MICROS)
        under_way = {token: ends for token, ends in under_way.items() if ends > now}
        tokens = sorted(under_way)
        token = tokens[which % len(tokens)] if tokens else "nobody's"
        command: Any
        if what == "probe":
            drawn += 1
            command = Probe(KEY, rule, f"t{drawn}")
        elif what in ("well", "failed", "given back"):
            command = Ended(KEY, rule, token, what)  # type: ignore[arg-type]
            under_way.pop(token, None)
        elif what == "verdict":
            command = Report(KEY, rule, verdict="down", turn=standing.turn)
        elif what == "report":
            command = Report(KEY, rule, calls=which, failures=which // 2)
        else:
            command = Control(KEY, rule, what, "ann", "because")  # type: ignore[arg-type]
        standing, right = decided(standing, command, now)
        if right is not None:
            assert standing.mode == "half-open" and not standing.forced
            under_way[right.token] = right.ends
        assert len(under_way) <= probes
        assert {one.token for one in standing.rights if one.ends > now} == set(under_way)
        assert standing == read(put_of(ref_of(KEY), standing, now).value)
        assert len(standing.turns) <= TURNS_MAX and len(standing.controls) <= CONTROLS_MAX


def test_what_operators_did_is_kept_with_who_and_why() -> None:
    held = after(NEW, (1, Control(KEY, RULE, "force open", "ann", "the partner asked for it")))
    assert decided(held, Probe(KEY, RULE, "t"), 99 * MICROS)[1] is None
    assert after(held, (2, report(verdict="down"))).mode == "closed"
    freed = after(held, (3, Control(KEY, RULE, "release", "bob", "they are done")))
    assert freed.forced == "" and freed.mode == "closed"
    assert [(note.time, note.what, note.who, note.why) for note in freed.controls] == [
        (1 * MICROS, "force open", "ann", "the partner asked for it"),
        (3 * MICROS, "release", "bob", "they are done"),
    ]


def test_the_cell_is_due_when_it_may_be_tried_and_stays_past_it() -> None:
    opened = after(NEW, (1, report(verdict="down")))
    put = put_of(ref_of(KEY), opened, 1 * MICROS)
    assert put.due == 6 * MICROS
    cell = Cell(put.ref.space, put.ref.key, put.value, 9, put.due)
    (kept,) = Breakers().on_due(cell, 7 * MICROS).put
    assert (kept.value, kept.due) == (put.value, None)


def due(put: Put, at: int) -> Batch:
    """What is made of `put` when it is due, swept at `at`."""
    return Breakers().on_due(Cell(put.ref.space, put.ref.key, put.value, 9, put.due), at)


def test_a_part_is_forgotten_when_nothing_was_noted_of_it_for_long() -> None:
    part = ref_of(f"{KEY}/host.example")
    opened = put_of(part, after(NEW, (1, report(verdict="down"))), 1 * MICROS)
    assert opened.due == 6 * MICROS
    (kept,) = due(opened, 9 * MICROS).put
    assert (kept.value, kept.due) == (opened.value, 6 * MICROS + FORGET_MICROS)
    assert due(kept, 6 * MICROS + FORGET_MICROS).drop == (part,)
    counted = put_of(part, after(NEW, (1, report(2, 1))), 1 * MICROS)
    assert counted.due == 1 * MICROS + FORGET_MICROS
    assert due(counted, counted.due).drop == (part,)


@pytest.mark.parametrize("action", ["force open", "force closed", "reset"])
def test_what_an_operator_has_done_to_a_part_is_kept(action: Any) -> None:
    part = ref_of(f"{KEY}/host.example")
    control = Control(KEY, RULE, action, "ann", "because")
    opened = after(NEW, (1, report(verdict="down")), (2, control))
    put = put_of(part, opened, 2 * MICROS)
    for at in (9 * MICROS, FORGET_MICROS, 9 * FORGET_MICROS):
        (put,) = due(put, at).put
        assert (put.due, read(put.value).controls) == (None, opened.controls)


def test_who_remembers_more_than_the_cell_is_heard_when_it_was_forgotten() -> None:
    seen = report(verdict="down", turn=3)
    assert after(NEW, (1, seen)).mode == "open"
    assert after(replace(NEW, turn=4), (1, seen)).mode == "closed"


# --- what counts ----------------------------------------------------------------------------------


class Answer:
    def __init__(self, status_code: int, **headers: str) -> None:
        self.status_code = status_code
        self.headers = headers


class Raised(Exception):
    def __init__(self, status: int, **headers: str) -> None:
        self.response = Answer(status, **headers)


def test_only_what_is_the_dependencys_own_fault_counts() -> None:
    assert [status for status in (400, 401, 404, 408, 409, 422, 425, 429, 500, 503)
            if is_failure(Raised(status))] == [408, 425, 429, 500, 503]  # fmt: skip
    assert is_failure(OSError()) and is_failure(AttemptTooLong("late"))
    assert not is_failure(NonRetryable("no")) and not is_failure(BreakerOpen("open"))


def test_the_wait_that_was_asked_for_is_found() -> None:
    assert retry_after(Raised(429, **{"retry-after": "7"})) == 7.0
    assert retry_after(BreakerOpen("open", retry_after=2.5)) == 2.5
    assert retry_after(Raised(503, **{"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"})) == 0.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"failure_rate": 0.0}, {"slow_rate": 1.5}, {"calls_min": 0}, {"window_calls": 5},
        {"probes": 17}, {"open_seconds": 700.0}, {"share_seconds": 0.0}, {"successes": 0},
    ],
    ids=str,
)  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Breaker(**wrong)
