"""Counts that say where they stopped."""

from __future__ import annotations

from outlive.kinds.processes import STATUSES, Summary
from outlive.kinds.processes.census import (
    UNFINISHED,
    Census,
    Count,
    failing_of,
    standing_of,
)


def line(type: str, version: int, status: str, started: int) -> Summary:
    return Summary(f"x_{started}", type, version, status, started, started, "", None)


def test_a_number_that_met_its_bound_has_a_plus() -> None:
    assert (str(Count(7)), str(Count(1000, True))) == ("7", "1,000+")


def test_what_is_under_way_stands_by_type_and_version_newest_version_first() -> None:
    lines = [line("b", 1, "waiting", 5), line("a", 1, "running", 3), line("a", 2, "queued", 9)]
    found = standing_of([*lines, line("a", 1, "waiting", 2)])
    assert [(one.type, one.version, one.number) for one in found] == [
        ("a", 2, 1), ("a", 1, 2), ("b", 1, 1),
    ]  # fmt: skip
    assert found[1].oldest == 2 and found[1].statuses == {"running": 1, "waiting": 1}


def test_the_type_that_fails_most_comes_first_with_its_last_failure() -> None:
    found = failing_of(
        [line("a", 1, "failed", 1), line("b", 1, "failed", 2), line("b", 1, "stuck", 7)]
    )
    assert [one.type for one in found] == ["b", "a"]
    assert found[0].last.started == 7 and found[0].statuses == {"failed": 1, "stuck": 1}


def test_what_is_under_way_is_all_that_has_not_ended() -> None:
    counts = {status: Count(1, status == "stuck") for status in STATUSES}
    census = Census(0, counts, (), (), (), ())
    assert census.unfinished == Count(len(UNFINISHED), True) and census.bounded
