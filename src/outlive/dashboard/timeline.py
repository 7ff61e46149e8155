"""The life of one process as bars on a time axis: pure layout, in percent of the width.

A process may work for milliseconds and wait for days, so the axis is not linear: between two
moments at which something happened it is as wide as the logarithm of the time between them. Order
is exact, every bar can be seen, and durations are written out beside them.

    step · transact   one bar for each attempt: done, failed, interrupted (its node died), running
    wait · sleep      one bar, hatched
    undo              as a step, in its own colour
    take-over         a line through all rows, where another node went on
"""

from __future__ import annotations

from itertools import pairwise
from math import log2
from typing import TYPE_CHECKING

from msgspec import Struct

from outlive.dashboard.times import duration
from outlive.kinds.processes import FINAL

if TYPE_CHECKING:
    from outlive.kinds.processes import AttemptView, PastState, StepView, View

ROWS_MAX = 400
"""Steps shown of one process: the latest ones."""
TICK_GAP_PERCENT = 9.0
BAR_PERCENT_MIN = 0.7
_ALWAYS = 0.6
"""The width of an interval in which no time passed, beside that of a millisecond, which is 1
more."""


class Bar(Struct, frozen=True):
    """A stretch of a row; `look` is its class."""

    x: float
    width: float
    look: str
    title: str


class Tick(Struct, frozen=True):
    """A labelled place on the axis."""

    x: float
    label: str
    anchor: str


class Row(Struct, frozen=True):
    """One step with its bars."""

    key: str
    """Its own for ever, so that a page that looks again knows which of its rows it is."""
    step: StepView
    look: str
    took: str
    bars: tuple[Bar, ...]
    note: str


class Timeline(Struct, frozen=True):
    """Everything the page draws."""

    states: tuple[Bar, ...]
    rows: tuple[Row, ...]
    ticks: tuple[Tick, ...]
    takeovers: tuple[Tick, ...]
    hidden: int
    running: Bar | None
    """What goes on since the last durable event: not recorded yet, so it may have to be done
    again."""


class Axis:
    """From a moment to its place, in percent."""

    def __init__(self, moments: set[int]) -> None:
        self.moments = sorted(moments)
        places, x = [0.0], 0.0
        for before, after in pairwise(self.moments):
            x += _ALWAYS + log2(1 + (after - before) / 1_000)
            places.append(x)
        whole = x or 1.0
        self._places = {
            moment: 100 * place / whole for moment, place in zip(self.moments, places, strict=True)
        }

    def at(self, moment: int) -> float:
        """The place of `moment`, which must be one of those the axis was made of."""
        return self._places[moment]

    def bar(self, began: int, ended: int, look: str, title: str) -> Bar:
        """A bar from `began` to `ended`, never too thin to be seen."""
        x = self.at(began)
        width = max(BAR_PERCENT_MIN, self.at(ended) - x)
        return Bar(round(min(x, 100 - width), 3), round(width, 3), look, title)


def timeline(view: View, now: int) -> Timeline:
    """Lay `view` out as it stands at `now` (microseconds since 1970 UTC)."""
    until = max(now if view.ended is None else view.ended, view.changed)
    steps = view.steps[-ROWS_MAX:]
    hidden = len(view.steps) - len(steps)
    axis = Axis(_moments(view, steps, until))
    stopped = view.status in ("stuck", "paused")
    working = view.status in ("running", "compensating")
    running = None
    if working:
        title = f"since the last durable event: {duration(until - view.changed)}"
        running = axis.bar(view.changed, until, "running", title)
    return Timeline(
        states=tuple(_states(view, axis, until)),
        rows=tuple(
            _row(step, f"step-{view.era}-{number}", axis, until, stopped)
            for number, step in enumerate(steps, hidden)
        ),
        ticks=tuple(_ticks(axis, view.started)),
        takeovers=tuple(
            Tick(round(axis.at(past.at), 3), past.why, "middle")
            for past in view.history
            if is_takeover(past)
        ),
        hidden=hidden,
        running=running,
    )


def is_takeover(past: PastState) -> bool:
    """Whether this line of the history says that another node went on after a crash."""
    return past.why.startswith("taken over")


def _moments(view: View, steps: tuple[StepView, ...], until: int) -> set[int]:
    found = {view.started, view.changed, until}
    found |= {past.at for past in view.history}
    for step in steps:
        found |= {step.began, until if step.ended is None else step.ended}
        for attempt in step.attempts:
            found |= {attempt.began, until if attempt.ended is None else attempt.ended}
    return found


def _states(view: View, axis: Axis, until: int) -> list[Bar]:
    shown = []
    for past, following in zip(view.history, [*view.history[1:], None], strict=True):
        ended = until if following is None else following.at
        if following is None and past.status in FINAL:
            ended = past.at
        title = f"{past.status}, {duration(ended - past.at)}" + (
            f": {past.why}" if past.why else ""
        )
        shown.append(axis.bar(past.at, ended, f"state-{past.status}", title))
    return shown


def _row(step: StepView, key: str, axis: Axis, until: int, stopped: bool) -> Row:
    gave_up = step.ended is None and step.attempts and step.attempts[-1].outcome == "failed"
    ended = until if step.ended is None else step.ended
    if gave_up and stopped:  # nobody is at it any more until a person asks for it
        ended = step.attempts[-1].ended or until
    took = duration(ended - step.began)
    if step.kind in ("wait", "sleep") or not step.attempts:
        look = "timeout" if step.outcome == "timeout" else step.kind
        bars = [axis.bar(step.began, ended, look, f"{step.outcome}, {took}")]
    else:
        bars = [_attempt(step, attempt, axis, until) for attempt in step.attempts]
    lost = sum(attempt.outcome == "interrupted" for attempt in step.attempts)
    tried = len(step.attempts) - lost
    notes = [f"{tried} attempts"] if tried > 1 else []
    if lost:
        notes.append("killed once" if lost == 1 else f"killed {lost} times")
    if gave_up and stopped:
        notes.append("gave up")
    return Row(key, step, step.kind, took, tuple(bars), ", ".join(notes) or step.outcome)


def _attempt(step: StepView, attempt: AttemptView, axis: Axis, until: int) -> Bar:
    ended = until if attempt.ended is None else attempt.ended
    title = f"attempt {attempt.number}: {attempt.outcome}, {duration(ended - attempt.began)}"
    if attempt.error is not None:
        title += f", {attempt.error.type}: {attempt.error.message}"
    look = f"undo-{attempt.outcome}" if step.kind == "undo" else attempt.outcome
    return axis.bar(attempt.began, ended, look, title)


def _ticks(axis: Axis, started: int) -> list[Tick]:
    whole = f"+{duration(axis.moments[-1] - started)}"
    shown = [Tick(0.0, "0", "start")]
    for moment in axis.moments[1:-1]:
        x, label = axis.at(moment), f"+{duration(moment - started)}"
        if label in (shown[-1].label, whole):  # what happened in one blink is written once
            continue
        if shown[-1].x + TICK_GAP_PERCENT <= x <= 100 - TICK_GAP_PERCENT:
            shown.append(Tick(round(x, 3), label, "middle"))
    shown.append(Tick(100.0, whole, "end"))
    return shown
