"""Metrics in OpenMetrics text."""

from __future__ import annotations

import re

import httpx

from outlive.web.metrics import escape

SAMPLE = re.compile(r'[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [0-9.]+')


async def test_the_text_is_openmetrics_and_ends_with_eof(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics")
    assert answer.headers["content-type"] == (
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    )
    assert answer.text.endswith("\n# EOF\n")
    for line in answer.text.splitlines():
        assert line.startswith("# ") or SAMPLE.fullmatch(line), line


async def test_counters_end_in_total_and_come_from_the_stats(client: httpx.AsyncClient) -> None:
    text = (await client.get("/metrics")).text
    assert "\noutlive_processes_started_total 3\n" in text
    assert '\noutlive_processes_ended_total{status="done"} 2\n' in text
    assert "\noutlive_commit_seconds_total 0.25\n" in text
    assert '\noutlive_phase{outlive_phase="ready"} 1\n' in text
    assert '\noutlive_phase{outlive_phase="new"} 0\n' in text


async def test_commits_are_a_histogram_and_lines_are_counted_by_type(
    client: httpx.AsyncClient,
) -> None:
    text = (await client.get("/metrics")).text
    assert '\noutlive_commit_duration_seconds_bucket{le="0.001"} 4\n' in text
    assert '\noutlive_commit_duration_seconds_bucket{le="2.5"} 7\n' in text
    assert '\noutlive_commit_duration_seconds_bucket{le="+Inf"} 9\n' in text
    assert "\noutlive_commit_duration_seconds_count 9\n" in text
    assert '\noutlive_step_attempts_total{outcome="done"} 7\n' in text
    assert '\noutlive_starts_refused_total{full="memory"} 2\n' in text
    assert '\noutlive_processes_queued{type="registration"} 17\n' in text
    assert '\noutlive_queued_oldest_seconds{type="registration"} 2.500\n' in text


def test_a_label_is_escaped() -> None:
    assert escape('a"b\\c\n') == 'a\\"b\\\\c\\n'
