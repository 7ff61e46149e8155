"""Throughput as bars: pure layout, from counts by the minute to rectangles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from outlive.clock import MICROS, rfc3339
from outlive.kinds.processes.census import BROKEN

if TYPE_CHECKING:
    from outlive.kinds.processes.history import Sample

BARS = 96
WIDTH, HEIGHT, GAP = 960.0, 100.0, 2.0


class Bar(Struct, frozen=True):
    """What ended in one stretch of time: all of it, and in front of it what failed."""

    x: float
    y: float
    width: float
    height: float
    failed: float
    failed_y: float
    title: str


class Chart(Struct, frozen=True):
    """Everything the page draws; no bars: nothing ended."""

    hours: int
    minutes: int
    width: float
    height: float
    bars: tuple[Bar, ...]
    first: str
    said: str


def chart_of(samples: Mapping[int, Sample], now: int, hours: int) -> Chart:
    """Bars of what ended in the last `hours`; `samples` by the minute since 1970."""
    minutes = hours * 60 // BARS
    last = now // (60 * MICROS) // minutes
    begins = last - BARS + 1
    ended, failed = [0] * BARS, [0] * BARS
    started = 0
    for minute, sample in samples.items():
        place = minute // minutes - begins
        if 0 <= place < BARS:
            started += sample.started
            ended[place] += sum(sample.ended.values())
            failed[place] += sum(sample.ended.get(status, 0) for status in BROKEN)
    highest = max(ended, default=0)
    pitch = WIDTH / BARS
    bars = [
        _bar(place, pitch, ended[place], failed[place], highest, (begins + place) * minutes)
        for place in range(BARS)
        if ended[place]
    ]
    said = f"{started:,} started, {sum(ended):,} ended, {sum(failed):,} of them failed"
    begin = rfc3339(begins * minutes * 60 * MICROS)
    return Chart(hours, minutes, WIDTH, HEIGHT, tuple(bars), f"{begin[11:16]} UTC", said)


def _bar(place: int, pitch: float, ended: int, failed: int, highest: int, minute: int) -> Bar:
    height = max(1.5, HEIGHT * ended / highest)
    broken = max(1.5, HEIGHT * failed / highest) if failed else 0.0
    title = f"{rfc3339(minute * 60 * MICROS)[11:16]} UTC: {ended:,} ended, {failed:,} failed"
    return Bar(
        round(place * pitch, 2), round(HEIGHT - height, 2), round(pitch - GAP, 2),
        round(height, 2), round(broken, 2), round(HEIGHT - broken, 2), title,
    )  # fmt: skip
