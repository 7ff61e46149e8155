"""What a service calls and may be down: declared on the application, shared by its instances."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from outlive.doors.cells import Cells
from outlive.doors.opened import Opened

if TYPE_CHECKING:  # loaded by the first dependency: most services have none
    from outlive.kinds.breakers.rule import Breaker, RetryBudget
    from outlive.runtime.dependencies import Dependency
    from outlive.steps import Retry


class Dependencies(Opened, Cells):
    """The dependencies of an application."""

    _dependencies: dict[str, Dependency] | None = None

    def dependency(
        self,
        name: str,
        *,
        breaker: Breaker | None = None,
        retry: Retry | None = None,
        budget: RetryBudget | None = None,
        bulkhead: int | None = None,
        timeout: float | None = None,
        hedge_seconds: float | None = None,
        least_seconds: float = 0.0,
    ) -> Dependency:
        """Declare something else that this service calls and that may be down.

        `breaker`: when it counts as down (`Breaker()` when not given). `retry`: how often a call
        that may be repeated is tried in all, once when not given; `budget`: how much retrying there
        is for all callers together. `bulkhead` (1 or more): calls under way at once here.
        `timeout`: seconds (above 0) for one attempt. `hedge_seconds`: after which a second attempt
        is begun beside the first. `least_seconds`: an attempt is not begun with less time left.

        When the process dies: how the breaker stands, and what operators did, is kept in the store;
        what was counted here is forgotten, and the budget begins at its floor. Raises `ValueError`
        for a name that is declared already.
        """
        from outlive.kinds.breakers.standing import BREAKERS
        from outlive.runtime.dependencies import ONCE, Dependency

        known = self.__dict__.setdefault("_dependencies", {})
        place = self.place(BREAKERS)
        if name in known:
            raise ValueError(f"dependency {name} is declared twice")
        made = known[name] = Dependency(
            name, breaker=breaker, retry=retry or ONCE, budget=budget, bulkhead=bulkhead,
            timeout=timeout, hedge_seconds=hedge_seconds, least_seconds=least_seconds,
            clock=self._clock, applier=place.applier,
            who=lambda: self._runtime.name if self._runtime else "",
        )  # fmt: skip
        place.leaving.append(made.settled)
        return made

    @property
    def dependencies(self) -> Mapping[str, Dependency]:
        """The declared dependencies by name."""
        return MappingProxyType(self._dependencies or {})
