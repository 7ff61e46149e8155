"""`outlive doctor`: is this store sound, can it be served from here, and is anybody working on it?

The store examines itself (engine, journal mode, file system, space, schema, integrity, log); the
rest is read through the application: nodes alive, shards without an owner, processes that stand
still. Each finding is ok, warn or FAIL, with what to do; a FAIL makes the command fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from outlive.clock import MICROS
from outlive.commands.client import StoreAddress, address_of, ask
from outlive.commands.exits import DONE, FAILED, STORE, exit_code
from outlive.commands.output import Format, document, table
from outlive.errors import OutliveError
from outlive.kinds.processes import FINAL, summary_of
from outlive.kinds.processes.cells import space_of
from outlive.model import Cell

if TYPE_CHECKING:
    from outlive.app import Outlive

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
MARKS = {"ok": "ok", "warn": "warn", "fail": "FAIL"}


class Finding(Struct, frozen=True):
    """One thing that was looked at: how it is, and what to do if it is not well."""

    name: str
    level: str
    """ok, warn or fail"""
    text: str
    remedy: str = ""


def doctor(*, store: StoreAddress = None, output: Format = "text") -> int:
    """Check the store and say what to do."""
    address_of(store)
    code = DONE
    try:
        found = ask(store, examine)
    except OutliveError as error:
        found = [Finding("open", "fail", error.detail, error.remedy)]
        code = exit_code(error)
    if output == "json":
        document(found)
    else:
        rows = [(MARKS[item.level], item.name, item.text, item.remedy) for item in found]
        table(("", "what", "how it is", "what to do"), rows)
    failed = any(item.level == "fail" for item in found)
    return FAILED if failed and code in (DONE, STORE) else code


async def examine(app: Outlive) -> list[Finding]:
    """Everything that is to be said about the store that `app` has open."""
    found = await of_the_store(app.store)
    nodes, shards = await app.nodes(), await app.shards()
    names = {node.id for node in nodes}
    level = "ok" if nodes else "warn"
    text = ", ".join(f"{node.id} ({node.phase}, {node.shards} shards)" for node in nodes)
    remedy = "" if nodes else "nothing goes on until a service is started"
    found.append(Finding("nodes", level, text or "none is alive", remedy))
    orphans = [shard.id for shard in shards if shard.owner not in names]
    text = f"{len(shards) - len(orphans)} of {len(shards)} have an owner that is alive"
    level = "warn" if orphans and nodes else "ok"
    remedy = "a live node takes them within seconds; look again" if level == "warn" else ""
    found.append(Finding("shards", level, text, remedy))
    found.append(await of_the_ended(app))
    for status, remedy in STANDING.items():
        standing, more = await app.processes(status, None, STANDING_MAX)
        count = f"{len(standing)}{'+' if more else ''}"
        example = f", such as {standing[0].id}" if standing else ""
        level, what = ("warn", remedy) if standing else ("ok", "")
        found.append(Finding(status, level, f"{count} processes{example}", what))
    return found


async def of_the_ended(app: Outlive) -> Finding:
    """How many ended processes are kept, since when, and whether any should be gone."""
    spaces = [space_of(shard) for shard in range(app.store.shards)]
    now, counts = await app.store.now(), list[str]()
    oldest = now
    late: list[Cell] = []
    for status in sorted(FINAL):
        rows = await app.store.select(
            spaces, "process.status", f"{status} ", f"{status} ~", ENDED_MAX + 1
        )
        if rows:
            counts.append(f"{min(len(rows), ENDED_MAX)}{'+' * (len(rows) > ENDED_MAX)} {status}")
            oldest = min(oldest, *(summary_of(cell).changed for _, cell in rows))
        late += [cell for _, cell in rows if cell.due and cell.due < now - LATE_SECONDS * MICROS]
    if not counts:
        return Finding("ended", "ok", "none is kept")
    text = f"{', '.join(counts)}; the oldest ended {(now - oldest) / MICROS / 86_400:.1f} days ago"
    if not late:
        return Finding("ended", "ok", text)
    remedy = "start a service: it archives them, if it is told where, and drops them"
    return Finding("ended", "warn", f"{text}; {len(late)} are past their retention", remedy)


async def of_the_store(store: object) -> list[Finding]:
    """What the store says about itself; not every store can examine itself."""
    examined = getattr(store, "doctor", None)
    if examined is None:
        return [Finding("store", "warn", "opens, but cannot examine itself", "see its own tools")]
    return [
        Finding(item.name, item.level.lower(), item.text, item.remedy) for item in await examined()
    ]
