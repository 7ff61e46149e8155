"""What is looked at on a dashboard, and when somebody is to be woken.

Every name of a metric and of a label is one that /metrics gives; a test holds them against it.
`$job` is the scrape job. Alerts speak of what users feel (refused starts, slow commits, a backlog
that grows) or of what will not mend itself; a single kill, which is mended within a second, wakes
nobody.
"""

from __future__ import annotations

from msgspec import Struct


class Panel(Struct, frozen=True):
    """A graph: its title, what it tells, its unit, and a legend and expression for each line."""

    title: str
    told: str
    unit: str
    lines: tuple[tuple[str, str], ...]


class Alert(Struct, frozen=True):
    """A rule: what is true for how long before somebody is told, how badly, and what to do."""

    name: str
    expr: str
    lasts: str
    severity: str
    summary: str
    remedy: str


PANELS: tuple[Panel, ...] = (
    Panel(
        "Processes", "Started and ended, a second.", "ops",
        (
            ("started", "sum(rate(outlive_processes_started_total{$job}[5m]))"),
            ("{{status}}", "sum by (status) (rate(outlive_processes_ended_total{$job}[5m]))"),
        ),
    ),
    Panel(
        "Steps", "Attempts a second, by outcome.", "ops",
        (("{{outcome}}", "sum by (outcome) (rate(outlive_step_attempts_total{$job}[5m]))"),),
    ),
    Panel(
        "Commit", "How long a commit takes: what every answer waits for.", "s",
        (
            (
                "p50",
                "histogram_quantile(0.5, sum by (le) "
                "(rate(outlive_commit_duration_seconds_bucket{$job}[5m])))",
            ),
            (
                "p99",
                "histogram_quantile(0.99, sum by (le) "
                "(rate(outlive_commit_duration_seconds_bucket{$job}[5m])))",
            ),
        ),
    ),
    Panel(
        "Group commit", "Batches for each commit: how many share one flush.", "short",
        (
            (
                "batches a commit",
                "sum(rate(outlive_batches_total{$job}[5m])) / "
                "sum(rate(outlive_commits_total{$job}[5m]))",
            ),
            ("waiting", "sum(outlive_batches_pending{$job})"),
        ),
    ),
    Panel(
        "Lines", "Processes that wait for their turn, by type.", "short",
        (("{{type}}", "max by (type) (outlive_processes_queued{$job})"),),
    ),
    Panel(
        "Longest wait", "How long the oldest has waited for its turn, by type.", "s",
        (("{{type}}", "max by (type) (outlive_queued_oldest_seconds{$job})"),),
    ),
    Panel(
        "Shards", "Shards by instance; the sum is what the store was made with.", "short",
        (("{{instance}}", "outlive_shards{$job}"),),
    ),
    Panel(
        "Deaths", "In 5 minutes: processes taken over, after a crash, and commits fenced off.",
        "short",
        (
            ("taken over", "sum(increase(outlive_takeovers_total{$job}[5m]))"),
            ("after a crash", "sum(increase(outlive_crashes_total{$job}[5m]))"),
            ("fenced", "sum(increase(outlive_fenced_total{$job}[5m]))"),
        ),
    ),
    Panel(
        "Answers", "HTTP answers a second, by status.", "reqps",
        (("{{status}}", "sum by (status) (rate(outlive_http_answers_total{$job}[5m]))"),),
    ),
    Panel(
        "Refused starts", "A second, by what was full.", "ops",
        (("{{full}}", "sum by (full) (rate(outlive_starts_refused_total{$job}[5m]))"),),
    ),
    Panel(
        "Dependencies", "Calls a second, by what the breaker said.", "ops",
        (
            (
                "{{dependency}} {{outcome}}",
                "sum by (dependency, outcome) (rate(outlive_dependency_calls_total{$job}[5m]))",
            ),
        ),
    ),
    Panel(
        "Caches", "The part of questions that was answered from memory.", "percentunit",
        (
            (
                "{{cache}}",
                'sum by (cache) (rate(outlive_cache_asked_total{$job,outcome="hit"}[5m])) / '
                "sum by (cache) (rate(outlive_cache_asked_total{$job}[5m]))",
            ),
        ),
    ),
)  # fmt: skip

ALERTS: tuple[Alert, ...] = (
    Alert(
        "OutliveDown", "up{$job} == 0", "2m", "critical",
        "An instance does not answer", "Look at its log; what it ran is at the others already.",
    ),
    Alert(
        "OutliveNobodyReady",
        'sum(outlive_phase{$job,outlive_phase="ready"}) == 0', "1m", "critical",
        "No instance takes work", "GET /readyz says why; `outlive doctor` looks at the store.",
    ),
    Alert(
        "OutliveCommitsSlow",
        "histogram_quantile(0.99, sum by (le) "
        "(rate(outlive_commit_duration_seconds_bucket{$job}[5m]))) > 0.5", "10m", "warning",
        "One commit in a hundred takes more than half a second",
        "Look at the disk under the store, and at long transactions beside it.",
    ),
    Alert(
        "OutliveCommitsStall",
        "sum(outlive_batches_pending{$job}) > 0 and "
        "sum(rate(outlive_commits_total{$job}[2m])) == 0", "2m", "critical",
        "Work waits to be committed and nothing is",
        "The store is out of reach, or its disk is full: `outlive doctor`.",
    ),
    Alert(
        "OutliveStepsFail",
        'sum(rate(outlive_step_attempts_total{$job,outcome="failed"}[10m])) / '
        "sum(rate(outlive_step_attempts_total{$job}[10m])) > 0.2", "10m", "warning",
        "More than a fifth of all attempts at steps fail",
        "The dashboard names the steps and their errors; a dependency may be down.",
    ),
    Alert(
        "OutliveProcessesFail",
        'sum by (status) (increase(outlive_processes_ended_total{$job,status=~"failed|stuck"}'
        "[15m])) > 0", "0m", "warning",
        "A process has failed or is stuck", "`outlive process list --status stuck`, then mend the "
        "cause and `outlive process retry`.",
    ),
    Alert(
        "OutliveLinesGrow", "max by (type) (outlive_queued_oldest_seconds{$job}) > 600",
        "10m", "warning",
        "A process has waited for its turn for ten minutes",
        "More comes than its limit lets through: raise the limit, or find out who starts so many.",
    ),
    Alert(
        "OutliveStartsRefused", "sum by (full) (rate(outlive_starts_refused_total{$job}[5m])) > 0",
        "5m", "warning", "Starts are refused",
        "`full` says of what there is too much: memory, commits, a backlog or a quota.",
    ),
    Alert(
        "OutliveKeepsDying", "sum(increase(outlive_crashes_total{$job}[15m])) > 50",
        "5m", "warning", "Instances die again and again",
        "Their logs and the kernel's (out of memory) say why; a poisoned process is quarantined.",
    ),
    Alert(
        "OutliveErrors",
        'sum(rate(outlive_http_answers_total{$job,status=~"5.."}[5m])) / '
        "sum(rate(outlive_http_answers_total{$job}[5m])) > 0.05", "5m", "critical",
        "More than one answer in twenty is an error of ours", "Look at /readyz, then at the log.",
    ),
    Alert(
        "OutliveBreakerOpen",
        'max by (dependency) (outlive_dependency_parts{$job,state=~"open|held open"}) > 0',
        "5m", "warning", "A dependency counts as down", "Its breaker is open: see its own state.",
    ),
)  # fmt: skip


def for_job(expr: str, name: str) -> str:
    """An expression for one scrape job."""
    return expr.replace("$job", f'job="{name}"')
