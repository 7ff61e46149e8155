"""The counters of this program's nodes by the metrics API of OpenTelemetry.

Observed, never told: an instrument asks for the counters when somebody collects them, so a step
costs nothing. The instruments are made once for a program, and sum up its nodes. Labels have few
values: the status of an end, the outcome of an attempt, what was full.

Nothing is imported or made while nobody in this program has imported the metrics API.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

    from outlive.kinds.processes import Stats
    from outlive.runtime.node import NodeRuntime

Told = Callable[["Stats"], dict[str, float]]
_nodes: weakref.WeakSet[NodeRuntime] = weakref.WeakSet()
_past: dict[str, dict[str, float]] = {}
"""What nodes have counted that have stopped: a counter never goes back."""
_made = False

COUNTERS: dict[str, tuple[str, str, Told]] = {
    "outlive.processes.started": ("", "", lambda stats: {"": stats.started}),
    "outlive.processes.ended": ("", "status", lambda stats: dict(stats.ended)),
    "outlive.step.attempts": (
        "",
        "outcome",
        lambda stats: {"done": stats.steps, "failed": stats.attempts_failed},
    ),
    "outlive.takeovers": ("", "", lambda stats: {"": stats.takeovers}),
    "outlive.turns": ("", "", lambda stats: {"": stats.turns}),
    "outlive.starts.refused": ("", "full", lambda stats: dict(stats.starts_refused)),
    "outlive.commits": ("", "", lambda stats: {"": stats.commits}),
    "outlive.commit.seconds": ("s", "", lambda stats: {"": stats.commit_seconds}),
}
"""Name, unit, label and what is told, by its value."""
GAUGES: dict[str, tuple[str, str, Told]] = {
    "outlive.processes.active": ("", "", lambda stats: {"": stats.active}),
    "outlive.shards": ("", "", lambda stats: {"": stats.shards}),
    "outlive.batches.pending": ("", "", lambda stats: {"": stats.pending}),
}


def observe(node: NodeRuntime) -> None:
    """Count `node` in until it is gone, where metrics are wanted in this program."""
    global _made
    if "opentelemetry.metrics" not in sys.modules:
        return
    _nodes.add(node)
    if not _made:
        _made = True
        _make()


def unobserve(node: NodeRuntime) -> None:
    """Count `node` out; what it has counted stays counted."""
    if node in _nodes:
        _nodes.discard(node)
        for name, (_, _, told) in COUNTERS.items():
            _add(_past.setdefault(name, {}), told(node.stats()))


def _make() -> None:
    from opentelemetry import metrics

    from outlive import __version__

    meter = metrics.get_meter("outlive", __version__)
    for name, (unit, label, told) in COUNTERS.items():
        meter.create_observable_counter(name, [_seen(name, label, told)], unit)
    for name, (unit, label, told) in GAUGES.items():
        meter.create_observable_gauge(name, [_seen(name, label, told)], unit)


def _add(sums: dict[str, float], told: dict[str, float]) -> None:
    for value, count in told.items():
        sums[value] = sums.get(value, 0) + count


def _seen(name: str, label: str, told: Told) -> Callable[[CallbackOptions], Iterator[Observation]]:
    from opentelemetry.metrics import Observation

    def seen(_: CallbackOptions) -> Iterator[Observation]:
        sums = dict(_past.get(name, {}))
        for node in list(_nodes):
            _add(sums, told(node.stats()))
        for value, total in sums.items():
            yield Observation(total, {label: value} if label else None)

    return seen
