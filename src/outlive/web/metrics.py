"""Metrics in OpenMetrics text, from the counters of this instance since it started.

Every label has few values, fixed by the code: the type of a process, the kind of request, the
status of the answer. No id, no path as it was sent, no error text: a scrape costs the same after a
year.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from outlive.kinds.processes import COMMIT_SECONDS, Stats
from outlive.web.messages import Request, Response
from outlive.web.metered import (
    escape,
    head,
    lines_of_caches,
    lines_of_dependencies,
    lines_of_requests,
)

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.kinds.processes.limits import Backlog

CONTENT_TYPE = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
PHASES = ("new", "starting", "ready", "draining", "stopped")

Kind = Literal["counter", "gauge"]

FAMILIES: tuple[tuple[str, str, Kind, str], ...] = (
    ("started", "outlive_processes_started", "counter", "Processes started here."),
    ("ended", "outlive_processes_ended", "counter", "Processes that ended here, by status."),
    ("steps", "outlive_steps", "counter", "Steps recorded."),
    ("attempts_failed", "outlive_attempts_failed", "counter", "Attempts at a step that failed."),
    ("takeovers", "outlive_takeovers", "counter", "Processes taken over from a gone node."),
    ("commits", "outlive_commits", "counter", "Commits of the store."),
    ("batches", "outlive_batches", "counter", "Batches in those commits."),
    ("crashes", "outlive_crashes", "counter", "Processes gone on with after a crash."),
    ("refused", "outlive_batches_refused", "counter", "Batches the store refused."),
    ("fenced", "outlive_fenced", "counter", "Commits refused because the shard had a new owner."),
    ("commit_seconds", "outlive_commit_seconds", "counter", "Seconds spent in commits."),
    ("turns", "outlive_turns", "counter", "Turns given to processes that stood in line."),
    ("active", "outlive_processes_active", "gauge", "Processes in memory that work."),
    ("shards", "outlive_shards", "gauge", "Shards this instance owns."),
    ("pending", "outlive_batches_pending", "gauge", "Batches that wait to be committed."),
    ("pending_bytes", "outlive_pending_bytes", "gauge", "Bytes that wait to be committed."),
)
"""Field of `Stats`, name of the family, its type, its help."""

Answered = Counter[tuple[str, str, int]]
"""Answers by type of process (empty: none), kind of request, and status."""


class Metrics:
    """The handler of /metrics, and the count of what was answered."""

    def __init__(self, app: Outlive) -> None:
        self._app = app
        self.answered: Answered = Counter()

    async def show(self, _: Request) -> Response:
        """`GET /metrics`."""
        backlog = await self._app.backlog()
        text = "\n".join(
            (
                *self._lines(),
                *_latency(self._app.stats()),
                *_queued(backlog),
                *lines_of_dependencies(self._app),
                *lines_of_caches(self._app),
                *lines_of_requests(self._app),
                "# EOF",
                "",
            )
        )
        return Response(200, text.encode(), [(b"content-type", CONTENT_TYPE)])

    def _lines(self) -> Iterator[str]:
        stats = self._app.stats()
        for field, name, kind, told in FAMILIES:
            value = getattr(stats, field, None)
            if value is None:
                continue
            yield from head(name, kind, told)
            sample = f"{name}_total" if kind == "counter" else name
            if isinstance(value, dict):
                for status, count in sorted(value.items()):
                    yield f'{sample}{{status="{escape(status)}"}} {count}'
            else:
                yield f"{sample} {value}"
        yield from head("outlive_step_attempts", "counter", "Attempts at a step, by outcome.")
        for outcome, count in (("done", stats.steps), ("failed", stats.attempts_failed)):
            yield f'outlive_step_attempts_total{{outcome="{outcome}"}} {count}'
        yield from head("outlive_starts_refused", "counter", "Starts refused, by what was full.")
        for why, count in sorted(stats.starts_refused.items()):
            yield f'outlive_starts_refused_total{{full="{escape(why)}"}} {count}'
        yield from head("outlive_phase", "stateset", "What the instance is doing.")
        for phase in PHASES:
            yield f'outlive_phase{{outlive_phase="{phase}"}} {int(phase == self._app.phase)}'
        yield from head("outlive_http_answers", "counter", "Answers, by type, request and status.")
        for (kind_of_process, request, status), count in sorted(self.answered.items()):
            labels = f'type="{escape(kind_of_process)}",request="{request}",status="{status}"'
            yield f"outlive_http_answers_total{{{labels}}} {count}"


def _latency(stats: Stats) -> Iterator[str]:
    """How long commits took, as a histogram."""
    name = "outlive_commit_duration_seconds"
    yield from head(name, "histogram", "How long a commit took.")
    total = 0
    for bound, count in zip((*COMMIT_SECONDS, "+Inf"), stats.commit_latency, strict=False):
        total += count
        yield f'{name}_bucket{{le="{bound}"}} {total}'
    yield f"{name}_count {total}"
    yield f"{name}_sum {stats.commit_seconds}"


def _queued(backlog: Mapping[str, Backlog]) -> Iterator[str]:
    """What waits for its turn, by type."""
    yield from head("outlive_processes_queued", "gauge", "Processes that stand in line, by type.")
    for name, found in sorted(backlog.items()):
        yield f'outlive_processes_queued{{type="{escape(name)}"}} {found.waiting}'
    yield from head("outlive_queued_oldest_seconds", "gauge", "How long the oldest has, by type.")
    for name, found in sorted(backlog.items()):
        yield f'outlive_queued_oldest_seconds{{type="{escape(name)}"}} {found.oldest_seconds:.3f}'
