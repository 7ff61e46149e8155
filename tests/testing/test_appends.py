"""The checker of appended lists agrees with a search of every order, and names what it finds."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from msgspec.structs import replace

from outlive.testing.appends import TRANSACTION, anomalies
from outlive.testing.history import Operation, in_order

HISTORIES = 10_000
LONG = 6_000


def every_order(operations: list[Operation]) -> bool:
    """Whether any order explains the transactions; by trying each."""
    tried: set[Any] = set()

    def search(state: dict[str, tuple[str, ...]], left: frozenset[int]) -> bool:
        if not any(operations[at].outcome == "ok" for at in left):
            return True
        seen = (tuple(sorted(state.items())), left)
        if seen in tried:
            return False
        tried.add(seen)
        for at in left:
            one = operations[at]
            if one.outcome == "fail" or any(operations[o].precedes(one) for o in left):
                continue
            if any(state.get(name, ()) != read for name, read in one.answered or ()):
                continue
            then = dict(state)
            for name, element in one.asked[1]:
                then[name] = (*then.get(name, ()), element)
            if search(then, left - {at}):
                return True
        return False

    # What was refused has not happened, and orders nobody.
    told = frozenset(at for at, one in enumerate(operations) if one.outcome != "fail")
    return search({}, told)


def made(
    chance: random.Random, count: int, streams: str = "xy", lost_share: float = 0.2
) -> list[Operation]:
    """What three clients of true lists were told; some answers were lost."""
    at = [0, 0, 0]
    points = []
    for number in range(count):
        who = chance.randrange(3)
        began = at[who] + chance.randint(1, 4)
        moment = began + chance.randint(0, 8)
        at[who] = moment + chance.randint(1, 8)
        points.append((moment, number, who, began, at[who]))
    state: dict[str, tuple[str, ...]] = {}
    found = []
    for _, number, who, began, end in sorted(points):
        names = sorted(chance.sample(streams, chance.randint(1, 2)))
        appended = tuple((name, f"{number}{name}") for name in names)
        wanted = tuple(chance.sample(streams, chance.randint(1, 2)))
        match chance.randrange(4):
            case 0 | 1:
                wanted = ()
            case 2:
                appended = ()
        answer = tuple((name, state.get(name, ())) for name in wanted)
        lost = chance.random() < lost_share
        if not lost or chance.random() < 0.5:
            for name, element in appended:
                state[name] = (*state.get(name, ()), element)
        asked = (TRANSACTION, appended, wanted)
        told: Any = ("unknown", None, began, None) if lost else ("ok", answer, began, end)
        found.append(Operation(f"p{who}", "", asked, *told))
    return in_order(found)


def spoiled(chance: random.Random, operations: list[Operation]) -> list[Operation]:
    """The same with one answer changed, or one outcome told wrongly."""
    found = list(operations)
    at = chance.randrange(len(found))
    one = found[at]
    if one.outcome != "ok":
        return found
    if not one.answered:
        found[at] = replace(one, outcome="fail", answered=None)
        return found
    stream, read = chance.choice(one.answered)
    wrong = list(read)
    match chance.randrange(4):
        case 0 if wrong:
            wrong.pop()
        case 1 if len(wrong) > 1:
            wrong.reverse()
        case 2:
            wrong.append(f"{chance.randrange(len(found))}{stream}")
        case _ if wrong:
            wrong.pop(0)
    others = [each for each in one.answered if each[0] != stream]
    found[at] = replace(one, answered=(*others, (stream, tuple(wrong))))
    return found


def test_it_agrees_with_every_order_on_thousands_of_small_histories(record_property: Any) -> None:
    chance = random.Random(20_261_122)
    agreed = flawed = 0
    for number in range(HISTORIES):
        operations = made(chance, chance.randint(3, 7))
        while number % 2 and every_order(operations):  # every second one made invalid
            operations = spoiled(chance, made(chance, chance.randint(3, 7)))
        truth = every_order(operations)
        flawed += not truth
        said = not anomalies(operations)
        assert said is truth, f"it says {said}\n" + "\n".join(map(str, operations))
        agreed += 1
    line = f"lists: agreed={agreed}/{HISTORIES} invalid={flawed}"
    print(f"\n{line}")
    record_property("figures", line)
    assert agreed == HISTORIES
    assert flawed == HISTORIES // 2


def test_a_long_history_is_judged_in_seconds(record_property: Any) -> None:
    operations = made(random.Random(7), LONG, "abcdefgh", 0.03)
    began = time.monotonic()
    assert not anomalies(operations)
    took = time.monotonic() - began
    line = f"{len(operations)} transactions on 8 streams: {took:.2f} s"
    print(f"\n{line}")
    record_property("figures", line)
    assert took < 60


def told(*lines: tuple[str, Any, Any, int, int]) -> list[Operation]:
    """Transactions: process, what was appended and read, from when to when."""
    return [
        Operation(who, "", (TRANSACTION, added, tuple(dict(read))), "ok", read, began, ended)
        for who, added, read, began, ended in lines
    ]


def read(**streams: str) -> Any:
    return tuple((name, tuple(elements)) for name, elements in streams.items())


def add(*elements: str) -> Any:
    return tuple((element[0], element[1]) for element in elements)


@pytest.mark.parametrize(
    ("name", "history"),
    [
        ("duplicate", told(("a", add("x1"), (), 1, 2), ("b", (), read(x="11"), 3, 4))),
        ("invented", told(("a", add("x1"), (), 1, 2), ("b", (), read(x="19"), 3, 4))),
        (
            "lost or reordered",
            told(
                ("a", add("x1"), (), 1, 2),
                ("a", add("x2"), (), 3, 4),
                ("b", (), read(x="21"), 5, 6),
                ("b", (), read(x="1"), 7, 8),
            ),
        ),
        ("G-single-realtime", told(("a", add("x1"), (), 1, 2), ("b", (), read(x=""), 3, 4))),
        (
            "G0",
            told(
                ("a", add("x1", "y1"), (), 1, 9),
                ("b", add("x2", "y2"), (), 1, 9),
                ("c", (), read(x="12"), 10, 11),
                ("c", (), read(y="21"), 12, 13),
            ),
        ),
        (
            "G0-realtime",
            told(
                ("a", add("x1"), (), 1, 2),
                ("b", add("x2"), (), 3, 4),
                ("c", (), read(x="21"), 5, 6),
            ),
        ),
        ("G1c", told(("a", add("x1"), read(y="2"), 1, 9), ("b", add("y2"), read(x="1"), 1, 9))),
        (
            "G-single",
            told(("a", add("x1", "y1"), (), 1, 9), ("b", (), read(x="1", y=""), 1, 9)),
        ),
        ("G2", told(("a", add("x1"), read(y=""), 1, 9), ("b", add("y2"), read(x=""), 1, 9))),
    ],
)
def test_each_anomaly_has_its_name(name: str, history: list[Operation]) -> None:
    found = anomalies(history)
    assert [each.name for each in found] == [name]
    assert str(found[0]).startswith(f"P3: {name}: ")
    assert not every_order(history)


def test_an_append_that_was_denied_and_is_read_is_found() -> None:
    history = told(("a", add("x1"), (), 1, 2), ("b", (), read(x="1"), 3, 4))
    assert not anomalies(history)
    (found,) = anomalies([replace(history[0], outcome="fail"), history[1]])
    assert found.name == "aborted read"


def test_an_append_of_unknown_outcome_counts_from_when_it_is_read() -> None:
    unknown = replace(told(("a", add("x1", "y1"), (), 1, 2))[0], outcome="unknown", ended=None)
    neither = told(("b", (), read(x="", y=""), 3, 4))
    both = told(("b", (), read(x="1", y="1"), 5, 6))
    half = told(("b", (), read(x="1", y=""), 5, 6))
    assert not anomalies([unknown, *neither])
    assert not anomalies([unknown, *neither, *both])
    assert anomalies([unknown, *neither, *half])


def test_an_element_appended_twice_is_not_judged() -> None:
    history = told(("a", add("x1"), (), 1, 2), ("b", add("x1"), (), 3, 4))
    with pytest.raises(ValueError, match="appended to x twice"):
        anomalies(history)
