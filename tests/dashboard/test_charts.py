"""From counts to bars."""

from __future__ import annotations

from outlive.clock import MICROS
from outlive.dashboard.charts import BARS, HEIGHT, WIDTH, chart_of
from outlive.kinds.processes.history import Sample

NOW = 1_790_000_000 * MICROS
MINUTE = NOW // (60 * MICROS)


def test_bars_are_as_high_as_what_ended_and_none_leaves_the_frame() -> None:
    samples = {
        MINUTE: Sample(started=9, ended={"done": 4}),
        MINUTE - 60: Sample(ended={"done": 6, "failed": 2}),
        MINUTE - 24 * 60 - 30: Sample(ended={"done": 1000}),
    }
    chart = chart_of(samples, NOW, 24)
    assert len(chart.bars) == 2, "what is older than a day is not drawn"
    earlier, now = chart.bars
    assert earlier.height == HEIGHT and now.height == HEIGHT / 2 and earlier.x < now.x
    assert earlier.failed == HEIGHT / 4 and now.failed == 0
    assert now.x + now.width <= WIDTH
    assert chart.said == "9 started, 12 ended, 2 of them failed"
    assert "8 ended, 2 failed" in earlier.title and "UTC" in chart.first


def test_minutes_of_one_bar_are_added_up() -> None:
    per_bar = 24 * 60 // BARS
    first = MINUTE // per_bar * per_bar
    samples = {first + n: Sample(ended={"done": 1}) for n in range(per_bar)}
    (bar,) = chart_of(samples, (first + per_bar - 1) * 60 * MICROS, 24).bars
    assert f"{per_bar} ended" in bar.title


def test_nothing_ended_is_no_bar() -> None:
    assert chart_of({}, NOW, 24).bars == ()
