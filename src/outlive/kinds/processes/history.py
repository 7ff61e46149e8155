"""How much went through, minute by minute, kept for a week: counts, and no process.

A node adds up what it has started and ended, and once a minute writes the minutes of its hour into
one cell: `throughput`, key `<hour> <node>`. The cells of a day are few, are read by one look-up in
the order of time, and go when they are a week old.

    storage   relaxed: a restart keeps them, power loss may take the last moments, and a node that
              is killed loses its last minute

Not promised: a sum that agrees with the journals to the last process. Those are the truth; this is
a picture of it that costs one commit a minute.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from outlive.clock import MICROS
from outlive.kinds.processes.reports import Stats
from outlive.model import Batch, Cell, Put, Ref

SPACE = "throughput"
KEPT_HOURS = 7 * 24
MINUTE = 60 * MICROS
DROPPED_MAX = 50
"""Cells that are too old and go with one write."""


class Sample(Struct, frozen=True, omit_defaults=True):
    """What happened in one minute on one node, or on all."""

    started: int = 0
    steps: int = 0
    attempts_failed: int = 0
    ended: dict[str, int] = {}

    def __add__(self, other: Sample) -> Sample:
        return Sample(
            self.started + other.started,
            self.steps + other.steps,
            self.attempts_failed + other.attempts_failed,
            {
                status: self.ended.get(status, 0) + other.ended.get(status, 0)
                for status in (*self.ended, *other.ended)
            },
        )


Hour = dict[str, Sample]
"""The minutes of an hour by their number, 0 to 59."""
_read_hour = msgspec.json.Decoder(Hour).decode


def since(before: Stats, now: Stats) -> Sample | None:
    """What happened between two looks at the counters of a node; None: nothing."""
    ended = {s: n - before.ended.get(s, 0) for s, n in now.ended.items()}
    sample = Sample(
        now.started - before.started,
        now.steps - before.steps,
        now.attempts_failed - before.attempts_failed,
        {status: number for status, number in ended.items() if number},
    )
    return None if sample == Sample() else sample


def written(hour: int, node: str, minutes: Hour, old: Iterable[Cell]) -> Batch:
    """The write of one node's minutes of an hour, that takes old hours along."""
    due = (hour + KEPT_HOURS) * 60 * MINUTE
    put = Put(Ref(SPACE, f"{hour:08d} {node}"), msgspec.json.encode(minutes), due)
    dropped = tuple(cell.ref for cell in old if hour_of(cell.key) < hour - KEPT_HOURS)
    return Batch(put=(put,), drop=dropped, storage="relaxed")


def hour_of(key: str) -> int:
    """The hour since 1970 that a cell is about."""
    return int(key.partition(" ")[0])


def samples_in(cells: Iterable[Cell]) -> Mapping[int, Sample]:
    """What cells say, of all nodes together, by the minute since 1970."""
    found: dict[int, Sample] = {}
    for cell in cells:
        hour = hour_of(cell.key)
        for number, sample in _read_hour(cell.value).items():
            minute = hour * 60 + int(number)
            found[minute] = found.get(minute, Sample()) + sample
    return found
