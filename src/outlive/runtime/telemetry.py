"""What is told to the outside about what runs: decided once, when the application is opened.

    nothing configured      `node.telemetry` is None: one look at it for each step, and nothing else
    a log filter was made   the context variable of a step is put back behind it (logs.py)
    a tracer provider       spans as well (tracing.py)

OpenTelemetry is not even imported while nobody in this program has.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from outlive import logs, steps

if TYPE_CHECKING:
    from outlive.kinds.processes import Definition
    from outlive.kinds.processes.vocabulary import Signal
    from outlive.runtime.activation import Activation


class Telemetry:
    """Keeps the context variable that log lines are told apart by; tells nobody else."""

    @contextmanager
    def starting(self, made: Definition, caller: str) -> Iterator[str]:
        """The time of a start; gives the trace context to be kept with the process. `caller`: that
        of a caller elsewhere, as W3C Trace Context writes it."""
        yield ""

    def here(self) -> str:
        """The trace context of whoever calls, to be kept; empty when there is none."""
        return ""

    def resumed(self, activation: Activation, id: str, signal: Signal | None) -> None:
        """A wait or sleep has just ended."""

    async def live(self, activation: Activation, value: Any, decoded: bool) -> None:
        """Run the body of `activation`, as `body.live` does."""
        from outlive.runtime.body import live

        steps.set_attempt(_between(activation))
        await live(activation, value, decoded)

    @contextmanager
    def attempt(
        self, activation: Activation, name: str, running: steps.Attempt | None = None
    ) -> Iterator[None]:
        """The time of one attempt at a step, or at an undo."""
        try:
            yield
        finally:
            steps.set_attempt(_between(activation))


def _between(activation: Activation) -> steps.Attempt:
    """What runs in a body between two steps."""
    return steps.Attempt(activation.head.stream, "", 0, activation.id)


def telemetry_here() -> Telemetry | None:
    """What is wanted in this program: None when it is nothing."""
    if "opentelemetry.trace" in sys.modules or os.environ.get("OTEL_PYTHON_TRACER_PROVIDER"):
        from outlive.runtime.tracing import tracer_here

        tracing = tracer_here()
        if tracing is not None:
            return tracing
    return Telemetry() if logs.are_wanted() else None
