"""What stays in a cache, what instances share of it, and what a declaration may say."""

from __future__ import annotations

import dataclasses
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import accumulate, count, islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct

from outlive.clock import MICROS
from outlive.kinds.caches.plain import is_plain
from outlive.kinds.caches.rule import Bounds, Life, best_effort, bounded
from outlive.kinds.caches.shared import (
    MARGIN_SECONDS,
    STAMPS,
    VALUE_SPACE,
    VALUES,
    Fill,
    Take,
    Taken,
    stamp_put,
    stamp_ref,
)
from outlive.kinds.caches.sketch import COUNT_MAX, Sketch
from outlive.kinds.caches.tinylfu import ENTRY_BYTES, Entry, TinyLFU
from outlive.model import Batch, Cell, Ref

FAR = 1e12


def entry(key: int, size: int = 1, expires: float = FAR) -> Entry:
    return Entry(key, size, expires)


# --- what stays -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 300), max_size=400))
def test_the_sketch_never_counts_too_low_and_fades(keys: list[int]) -> None:
    sketch, truth = Sketch(64), dict.fromkeys(keys, 0)
    for key in keys:
        truth[key] += 1
        sketch.remember(key, truth[key])
    for key, times in truth.items():
        assert sketch.count(key) >= min(times, COUNT_MAX)
    sketch.age()
    for key, times in truth.items():
        assert sketch.count(key) >= min(times, COUNT_MAX) // 2


ASKED = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 400), st.sampled_from((FAR, FAR, 5.0)),
              st.sampled_from(("ask", "ask", "ask", "drop", "clear"))),
    max_size=200,
)  # fmt: skip


@given(ASKED, st.integers(1, 30), st.integers(100, 2000))
def test_no_bound_is_ever_passed_and_the_books_are_right(
    asked: list[tuple[int, int, float, str]], entries: int, size: int
) -> None:
    policy = TinyLFU(Bounds(entries=entries, bytes=size, value_bytes=size))
    for number, (key, weight, expires, what) in enumerate(asked):
        if what == "drop":
            policy.drop(key, "invalidated")
        elif what == "clear" and number % 7 == 0:
            policy.clear("dropped")
        else:
            ask(policy, key, weight, expires)
        policy.settle()
        kept = list(policy)
        assert len(kept) == len(policy) <= entries
        assert policy.bytes == sum(one.size for one in kept) <= size
        assert len({one.key for one in kept}) == len(kept)
        parts = [policy._window, policy._main, policy._protected]
        assert sum(map(len, parts)) == len(kept)
        assert policy._window_bytes == sum(one.size for one in policy._window.values())
        assert policy._protected_bytes == sum(one.size for one in policy._protected.values())


def ask(policy: TinyLFU, key: int, weight: int = 1, expires: float = FAR) -> bool:
    found = policy.find(key)
    if found is not None:
        policy.hit(found)
        return True
    policy.miss()
    policy.put(entry(key, weight, expires), now=10.0)
    return False


def test_one_huge_value_does_not_empty_the_cache() -> None:
    policy = TinyLFU(Bounds(entries=1000, bytes=10_000, value_bytes=9_000))
    for _ in range(5):
        for key in range(90):
            ask(policy, key, 100)
    policy.settle()
    kept = len(policy)
    assert policy.put(entry(-1, 9_000), 10.0) == "not admitted"
    assert policy.put(entry(-2, 99_000), 10.0) == "too large"
    assert len(policy) == kept >= 80


def test_what_has_expired_goes_first() -> None:
    policy = TinyLFU(Bounds(entries=100, bytes=10_000))
    for key in range(99):
        for _ in range(3):
            ask(policy, key, 1, expires=5.0)
    for key in range(1000, 1099):
        ask(policy, key)
        ask(policy, key)
    assert sum(one.expires == FAR for one in policy) > 80


def test_a_scan_passes_through_and_leaves_the_rest() -> None:
    policy = TinyLFU(Bounds(entries=500))
    for _ in range(8):
        for key in range(400):
            ask(policy, key)
    for key in range(10_000, 20_000):
        ask(policy, key)
    assert sum(one.key < 400 for one in policy) > 350


class Recent:
    """Plain LRU, to be compared with."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._keys: OrderedDict[int, None] = OrderedDict()

    def ask(self, key: int) -> bool:
        found = key in self._keys
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > self._entries:
            self._keys.popitem(last=False)
        return found


def zipf(keys: int, power: float, seed: int = 7) -> Iterator[int]:
    drawn = random.Random(seed)
    weights = list(accumulate(1.0 / (rank**power) for rank in range(1, keys + 1)))
    while True:
        yield drawn.choices(range(keys), cum_weights=weights)[0]


def zipf_and_scans(keys: int) -> Iterator[int]:
    asked, fresh = zipf(keys, 0.9), count(1_000_000)
    while True:
        yield from islice(asked, 3000)
        yield from islice(fresh, 1000)


def recency(keys: int) -> Iterator[int]:
    """Each key is asked for a few times soon after its first, and then never again."""
    drawn = random.Random(3)
    for first in count():
        yield first
        yield max(0, first - drawn.randrange(keys))
        yield max(0, first - drawn.randrange(keys))


def rates(trace: Callable[[], Iterator[int]], entries: int, asked: int) -> tuple[float, float]:
    """The hit rates of ours and of LRU, behind a warm-up of a third."""
    policy, recent = TinyLFU(Bounds(entries=entries)), Recent(entries)
    ours = theirs = 0
    for number, key in enumerate(islice(trace(), asked)):
        hit, plain = ask(policy, key), recent.ask(key)
        if number >= asked // 3:
            ours, theirs = ours + hit, theirs + plain
    behind = asked - asked // 3
    return ours / behind, theirs / behind


def test_on_a_zipf_trace_it_finds_more_than_lru() -> None:
    ours, theirs = rates(lambda: zipf(5000, 0.9), 250, 24_000)
    weights = [1.0 / rank**0.9 for rank in range(1, 5001)]
    best = sum(weights[:250]) / sum(weights)  # who knew the popularity of all keys
    assert ours > theirs + 0.05 and ours > 0.9 * best, (ours, theirs, best)


def test_between_scans_it_finds_more_than_lru() -> None:
    ours, theirs = rates(lambda: zipf_and_scans(5000), 250, 24_000)
    assert ours > theirs + 0.05, (ours, theirs)


def test_where_recency_pays_its_window_grows() -> None:
    ours, theirs = rates(lambda: recency(160), 200, 60_000)
    assert ours > theirs - 0.1, (ours, theirs)


# --- what is shared -------------------------------------------------------------------------------

STAMPS_NOW = (3, 0)


def decided(cell: Cell | None, command: Take | Fill, second: float) -> tuple[Cell | None, Taken]:
    ref = Ref(VALUE_SPACE, command.key)
    made = VALUES.decide({ref: cell}, command, round(second * MICROS))
    for put in made.batch.put:
        cell = Cell(ref.space, ref.key, put.value, 1, put.due)
    return cell, made.reply


def take(token: str, **more: Any) -> Take:
    return Take("prices/k", token, 10.0, more.pop("stamps", STAMPS_NOW), **more)


def fill(token: str, data: bytes | None = b"7", began: float = 1.0, **more: Any) -> Fill:
    given = None if data is None else Raw(data)
    stamps = more.pop("stamps", STAMPS_NOW)
    return Fill("prices/k", token, given, stamps, round(began * MICROS), 60.0, 90.0)


def test_one_instance_loads_and_the_others_wait_for_it() -> None:
    cell, first = decided(None, take("a"), 1)
    cell, second = decided(cell, take("b"), 2)
    assert first.is_leased and not second.is_leased and second.wait_until == 11 * MICROS
    cell, _ = decided(cell, fill("a"), 3)
    _, third = decided(cell, take("b"), 4)
    assert third.found is not None and bytes(third.found.data) == b"7"
    assert third.found.ends == 61 * MICROS


def test_a_dead_loader_is_followed_and_what_it_brings_later_is_refused() -> None:
    cell, _ = decided(None, take("dead"), 1)
    cell, next_one = decided(cell, take("b"), 11)
    assert next_one.is_leased
    after, _ = decided(cell, fill("dead", b"6"), 12)
    assert after == cell
    cell, _ = decided(cell, fill("b", began=11), 13)
    _, found = decided(cell, take("c"), 14)
    assert found.found is not None


def test_what_was_loaded_under_other_stamps_is_of_no_use() -> None:
    cell, _ = decided(None, take("slow"), 1)
    cell, _ = decided(cell, fill("slow"), 2)
    _, reader = decided(cell, take("b", stamps=(4, 0)), 3)
    assert reader.is_leased


def test_who_wants_a_newer_one_takes_what_is_newer_than_its_own() -> None:
    cell, _ = decided(None, take("a"), 1)
    cell, _ = decided(cell, fill("a", began=1), 2)
    _, older = decided(cell, take("b", known=1 * MICROS), 3)
    _, newer = decided(cell, take("b", known=1 * MICROS - 1), 3)
    assert older.is_leased and newer.found is not None


def test_a_lease_that_is_given_back_is_free_at_once() -> None:
    cell, _ = decided(None, take("a"), 1)
    cell, _ = decided(cell, fill("a", None), 2)
    _, other = decided(cell, take("b"), 2)
    assert other.is_leased


STEPS = st.lists(
    st.tuples(st.sampled_from(("take", "fill", "back", "stamp")), st.sampled_from("abc"),
              st.sampled_from((0.0, 1.0, 12.0))),
    max_size=50,
)  # fmt: skip


@given(STEPS)
def test_two_never_load_at_once_and_nothing_is_served_under_other_stamps(
    steps: list[tuple[str, str, float]],
) -> None:
    cell: Cell | None = None
    now, stamp = 100.0, 1
    holders: dict[str, tuple[float, int]] = {}
    for what, who, pause in steps:
        now += pause
        holders = {name: held for name, held in holders.items() if held[0] > now}
        if what == "stamp":
            stamp += 1
        elif what == "take":
            cell, reply = decided(cell, take(who, stamps=(stamp,)), now)
            if reply.found is not None:
                assert reply.found.stamps == (stamp,)
            if reply.is_leased:
                holders[who] = (now + 10.0, stamp)
        else:
            under = holders.pop(who, (0.0, stamp))[1]
            data = b"1" if what == "fill" else None
            cell, _ = decided(cell, fill(who, data, now, stamps=(under,)), now)
        assert len(holders) <= 1


def test_a_stamp_goes_only_when_nothing_older_can_live() -> None:
    put = stamp_put(stamp_ref("prices", "*"), 300.0)
    cell = Cell(put.ref.space, put.ref.key, put.value, 5, put.due)
    (noted,) = STAMPS.on_due(cell, 50 * MICROS).put
    assert noted.due == round((50 + 300 + MARGIN_SECONDS) * MICROS)
    cell = Cell(put.ref.space, put.ref.key, noted.value, 6, noted.due)
    assert STAMPS.on_due(cell, noted.due or 0) == Batch(drop=(cell.ref,))


# --- declarations and values ----------------------------------------------------------------------


class Open(Struct):
    name: str


class Frozen(Struct, frozen=True):
    inner: Any


@dataclasses.dataclass(frozen=True)
class Fixed:
    inner: Any


@dataclasses.dataclass
class Loose:
    inner: Any


def test_only_what_nobody_can_change_is_handed_out_itself() -> None:
    plain = ["text", 7, None, (1, ("a", b"b")), Frozen((1, 2)), Fixed("x"), frozenset({1})]
    loose = [[1], {"a": 1}, Open("a"), Frozen([1]), Loose(1), Fixed({}), ((1, [2]),), {1}]
    assert all(is_plain(value) for value in plain)
    assert not any(is_plain(value) for value in loose)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: bounded(0.0), lambda: best_effort(-1.0), lambda: Bounds(entries=0),
        lambda: Bounds(bytes=0), lambda: Life(ttl=0.0), lambda: Life(jitter=2.0),
        lambda: Life(if_error=-1.0), lambda: Life(negative=0.0),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"must be|above 0|jitter"):
        wrong()


def test_what_an_entry_costs_is_counted() -> None:
    assert entry(1).__sizeof__() <= ENTRY_BYTES
