"""Each oracle is silent about what is right, and names what is not."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from outlive.testing.oracles import Facts
from outlive.testing.promises import (
    PROMISES,
    Deed,
    p2_pairs_agree,
    p3_cells_are_linearizable,
    p6_claimed_work_ends_once,
    p9_readers_saw_the_journal,
    p12_nothing_is_left,
    p13_unknown_is_unknown,
)

WRITE = Deed("x", "write", "a", 1, 0, 1, 2, "ok")
READ = Deed("x", "read", "a", 1, 0, 3, 4, "ok")
LATER = Deed("x", "write", "b", 2, 1, 5, 6, "ok")


def test_every_promise_has_an_oracle_or_a_reason_why_not() -> None:
    assert list(PROMISES) == [f"P{number}" for number in range(1, 15)]
    for oracles in PROMISES.values():
        assert oracles if isinstance(oracles, str) else all(callable(one) for one in oracles)


def test_pairs_agree() -> None:
    assert p2_pairs_agree([("x", "a", "a")]) == []
    assert len(p2_pairs_agree([("x", "a", "a"), ("y", "a", "b")])) == 1


def test_a_history_that_fits_one_order_is_linearizable() -> None:
    unknown = replace(LATER, outcome="unknown", version=0)
    seen = Deed("x", "read", "b", 2, 0, 7, 8, "ok")
    beside = Deed("x", "read", "", 0, 0, 0, 9, "ok")
    assert p3_cells_are_linearizable([WRITE, READ, unknown, seen, beside]) == []


def test_a_read_of_what_was_replaced_before_it_began_is_seen() -> None:
    stale = replace(READ, began=7, ended=8)
    assert p3_cells_are_linearizable([WRITE, LATER, stale]) != []


def test_a_lost_update_a_value_of_nobody_and_a_version_with_two_values_are_seen() -> None:
    twice = replace(LATER, value="c", version=3)
    assert any("replaced 2 times" in one for one in p3_cells_are_linearizable([LATER, twice]))
    assert any("nobody wrote" in one for one in p3_cells_are_linearizable([READ]))
    other = replace(READ, value="b")
    assert any("says" in one for one in p3_cells_are_linearizable([WRITE, LATER, other]))


def test_a_write_that_took_effect_twice_is_seen() -> None:
    again = replace(READ, version=3, began=7, ended=8)
    flaws = p3_cells_are_linearizable([WRITE, READ, LATER, again])
    assert any("a was written as version 1 and as 3" in one for one in flaws)


def test_an_update_is_lost_also_when_nobody_was_told_of_it() -> None:
    lost = replace(LATER, version=0, outcome="unknown")
    seen = replace(READ, value="b", version=2, began=7, ended=8)
    over = replace(LATER, value="c", version=3, began=9, ended=10)
    flaws = p3_cells_are_linearizable([WRITE, lost, seen, over])
    assert any("version 3 replaced 1, and 2 was there" in one for one in flaws)
    sound = replace(over, required=2)
    assert p3_cells_are_linearizable([WRITE, lost, seen, sound]) == []
    late = replace(seen, version=4, began=11, ended=12)
    flaws = p3_cells_are_linearizable([WRITE, lost, replace(over, version=2), late])
    assert any("version 4 replaced 1, and 2 was there" in one for one in flaws)


def test_claimed_work_is_done_once() -> None:
    assert p6_claimed_work_ends_once(["a"], [], ["a"]) == []
    assert len(p6_claimed_work_ends_once(["a", "b"], ["a"], ["a", "a"])) == 3


def test_a_reader_that_skipped_is_seen() -> None:
    class Seen:
        stream, n, chain = "s", 0, b""

        def __init__(self, seq: int) -> None:
            self.seq = seq

    tail: Any = tuple(Seen(seq) for seq in (1, 2, 3))
    facts = Facts((), (), {0: tail}, {})
    assert p9_readers_saw_the_journal(facts, {0: tail[:2]}) == []
    assert len(p9_readers_saw_the_journal(facts, {0: (tail[0], tail[2])})) == 2


def test_what_is_left_is_counted_against_its_limit() -> None:
    assert p12_nothing_is_left("a", {"things": 1}, {"things": 1}) == []
    assert len(p12_nothing_is_left("a", {"things": 2}, {"things": 1})) == 1


def test_what_was_refused_and_is_there_is_seen() -> None:
    refused = replace(WRITE, outcome="failed", version=0)
    assert p13_unknown_is_unknown([refused, replace(READ, value="b")]) == []
    assert len(p13_unknown_is_unknown([refused, READ])) == 1
    assert p13_unknown_is_unknown([replace(refused, outcome="unknown"), READ]) == []
