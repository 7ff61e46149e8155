"""Spans of what runs, by the API of OpenTelemetry: a trace for each stretch of a process.

    start T      where it is started; its context is kept with the process
    ├─ step S    each attempt, until the process first waits or moves; `undo S` likewise
    resume T     a new trace behind a wait, a sleep or a take-over: linked to the start, and to
    ├─ step S    whoever sent the signal; not its child, so no trace lasts for days

Names and attributes have few values (type, version, step, outcome); ids are attributes of spans
only. No input, result or error text is told: they may be anybody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    NoOpTracerProvider,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
)

from outlive import __version__, steps
from outlive.errors import Cancelled, Discarded
from outlive.runtime.telemetry import Telemetry

if TYPE_CHECKING:
    from outlive.kinds.processes import Definition
    from outlive.kinds.processes.vocabulary import Signal
    from outlive.runtime.activation import Activation

_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def tracer_here() -> Tracing | None:
    """The tracing of this program; None when no tracer provider was set."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, (ProxyTracerProvider, NoOpTracerProvider)):
        return None
    return Tracing(provider.get_tracer("outlive", __version__))


class Tracing(Telemetry):
    """Spans of one application, made by `tracer`."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    @contextmanager
    def starting(self, made: Definition, caller: str) -> Iterator[str]:
        parent = None
        if not trace.get_current_span().get_span_context().is_valid and (far := read(caller)):
            parent = _under(far)
        said: dict[str, str | int] = {"outlive.type": made.name, "outlive.version": made.version}
        with self._tracer.start_as_current_span(
            f"start {made.name}",
            parent,
            SpanKind.PRODUCER,
            said,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield written(span.get_span_context())
            except BaseException as error:
                _failed(span, error)
                raise

    def here(self) -> str:
        return written(trace.get_current_span().get_span_context())

    def resumed(self, activation: Activation, id: str, signal: Signal | None) -> None:
        why = "sleep" if id.rpartition("/")[2].startswith("sleep") else "wait"
        if why == "wait" and signal is None:
            why = "time-out"
        self._begin(activation, why, "" if signal is None else signal.trace)

    @contextmanager
    def attempt(
        self, activation: Activation, name: str, running: steps.Attempt | None = None
    ) -> Iterator[None]:
        running = running or steps.attempt()
        what = "undo" if running.undoing else "step"
        head = activation.head
        said: dict[str, str | int] = {
            "outlive.type": head.type,
            "outlive.version": head.version,
            "outlive.process": activation.id,
            "outlive.step": name,
            "outlive.step_id": running.id,
            "outlive.attempt": running.number,
        }
        span = self._tracer.start_span(
            f"{what} {name}", _under(self._stretch(activation)), SpanKind.INTERNAL, said
        )
        outcome = "done"
        try:
            with (
                trace.use_span(span, record_exception=False, set_status_on_exception=False),
                super().attempt(activation, name),
            ):
                yield
        except BaseException as error:
            outcome = _failed(span, error)
            raise
        finally:
            span.set_attribute("outlive.outcome", outcome)
            span.end()

    # --- stretches --------------------------------------------------------------------------------

    def _stretch(self, activation: Activation) -> SpanContext:
        """Under what the next attempt of a process goes."""
        found: SpanContext | None = getattr(activation, "trace", None)
        if found is not None:
            return found
        journal = activation.journal
        goes_on = journal.records or journal.attempts or activation.recovered
        if activation.loaded and goes_on:
            ended = next(reversed(journal.waited.values()), None)
            n = None if ended is None else ended.signal
            sender = "" if n is None else journal.signals[n].trace
            why = "take-over" if activation.recovered else "wake"
            return self._begin(activation, why, sender)
        started = journal.started
        far = read(started.trace) if started is not None else None
        context = activation.trace = far or SpanContext(0, 0, is_remote=True)
        return context

    def _begin(self, activation: Activation, why: str, sender: str) -> SpanContext:
        """A new stretch: a trace of its own, linked to the start and to `sender`."""
        started = activation.journal.started
        links = []
        for kind, far in (("start", started.trace if started else ""), ("signal", sender)):
            if (context := read(far)) is not None:
                links.append(Link(context, {"outlive.link": kind}))
        head = activation.head
        span = self._tracer.start_span(
            f"resume {head.type}",
            contexts.Context(),
            SpanKind.CONSUMER,
            {
                "outlive.type": head.type,
                "outlive.version": head.version,
                "outlive.process": activation.id,
                "outlive.why": why,
            },
            links,
        )
        span.end()
        context = activation.trace = span.get_span_context()
        return context


def written(context: SpanContext) -> str:
    """`context` as W3C Trace Context writes it; empty when it is none."""
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def read(text: str) -> SpanContext | None:
    """The context that `text` says, if it says one."""
    found = _PARENT.fullmatch(text)
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None


def _under(context: SpanContext) -> contexts.Context:
    return trace.set_span_in_context(NonRecordingSpan(context), contexts.Context())


def _failed(span: Span, error: BaseException) -> str:
    """Say that `error` came out of what `span` is about: its type, never its words."""
    if isinstance(error, (Cancelled, Discarded)) or type(error).__name__ == "CancelledError":
        return "interrupted"
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR, type(error).__name__))
    return "failed"
