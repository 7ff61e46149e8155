"""The linearizability checker agrees with a search of every order, and is quick on long histories.

The other search knows nothing of the checker: it tries each order of the operations, with or
without those of unknown outcome, on a cell whose every version is written out.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from outlive.testing.history import Operation, in_order
from outlive.testing.linearize import (
    Cells,
    Model,
    Registers,
    violations,
)

HISTORIES = 10_000
LONG = 6_000
LONG_KEYS = 5
LONG_LOST = 0.02
"""The share of answers that are lost in a long history."""

State = Any


# --- every order there is -------------------------------------------------------------------------


def every_order(operations: list[Operation], cells: bool) -> bool:
    """Whether any order explains the operations of one key; by trying each."""
    seen = {o.answered[-2] for o in operations if o.answered and o.answered[0] == "cell"}
    seen |= {o.answered[0] for o in operations if o.answered and type(o.answered[0]) is int}
    seen |= {o.asked[-1] for o in operations if o.name in ("put", "drop")} - {None}
    dues = {o.answered[-1] for o in operations if o.answered and o.answered[0] == "cell"}
    told = [o for o in operations if o.outcome != "fail" or o.answered]
    start: State = (None, 0, None, 0) if cells else 0
    tried: set[Any] = set()

    def search(state: State, left: frozenset[int]) -> bool:
        if not any(told[at].outcome != "unknown" for at in left):
            return True
        if (state, left) in tried:
            return False
        tried.add((state, left))
        for at in left:
            one = told[at]
            if any(told[o].ended is not None and told[o].ended < one.began for o in left):
                continue
            then = cell(state, one, seen, dues) if cells else register(state, one)
            if any(search(next_state, left - {at}) for next_state in then):
                return True
        return False

    return search(start, frozenset(range(len(told))))


def register(state: State, one: Operation) -> list[State]:
    match one.asked:
        case ("read",):
            return [state] if one.answered is None or one.answered == (state,) else []
        case ("write", value):
            return [value]
        case ("compare", old, new):
            if one.outcome == "fail":
                return [state] if one.answered == (state,) and state != old else []
            return [new] if state == old else []
    raise AssertionError(one)


def cell(state: State, one: Operation, seen: set[Any], dues: set[Any]) -> Iterator[State]:
    """What the cell may be afterwards: value, version, due and the last version that was drawn."""
    value, version, due, last = state
    wanted = one.asked[3] if one.name == "put" else one.asked[1] if one.name == "drop" else None
    if one.outcome == "fail":
        if one.answered == (version,) and version != wanted:
            yield state
        return
    if one.name == "read":
        now = ("absent",) if value is None else ("cell", value, version, due)
        if one.answered is None or one.answered == now:
            yield state
        return
    if wanted is not None and wanted != version:
        return
    if one.name == "drop":
        yield (None, 0, None, last)
        return
    if one.name == "claim" and (value is None or due is None):
        return
    if one.answered is None:
        unseen = last + 0.5**40  # a version that nobody has seen
        drawn = [unseen, *(v for v in seen if v > last)]
        if one.name == "put":
            yield from ((one.asked[1], v, one.asked[2], v) for v in drawn)
        else:
            yield from ((value, v, d, v) for v in drawn for d in {*dues, -1.0} - {None})
    elif one.name == "put":
        if one.answered[0] > last:
            yield (one.asked[1], one.answered[0], one.asked[2], one.answered[0])
    else:
        _, same, drawn_version, moved = one.answered
        if same == value and drawn_version > last and due <= moved - one.asked[1]:
            yield (value, drawn_version, moved, drawn_version)


# --- random histories -----------------------------------------------------------------------------


def made(
    chance: random.Random,
    count: int,
    cells: bool,
    processes: int = 3,
    lost_share: float = 0.15,
    fair: bool = False,
) -> list[Operation]:
    """What `processes` clients of a true cell (or register) were told; some answers were lost.

    `fair`: they ask for versions that somebody was told.
    """
    ended: list[Operation] = []
    at: list[int] = [0] * processes
    state: State = (None, 0, None, 0) if cells else 0
    values = itertools.count(1)
    points: list[Any] = []
    told = [0]
    for _ in range(count):
        who = chance.randrange(processes)
        began = at[who] + chance.randint(1, 4)
        moment = began + chance.randint(0, 8)
        at[who] = moment + chance.randint(0, 8) + 1
        points.append((moment * 2 + 1, who, began * 2, at[who] * 2))
    for number, (moment, who, began, end) in enumerate(sorted(points)):
        value = next(values) if fair else chance.randrange(4)
        asked = asked_register(chance, told[-1] if fair else chance.randrange(4), value)
        if cells:
            asked = asked_cell(chance, told[-2:] if fair else [state[1]], number)
        lost = chance.random() < lost_share
        if lost and chance.random() < 0.5:
            answer: Any = ("unknown", None)  # it never happened
        else:
            state, answer = (does_cell if cells else does_register)(state, asked, moment)
            if lost:
                answer = ("unknown", None)
        ended_at = None if answer[0] == "unknown" else end
        if answer[1] and cells:  # what somebody was told
            told.append(answer[1][-2 if answer[1][0] == "cell" else 0])
            told = [version for version in told if version != "absent"]
        elif answer[1]:
            told += answer[1]
        ended.append(Operation(f"p{who}", "k", asked, *answer, began, ended_at))
    return in_order(ended)


def asked_register(chance: random.Random, old: int, new: int) -> tuple[Any, ...]:
    return chance.choice([("read",), ("write", new), ("compare", old, new)])


def asked_cell(chance: random.Random, told: list[int], value: int) -> tuple[Any, ...]:
    version = chance.choice([None, *told, max(told[-1] - 1, 0), 0])
    if len(told) > 1:
        version = chance.choice([None, *told, 0])
    due = chance.choice([None, 1, 20])
    return chance.choice(
        [("read",), ("put", f"v{value}", due, version), ("drop", version), ("claim", 3)]
    )


def does_register(state: State, asked: tuple[Any, ...], moment: int) -> Any:
    match asked:
        case ("read",):
            return state, ("ok", (state,))
        case ("write", value):
            return value, ("ok", ())
        case (_, old, new):
            return (new, ("ok", ())) if state == old else (state, ("fail", (state,)))


def does_cell(state: State, asked: tuple[Any, ...], moment: int) -> Any:
    value, version, due, last = state
    match asked:
        case ("read",):
            now = ("absent",) if value is None else ("cell", value, version, due)
            return state, ("ok", now)
        case ("claim", hold):
            if value is None or due is None or due > moment:
                return state, ("fail", None)
            told = ("cell", value, last + 1, moment + hold)
            return (value, last + 1, moment + hold, last + 1), ("ok", told)
        case (_, *_, wanted) if wanted is not None and wanted != version:
            return state, ("fail", (version,))
        case ("put", new, then, _):
            return (new, last + 1, then, last + 1), ("ok", (last + 1,))
    return (None, 0, None, last), ("ok", ())


def spoiled(chance: random.Random, operations: list[Operation]) -> list[Operation]:
    """The same with one answer changed, or one outcome told wrongly."""
    found = list(operations)
    at = chance.randrange(len(found))
    one, other = found[at], found[chance.randrange(len(found))]
    match chance.randrange(4):
        case 0 if one.outcome == "ok" and one.name != "read":
            found[at] = replace(one, outcome="fail", answered=None)
        case 1 if one.outcome == "fail":
            found[at] = replace(one, outcome="ok", answered=(1,) if one.name == "put" else ())
            if one.name in ("claim", "read"):
                found[at] = one
        case 2 if one.name == "read" and other.name == "read" and one.answered and other.answered:
            found[at] = replace(one, answered=other.answered)
        case _ if one.outcome == "ok" and one.answered and type(one.answered[-1]) is int:
            changed = (*one.answered[:-1], chance.randrange(6))
            found[at] = replace(one, answered=changed)
    return found


@pytest.mark.parametrize("cells", [True, False])
def test_it_agrees_with_every_order_on_thousands_of_small_histories(
    cells: bool, record_property: Any
) -> None:
    chance = random.Random(20_261_122)
    model: Model = Cells() if cells else Registers()
    agreed = flawed = 0
    for number in range(HISTORIES):
        operations = made(chance, chance.randint(3, 7), cells)
        while number % 2 and every_order(operations, cells):  # every second one made invalid
            operations = spoiled(chance, made(chance, chance.randint(3, 7), cells))
        truth = every_order(operations, cells)
        flawed += not truth
        said = not violations(operations, model)
        assert said is truth, f"it says {said}\n" + "\n".join(map(str, operations))
        agreed += 1
    line = f"{'cells' if cells else 'registers'}: agreed={agreed}/{HISTORIES} invalid={flawed}"
    print(f"\n{line}")
    record_property("figures", line)
    assert agreed == HISTORIES
    assert flawed == HISTORIES // 2


@pytest.mark.parametrize("cells", [True, False])
def test_a_long_history_is_judged_in_seconds(cells: bool, record_property: Any) -> None:
    chance = random.Random(7)
    operations = [
        replace(operation, key=f"k{key}")
        for key in range(LONG_KEYS)
        for operation in made(chance, LONG // LONG_KEYS, cells, 6, LONG_LOST, fair=True)
    ]
    model: Model = Cells() if cells else Registers()
    began = time.monotonic()
    assert not violations(operations, model)
    took = time.monotonic() - began
    unknown = sum(operation.outcome == "unknown" for operation in operations)
    line = f"{len(operations)} operations on {LONG_KEYS} keys, {unknown} unknown: {took:.2f} s"
    print(f"\n{line}")
    record_property("figures", line)
    assert took < 60


def told(*lines: tuple[str, Any, int, int | None]) -> list[Operation]:
    """A history of one cell: process, what was asked and answered, from when to when."""
    found = []
    for process, (asked, answered), began, ended in lines:
        outcome: Any = "unknown" if ended is None else "ok"
        found.append(Operation(process, "k", asked, outcome, answered, began, ended))
    return found


def put(value: str, version: int, wanted: int | None = None) -> Any:
    return ("put", value, None, wanted), (version,)


def saw(value: str, version: int) -> Any:
    return ("read",), ("cell", value, version, None)


def test_an_acknowledged_write_that_a_later_read_misses_is_found_and_shown_small() -> None:
    many = [
        line
        for n in range(1, 50)
        for line in (
            ("a", put(f"v{n}", n), 10 * n, 10 * n + 3),
            ("b", saw(f"v{n}", n), 10 * n + 4, 10 * n + 9),
        )
    ]
    stale = [("c", saw("v44", 44), 500, 505)]
    (found,) = violations(told(*many, *stale), Cells())
    assert not found.whole
    assert len(found.window) <= 3
    assert found.culprit.process == "c"
    shown = str(found)
    assert "cannot have happened one at a time from any state" in shown
    assert "->" in shown and "read: ok cell v44 44 -" in shown


def test_a_write_said_not_to_have_happened_that_is_seen_is_found() -> None:
    history = told(("a", put("x", 1), 1, 2), ("b", saw("x", 1), 3, 4))
    denied = replace(history[0], outcome="fail", answered=None)
    assert not violations(history, Cells())
    (found,) = violations([denied, history[1]], Cells())
    assert found.whole


def test_a_write_of_unknown_outcome_may_come_late_and_only_once() -> None:
    unknown = replace(told(("a", put("x", 1), 1, None))[0], answered=None)
    late = told(
        ("b", put("y", 1), 3, 4),
        ("b", saw("y", 1), 5, 6),
        ("b", saw("x", 7), 7, 8),
        ("b", put("y", 9), 9, 10),
    )
    assert not violations([unknown, *late], Cells())
    again = told(("b", saw("x", 11), 11, 12))
    assert violations([unknown, *late, *again], Cells())


def test_what_begins_at_the_next_tick_is_later() -> None:
    absent = ("read",), ("absent",)
    assert violations(told(("a", put("x", 1), 1, 2), ("b", absent, 3, 4)), Cells())
    assert not violations(told(("a", put("x", 1), 1, 3), ("b", absent, 2, 4)), Cells())


def test_a_conflict_that_names_the_version_that_was_wanted_is_found() -> None:
    first, refused = told(("a", put("x", 1), 1, 2), ("a", put("y", 1, wanted=1), 3, 4))
    assert violations([first, replace(refused, outcome="fail")], Cells())
    other = replace(refused, asked=("put", "y", None, 7), outcome="fail")
    assert not violations([first, other], Cells())


def test_a_claimed_cell_without_a_deadline_is_found() -> None:
    ready, claim = ("put", "x", 0, None), ("claim", 100)
    history = told(
        ("a", (ready, (1,)), 1, 2), ("b", (claim, None), 3, None), ("a", saw("x", 2), 4, 5)
    )
    assert violations(history, Cells()), "what was claimed has a deadline"


def test_a_version_that_comes_again_is_found() -> None:
    drop = ("drop", None), ()
    history = told(("a", put("x", 1), 1, 2), ("a", drop, 3, 4), ("a", put("y", 1), 5, 6))
    assert violations(history, Cells())


def test_a_cell_claimed_by_two_within_the_hold_is_found() -> None:
    ready = ("put", "x", 0, None), (1,)
    first, second = (
        (("claim", 100), ("cell", "x", 2, 150)),
        (("claim", 100), ("cell", "x", 3, 160)),
    )
    history = told(("a", ready, 1, 2), ("a", first, 3, 6), ("b", second, 4, 7))
    assert violations(history, Cells())
    later = (("claim", 100), ("cell", "x", 3, 250))
    history = told(("a", ready, 1, 2), ("a", first, 3, 6), ("b", later, 4, 7))
    assert not violations(history, Cells())


def test_keys_are_judged_apart() -> None:
    history = told(("a", put("x", 1), 1, 2), ("b", saw("y", 9), 3, 4))
    apart = [history[0], replace(history[1], key="other")]
    assert [found.key for found in violations(apart, Cells())] == ["other"]
