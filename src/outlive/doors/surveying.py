"""What can be asked about everything at once: how many, how old, how it went lately, what is wrong.

Each answer has a bound on what it looks at, so a page that asks costs the same beside ten processes
and ten million, and says where it met its bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from outlive.doors.opened import Opened
from outlive.kinds.processes import STATUSES, Summary, summary_of
from outlive.kinds.processes.cells import space_of
from outlive.kinds.processes.census import (
    BROKEN,
    COUNTED_MAX,
    TROUBLED,
    UNFINISHED,
    Census,
    Count,
    failing_of,
    standing_of,
)
from outlive.kinds.processes.history import MINUTE, SPACE, Sample, samples_in
from outlive.kinds.processes.search import FOREVER

HOUR_CELLS_MAX = 1_000
"""Cells of one hour and node that throughput is added up from."""
TROUBLED_SHOWN = 8
"""Lines of each status that waits for somebody."""


class Surveying(Opened):
    """The questions about all processes together."""

    async def census(self, *, counted_max: int = COUNTED_MAX) -> Census:
        """How many processes there are by status, what is under way by version, what fails.

        Of each status at most `counted_max` (1 to 10,000), the newest, are looked at. Not promised:
        that all numbers are of one moment.
        """
        now = await self.store.now()
        found: dict[str, list[Summary]] = {}
        for status in STATUSES:
            found[status] = await self._of(status, counted_max + 1)
        counts = {
            status: Count(min(len(lines), counted_max), len(lines) > counted_max)
            for status, lines in found.items()
        }
        oldest = [line for status in UNFINISHED for line in await self._of(status, 1, newest=False)]
        return Census(
            at=now,
            counts=counts,
            oldest=tuple(sorted(oldest, key=lambda line: line.started)),
            standing=standing_of(chain(*(found[s][:counted_max] for s in UNFINISHED))),
            failing=failing_of(chain(*(found[s][:counted_max] for s in BROKEN))),
            troubled=tuple(chain(*(found[s][:TROUBLED_SHOWN] for s in TROUBLED))),
        )

    async def throughput(self, hours: int = 24) -> Mapping[int, Sample]:
        """What was started and ended in the last `hours` (1 to 168), on all nodes, by the minute
        since 1970.

        Written by each node once a minute, relaxed: it survives a restart, and a node that is
        killed loses its last minute. Of more than 1,000 nodes and hours the first are given.
        """
        first = await self.store.now() // MINUTE // 60 - hours
        return samples_in(await self.store.scan(SPACE, f"{first:08d}", HOUR_CELLS_MAX))

    async def _of(self, status: str, limit: int, *, newest: bool = True) -> list[Summary]:
        spaces = [space_of(shard) for shard in range(self.store.shards)]
        rows = await self.store.select(
            spaces, "process.status", f"{status} ", f"{status} {FOREVER}", limit, newest=newest
        )
        return [summary_of(cell) for _, cell in rows]
