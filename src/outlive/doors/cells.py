"""Where an application keeps cells: in its own store, or in another one beside it.

    app.ratelimits(…)                               in the application's own store
    app.sessions(…) · app.requests(…) · app.once(…)
    app.ratelimits(…, cells="redis://cache:6379")   in a store of cells: nothing of what must last

Each place has one loop that applies commands to it (runtime/apply.py) and one sweep. A place that
is declared before the application opens is opened with it, one that is declared later at its first
use, and all are closed with it. Commands on the own store join the group commit of a running node.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from outlive.doors.opened import NOT_OPEN
from outlive.errors import StoreUnavailable

log = logging.getLogger("outlive.cells")

TIMEOUT_SECONDS = 1.0
DECLARED_MAX = 100
"""Of one kind so many are known by `declared`: what is made anew for each request is a mistake."""

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from outlive.app import Outlive
    from outlive.clock import Clock
    from outlive.doors.ratelimits import Failing, RateLimiter, Scope, SlotKeeper
    from outlive.doors.requests import Once, Requests
    from outlive.doors.sessions import Sessions
    from outlive.kind import Kind
    from outlive.kinds.ratelimits import Quota, Slots
    from outlive.kinds.requests.decisions import Mode
    from outlive.model import Storage
    from outlive.runtime.apply import Applier
    from outlive.runtime.committer import Committer
    from outlive.runtime.sweeping import Sweeper
    from outlive.store import CellStore, KeyedCells


class Place:
    """One place where cells are kept; `address` is empty for the application's own store."""

    def __init__(self, app: Outlive, address: str) -> None:
        self._app = app
        self.address = address
        self.kinds: dict[str, Kind[Any, Any]] = {}
        self.spaces: dict[str, set[str]] = {}
        """The spaces of a kind that are used here; all of them where none is named."""
        self.names: dict[tuple[str, str], str] = {}
        """What a name stands for in a space, so that it does not stand for two things."""
        self.leaving: list[Callable[[], Awaitable[None]]] = []
        """What is done before the place is closed."""
        self._store: KeyedCells | None = None
        self._applier: Applier | None = None
        self._sweeper: Sweeper | None = None
        self._opening = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        """Whose lock that is."""
        self.closing = False
        """From the beginning of the application's end until it is opened again."""

    @property
    def opened(self) -> Applier | None:
        """The same as `applier`, if it is there: most often it is, and asking costs no turn."""
        return self._applier

    def name(self, space: str, name: str, what: str) -> None:
        """Take note that `name` stands for `what` in `space`. Raises `ValueError` when it stands
        for something else: both would be kept in the same cells."""
        found = self.names.setdefault((space, name), what)
        if found != what:
            raise ValueError(f"{what} cannot be named {name!r}: {found} are named so here already")

    def begin(self) -> None:
        """The application opens, perhaps in another event loop than before."""
        self.closing = False
        if (loop := asyncio.get_running_loop()) is not self._loop:
            self._loop, self._opening = loop, asyncio.Lock()

    async def applier(self) -> Applier:
        """The loop that applies commands here. Raises what opening the store raises."""
        if self._applier is None:
            async with self._opening:
                if self._applier is None:
                    self._applier = await self._open()
        return self._applier

    async def _open(self) -> Applier:
        if self.closing:
            raise StoreUnavailable("The application is closed; nothing was read or written.")
        from outlive.runtime.apply import Applier
        from outlive.runtime.sweeping import Sweeper

        app = self._app
        store: KeyedCells
        clock: Clock = app._clock
        if self.address:
            if app._store is None:
                raise StoreUnavailable(NOT_OPEN)
            from outlive.stores.address import cells_at

            store = cells_at(self.address, None)
            await store.open()
            self._store = store
            applier = Applier(store, clock)
        else:
            store = app.store
            applier = Applier(store, clock, self._committer)
        try:
            for kind in list(self.kinds.values()):  # another thread may declare
                applier.check(kind, self.spaces.get(kind.name))
        except BaseException:
            if self._store is not None:
                store, self._store = self._store, None
                await store.close()
            raise
        if "claim" not in store.lacks:  # else the store lets go of what is due by itself
            self._sweeper = Sweeper(cast("CellStore", store), self.kinds.values(), clock)
            self._sweeper.start()
        return applier

    def forget(self) -> None:
        """In a forked child: what is open, or is just being opened, is the parent's."""
        self._store = self._applier = self._sweeper = None
        self._opening = asyncio.Lock()

    def _committer(self) -> Committer | None:
        runtime = self._app._runtime
        return None if runtime is None else runtime.committer

    async def close(self) -> None:
        async with self._opening:  # what is just being opened is closed too
            applier, self._applier = self._applier, None
        if applier is not None:
            await applier.close()
        if self._sweeper is not None:
            await self._sweeper.stop()
            self._sweeper = None
        store, self._store = self._store, None
        if store is not None:
            await store.close()


class Cells:
    """What an application keeps in cells."""

    _places: dict[str, Place]
    _requests: Requests | None = None
    _of_value: Callable[..., Once]
    """What makes a block of `once`; looked for at the first: an import costs each time."""

    def place(self, kind: Kind[Any, Any], cells: str = "") -> Place:
        """Where `kind` is kept: `cells` is the address of a store of cells, the application's own
        when empty."""
        places = self.__dict__.setdefault("_places", {})
        found: Place | None = places.get(cells)
        if found is None:  # `setdefault`: another thread may declare there at the same time
            found = cast("Place", places.setdefault(cells, Place(cast("Outlive", self), cells)))
        found.kinds[kind.name] = kind
        return found

    def declares(self, kind: str, made: Any) -> None:
        """Note that `made` is one of `kind` here, for who shows and counts what there is."""
        known = self.__dict__.setdefault("_declared", {}).setdefault(kind, [])
        if len(known) < DECLARED_MAX:
            known.append(made)

    def declared(self, kind: str) -> tuple[Any, ...]:
        """What was made of `kind` on this application: sessions, requests, limits, slots; in the
        order in which it was made, the first `DECLARED_MAX`."""
        return tuple(self.__dict__.get("_declared", {}).get(kind, ()))

    def ratelimits(
        self,
        *quotas: Quota,
        scope: Scope = "shared",
        cells: str = "",
        storage: Storage = "volatile",
        ahead: int = 0,
        ahead_seconds: float = 1.0,
        on_failure: Failing = "open",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> RateLimiter:
        """A rate limiter: `quotas` (1 to 8) that are decided as one.

        `scope`: where use is counted, `shared`, `hybrid` or `local`. `cells`: the address of a
        store of cells (`redis://…`) when it is not the application's own. `storage`: the weakest
        class that will do; `durable` for what is money. `ahead` (2 to 100,000) and `ahead_seconds`:
        of hybrid. `on_failure`: what is answered when the store does not answer within
        `timeout_seconds`.
        """
        from outlive.doors.ratelimits import RateLimiter
        from outlive.kinds.ratelimits import RATELIMITS

        made = RateLimiter(
            self.place(RATELIMITS, cells), quotas, clock=cast("Outlive", self)._clock, scope=scope,
            storage=storage, ahead=ahead, ahead_seconds=ahead_seconds, on_failure=on_failure,
            timeout_seconds=timeout_seconds,
        )  # fmt: skip
        self.declares("limits", made)
        return made

    def sessions(self, *, cells: str = "", **options: Any) -> Sessions:
        """The sessions of this service; `cells` as for `ratelimits`, see `Sessions` for
        `options`."""
        from outlive.doors.sessions import Sessions

        return Sessions(self, cells=cells, **options)

    def requests(self, **options: Any) -> Requests:
        """The idempotency keys of this service; see `Requests` for `options`."""
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
        if self._requests is None:
            from outlive.doors.replies import of_value

            self._of_value = of_value  # first: another thread looks at `_requests`
            self._requests = self.requests()
        return self._of_value(self._requests, scope, key, value, mode, wait_seconds)

    def slots(self, slots: Slots, *, cells: str = "", storage: Storage = "volatile") -> SlotKeeper:
        """Slots: so many at once, for each key. `cells`, `storage`: as for `ratelimits`."""
        from outlive.doors.ratelimits import SlotKeeper
        from outlive.kinds.ratelimits import RATELIMITS

        clock = cast("Outlive", self)._clock
        made = SlotKeeper(self.place(RATELIMITS, cells), slots, storage, clock)
        self.declares("slots", made)
        return made

    async def _open_places(self) -> None:
        """Open what was declared; what does not answer yet is opened at its first use."""
        for place in self._all_places():
            place.begin()
        for place in self._all_places():
            try:
                await place.applier()
            except StoreUnavailable as error:
                log.warning("a store of cells does not answer yet: %s", error)

    async def _leave_places(self) -> None:
        """What is done while the stores can still be written."""
        for place in self._all_places():
            for leave in place.leaving:
                await leave()

    async def _close_places(self) -> None:
        for place in self._all_places():
            place.closing = True
        for place in self._all_places():
            await place.close()

    def _all_places(self) -> list[Place]:
        return list(self.__dict__.get("_places", {}).values())
