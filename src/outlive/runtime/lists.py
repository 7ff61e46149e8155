"""Lists of processes, newest first, page by page.

A process is listed by two marks: its status and its type, each with the time of its start. What is
narrowed by one of them is read from it; the whole list is merged from those of all types (which do
not change while they are read), so that no third mark must be written for every process.
"""

from __future__ import annotations

from outlive.kinds.processes import Summary, summary_of
from outlive.kinds.processes.cells import space_of
from outlive.kinds.processes.vocabulary import GONE
from outlive.model import Cell
from outlive.store import Store

PAGE_MAX = 200


async def newest(
    store: Store, status: str | None, type: str | None, limit: int, cursor: str
) -> tuple[list[Summary], str]:
    """A page of at most `limit` (1 to `PAGE_MAX`) processes, and the cursor of the next (empty:
    there is none)."""
    limit = max(1, min(limit, PAGE_MAX))
    before, _, last = cursor.partition("_")
    if status is not None:
        found = await _read(store, "process.status", f"{status} ", type, before, last, limit)
    else:
        found = []
        for each in await _types(store) if type is None else (type,):
            found += await _read(store, "process.type", f"{each} ", each, before, last, limit)
    found.sort(key=lambda line: (line.started, line.id), reverse=True)
    page, rest = found[:limit], found[limit:]
    return page, f"{page[-1].started:016d}_{page[-1].id}" if rest else ""


async def _types(store: Store) -> list[str]:
    """The types of all processes in the store, also those that nobody declares any more: found by
    leaping from one to the next."""
    spaces = [space_of(shard) for shard in range(store.shards)]
    found: list[str] = []
    while lines := await store.select(
        spaces, "process.type", f"{found[-1]}!" if found else "", "~", 1
    ):
        found.append(lines[0][0].rpartition(" ")[0])
    return found


async def _read(
    store: Store, mark: str, prefix: str, type: str | None, before: str, last: str, limit: int
) -> list[Summary]:
    """The newest under `prefix` of a mark that come behind the cursor: more than `limit`, or all.

    Processes that began in one microsecond share a mark's value, so a value is read whole.
    """
    high = prefix + (before if before.isdigit() else "~")
    spaces = [space_of(shard) for shard in range(store.shards)]
    found: list[Summary] = []
    while True:
        lines = await store.select(spaces, mark, prefix, high, PAGE_MAX + 1, newest=True)
        found += [line for _, cell in lines if (line := _line(cell, type, before, last))]
        if len(found) > limit or len(lines) <= PAGE_MAX:
            return found
        high = lines[-1][0]
        found = [line for line in found if f"{prefix}{line.started:016d}" > high]


def _line(cell: Cell, type: str | None, before: str, last: str) -> Summary | None:
    """A line of the list, unless it is a tombstone, of another type, or on an earlier page."""
    line = summary_of(cell)
    if line.status == GONE or (type is not None and line.type != type):
        return None
    if before.isdigit() and (line.started, line.id) >= (int(before), last):
        return None
    return line
