"""What can be asked of an application: one process, all of them, the nodes and the shards.

Any node answers, whichever runs the process: what is durable is read from the store, and what is
waited for is looked at again when a hint comes, or after a while.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec import Raw

from outlive import codec
from outlive.doors.journals import events_after, recorded
from outlive.doors.lines import with_standing
from outlive.doors.opened import Opened
from outlive.errors import ProcessFailed
from outlive.kinds.processes import Entry, Node, Stats, View, entries, view_of
from outlive.kinds.processes.redaction import masked, shown, shown_entry
from outlive.kinds.processes.search import Page, search_of
from outlive.kinds.processes.tags import demand_declared
from outlive.model import Hold, Shard

if TYPE_CHECKING:
    from outlive.kinds.processes.limits import Backlog

RESULT_LOOK_SECONDS = 30.0
"""A wait for a result looks at the store at least this often."""


class Reading(Opened):
    """The questions an application answers."""

    async def view(self, id: str) -> View:
        """Everything durable about a process, of its era that is under way, without what is
        redacted. Raises `NoSuchProcess`, `ProcessGone`."""
        view = await self._view(id)
        return shown(view, self._redact) if self._redact else view

    async def _view(self, id: str) -> View:
        head = await self._head(id)
        view = view_of(id, head, await recorded(self.store, head))
        return await with_standing(self, view, head) if head.lines else view

    def redacted(self, document: Raw) -> Raw:
        """`document` as it is shown: without the values of redacted members."""
        return masked(document, self._redact) if self._redact else document

    async def seq(self, id: str) -> int:
        """How many durable events a process has: changes exactly when its view does, but for the
        place in line of one that is queued. Raises as `view`."""
        head = await self._head(id)
        return head.before + (await self.store.lengths((head.stream,))).get(head.stream, 0)

    async def changed(self, id: str, seen: int, timeout_seconds: float) -> int:
        """Wait until a process has more than `seen` events, at most `timeout_seconds`; gives how
        many. Ends early when this node drains. Raises as `view`."""
        head = await self._head(id)
        if self._runtime is not None:
            watchers, known = self._runtime.watchers, seen - head.before
            return head.before + await watchers.changed(id, head.stream, known, timeout_seconds)
        ends, generation = self._clock.boot() + timeout_seconds, -1
        while True:
            length = (await self.store.lengths((head.stream,))).get(head.stream, 0) + head.before
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

    async def view_at_end(self, id: str, timeout_seconds: float) -> View | None:
        """Wait as `ended_here`; gives the view at the end, None when that is False.

        What its cell says is known where it has ended; its events are read.
        """
        if self._runtime is None:
            return None
        activation = self._runtime.activations.live.get(id)
        ended = await self._runtime.activations.result_of(id, timeout_seconds)
        if activation is None or ended is None:
            return None
        head = activation.head
        view = view_of(id, head, await recorded(self.store, head))
        return shown(view, self._redact) if self._redact else view

    async def journal(self, id: str, after: int = -1, *, era: int | None = None) -> list[Entry]:
        """The durable events of a process after position `after`, readable: of its era that is
        under way and, behind a position of an earlier one, of all since.

        Without what is redacted. `era`: of that one only. Raises as `view`, and `NoSuchEra`.
        """
        head = await self._head(id)
        found = entries(await events_after(self.store, head, after, era))
        return [shown_entry(one, self._redact) for one in found] if self._redact else found

    async def result(self, id: str, within: float | None = None) -> Any:
        """Wait for the end of a process; see `Handle.result`."""
        ends = None if within is None else self._clock.boot() + within
        while True:
            left, patience = RESULT_LOOK_SECONDS, None
            if ends is not None:
                patience = left = min(left, ends - self._clock.boot())
            if self._runtime is not None and left > 0:
                found = await self._runtime.activations.result_of(id, patience)
                if found is not None and found[0].status == "done":
                    return found[1].output_type.read(found[0].result)
            view = await self._view(id)
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

    async def backlog(self) -> Mapping[str, Backlog]:
        """What waits in line for its turn, by type, in the lines that this node keeps; a few
        seconds old, and counted up to 1,000 in each of up to 200 lines."""
        return {} if self._runtime is None else await self._runtime.activations.lines.backlog()
