"""A world of cells in a dict: pure decisions are carried out on it, one after the other."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from outlive.kind import Kind
from outlive.model import Batch, Cell, Ref

C = TypeVar("C")
R = TypeVar("R")
START = 1_700_000_000_000_000


class World(Generic[C, R]):
    """Cells and a clock that is moved by hand; `kind` decides."""

    def __init__(self, kind: Kind[C, R]) -> None:
        self.kind = kind
        self.cells: dict[Ref, Cell] = {}
        self.now = START
        self.version = 0
        self.writes = 0

    def do(self, command: C) -> R:
        """Decide `command` twice on what is there, which must come out the same; carry it out."""
        view = {ref: self.cells.get(ref) for ref in self.kind.refs(command)}
        decision = self.kind.decide(view, command, self.now)
        assert decision == self.kind.decide(view, command, self.now)
        assert {put.ref for put in decision.batch.put} | set(decision.batch.drop) <= set(view)
        self._write(decision.batch)
        return decision.reply

    def sweep(self) -> None:
        """What the clock drives, for every cell that is due."""
        for cell in list(self.cells.values()):
            if cell.due is not None and cell.due <= self.now:
                self._write(self.kind.on_due(cell, self.now))

    def _write(self, batch: Batch) -> None:
        self.writes += bool(batch.put or batch.drop)
        for ref in batch.drop:
            self.cells.pop(ref, None)
        for put in batch.put:
            self.version += 1
            cell = Cell(put.ref.space, put.ref.key, put.value, self.version, put.due)
            self.cells[put.ref] = cell

    def values(self, space: str) -> list[Any]:
        return [cell.value for ref, cell in self.cells.items() if ref.space == space]
