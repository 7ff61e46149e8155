"""How long the work of a dead worker stood still, read afterwards from what the store recorded.

    kill ──────────▶ hold (another node took the shard) ──────────▶ first record by the new owner
         take-over                                       resume

The ledger of holds says from whom a shard was taken and when; the journal says when a process that
was under way went on. Both times are the store's clock, which is this host's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

from msgspec import Struct

from outlive.clock import MICROS
from outlive.testing.oracles import Facts


class Kill(Struct, frozen=True):
    """Which process was ended, when (microseconds since 1970 UTC), and how many others served."""

    pid: int
    at: int
    survivors: int = 0


class TakeOver(Struct, frozen=True):
    """What came of one kill: seconds until the last shard of the dead had a new owner, and until
    the first of its processes went on (None: none was under way)."""

    kill: Kill
    shards: int
    seconds: float
    resume_seconds: float | None


def take_overs(facts: Facts, kills: Iterable[Kill]) -> list[TakeOver]:
    """The take-overs that followed `kills` of workers that held any shard."""
    by_pid = {kill.pid: kill for kill in kills}
    taken: dict[int, list[float]] = {pid: [] for pid in by_pid}
    resumed: dict[int, list[float]] = {pid: [] for pid in by_pid}
    for shard in facts.shards:
        holds = sorted(
            (hold for hold in facts.holds if hold.shard == shard.id), key=lambda hold: hold.epoch
        )
        tail = facts.tails[shard.id]
        ends = [hold.head for hold in holds[2:]] + [len(tail)]
        for (before, after), end in zip(pairwise(holds), ends, strict=False):
            pid = pid_of(before.owner)
            if pid not in by_pid or after.previous != before.owner:
                continue
            at = by_pid[pid].at
            taken[pid].append((after.time - at) / MICROS)
            under_way = {event.stream for event in tail[after.head : end] if event.kind == "taken"}
            for event in tail[after.head :]:
                if event.kind != "taken" and event.stream in under_way:
                    resumed[pid].append((event.time - at) / MICROS)
                    break
    return [
        TakeOver(kill, len(taken[pid]), max(taken[pid]), min(resumed[pid], default=None))
        for pid, kill in by_pid.items()
        if taken[pid]
    ]


def pid_of(node: str) -> int:
    """The pid in a node's name, which ends with it and a random part; 0 when there is none."""
    found = re.search(r"(\d+)-[^-]+$", node)
    return int(found[1]) if found else 0


def figures(found: list[TakeOver]) -> dict[str, str]:
    """Middle and maximum, in seconds."""
    taken = sorted(over.seconds for over in found)
    resumed = sorted(over.resume_seconds for over in found if over.resume_seconds is not None)
    said = {"takeovers": str(len(taken))}
    for name, values in (("takeover", taken), ("resume", resumed)):
        if values:
            said[f"{name}_p50"] = f"{values[len(values) // 2]:.3f}"
            said[f"{name}_p95"] = f"{values[int(len(values) * 0.95)]:.3f}"
            said[f"{name}_max"] = f"{values[-1]:.3f}"
    return said
