"""What can be asked of an application: one process, all of them, the nodes and the shards.

Any node answers, whichever runs the process: what is durable is read from the store, and what is
waited for is looked at again when a hint comes, or after a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from outlive import codec
from outlive.doors.opened import Opened
from outlive.errors import ProcessFailed
from outlive.kinds.processes import Entry, Node, Stats, View, entries, view_of
from outlive.kinds.processes.search import Page, search_of
from outlive.kinds.processes.tags import demand_declared
from outlive.model import Hold, Shard

RESULT_LOOK_SECONDS = 30.0
"""A wait for a result looks at the store at least this often."""


class Reading(Opened):
    """The questions an application answers."""

    async def view(self, id: str) -> View:
        """Everything durable about a process. Raises `NoSuchProcess`, `ProcessGone`."""
        head = await self._head(id)
        return view_of(id, head, await self.store.events(head.stream))

    async def seq(self, id: str) -> int:
        """How many durable events a process has: changes exactly when its view does. Raises as
        `view`."""
        head = await self._head(id)
        return (await self.store.lengths((head.stream,))).get(head.stream, 0)

    async def changed(self, id: str, seen: int, timeout_seconds: float) -> int:
        """Wait until a process has more than `seen` events, at most `timeout_seconds`; gives how
        many. Ends early when this node drains. Raises as `view`."""
        head = await self._head(id)
        if self._runtime is not None:
            return await self._runtime.watchers.changed(id, head.stream, seen, timeout_seconds)
        ends, generation = self._clock.boot() + timeout_seconds, -1
        while True:
            length = (await self.store.lengths((head.stream,))).get(head.stream, 0)
            left = ends - self._clock.boot()
            if length > seen or left <= 0:
                return length
            generation = await self.store.changed(generation, min(left, 0.5))

    async def ended_here(self, id: str, timeout_seconds: float) -> bool:
        """Wait until a process that lives on this node has ended, without asking the store.

        False when it does not live here, not any more, or not at its end in `timeout_seconds`.
        """
        if self._runtime is None:
            return False
        return await self._runtime.activations.result_of(id, timeout_seconds) is not None

    async def journal(self, id: str, after: int = -1) -> list[Entry]:
        """The durable events of a process after position `after`, readable. Raises as `view`."""
        head = await self._head(id)
        return entries(await self.store.events(head.stream, after))

    async def result(self, id: str, within: float | None = None) -> Any:
        """Wait for the end of a process; see `Handle.result`."""
        ends = None if within is None else self._clock.boot() + within
        while True:
            left = RESULT_LOOK_SECONDS if ends is None else ends - self._clock.boot()
            left = min(left, RESULT_LOOK_SECONDS)
            if self._runtime is not None and left > 0:
                patience = None if ends is None else left
                found = await self._runtime.activations.result_of(id, patience)
                if found is not None and found[0].status == "done":
                    return found[1].output_type.read(found[0].result)
            view = await self.view(id)
            if view.status == "done":
                made = self._all.get((view.type, view.version))
                shape = made.output_type if made is not None else codec.ANYTHING
                return shape.read(view.result or codec.NULL)
            if view.final:
                why = view.failure.message if view.failure is not None else ""
                raise ProcessFailed(f"{id} ended: {view.status}. {why}".strip())
            if left <= 0:
                raise TimeoutError(f"{id} is {view.status} after {within} s")
            await self.changed(id, view.seq, left)

    async def processes(
        self,
        status: str | None = None,
        type: str | None = None,
        limit: int = 50,
        cursor: str = "",
        *,
        version: int | None = None,
        tags: Mapping[str, Any] | None = None,
        started_since: datetime | None = None,
        started_until: datetime | None = None,
        changed_since: datetime | None = None,
        changed_until: datetime | None = None,
    ) -> Page:
        """Processes of which all that is given holds, newest first, with a cursor for the next page
        (empty: there is none).

        `limit`: 1 to 200. `tags`: by their whole values. `…_since` is included and `…_until` is
        not; give times with a zone. A page that is `bounded` is shorter than `limit` because as
        many rows were looked at as one page may: go on at its cursor. Raises `TagNotDeclared` for a
        name that no type declared here has, `TagInvalid`, `ValueError`.
        """
        from outlive.runtime.lists import newest

        search = search_of(
            status, type, version, tags, started_since, started_until, changed_since, changed_until
        )
        made = [one for one in self._all.values() if type in (None, one.name)]
        for name, _ in search.tags if made else ():
            known = dict.fromkeys(found for one in made for found in one.tags)
            demand_declared(known, type or "this application", name)
        return await newest(self.store, search, limit, cursor)

    async def nodes(self) -> list[Node]:
        """The nodes whose lease runs."""
        from outlive.runtime.ownership import nodes_of

        return await nodes_of(self.store)

    async def shards(self) -> list[Shard]:
        """Every shard and its owner."""
        return await self.store.owners()

    async def holds(self, limit: int = 100) -> list[Hold]:
        """Who held which shard at which epoch from which position, newest first."""
        return await self.store.ledger(limit=limit)

    def stats(self) -> Stats:
        """Counters of this node since it started."""
        return self._runtime.stats() if self._runtime is not None else Stats(ended={})
