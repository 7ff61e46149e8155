"""Nodes and shards: who owns what, at which epoch, and how it came to that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outlive.dashboard.rendering import colour

if TYPE_CHECKING:
    from outlive.dashboard.rendering import Desk, Sight

HOLDS_SHOWN = 100


async def nodes(desk: Desk, sight: Sight) -> str:
    """The page."""
    found, shards = await desk.app.nodes(), await desk.app.shards()
    owners = [node.id for node in found]
    return desk.render(
        "nodes.html",
        sight,
        nodes=found,
        shards=[(shard, colour(shard.owner, owners)) for shard in shards],
        colours={owner: colour(owner, owners) for owner in owners},
        holds=await desk.app.holds(limit=HOLDS_SHOWN),
    )
