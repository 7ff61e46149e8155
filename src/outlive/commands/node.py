"""`outlive node list`: which nodes serve the store, since when, and what they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclopts import App

from outlive.commands.client import At
from outlive.commands.listing import Listing, Watch, show
from outlive.commands.options import ListFormat
from outlive.commands.output import time_of

if TYPE_CHECKING:
    from outlive.app import Outlive

commands = App(name="node", help="Look at the nodes that serve the store.")


@commands.command(name="list")
def list_nodes(*, at: At = None, output: ListFormat = "table", watch: Watch = False) -> None:
    """List the nodes whose lease runs: where, since when, their shards, what they run."""

    async def question(app: Outlive) -> Listing:
        found = await app.nodes()
        rows = [
            (
                node.id,
                node.host,
                str(node.pid),
                node.phase,
                str(node.shards),
                time_of(node.since),
                " ".join(node.runs),
            )
            for node in found
        ]
        heads = ("id", "host", "pid", "phase", "shards", "since", "runs")
        return Listing(heads, rows, [node.id for node in found], found)

    show(question, at, output, watch)


@commands.command
def shards(*, at: At = None, output: ListFormat = "table", watch: Watch = False) -> None:
    """List the shards of the store and the node that owns each."""

    async def question(app: Outlive) -> Listing:
        found = await app.shards()
        alive = {node.id for node in await app.nodes()}
        rows = [
            (
                str(shard.id),
                shard.owner or "-",
                "alive" if shard.owner in alive else "free",
                str(shard.epoch),
            )
            for shard in found
        ]
        ids = [str(shard.id) for shard in found]
        return Listing(("shard", "owner", "owner is", "epoch"), rows, ids, found)

    show(question, at, output, watch)
