"""Rate limits against models that keep every hit: no interval sees more than is allowed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlive.kinds.ratelimits import (
    RATELIMITS,
    Acquire,
    Answer,
    Hit,
    Quota,
    Refund,
    Release,
    Reset,
    Slots,
    Terms,
)
from outlive.kinds.ratelimits.algorithms import (
    AHEAD_MICROS_MAX,
    PARTS,
    State,
    give_back,
    read_state,
    take,
    used,
    write_state,
)
from outlive.kinds.ratelimits.slots import Held
from outlive.model import Cell, Ref

START = 1_700_000_000_000_000
ALGORITHMS = ("fixed", "gcra", "sliding")

counts = st.integers(1, 12)
periods = st.integers(1, 40).map(lambda tenths: tenths * 100_000 + 7)
hits = st.lists(st.tuples(st.integers(0, 900_000), st.integers(1, 4)), min_size=1, max_size=60)


@st.composite
def terms(draw: st.DrawFn, algorithm: str | None = None) -> Terms:
    chosen: Any = algorithm or draw(st.sampled_from(ALGORITHMS))
    count = draw(counts)
    burst = draw(counts) if chosen == "gcra" else count
    return Terms(chosen, count, burst, draw(periods))


def admitted_of(
    rule: Terms, asked: list[tuple[int, int]]
) -> tuple[list[tuple[int, int]], list[bool]]:
    """What is admitted (when, how much) when `asked` (gap, cost) comes, and whether each was."""
    state: State | None = None
    now, found, said = START, [], []
    for gap, cost in asked:
        now += gap
        taken = take(rule, state, now, cost)
        said.append(taken.admitted)
        if taken.admitted:
            state = taken.state
            found.append((now, cost))
    return found, said


# --- the algorithms -------------------------------------------------------------------------------


@given(terms("gcra"), hits)
def test_gcra_decides_as_a_bucket_of_exact_fractions(
    rule: Terms, asked: list[tuple[int, int]]
) -> None:
    rate = Fraction(rule.count, rule.period)
    tokens, state, now = Fraction(rule.burst), None, START
    for gap, cost in asked:
        now += gap
        tokens = min(Fraction(rule.burst), tokens + gap * rate)
        taken = take(rule, state, now, cost)
        assert taken.admitted == (tokens >= cost)
        if taken.admitted:
            tokens -= cost
            state = taken.state
        assert taken.left == int(tokens)
        if not taken.admitted and cost <= rule.burst:
            assert taken.micros - 1 < (cost - tokens) / rate <= taken.micros


@given(terms("gcra"), hits)
def test_gcra_admits_in_no_interval_more_than_burst_and_rate(
    rule: Terms, asked: list[tuple[int, int]]
) -> None:
    found, _ = admitted_of(rule, asked)
    for first in range(len(found)):
        total = 0
        for now, cost in found[first:]:
            total += cost
            assert (total - rule.burst) * rule.period <= rule.count * (now - found[first][0])


@given(terms("sliding"), hits)
def test_sliding_admits_in_no_interval_more_than_its_count(
    rule: Terms, asked: list[tuple[int, int]]
) -> None:
    found, said = admitted_of(rule, asked)
    for first, _ in found:
        assert sum(c for t, c in found if first <= t < first + rule.period) <= rule.count
    part, now, kept = -(-rule.period // PARTS), START, []
    for (gap, cost), was in zip(asked, said, strict=True):
        now += gap
        live = sum(c for t, c in kept if (t // part + 1) * part + rule.period > now)
        assert was == (live + cost <= rule.count)
        if was:
            kept.append((now, cost))


@given(terms("fixed"), hits)
def test_fixed_admits_in_no_window_more_than_its_count(
    rule: Terms, asked: list[tuple[int, int]]
) -> None:
    found, said = admitted_of(rule, asked)
    windows: dict[int, int] = {}
    now = START
    for (gap, cost), was in zip(asked, said, strict=True):
        now += gap
        index = now // rule.period
        assert was == (windows.get(index, 0) + cost <= rule.count)
        if was:
            windows[index] = windows.get(index, 0) + cost
    for first, _ in found:
        assert sum(c for t, c in found if first <= t < first + rule.period) <= 2 * rule.count


@given(terms(), hits)
def test_what_is_refused_can_be_had_when_it_is_said_and_not_before(
    rule: Terms, asked: list[tuple[int, int]]
) -> None:
    state: State | None = None
    now = START
    for gap, cost in asked:
        now += gap
        taken = take(rule, state, now, cost)
        if not taken.admitted and cost <= rule.burst:
            assert take(rule, state, now + taken.micros, cost).admitted
            assert not take(rule, state, now + taken.micros - 1, cost).admitted
        if taken.admitted:
            state = taken.state
        looked = take(rule, state, now, 0)
        assert looked.admitted and looked.left == (taken.left if state else rule.burst)
        assert state is None or used(state, now + looked.clear)[0] == 0


@given(terms(), hits, st.integers(0, 60), st.integers(0, 900_000))
def test_what_is_given_back_admits_no_more_than_if_it_had_never_been_taken(
    rule: Terms, asked: list[tuple[int, int]], place: int, gap: int
) -> None:
    state: State | None = None
    without: State | None = None
    now, at, unused = START, START, 0
    for number, (pause, cost) in enumerate(asked):
        now += pause
        taken = take(rule, state, now, cost)
        if not taken.admitted:
            continue
        state = taken.state
        if number >= place and not unused:
            at, unused = now, cost
        else:
            without = take(rule, without, now, cost).state
    now += gap
    after = give_back(rule, state, now, unused, at) if unused else state
    here, there = take(rule, after, now, 0).left, take(rule, without, now, 0).left
    assert take(rule, state, now, 0).left <= here <= there
    if rule.algorithm == "fixed" and at // rule.period == now // rule.period:
        assert here == there


@given(terms(), terms(), hits)
def test_new_numbers_apply_to_what_is_used_and_refill_nothing(
    old: Terms, new: Terms, asked: list[tuple[int, int]]
) -> None:
    state: State | None = None
    now = START
    for gap, cost in asked:
        now += gap
        taken = take(old, state, now, cost)
        state = taken.state if taken.admitted else state
    if state is None:
        return
    tokens, most = used(state, now)
    left = take(new, state, now, 0).left
    if (new.algorithm, new.count, new.burst, new.period) == (
        old.algorithm, old.count, old.burst, old.period,
    ):  # fmt: skip
        return
    assert left <= max(0, new.burst - tokens)
    assert left * most <= (most - tokens) * new.burst


@given(terms(), st.integers(1, 4))
def test_a_time_in_the_future_is_healed_and_what_is_used_stays_used(rule: Terms, cost: int) -> None:
    late = START + 3600_000_000
    first = take(rule, None, late, cost)
    if not first.admitted:
        return
    taken = take(rule, first.state, START, 0)
    assert taken.left <= rule.burst - cost
    assert taken.clear <= 2 * rule.period * max(rule.burst, 1) + AHEAD_MICROS_MAX


@given(terms(), hits)
def test_a_state_is_read_as_it_was_written(rule: Terms, asked: list[tuple[int, int]]) -> None:
    for gap, cost in asked:
        state = take(rule, None, START + gap, cost).state
        assert read_state(write_state(state)) == state


# --- several at once ------------------------------------------------------------------------------


class Cells:
    """Cells in a dict, and what the kind decides about them."""

    def __init__(self) -> None:
        self.cells: dict[Ref, Cell] = {}

    def ask(self, command: Any, now: int) -> Any:
        refs = RATELIMITS.refs(command)
        made = RATELIMITS.decide({ref: self.cells.get(ref) for ref in refs}, command, now)
        for ref in made.batch.drop:
            del self.cells[ref]
        for put in made.batch.put:
            self.cells[put.ref] = Cell(put.ref.space, put.ref.key, put.value, 1, put.due)
        return made.reply


quotas = st.lists(
    st.builds(
        lambda number, rule, shadow: Quota(
            f"q{number}", rule.count, rule.period / 1_000_000, rule.algorithm,
            rule.burst if rule.algorithm == "gcra" else None, shadow=shadow,
        ),
        st.integers(0, 9),
        terms(),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda quota: quota.name,
)  # fmt: skip


@given(quotas, hits)
def test_all_are_taken_or_none(made: list[Quota], asked: list[tuple[int, int]]) -> None:
    cells, now = Cells(), START
    uses = tuple(quota.use("ada") for quota in made)
    alone: dict[str, State] = {}
    for gap, cost in asked:
        now += gap
        before = dict(cells.cells)
        answer: Answer = cells.ask(Hit(uses, cost), now)
        each = [take(use.terms, alone.get(use.name), now, cost) for use in uses]
        allowed = all(one.admitted or use.shadow for use, one in zip(uses, each, strict=True))
        assert bool(answer) == allowed
        assert set(answer.refused_by) | set(answer.shadowed_by) == {
            use.name for use, one in zip(uses, each, strict=True) if not one.admitted
        }
        if not allowed:
            assert cells.cells == before
            assert answer.retry_seconds > 0 or any(cost > use.terms.burst for use in uses)
        for use, one in zip(uses, each, strict=True):
            if allowed and one.admitted:
                alone[use.name] = one.state
    for standing, use in zip(cells.ask(Hit(uses, 0), now).standings, uses, strict=True):
        assert standing.left == take(use.terms, alone.get(use.name), now, 0).left


def test_a_look_takes_nothing_and_a_reset_forgets() -> None:
    cells, uses = Cells(), (Quota("burst", 3).use("ada"),)
    cells.ask(Hit(uses, 2), START)
    assert [cells.ask(Hit(uses, 0), START).standings[0].left for _ in range(2)] == [1, 1]
    cells.ask(Reset(uses), START)
    assert not cells.cells
    assert cells.ask(Hit(uses, 3), START)


@pytest.mark.parametrize("algorithm", ["fixed", "gcra", "sliding"])
def test_what_was_used_before_a_clock_was_set_back_comes_back_though_somebody_asks(
    algorithm: Any,
) -> None:
    cells, minute = Cells(), 60_000_000
    uses = (Quota("burst", 3, 60, algorithm).use("ada"),)
    assert cells.ask(Hit(uses, 3), START + 10_000 * minute)
    answers = [cells.ask(Hit(uses), START + second * 1_000_000) for second in range(130)]
    assert not any(answers[:19]), "what is used stays used"
    assert sum(map(bool, answers)) >= 3
    assert answers[0].retry_seconds <= 63


def test_ahead_takes_more_where_it_can_be_had() -> None:
    cells, uses = Cells(), (Quota("burst", 10).use("ada"),)
    assert [cells.ask(Hit(uses, 1, ahead=4), START).cost for _ in range(3)] == [4, 4, 1]
    assert cells.ask(Refund(uses, 3, START), START).standings[0].left == 4


def test_a_cell_lapses_when_it_says_nothing_any_more() -> None:
    cells, uses = Cells(), (Quota("burst", 10, per_seconds=5).use("ada"),)
    cells.ask(Hit(uses, 4), START)
    (cell,) = cells.cells.values()
    assert cell.due == START + 2_000_000
    later = START + 900_000
    cells.ask(Hit(uses, 1), later)  # most hits leave it as it is, and it is never due too soon
    (cell,) = cells.cells.values()
    assert later <= START + 2_500_000 <= cell.due == START + 3_000_000


def test_a_key_has_parts_and_a_plan_has_numbers() -> None:
    whole, tenant = Quota("whole", 5), Quota("tenants", 7, per="tenant", plans={"gold": 70})
    everybody = Quota("everybody", 9, per="*")
    keys = {"": "ada", "tenant": "a tenant with spaces"}
    assert whole.use("ada").key == whole.use(keys).key == "whole/ada"
    assert tenant.use(keys).key.startswith("tenants/~")
    assert everybody.use("ada").key == everybody.use(keys).key == "everybody/*"
    assert (tenant.use(keys).terms.count, tenant.use(keys, "gold").terms.count) == (7, 70)
    with pytest.raises(KeyError, match="no such part"):
        tenant.use({"user": "ada"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Burst"},
        {"count": 0},
        {"per_seconds": 0},
        {"per_seconds": 32 * 86_400.0},
        {"algorithm": "leaky"},
        {"algorithm": "fixed", "burst": 3},
        {"burst": 0},
        {"plans": {"gold": 0}},
    ],
    ids=str,
)
def test_a_quota_that_means_nothing_is_refused_where_it_is_declared(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="quota"):
        Quota(**({"name": "burst", "count": 3} | wrong))


# --- slots ----------------------------------------------------------------------------------------


@given(
    st.integers(1, 3),
    st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from("abcde"), st.sampled_from(("take", "renew", "free"))
        ),
        max_size=60,
    ),
)
def test_no_more_than_so_many_hold_a_slot_at_once(
    count: int, asked: list[tuple[int, str, str]]
) -> None:
    cells, model, now, lease = Cells(), dict[str, int](), START, 7_000_000
    for gap, holder, verb in asked:
        now += gap * 1_000_000
        model = {name: until for name, until in model.items() if until > now}
        if verb == "free":
            held: Held = cells.ask(Release("s/k", holder), now)
            assert held.held == (holder in model)
            model.pop(holder, None)
        else:
            renew = verb == "renew"
            held = cells.ask(Acquire("s/k", holder, count, lease, renew=renew), now)
            assert held.held == (holder in model or (not renew and len(model) < count))
            if held.held:
                model[holder] = now + lease
            elif not renew:
                assert now + held.seconds * 1_000_000 == pytest.approx(min(model.values()), abs=2)
        assert held.taken == len(model) <= count
        live = [cell.due for cell in cells.cells.values() if cell.due and cell.due > now]
        assert live == ([max(model.values())] if model else [])


def test_slots_that_mean_nothing_are_refused_where_they_are_declared() -> None:
    for wrong in ({"name": "A B"}, {"count": 0}, {"count": 1001}, {"lease_seconds": 0.5}):
        with pytest.raises(ValueError, match="slots"):
            Slots(**({"name": "exports", "count": 2} | wrong))  # type: ignore[arg-type]
