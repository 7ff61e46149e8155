"""Is this store sound, can it be served from here, and is anybody working on it?

The store examines itself (engine, journal mode, file system, space, schema, integrity, log); the
rest is read through the application: nodes alive, shards without an owner, processes that stand
still. Each finding is ok, warn or fail, with what to do.
"""

from __future__ import annotations

from typing import Literal

from outlive.clock import MICROS
from outlive.doors.reading import Reading
from outlive.kinds.processes import FINAL, summary_of
from outlive.kinds.processes.cells import space_of
from outlive.model import Cell
from outlive.store import Finding

STANDING_MAX = 1000
"""Processes of one status that are counted."""
ENDED_MAX = 10_000
"""Ended processes of one status that are looked at, the oldest."""
LATE_SECONDS = 3600
"""So long after its retention a process should be gone."""
STANDING = {
    "stuck": "an undo gave up; mend the cause, then `outlive process retry ID`",
    "paused": "the code no longer matches the record; bring the steps back, then retry",
    "no_worker_for_version": "start a service that still runs this version",
}
Level = Literal["ok", "warn", "fail"]


class Examining(Reading):
    """The doctor of an application's store."""

    async def examine(self) -> list[Finding]:
        """Everything that is to be said about the open store. Reads only; its integrity is checked
        too, so it takes the longer the larger it is."""
        found = list(await self.store.doctor())
        nodes, shards = await self.nodes(), await self.shards()
        names = {node.id for node in nodes}
        level: Level = "ok" if nodes else "warn"
        text = ", ".join(f"{node.id} ({node.phase}, {node.shards} shards)" for node in nodes)
        remedy = "" if nodes else "nothing goes on until a service is started"
        found.append(Finding("nodes", level, text or "none is alive", remedy))
        orphans = [shard.id for shard in shards if shard.owner not in names]
        text = f"{len(shards) - len(orphans)} of {len(shards)} have an owner that is alive"
        level = "warn" if orphans and nodes else "ok"
        remedy = "a live node takes them within seconds; look again" if level == "warn" else ""
        found.append(Finding("shards", level, text, remedy))
        found.append(await self._of_the_ended())
        for status, remedy in STANDING.items():
            standing, more = await self.processes(status, None, STANDING_MAX)
            count = f"{len(standing)}{'+' if more else ''}"
            example = f", such as {standing[0].id}" if standing else ""
            level, what = ("warn", remedy) if standing else ("ok", "")
            found.append(Finding(status, level, f"{count} processes{example}", what))
        return found

    async def _of_the_ended(self) -> Finding:
        """How many ended processes are kept, since when, and whether any should be gone."""
        spaces = [space_of(shard) for shard in range(self.store.shards)]
        now, counts = await self.store.now(), list[str]()
        oldest = now
        late: list[Cell] = []
        for status in sorted(FINAL):
            rows = await self.store.select(
                spaces, "process.status", f"{status} ", f"{status} ~", ENDED_MAX + 1
            )
            if rows:
                more = "+" * (len(rows) > ENDED_MAX)
                counts.append(f"{min(len(rows), ENDED_MAX)}{more} {status}")
                oldest = min(oldest, *(summary_of(cell).changed for _, cell in rows))
            late += [
                cell for _, cell in rows if cell.due and cell.due < now - LATE_SECONDS * MICROS
            ]
        if not counts:
            return Finding("ended", "ok", "none is kept")
        days = (now - oldest) / MICROS / 86_400
        text = f"{', '.join(counts)}; the oldest ended {days:.1f} days ago"
        if not late:
            return Finding("ended", "ok", text)
        remedy = "start a service: it archives them, if it is told where, and drops them"
        return Finding("ended", "warn", f"{text}; {len(late)} are past their retention", remedy)
