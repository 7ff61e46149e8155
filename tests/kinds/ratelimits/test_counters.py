"""Counters against models that keep every time: never more than asked for in any window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outlive.kinds.ratelimits.algorithms import AHEAD_MICROS_MAX
from outlive.kinds.ratelimits.counters import (
    COUNTERS,
    SLOTS,
    TIMES_MAX,
    Ask,
    Count,
    Forget,
    Way,
    ref_of,
)
from outlive.model import Cell

START = 1_700_000_000_000_000
MINUTE = 60_000_000
gaps = st.lists(st.tuples(st.integers(0, MINUTE // 2), st.integers(1, 3)), max_size=80)


class One:
    """One counter, on a clock of the test."""

    def __init__(self, way: Way, life: int = MINUTE) -> None:
        self.way, self.life, self.now = way, life, START
        self.ref = ref_of(way, "g/key", "volatile")
        self.cell: Cell | None = None

    def ask(self, amount: int = 0, most: int | None = None) -> Count:
        command = Ask(self.way, "g/key", self.life, amount, most)
        assert list(COUNTERS.refs(command)) == [self.ref]
        decision = COUNTERS.decide({self.ref: self.cell}, command, self.now)
        for put in decision.batch.put:
            self.cell = Cell(self.ref.space, self.ref.key, put.value, 1, put.due)
            assert put.due is not None and put.due > self.now
        if self.cell is not None and self.cell.due is not None and self.cell.due <= self.now:
            self.cell = None  # swept
        return decision.reply


@given(gaps, st.integers(1, 10))
def test_a_moving_window_never_has_more_and_refuses_only_what_would_be_more(
    asked: list[tuple[int, int]], most: int
) -> None:
    one, times = One("moving"), list[int]()
    for gap, amount in asked:
        one.now += gap
        live = [at for at in times if at >= one.now - one.life]
        reply = one.ask(amount, most)
        assert reply.counted == (len(live) + amount <= most)
        if reply.counted:
            times += [one.now] * amount
        live = [at for at in times if at >= one.now - one.life]
        seen = one.ask()
        assert seen.count == len(live) and seen.oldest == (live[0] if live else one.now)


def test_a_moving_window_of_many_is_kept_small_and_stays_a_limit() -> None:
    one, admitted, most = One("moving"), list[int](), 3000
    for _ in range(2 * most):
        one.now += MINUTE // (most // 2)
        if one.ask(1, most).counted:
            admitted.append(one.now)
        assert one.cell is None or len(one.cell.value.split()) <= 2 * TIMES_MAX + 2
    for at in admitted[:: most // 10]:
        assert sum(at - MINUTE <= when <= at for when in admitted) <= most
    one.now += MINUTE + MINUTE // SLOTS + 1
    assert one.ask().count == 0


@given(gaps, st.integers(1, 10))
def test_a_sliding_window_weighs_the_one_before_as_limits_does(
    asked: list[tuple[int, int]], most: int
) -> None:
    one, counts = One("sliding"), dict[int, int]()
    for gap, amount in asked:
        one.now += gap
        here, left = one.now // MINUTE, MINUTE - one.now % MINUTE
        before, current = counts.get(here - 1, 0), counts.get(here, 0)
        reply = one.ask(amount, most)
        assert reply.counted == (before * left // MINUTE + current + amount <= most)
        if reply.counted:
            counts[here] = current + amount
        seen = one.ask()
        assert (seen.before, seen.count) == (before, counts.get(here, 0))
        assert seen.ends - seen.now == left


@given(gaps)
def test_a_fixed_window_begins_with_the_first_and_counts_what_is_too_much_too(
    asked: list[tuple[int, int]],
) -> None:
    one, count, ends = One("fixed"), 0, 0
    for gap, amount in asked:
        one.now += gap
        if one.now >= ends:
            count, ends = 0, one.now + MINUTE
        count += amount
        reply = one.ask(amount)
        assert (reply.count, reply.ends) == (count, ends)
        assert (one.ask().count, one.ask().ends) == (count, ends)


def test_a_clock_that_was_set_back_heals() -> None:
    for way in ("fixed", "moving", "sliding"):
        one = One(way)
        one.ask(3, 3)
        one.now -= 10 * AHEAD_MICROS_MAX
        assert one.ask().count == 3 or way == "sliding"
        one.ask(1, 3)  # refused, and from now on the clock that there is counts
        one.now += 2 * MINUTE + MINUTE // SLOTS
        assert one.ask(1, 3).counted


def test_what_is_forgotten_is_gone_and_names_do_not_meet() -> None:
    one = One("moving")
    one.ask(1, 1)
    decision = COUNTERS.decide({one.ref: one.cell}, Forget(one.ref), one.now)
    assert decision.batch.drop == (one.ref,)
    refs = [ref_of(way, name, "volatile") for way in ("fixed", "moving") for name in ("g/a", "h/a")]
    assert len(set(refs)) == 4
