"""What processes are searched by, and a page of what was found.

    status · type · version · tags · started since/until · changed since/until      all must hold

One of them is looked up, by its mark; the others are compared with the cells that are found there.
Marks are ordered by the time of the start, so that time is looked up together with each of them.
What a cell does not say (input, result, steps) is not searched.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict

from msgspec import Struct

from outlive.clock import MICROS
from outlive.kinds.processes.reports import Summary
from outlive.kinds.processes.tags import Tags, mark_name, mark_value, sorted_tags
from outlive.kinds.processes.vocabulary import GONE

FOREVER = 10**16 - 1
"""No time is later: the largest that a mark has room for."""


class Search(Struct, frozen=True):
    """What must hold of a process; None and nothing hold of all. Times in µs since 1970 UTC; a
    range holds its first and not its last."""

    status: str | None = None
    type: str | None = None
    version: int | None = None
    tags: Tags = ()
    started: tuple[int, int] = (0, FOREVER)
    changed: tuple[int, int] = (0, FOREVER)

    def holds(self, line: Summary) -> bool:
        """Whether all of it holds of the process in `line`; of a tombstone it never does."""
        return (
            line.status != GONE
            and self.status in (None, line.status)
            and self.type in (None, line.type)
            and self.version in (None, line.version)
            and self.started[0] <= line.started < self.started[1]
            and self.changed[0] <= line.changed < self.changed[1]
            and all(line.tags.get(name) == value for name, value in self.tags)
        )

    def marks(self) -> list[tuple[str, str]]:
        """By which marks it can be looked up: the name, and what the values begin with. None: only
        by the types of all processes."""
        found = [(mark_name(name), f"{mark_value(value)} ") for name, value in self.tags]
        if self.status is not None:
            found.append(("process.status", f"{self.status} "))
        if not found and self.type is not None:
            found.append(("process.type", f"{self.type} "))
        return found

    def bounds(self) -> tuple[int, int]:
        """When what is searched may have been started, the last included: what has not changed
        since a time was started before it."""
        return self.started[0], min(self.started[1], self.changed[1]) - 1


class Page(tuple[list[Summary], str]):
    """A page of processes and the cursor of the next one; empty: there is none.

    `bounded`: it is shorter than asked for because as many rows were looked at as one page may; the
    search goes on at the cursor.
    """

    bounded: bool

    def __new__(cls, items: list[Summary], cursor: str, *, bounded: bool = False) -> Page:
        made = super().__new__(cls, (items, cursor))
        made.bounded = bounded
        return made

    @property
    def items(self) -> list[Summary]:
        return self[0]

    @property
    def cursor(self) -> str:
        return self[1]


class Narrowed(TypedDict, total=False):
    """By what a list is narrowed, beside status and type; see `Outlive.processes`."""

    version: int | None
    tags: Mapping[str, Any] | None
    started_since: datetime | None
    started_until: datetime | None
    changed_since: datetime | None
    changed_until: datetime | None


def search_of(
    status: str | None = None,
    type: str | None = None,
    version: int | None = None,
    tags: Mapping[str, Any] | None = None,
    started_since: datetime | None = None,
    started_until: datetime | None = None,
    changed_since: datetime | None = None,
    changed_until: datetime | None = None,
) -> Search:
    """A search in the words of the public call. Raises `TagInvalid`, `ValueError` for a time
    without a zone."""
    return Search(
        status,
        type,
        version,
        sorted_tags(tags or {}, kept=False),
        (_micros(started_since, 0), _micros(started_until, FOREVER)),
        (_micros(changed_since, 0), _micros(changed_until, FOREVER)),
    )


def _micros(time: datetime | None, otherwise: int) -> int:
    if time is None:
        return otherwise
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone; give datetime(…, tzinfo=UTC)")
    return max(0, min(round(time.timestamp() * MICROS), FOREVER))
