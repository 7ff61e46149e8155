"""Types and versions: what is under way of each, who runs it, whether it may go, and its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from outlive.dashboard.graph import graph_of
from outlive.errors import NoSuchProcess, ProcessGone
from outlive.kinds.processes.census import Census, Standing
from outlive.kinds.processes.definition import label_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outlive.app import Outlive
    from outlive.dashboard.rendering import Desk, Sight
    from outlive.kinds.processes import Node

VIEWS_MAX = 40
"""Processes that a graph is drawn from, the newest."""


class Version(Struct, frozen=True):
    """One version of a type."""

    type: str
    version: int
    declared: bool
    """Whether this service runs it."""
    nodes: int
    """How many nodes do."""
    standing: Standing | None
    may_go: str
    """Whether its code may be taken out: `yes`, `no`, `no: no node …`, or `not known`."""


def versions_of(app: Outlive, census: Census, nodes: Sequence[Node]) -> list[Version]:
    """Every version that is declared here, run by a node, or under way."""
    standing = {(one.type, one.version): one for one in census.standing}
    runs = [label for node in nodes for label in node.runs]
    run = {pair for label in runs if (pair := _pair(label)) is not None}
    known = {*standing, *run}
    here = {(made.name, each) for made in app.definitions.values() for each in made.versions}
    found = []
    for type, version in sorted(known | here, key=lambda pair: (pair[0], -pair[1])):
        going, number = standing.get((type, version)), runs.count(label_of(type, version))
        newest = app.definitions.get(type)
        newest_run = max((each for name, each in run if name == type), default=0)
        current = version in (newest_run, 0 if newest is None else newest.version)
        found.append(
            Version(
                type, version, (type, version) in here, number, going,
                _may_go(going, number, census.bounded, current),
            )
        )  # fmt: skip
    return found


def _may_go(going: Standing | None, nodes: int, bounded: bool, current: bool) -> str:
    if going is not None:
        return "no" if nodes else "no: no node runs it"
    if bounded:
        return "not known: more is under way than was counted"
    return "it is the newest" if current else "yes"


def _pair(label: str) -> tuple[str, int] | None:
    name, _, version = label.rpartition(" v")
    return (name, int(version)) if name and version.isdigit() else None


async def types(desk: Desk, sight: Sight) -> str:
    """All types."""
    census, nodes = await desk.census(), await desk.app.nodes()
    found = versions_of(desk.app, census, nodes)
    return desk.render("types.html", sight, versions=found, nodes=len(nodes), census=census)


async def type_page(desk: Desk, sight: Sight, name: str, version: int | None) -> str | None:
    """One type; its steps as the newest processes (of `version`, if that is given) did them. None:
    there is no such type."""
    census, nodes = await desk.census(), await desk.app.nodes()
    versions = [one for one in versions_of(desk.app, census, nodes) if one.type == name]
    items, _ = await desk.app.processes(None, name, VIEWS_MAX, version=version)
    if not versions and not items:
        return None
    views: list[Any] = []
    for item in items:
        try:
            views.append(await desk.app.view(item.id))
        except (NoSuchProcess, ProcessGone):
            continue  # its retention passed between the two looks
    return desk.render(
        "type.html",
        sight,
        name=name,
        version=version,
        versions=versions,
        definition=desk.app.definitions.get(name),
        graph=graph_of(views),
        backlog=(await desk.app.backlog()).get(name),
        nodes=len(nodes),
        census=census,
    )
