"""Caches of an application: declared as functions, shared by its instances."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from outlive.codec import shapes
from outlive.doors.cells import Cells
from outlive.doors.opened import Opened

if TYPE_CHECKING:  # loaded by the first cache: most services have none
    from outlive.kinds.caches.rule import Bounds, Holds, Life
    from outlive.runtime.caches import Cache, Terms
    from outlive.runtime.stamps import Generations
    from outlive.store import KeyedCells

Args = TypeVarTuple("Args")
R = TypeVar("R")


class Caches(Opened, Cells):
    """The caches of an application."""

    _caches: dict[str, Cache[*tuple[Any, ...], Any]] | None = None
    _generations: Generations | None = None

    def cache(
        self,
        holds: Holds,
        *,
        name: str = "",
        ttl: float = 300.0,
        life: Life | None = None,
        bounds: Bounds | None = None,
        tags: Callable[[Unpack[Args]], Sequence[str]] | None = None,
        shared: bool = True,
        load_seconds: float = 10.0,
        loads_max: int = 32,
        schema: str = "1",
        cells: str = "",
    ) -> Callable[[Callable[[Unpack[Args]], Awaitable[R]]], Cache[*Args, R]]:
        """Cache an `async` function of text and integers, given by position: they are the key.

        `holds`: how wrong a value may be: `exact`, `bounded(seconds)`, `best_effort()` or
        `never_authoritative`. `name`: the function's when not given. `ttl` in seconds, or `life`
        for all of it. `bounds`: entries and bytes in memory here. `tags`: of the same arguments,
        at most 8; a tag can be invalidated as a whole. `shared`: values and leases lie in the store
        too, so that one instance loads what all need. `load_seconds`: for one load, and the length
        of its lease. `loads_max`: loads under way here. `schema`: another one is another space of
        keys; change it with the shape of the values. `cells`: the address of a store of cells for
        the values; stamps always lie in the application's own store.

        When the process dies: values are loaded again; an invalidation that was committed holds.
        Raises `ValueError` for a name that is declared already.
        """
        from outlive.kinds.caches.rule import Bounds, Life
        from outlive.runtime.caches import Terms

        terms = Terms(
            holds=holds, bounds=bounds or Bounds(), life=life or Life(ttl=ttl), shared=shared,
            load_seconds=load_seconds, loads_max=loads_max, schema=schema,
        )  # fmt: skip

        def declare(
            function: Callable[[Unpack[Args]], Awaitable[R]],
        ) -> Cache[*Args, R]:
            called = name or function.__name__
            made: Cache[*Args, R] = self._declare_cache(called, function, terms, tags, cells)
            return made

        return declare

    @property
    def caches(self) -> Mapping[str, Cache[*tuple[Any, ...], Any]]:
        """The declared caches by name."""
        return MappingProxyType(self._caches or {})

    def _declare_cache(self, name: str, function: Any, terms: Terms, tags: Any, cells: str) -> Any:
        from outlive.kinds.caches.rule import NAME_CHARACTERS_MAX
        from outlive.kinds.caches.shared import VALUES
        from outlive.runtime.caches import Cache

        known = self.__dict__.setdefault("_caches", {})
        if name in known:
            raise ValueError(f"cache {name} is declared twice")
        if not 1 <= len(name) <= NAME_CHARACTERS_MAX or "/" in name:
            raise ValueError(f"a cache's name has 1 to {NAME_CHARACTERS_MAX} characters, and no /")
        generations = applier = None
        if terms.holds.is_stamped:
            generations = self._stamps()
            applier = self.place(VALUES, cells).applier if terms.shared else None
        made: Any = Cache(
            name, function, terms, tags=tags, shape=shapes(function)[1], clock=self._clock,
            generations=generations, applier=applier,
        )  # fmt: skip
        known[name] = made
        return made

    def _stamps(self) -> Generations:
        if self._generations is None:
            from outlive.kinds.caches.shared import STAMPS
            from outlive.runtime.stamps import Generations

            place = self.place(STAMPS)

            async def store() -> KeyedCells:
                return (await place.applier()).store

            self._generations = Generations(store)
        return self._generations
