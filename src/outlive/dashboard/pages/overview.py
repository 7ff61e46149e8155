"""The first page: is anything lost or stuck, and how does it go?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from outlive.dashboard.charts import chart_of
from outlive.kinds.processes.census import TROUBLED, Census

if TYPE_CHECKING:
    from outlive.dashboard.rendering import Desk, Sight
    from outlive.kinds.processes import Node
    from outlive.model import Shard

HOLDS_LOOKED_AT = 50
TAKEOVERS_SHOWN = 6
HOURS = 24


class Verdict(Struct, frozen=True):
    """The answer in a sentence: `level` is ok, warn or bad."""

    level: str
    text: str
    why: str


async def overview(desk: Desk, sight: Sight, lessons: Callable[[], list[str]] = list) -> str:
    """The page; `lessons` are commands for a service where nothing has been started yet."""
    census = await desk.census()
    nodes, shards = await desk.app.nodes(), await desk.app.shards()
    holds = await desk.app.holds(limit=HOLDS_LOOKED_AT)
    samples = await desk.app.throughput(HOURS)
    return desk.render(
        "overview.html",
        sight,
        census=census,
        verdict=verdict(census, nodes, shards),
        nodes=nodes,
        shards=len(shards),
        takeovers=[hold for hold in holds if hold.previous][:TAKEOVERS_SHOWN],
        chart=chart_of(samples, desk.clock.wall(), HOURS),
        lessons=lessons() if desk.app.definitions else [],
    )


def verdict(census: Census, nodes: Sequence[Node], shards: Sequence[Shard]) -> Verdict:
    """Whether somebody must act, and on what."""
    unfinished = census.unfinished
    if not nodes and unfinished.number:
        return Verdict("bad", "Nobody serves this store", "Nothing is lost; it waits for a node.")
    found = [(status, census.counts[status]) for status in TROUBLED]
    said = [f"{count} {WAITS[status]}" for status, count in found if count.number]
    if said:
        level = "bad" if census.counts["stuck"].number else "warn"
        number = sum(count.number for _, count in found)
        more = "+" if any(count.more for _, count in found) else ""
        what = "process waits" if number == 1 else "processes wait"
        return Verdict(level, f"{number}{more} {what} for somebody", f"{'; '.join(said)}.")
    alive = {node.id for node in nodes}
    orphans = sum(shard.owner not in alive for shard in shards)
    if nodes and orphans:
        what = "shard has" if orphans == 1 else "shards have"
        return Verdict("warn", "A take-over is under way", f"{orphans} {what} no live owner.")
    return Verdict("ok", "Nothing is lost or stuck", f"{unfinished} under way.")


WAITS = {
    "stuck": "stuck, where an undo gave up or an error was not foreseen",
    "paused": "paused",
    "no_worker_for_version": "of a version that no node runs",
}
