"""Which node should run which shard: a pure decision, made alike by all from the same facts.

    share      every node that works gets as many shards as any other, give or take one
    fit        a shard is for the nodes that run most of what lives in it; as long as all nodes are
               of one build, that is all of them
    still      who has one more than another keeps it: nobody moves a shard without need

Nodes of several builds are there at one time while a new version is rolled out. A shard in which
something lives that only the newer build runs goes to a newer node, and comes back to an older one
only when nothing of the kind is left in it; so no older node takes what it cannot run while a newer
one lives. Builds of which neither runs all that the other does share as well as they can: a shard
goes to who runs more of what is in it, and stays where it is when they are equal.

What lives in a shard is a hint (`needs`, see versions.py), and so is this plan. The epoch in the
commit says who may write, and what a node finds and cannot run it shows and leaves alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from outlive.model import Shard

Builds = Mapping[str, frozenset[str]]
"""The nodes that work, and the types and versions that each runs."""
Needs = Mapping[int, frozenset[str]]
"""The types and versions of what lives in a shard, as far as it is known."""


class Move(Struct, frozen=True):
    """What one node should do now to come nearer to the plan."""

    take: tuple[Shard, ...] = ()
    hand_back: tuple[int, ...] = ()


def of_one_build(builds: Builds) -> bool:
    """Whether every node runs the same."""
    return len(set(builds.values())) < 2


def move_of(
    node: str,
    builds: Builds,
    shards: Sequence[Shard],
    free: Collection[int],
    held: Collection[int],
    needs: Needs,
) -> Move:
    """What `node`, which is one of `builds`, should take of `free` and hand back of what is `held`.

    `shards` is what the store says of every shard, in order.
    """
    places = sorted(builds)
    turn = len(shards) * places.index(node) // len(places)
    take: list[Shard] = []
    hand_back: list[int] = []
    for fit, members in groups(builds, shards, needs).items():
        mine = sorted(shard.id for shard in members if shard.id in held)
        if node not in fit:
            hand_back += mine
            continue
        quota = quotas(fit, members, builds, shards, needs)[node]
        if len(fit) > 1:
            hand_back += mine[quota:]
        open_ones = [shard for shard in members if shard.id in free]
        open_ones.sort(key=lambda shard: (shard.id - turn) % len(shards))
        take += open_ones[: max(0, quota - len(mine))]
    return Move(tuple(take), tuple(hand_back))


def groups(
    builds: Builds, shards: Iterable[Shard], needs: Needs
) -> dict[tuple[str, ...], list[Shard]]:
    """The shards by the nodes that they are for; each group of nodes in order of their names."""
    everybody = tuple(sorted(builds))
    found: dict[tuple[str, ...], list[Shard]] = {}
    for shard in shards:
        wanted = needs.get(shard.id)
        fit = fitting(builds, wanted) if wanted else everybody
        found.setdefault(fit, []).append(shard)
    return found


def fitting(builds: Builds, wanted: frozenset[str]) -> tuple[str, ...]:
    """The nodes that run most of `wanted`, in order of their names."""
    runs = {name: len(wanted & labels) for name, labels in builds.items()}
    most = max(runs.values())
    return tuple(sorted(name for name, count in runs.items() if count == most))


def quotas(
    fit: tuple[str, ...],
    members: Sequence[Shard],
    builds: Builds,
    shards: Sequence[Shard],
    needs: Needs,
) -> dict[str, int]:
    """How many of `members`, which are for the nodes `fit`, each of these should have.

    What is for all nodes evens out what is for some.
    """
    if len(fit) < len(builds):
        return evened(fit, members, dict.fromkeys(fit, 0))
    load = dict.fromkeys(builds, 0)
    for others, theirs in groups(builds, shards, needs).items():
        if others != fit:
            for name, count in quotas(others, theirs, builds, shards, needs).items():
                load[name] += count
    return evened(fit, members, load)


def evened(fit: Iterable[str], members: Sequence[Shard], load: Mapping[str, int]) -> dict[str, int]:
    """`members` spread over the nodes `fit`, who bear `load` already; the odd ones go to those that
    have most of them now."""
    now = dict.fromkeys(fit, 0)
    for shard in members:
        if shard.owner in now:
            now[shard.owner] += 1
    quota = dict.fromkeys(now, 0)
    queue = [(load[name], -count, name) for name, count in now.items()]
    heapq.heapify(queue)
    for _ in members:
        bears, count, name = queue[0]
        quota[name] += 1
        heapq.heapreplace(queue, (bears + 1, count, name))
    return quota
