"""What this process believes of the store because it wrote it last, and the calls that this saves.

    chains    how far each shard is, with the chain value of its last event
    lengths   how many events a stream has: this process wrote or read the last one
    cells     the version and the marks of a cell

A group of which all is believed goes by `commit_believed`, which looks nothing up: each row is
checked where it is written, by its whole key. A shard must be at the head believed, a cell at the
version believed, and the index of the streams refuses an event that is there. What is believed
wrongly costs a second call and nothing else: the first one wrote nothing.

    sure of all ──> commit_believed ──> written            (commit_event, if it is but one event)
         │                └─ not so ──> surely (postgres_lane.py), and the belief is dropped
         └─ not of all ──> commit_group, which looks up what it is not told

An event at `n` is believed to be next only because this process wrote or read the one at `n - 1`,
and events are never deleted. A cell is learned where it was written. A claim moves its version and
leaves its marks: what was believed of them stays true if nobody else had written the cell since.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outlive.model import ABSENT, Cell, Event
from outlive.stores.postgres_group import (
    DROP,
    PUT,
    Chains,
    Key,
    Marks,
    Plan,
    chained,
    encoded_marks,
    in_order_of_bytes,
)

LENGTHS_KEPT_MAX = 50_000
CELLS_KEPT_MAX = 20_000


class Beliefs:
    """The beliefs of one open store, shared by its lanes."""

    def __init__(self) -> None:
        self.chains: Chains = {}
        self.lengths: dict[str, int] = {}
        self.cells: dict[Key, tuple[int, Marks]] = {}

    def learn(self, plan: Plan, base: int) -> None:
        """`plan` was committed with versions from `base` on."""
        for shard, (head, chain) in plan.chains.items():
            known = self.chains.get(shard)
            if known is None or known[0] < head:
                self.chains[shard] = (head, chain)
        if len(self.lengths) > LENGTHS_KEPT_MAX:
            self.lengths.clear()
        self.lengths.update(plan.lengths)
        if plan.cells:
            self._learn_cells(plan, base)

    def _learn_cells(self, plan: Plan, base: int) -> None:
        cells = self.cells
        if len(cells) > CELLS_KEPT_MAX:
            cells.clear()
        for key, cell in plan.cells.items():
            if cell.action == PUT:
                assert cell.draw is not None
                version, known = base + cell.draw, cells.get(key)
                if known is None or known[0] < version:
                    cells[key] = version, cell.marks
            elif cell.action == DROP:
                cells.pop(key, None)

    def claimed(self, found: Sequence[Cell], before: Sequence[int]) -> None:
        """The versions of these cells were moved by this process, from those of `before`."""
        for cell, was in zip(found, before, strict=True):
            key = cell.space, cell.key
            known = self.cells.get(key)
            if known is not None and known[0] == was:
                self.cells[key] = cell.version, known[1]
            elif known is not None and known[0] < cell.version:
                del self.cells[key]  # another wrote it since: its marks are not known

    def read(self, streams: dict[str, list[Event]]) -> None:
        """These streams were read to their end: at least so many events are in them."""
        lengths = self.lengths
        for stream, events in streams.items():
            if len(events) > lengths.get(stream, 0):
                lengths[stream] = len(events)

    def doubt(self, plan: Plan) -> None:
        """`plan` was refused: something that it stands on is not as believed."""
        for key in plan.cells:
            self.cells.pop(key, None)
        for stream in plan.streams:
            self.lengths.pop(stream, None)

    def call(self, plan: Plan, late: int | None, relaxed: bool) -> tuple[str, list[Any]] | None:
        """The call for `plan`, by name, and what it is given; None if not all of it is believed.

        Completes the plan's chains. `late` is how far its time may lie behind the server's clock.
        """
        lengths = self.lengths
        for stream, n in plan.streams.items():
            if n and lengths.get(stream) != n:
                return None
        rows = self._rows(plan) if plan.cells else ([], [])
        if rows is None:
            return None
        cells, marks = rows
        leases, events = chained(plan)
        one = len(leases) == 1
        if one and not cells and len(events.added) == 1 and not relaxed:
            (lease,), (add,), (chain,) = leases, events.added, events.links
            fence = (lease.shard, lease.epoch, lease.owner, plan.heads[lease][0])
            event = (add.stream, add.n, add.kind, add.data, chain)
            return "commit_event", [plan.now, late, *fence, *event]
        return "commit_believed", [
            plan.now,
            late,
            relaxed,
            [lease.shard for lease in leases],
            [lease.epoch for lease in leases],
            [lease.owner for lease in leases],
            [plan.heads[lease][0] if plan.appends[lease] else 0 for lease in leases],
            [len(plan.appends[lease]) for lease in leases],
            *(_columns(cells, 7)),
            *(_columns(marks, 5)),
            [] if one else events.shards,
            [] if one else events.seqs,
            [add.stream for add in events.added],
            [add.n for add in events.added],
            [add.kind for add in events.added],
            [add.data for add in events.added],
            events.links,
        ]

    def _rows(self, plan: Plan) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]] | None:
        """What is written about cells and about marks; None when one of the cells is unknown."""
        cells: list[tuple[Any, ...]] = []
        marks: list[tuple[Any, ...]] = []
        for key in in_order_of_bytes(plan.cells):
            cell, known = plan.cells[key], self.cells.get(key)
            was, old = known if known is not None else (None, ())
            if cell.action == PUT and cell.need == ABSENT:
                if known is not None:
                    return None
            elif cell.action not in (PUT, DROP) or known is None or cell.need not in (None, was):
                return None
            new = cell.marks
            cells.append((*key, was, cell.value, cell.due, encoded_marks(new), cell.draw))
            if new != old:
                marks.extend((False, *mark, *key) for mark in old if mark not in new)
                marks.extend((True, *mark, *key) for mark in dict.fromkeys(new) if mark not in old)
        return cells, marks


def _columns(rows: list[tuple[Any, ...]], count: int) -> list[Any]:
    return list(map(list, zip(*rows, strict=True))) if rows else [[] for _ in range(count)]
