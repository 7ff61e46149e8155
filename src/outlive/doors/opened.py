"""What every part of an application stands on: its open store, its node, and what it declares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outlive.errors import NoSuchProcess, ProcessGone, StoreUnavailable
from outlive.kinds.processes.cells import read_head, ref_of
from outlive.kinds.processes.vocabulary import GONE

if TYPE_CHECKING:
    from outlive.clock import Clock
    from outlive.doors.lines import Count
    from outlive.kinds.processes import Definition, Head
    from outlive.runtime.node import NodeRuntime
    from outlive.runtime.telemetry import Telemetry
    from outlive.store import Store

NOT_OPEN = (
    "The application is not open; nothing was read or written. Serve `app.asgi(…)`, whose life "
    "span opens it, or open it by `async with app`."
)


class Opened:
    """An application as those who read from it and tell it something see it."""

    _clock: Clock
    _all: dict[tuple[str, int], Definition]
    _redact: frozenset[str]
    """Names of members whose values nobody is shown."""
    _runtime: NodeRuntime | None = None
    _store: Store | None = None
    _counts: dict[str, Count]
    _telemetry: Telemetry | None = None

    @property
    def store(self) -> Store:
        """The open store. Raises `StoreUnavailable` before `open()`."""
        if self._store is None:
            raise StoreUnavailable(NOT_OPEN)
        return self._store

    def _wall(self) -> int:
        """The store's time as this node knows it; where none runs, this machine's."""
        clock = self._clock if self._runtime is None else self._runtime.clock
        return clock.wall()

    @property
    def redacts(self) -> frozenset[str]:
        """The names of members whose values nobody is shown."""
        return self._redact

    async def _head(self, id: str) -> Head:
        """What the cell of a process says. Raises `NoSuchProcess`, `ProcessGone`."""
        ref = ref_of(id, self.store.shards)
        cell = (await self.store.read((ref,)))[0]
        if cell is None and await self.store.refresh():
            cell = (await self.store.read((ref,)))[0]
        if cell is None:
            raise NoSuchProcess(f"There is no process {id[:64]}.")
        head = read_head(cell.value)
        if head.status == GONE:
            raise ProcessGone(f"Process {id} ended and is past its retention.")
        return head
