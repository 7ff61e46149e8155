"""May a version go?"""

from __future__ import annotations

from typing import Any

import pytest

from outlive import Outlive, Run
from outlive.dashboard.pages.types import versions_of
from outlive.kinds.processes import STATUSES, Node
from outlive.kinds.processes.census import Census, Count, Standing


def app() -> Outlive:
    made = Outlive("memory://")

    @made.process("/orders", version=2, accepts=(1,))
    async def order(run: Run) -> None: ...

    return made


def census(*standing: Standing, more: bool = False) -> Census:
    counts = {status: Count(0, more) for status in STATUSES}
    return Census(0, counts, (), standing, (), ())


NODE = Node("n", "h", 1, 0, 1, "ready", 1, ("order v1", "order v2"))
OLD = Standing("order", 1, {"waiting": 3}, 7)


@pytest.mark.parametrize(
    ("seen", "nodes", "said"),
    [
        (census(OLD), [NODE], {1: "no", 2: "it is the newest"}),
        (census(OLD), [], {1: "no: no node runs it", 2: "it is the newest"}),
        (census(), [NODE], {1: "yes", 2: "it is the newest"}),
        (census(more=True), [NODE], {1: "not known: more is under way than was counted"}),
    ],
)
def test_a_version_may_go_when_nothing_of_it_is_under_way(
    seen: Census, nodes: list[Node], said: dict[int, str]
) -> None:
    found: dict[int, Any] = {one.version: one for one in versions_of(app(), seen, nodes)}
    assert list(found) == [2, 1], "the newest first"
    for version, text in said.items():
        assert found[version].may_go == text
    assert found[1].nodes == len(nodes) and found[1].declared


def test_what_is_only_under_way_or_only_run_elsewhere_is_shown_too() -> None:
    other = Node("m", "h", 2, 0, 1, "ready", 1, ("invoice v3",))
    found = versions_of(app(), census(Standing("lost", 1, {"stuck": 1}, 7)), [other])
    assert [(one.type, one.version, one.declared) for one in found] == [
        ("invoice", 3, False), ("lost", 1, False), ("order", 2, True), ("order", 1, True),
    ]  # fmt: skip


def test_the_newest_version_of_any_node_may_not_go_though_it_is_not_declared_here() -> None:
    newer = Node("m", "h", 2, 0, 1, "ready", 1, ("order v2", "order v3", "invoice v3"))
    found = versions_of(app(), census(), [NODE, newer])
    assert [(one.type, one.version, one.may_go) for one in found] == [
        ("invoice", 3, "it is the newest"), ("order", 3, "it is the newest"),
        ("order", 2, "it is the newest"), ("order", 1, "yes"),
    ]  # fmt: skip
