"""The ground that sessions and requests stand on: an application, or a store of cells alone.

An application brings its loop of decisions, its group commit and its sweep (`Place` in cells.py). A
store that is given open has a loop of its own here, is closed by who opened it, and is swept when
that is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from outlive.clock import Clock
from outlive.doors.cells import Cells
from outlive.errors import StoreRefused
from outlive.runtime.apply import Applier
from outlive.runtime.sweeping import Sweeper

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from outlive.kind import Kind
    from outlive.store import CellStore

C = TypeVar("C")
R = TypeVar("R")


def declare(place: Any, kind: str, made: Any) -> None:
    """Let an application know that `made` is one of `kind` on it; nothing where `place` is a store
    of cells alone."""
    if isinstance(place, Cells):
        place.declares(kind, made)


class Ground(Generic[C, R]):
    """Where `kind` is kept; `place` is an `Outlive` (then `cells` may name another store), or an
    open store of cells."""

    def __init__(self, place: Any, kind: Kind[C, R], cells: str = "") -> None:
        self._kind = kind
        self._own: Applier | None = None
        if isinstance(place, Cells):
            self._place = place.place(kind, cells)
            self.clock: Clock = cast("Any", place)._clock
        elif cells:
            raise ValueError("`cells` names a store beside that of an application")
        else:
            self.clock = Clock()
            self._own = Applier(place, self.clock)
            self._own.check(kind)

    def apply(self, command: C) -> Awaitable[R]:
        """Carry out `command`; see `Applier.apply`. Where the store is open it is handed over at
        once: what refuses it there raises here."""
        applier = self._own or self._place.opened
        return self._first(command) if applier is None else applier.submit(self._kind, command)

    async def _first(self, command: C) -> R:
        """The same, of what opens the store."""
        return await (await self._place.applier()).submit(self._kind, command)

    async def store(self) -> CellStore:
        """The store. Raises `StoreUnavailable` while the application is not open."""
        return cast("CellStore", (self._own or await self._place.applier()).store)

    async def demand(self, ability: str) -> CellStore:
        """The store, if it has that ability. Raises `StoreRefused` with what it lacks."""
        store = await self.store()
        if ability in store.lacks:
            raise StoreRefused(f"This needs more of a store: {store.lacks[ability]}.")
        return store

    async def sweep(self) -> int:
        """Do what is due now; gives of how many cells."""
        store = await self.demand("claim")
        return await Sweeper(store, (self._kind,), self.clock).sweep()
