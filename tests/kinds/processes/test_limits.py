"""Turns as a pure decision: for every run of the clock, no period sees more than its count."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw
from msgspec import Struct

from outlive import Limit, Rate
from outlive.errors import InvalidInput
from outlive.kinds.processes.limits import (
    RATE_PARTS,
    Line,
    Terms,
    place_in_line,
    turns,
    type_of,
)

waits = draw.lists(draw.tuples(draw.integers(0, 3000), draw.integers(0, 8)), max_size=80)


@given(waits=waits, count=draw.integers(1, 9), period=draw.integers(200, 5000))
@settings(max_examples=200, deadline=None)
def test_no_interval_of_a_period_sees_more_than_its_count(
    waits: list[tuple[int, int]], count: int, period: int
) -> None:
    line, now, begun = Line(), 1_000_000, list[int]()
    for pause, waiting in waits:
        now += pause
        go, line, again = turns(Terms(None, count, period), line, 0, waiting, now)
        assert 0 <= go <= waiting
        begun += [now] * go
        if go < waiting:
            assert again is not None and now < again <= now + period + period // RATE_PARTS + 1
            more, _, _ = turns(Terms(None, count, period), line, 0, waiting - go, again)
            assert more > 0, "at the time it names somebody may go"
    for early, late in zip(begun, begun[count:], strict=False):
        assert late - early >= period
    assert len(line.begun) <= RATE_PARTS + 2


@given(running=draw.integers(0, 20), waiting=draw.integers(0, 20), most=draw.integers(1, 10))
def test_places_are_never_more_than_there_are(running: int, waiting: int, most: int) -> None:
    go, _, again = turns(Terms(most), Line(), running, waiting, 0)
    assert again is None
    assert go == min(waiting, max(0, most - running))


def test_a_lower_count_applies_to_what_has_begun_already() -> None:
    period = 1_000_000
    _, line, _ = turns(Terms(None, 10, period), Line(), 0, 8, 5_000_000)
    go, _, again = turns(Terms(None, 5, period), line, 0, 3, 5_000_001)
    assert go == 0 and again is not None


def test_a_place_is_earlier_by_its_priority_and_in_order_of_coming() -> None:
    now = 1_800_000_000_000_000
    places = [place_in_line(now, 0), place_in_line(now, 0), place_in_line(now - 1, 0)]
    assert sorted(places) == [places[2], places[0], places[1]]
    assert place_in_line(now, 9) < place_in_line(now - 5_399_000_000, 0)
    assert place_in_line(now, 9) > place_in_line(now - 5_401_000_000, 0)


class Order(Struct):
    tenant: Any = None


def test_a_key_is_a_field_or_what_a_function_says_and_never_breaks_a_name() -> None:
    by_field = Limit(concurrency=1, per="tenant")
    assert by_field.key_of(Order("acme")) == "/acme"
    assert by_field.key_of({"tenant": 7}) == "/7"
    assert by_field.key_of(Order(None)) == "/None"
    odd = by_field.key_of(Order("a/b.c!"))
    assert odd.startswith("/~") and "/" not in odd[1:] and "!" not in odd
    assert Limit(concurrency=1, per=lambda order: order.tenant).key_of(Order("x")) == "/x"
    assert Limit(rate=Rate(1)).key_of(Order("x")) == ""
    assert type_of("import_files.1/a.b") == ("import_files", 1)
    with pytest.raises(InvalidInput, match="tenant"):
        by_field.key_of({"customer": 1})
