"""What recoveries read, read together: once for many shards, and once for many processes.

A node that starts takes over many shards at one time, with many processes in each. Asked for one by
one, what was under way costs a few reads a shard and two a process; here it costs

    under_way   a few reads for all shards that were taken while the last such read went on
    journals    one read for a recovery's next processes

Opportunistic like the group commit: no timer, and a recovery that comes alone is not kept waiting.

What was read ahead is given once and then forgotten. Only the shard's owner changes a process, and
it loads the process first, which takes what was read ahead; so what is given is not out of date,
and if it were, the journal would refuse what follows from it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from outlive.errors import OutliveError
from outlive.kinds.processes.cells import inbox_of, read_head, space_of
from outlive.kinds.processes.vocabulary import LIVE
from outlive.model import Cell, Event, Ref
from outlive.store import Store

FOUND_MAX = 1_000_000
"""Processes under way in the shards that are looked at together."""
EVENTS_MAX = 20_000
"""Events read ahead at one time; a process that goes beyond them is read when its turn comes."""

_Found = tuple[int | None, list[Cell]]
_Spawn = Callable[[Coroutine[Any, Any, Any]], object]


class Ahead:
    """The common reads of one node. `spawn` runs work beside everything else, until it closes."""

    def __init__(self, store: Store, spawn: _Spawn) -> None:
        self._store = store
        self._spawn = spawn
        self._asked: list[tuple[int, asyncio.Future[_Found]]] = []
        self._asking = False
        self._cells: dict[str, Cell] = {}
        self._events: dict[str, list[Event]] = {}

    async def under_way(self, shard: int) -> _Found:
        """When anything of `shard` is due, and its processes that are under way or stranded.

        Raises what the store raises. The first may be another shard's time too: a hint.
        """
        found: asyncio.Future[_Found] = asyncio.get_running_loop().create_future()
        self._asked.append((shard, found))
        if not self._asking:
            self._asking = True
            self._spawn(self._ask())
        return await found

    async def _ask(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, []
                try:
                    due, cells = await self._look([shard for shard, _ in asked])
                except BaseException as error:
                    for _, found in asked:
                        _fail(found, error)
                    if not isinstance(error, Exception):
                        raise
                    continue
                for shard, found in asked:
                    if not found.done():
                        found.set_result((due, cells[space_of(shard)]))
        finally:
            self._asking = False
            for _, found in self._asked:
                found.cancel()
            self._asked = []

    async def _look(self, shards: Sequence[int]) -> tuple[int | None, defaultdict[str, list[Cell]]]:
        spaces = tuple(dict.fromkeys(map(space_of, shards)))
        due = await self._store.next_due((*spaces, *dict.fromkeys(map(inbox_of, shards))))
        cells: defaultdict[str, list[Cell]] = defaultdict(list)
        for status in (*LIVE, "no_worker_for_version"):
            low, high = f"{status} ", f"{status} ~"
            page = await self._store.select(spaces, "process.status", low, high, FOUND_MAX)
            for _, cell in page:
                cells[cell.space].append(cell)
        return due, cells

    @contextmanager
    def keeping(self, cells: Sequence[Cell]) -> Iterator[None]:
        """For as long as the block lasts, these cells need not be read again; once each."""
        self._cells.update((cell.key, cell) for cell in cells)
        try:
            yield
        finally:
            for cell in cells:
                self._cells.pop(cell.key, None)
                self._events.pop(cell.key, None)

    async def read_journals(self, cells: Sequence[Cell]) -> None:
        """Read what `keeping` cells will be asked for next.

        Never raises: what fails is read again when it is asked for, and fails for one process."""
        try:
            streams = {
                read_head(cell.value).stream: cell.key for cell in cells if cell.key in self._cells
            }
            found = await self._store.histories(tuple(streams), EVENTS_MAX)
        except (OutliveError, msgspec.MsgspecError):
            return
        for stream, events in found.items():
            if streams[stream] in self._cells:
                self._events[streams[stream]] = events

    async def cell(self, ref: Ref) -> Cell | None:
        """The cell of a process, as it was read ahead or as it is."""
        found = self._cells.pop(ref.key, None)
        return found if found is not None else (await self._store.read((ref,)))[0]

    async def events(self, id: str, stream: str) -> list[Event]:
        """The journal of process `id`, as it was read ahead or as it is."""
        found = self._events.pop(id, None)
        return found if found is not None else await self._store.events(stream)


def _fail(found: asyncio.Future[_Found], error: BaseException) -> None:
    if found.done():
        return
    if isinstance(error, asyncio.CancelledError):
        found.cancel()
    else:
        found.set_exception(error)
        found.exception()  # whoever waits gets it; nobody waiting is no fault
