"""Kinds on cells, as an application gives them out: one loop of decisions for each store.

    app.sessions(…)   who is signed in (sessions.py)
    app.requests(…)   idempotency keys (requests.py)

Both stand on an `Applier`: of the application's own store, with its group commit, or of another
store of cells (`redis://…`) that is given to them. What is due is swept from time to time while
they are used, by whichever instance comes first.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from outlive.clock import Clock
from outlive.errors import OutliveError
from outlive.ids import full_jitter
from outlive.kind import Kind
from outlive.model import Batch, Require
from outlive.runtime.apply import Applier

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.doors.requests import Once, Requests
    from outlive.doors.sessions import Sessions
    from outlive.kinds.requests.decisions import Mode
    from outlive.store import CellStore

log = logging.getLogger("outlive")

SWEEP_SECONDS = 60.0
SWEEP_CELLS_MAX = 500
HOLD_SECONDS = 30.0


class Cells:
    """Where a kind on cells is kept: an application's store, or one of its own.

    `place` is an `Outlive`, or an open store of cells.
    """

    def __init__(self, place: Any, kind: Kind[Any, Any]) -> None:
        self._place = place
        self._kind = kind
        self._is_app = isinstance(place, CellDoors)
        self.clock: Clock = place._clock if self._is_app else Clock()
        self._own: Applier | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._next: Any = None

    @property
    def applier(self) -> Applier:
        """The loop that carries commands out. Raises `StoreUnavailable` while nothing is open."""
        if self._is_app:
            found: Applier = self._place.applier
        else:
            if self._own is None:
                self._own = Applier(self._place, self.clock)
            found = self._own
        self._plan()
        return found

    @property
    def store(self) -> CellStore:
        """The open store. Raises `StoreUnavailable` before it is."""
        found: CellStore = self._place.store if self._is_app else self._place
        return found

    async def sweep(self, limit: int = SWEEP_CELLS_MAX) -> int:
        """Do what is due, of at most `limit` cells; gives how many. Done by two at once it is done
        once; when the process dies over it, the cells are due again after `HOLD_SECONDS`."""
        store = self.store
        cells = await store.claim(tuple(self._kind.spaces), limit, HOLD_SECONDS)
        if not cells:
            return 0
        now = await store.now()
        batches = []
        for cell in cells:
            made = self._kind.on_due(cell, now)
            storage = self._kind.spaces[cell.space]
            require = (Require(cell.ref, cell.version),)
            batches.append(Batch(None, require, made.put, made.drop, (), storage))
        await store.commit_group(batches)
        return len(cells)

    def _plan(self) -> None:
        """Sweep in a while, if nothing is planned: each use plans the next."""
        if self._next is None and hasattr(self.store, "claim"):
            seconds = SWEEP_SECONDS / 2 + full_jitter(SWEEP_SECONDS, SWEEP_SECONDS, 1)
            loop = asyncio.get_running_loop()
            self._next = (loop, self.clock.call_later(seconds, self._due))
        elif self._next is not None and self._next[0] is not asyncio.get_running_loop():
            self._next = None  # an earlier loop has taken its plans along

    def _due(self) -> None:
        self._next = None
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    async def _sweep(self) -> None:
        try:
            while await self.sweep() == SWEEP_CELLS_MAX:
                pass
        except OutliveError as error:  # closed, or not now: the next use plans the next
            log.debug("%s were not swept: %s", self._kind.name, error.detail)


class CellDoors:
    """What `Outlive` gives out of the kinds on cells."""

    _applier: Applier | None = None
    _requests: Requests | None = None

    @property
    def applier(self) -> Applier:
        """The loop that carries out decisions on the cells of the open store. Raises
        `StoreUnavailable` before `open()`."""
        app = cast("Outlive", self)
        if self._applier is None or self._applier.store is not app.store:
            self._applier = Applier(
                app.store,
                app._clock,
                lambda: None if app._runtime is None else app._runtime.committer,
            )
        return self._applier

    def sessions(self, **options: Any) -> Sessions:
        """The sessions of this service, in its own store; see `Sessions` for `options`."""
        from outlive.doors.sessions import Sessions

        return Sessions(self, **options)

    def requests(self, **options: Any) -> Requests:
        """The idempotency keys of this service, in its own store; see `Requests` for
        `options`."""
        from outlive.doors.requests import Requests

        return Requests(self, **options)

    def once(
        self,
        scope: str,
        key: str,
        value: Any = None,
        *,
        mode: Mode = "at-most-once",
        wait_seconds: float = 0.0,
    ) -> Once:
        """A block that is carried out once for `key`, on whichever instance: `async with`.

        `scope`: what keeps keys of different callers and purposes apart. `value`: what is asked
        for; the same key with another value is refused (`KeyReused`). `mode`: see `Requests`.
        `wait_seconds`: how long to wait for another who carries it out, before `RequestRunning`.
        When the process dies inside, nothing was done (`transactional`), the next one goes on
        (`recovery`), or the outcome is unknown and is never repeated by itself (`at-most-once`).
        """
        from outlive.doors.requests import Requests
        from outlive.kinds.requests.decisions import Place
        from outlive.kinds.requests.fingerprints import fingerprints_of_value

        if self._requests is None:
            self._requests = Requests(self)
        return self._requests.once(
            Place(key, scope), fingerprints_of_value(value), mode=mode, wait_seconds=wait_seconds
        )
