"""What is due and belongs to a kind on cells: claimed, and carried out as the kind says.

    due passes ──claim──> held for a while ──on_due──> batch ──commit──> dropped, or what it says

Every process that uses a kind sweeps its spaces; a claim hands a cell to one of them only, and what
`on_due` says is committed only if the cell is still as it was claimed. A sweep that dies in between
leaves the cell claimed until its hold is over: then another one gets it. A cell that its kind
cannot read here (a newer release wrote it, or it is damaged) is left, and holds up no other.

Not promised: that a cell goes at its deadline (about `SWEEP_SECONDS` later), or an order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from outlive import ids
from outlive.clock import Clock
from outlive.errors import Conflict, OutliveError
from outlive.kind import Kind, class_of, kept_as
from outlive.model import Batch, Cell, Require
from outlive.store import GROUP_BATCHES_MAX, CellStore

log = logging.getLogger("outlive.cells")

SWEEP_SECONDS = 30.0
"""How often what is due is looked for, on average."""
HOLD_SECONDS = 30.0
PAGES_MAX = 200
"""Groups of cells that one sweep carries out, before it rests."""


class Sweeper:
    """Sweeps the spaces of `kinds` in `store`; used from one event loop."""

    def __init__(self, store: CellStore, kinds: Iterable[Kind[Any, Any]], clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._kinds = kinds
        """Those there are when it sweeps, also what was declared after it was made."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def sweep(self) -> int:
        """Carry out what is due now; gives how many cells that were."""
        swept, of = 0, {space: kind for kind in list(self._kinds) for space in kind.spaces}
        for _ in range(PAGES_MAX):
            cells = await self._store.claim(list(of), GROUP_BATCHES_MAX, HOLD_SECONDS)
            if cells:
                await self._carry_out(cells, of)
            swept += len(cells)
            if len(cells) < GROUP_BATCHES_MAX:
                break
        return swept

    async def _carry_out(self, cells: Sequence[Cell], of: Mapping[str, Kind[Any, Any]]) -> None:
        now = await self._store.now()
        batches = []
        for cell in cells:
            try:
                batches.append(self._batch(of[cell.space], cell, now))
            except Exception as error:  # one that cannot be read here holds up no other
                why = type(error).__name__
                log.warning("a cell of %s is due and was left as it is: %s", cell.space, why)
        results = await self._store.commit_group(batches)
        for result in results:
            if isinstance(result, OutliveError) and not isinstance(result, Conflict):
                raise result

    def _batch(self, kind: Kind[Any, Any], cell: Cell, now: int) -> Batch:
        wanted = class_of(kind, cell.space)
        storage = kept_as(wanted, self._store.keeps, f"Space {cell.space}", "the store")
        made = kind.on_due(cell, now)
        return replace(made, require=(Require(cell.ref, cell.version),), storage=storage)

    async def _run(self) -> None:
        while True:
            woken = asyncio.Event()
            wait = self._clock.call_later(
                SWEEP_SECONDS / 2 + ids.full_jitter(SWEEP_SECONDS, SWEEP_SECONDS, 1), woken.set
            )
            try:
                await woken.wait()
            finally:
                wait.cancel()
            try:
                await self.sweep()
            except OutliveError as error:
                log.warning("what is due was not swept: %s", error.code)
