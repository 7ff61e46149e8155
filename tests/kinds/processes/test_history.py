"""Throughput by the minute."""

from __future__ import annotations

from outlive.kinds.processes import Stats
from outlive.kinds.processes.history import (
    KEPT_HOURS,
    SPACE,
    Sample,
    hour_of,
    samples_in,
    since,
    written,
)
from outlive.model import Cell


def test_what_happened_is_the_difference_of_two_looks() -> None:
    before = Stats(started=3, steps=7, ended={"done": 2})
    now = Stats(started=5, steps=7, attempts_failed=1, ended={"done": 2, "failed": 1})
    assert since(before, now) == Sample(2, 0, 1, {"failed": 1})
    assert since(now, now) is None


def test_samples_of_several_nodes_are_added_up() -> None:
    mine = written(500, "a", {"7": Sample(1, ended={"done": 1})}, ()).put[0]
    other = written(500, "b", {"7": Sample(2, ended={"failed": 1}), "8": Sample(3)}, ()).put[0]
    cells = [Cell(SPACE, put.ref.key, put.value, 1) for put in (mine, other)]
    assert samples_in(cells) == {
        500 * 60 + 7: Sample(3, ended={"done": 1, "failed": 1}),
        500 * 60 + 8: Sample(3),
    }


def test_hours_that_are_a_week_old_go_with_a_write() -> None:
    old = [Cell(SPACE, f"{hour:08d} a", b"{}", 1) for hour in (1, 500 - KEPT_HOURS)]
    batch = written(500, "a", {}, old)
    assert [hour_of(ref.key) for ref in batch.drop] == [1]
    assert batch.storage == "relaxed"
    assert batch.put[0].due == (500 + KEPT_HOURS) * 3600 * 1_000_000
