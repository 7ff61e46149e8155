"""The ledger outside: which step ran when, and on which node; read when all is over.

    begins KEY JOB NODE SECONDS        ended KEY JOB NODE SECONDS

A step that has begun and not ended was cut off: its node was killed, frozen or demoted.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path

from msgspec import Struct


class Call(Struct):
    """One run of one step."""

    key: str
    job: str
    node: str
    began: float
    ended: float | None = None


class Pause(Struct, frozen=True):
    """The time between a step of a job and its next one, on another node."""

    job: str
    node: str
    successor: str
    seconds: float


def calls_in(ledger: Path) -> list[Call]:
    """All calls, in the order in which they began."""
    under_way: dict[tuple[str, str], Call] = {}
    calls = []
    for line in ledger.read_text().splitlines():
        word, key, job, node, seconds = line.split()
        if word == "begins":
            under_way[key, node] = Call(key, job, node, float(seconds))
            calls.append(under_way[key, node])
        else:
            under_way[key, node].ended = float(seconds)
    return calls


def run_by_two_at_once(calls: list[Call]) -> list[str]:
    """The jobs of which two nodes ran a step at one moment."""
    found = []
    for job, steps in by_job(calls).items():
        for earlier, later in itertools.pairwise(steps):
            ended = earlier.ended
            if later.node != earlier.node and ended is not None and ended > later.began:
                found.append(f"{job}: {earlier.node} until {ended}, {later.node} {later.began}")
    return found


def pauses(calls: list[Call]) -> list[Pause]:
    """What every hand-over cost the job that was handed over, the shortest first."""
    found = [
        Pause(job, earlier.node, later.node, later.began - earlier.ended)
        for job, steps in by_job(calls).items()
        for earlier, later in itertools.pairwise(steps)
        if later.node != earlier.node and earlier.ended is not None
    ]
    return sorted(found, key=lambda pause: pause.seconds)


def by_job(calls: list[Call]) -> dict[str, list[Call]]:
    found: defaultdict[str, list[Call]] = defaultdict(list)
    for call in calls:
        found[call.job].append(call)
    return found
