"""How many processes there are of which type and status, counted up to a bound and saying so.

A count of everything would cost as much as the store is large. What is not ended is what people act
on, so it is looked at row by row, the newest `COUNTED_MAX` of each status; what has ended is
counted up to the same bound. A number that met the bound is shown with a plus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from outlive.kinds.processes.reports import Summary
from outlive.kinds.processes.vocabulary import FINAL, STATUSES

COUNTED_MAX = 1_000
"""Processes of one status that are counted."""
UNFINISHED = tuple(status for status in STATUSES if status not in FINAL)
TROUBLED = ("stuck", "paused", "no_worker_for_version")
"""Statuses that only a person or a deploy ends."""
BROKEN = ("failed", "rolled_back", "stuck")
"""Statuses by which a type is said to fail."""


class Count(Struct, frozen=True):
    """A number, and whether there are more."""

    number: int
    more: bool = False

    def __str__(self) -> str:
        return f"{self.number:,}{'+' if self.more else ''}"


class Standing(Struct, frozen=True):
    """How a type and version stands: what is under way of it, by status."""

    type: str
    version: int
    statuses: dict[str, int]
    oldest: int
    """When the oldest of them that was looked at was started."""

    @property
    def number(self) -> int:
        return sum(self.statuses.values())


class Failing(Struct, frozen=True):
    """A type of which processes failed."""

    type: str
    statuses: dict[str, int]
    last: Summary


class Census(Struct, frozen=True):
    """What was counted at `at` (µs since 1970 UTC)."""

    at: int
    counts: dict[str, Count]
    oldest: tuple[Summary, ...]
    """The unfinished that were started first, of each status one."""
    standing: tuple[Standing, ...]
    failing: tuple[Failing, ...]
    troubled: tuple[Summary, ...]
    """What waits for somebody, the newest of each status."""

    @property
    def unfinished(self) -> Count:
        """How many are under way."""
        found = [self.counts[status] for status in UNFINISHED]
        return Count(sum(one.number for one in found), any(one.more for one in found))

    @property
    def bounded(self) -> bool:
        """Whether more are under way than were looked at."""
        return self.unfinished.more


def standing_of(lines: Iterable[Summary]) -> tuple[Standing, ...]:
    """What is under way, by type and version, the newest version first."""
    statuses: dict[tuple[str, int], Counter[str]] = {}
    oldest: dict[tuple[str, int], int] = {}
    for line in lines:
        key = line.type, line.version
        statuses.setdefault(key, Counter())[line.status] += 1
        oldest[key] = min(oldest.get(key, line.started), line.started)
    keys = sorted(statuses, key=lambda key: (key[0], -key[1]))
    return tuple(Standing(*key, dict(statuses[key]), oldest[key]) for key in keys)


def failing_of(lines: Iterable[Summary]) -> tuple[Failing, ...]:
    """Which types the failed are of, those with the most of them first."""
    statuses: dict[str, Counter[str]] = {}
    last: dict[str, Summary] = {}
    for line in lines:
        statuses.setdefault(line.type, Counter())[line.status] += 1
        if line.type not in last or last[line.type].changed < line.changed:
            last[line.type] = line
    names = sorted(statuses, key=lambda name: (-statuses[name].total(), name))
    return tuple(Failing(name, dict(statuses[name]), last[name]) for name in names)
