"""The sentence at the top of the first page."""

from __future__ import annotations

import pytest

from outlive.dashboard.pages.overview import verdict
from outlive.kinds.processes import STATUSES, Node
from outlive.kinds.processes.census import Census, Count
from outlive.model import Shard

NODE = Node("n1", "host", 1, 0, 9, "ready", 1, ())


def census(**counts: int) -> Census:
    found = {status: Count(counts.get(status, 0)) for status in STATUSES}
    return Census(0, found, (), (), (), ())


@pytest.mark.parametrize(
    ("counts", "nodes", "owner", "level", "text"),
    [
        ({"waiting": 3}, [NODE], "n1", "ok", "Nothing is lost or stuck"),
        ({"waiting": 3}, [], "n1", "bad", "Nobody serves this store"),
        ({}, [], "", "ok", "Nothing is lost or stuck"),
        ({"stuck": 1}, [NODE], "n1", "bad", "1 process waits for somebody"),
        ({"stuck": 1, "paused": 2}, [NODE], "n1", "bad", "3 processes wait for somebody"),
        ({"no_worker_for_version": 2}, [NODE], "n1", "warn", "2 processes wait for somebody"),
        ({"running": 1}, [NODE], "gone", "warn", "A take-over is under way"),
    ],
)
def test_it_says_whether_somebody_must_act(
    counts: dict[str, int], nodes: list[Node], owner: str, level: str, text: str
) -> None:
    said = verdict(census(**counts), nodes, [Shard(0, owner, 1, 0)])
    assert (said.level, said.text) == (level, text)
    assert said.why.endswith(".")


def test_it_says_when_there_are_more_than_were_counted() -> None:
    many = census()
    many.counts["stuck"] = Count(1000, True)
    assert verdict(many, [NODE], [Shard(0, "n1", 1, 0)]).text.startswith("1000+ processes")
