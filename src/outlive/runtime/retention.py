"""The end of what has ended: kept for a while, archived, a tombstone, nothing.

    done ──retention──> archived, on disk and read back ──┐
                                                          ▼ one transaction
              cell: a tombstone (410) · journal: emptied, its places stay
                              │
                              └──as long again──> nothing (404)

The owner of a shard does it, in parts, beside everything else: cells that are due wait here until
their turn comes, and are read anew then. What is archived is on disk before anything is dropped; a
death between the two writes it once more, and who reads knows it by its id. When the archive cannot
be written nothing is dropped, and it is tried again after `AGAIN_SECONDS`.

Idempotency keys have a time of their own; one that names what is no more is as good as unused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from outlive import codec
from outlive.clock import MICROS
from outlive.errors import Conflict, Fenced, OutliveError
from outlive.kinds.processes import FINAL, Head
from outlive.kinds.processes.archived import line_of, name_of
from outlive.kinds.processes.cells import put_head, read_head, ref_of
from outlive.kinds.processes.eras import streams_kept, streams_left
from outlive.kinds.processes.transfer import as_they_were
from outlive.kinds.processes.vocabulary import GONE, unpack
from outlive.model import Batch, Cell, Event, Lease, Put, Require, shard_of

if TYPE_CHECKING:
    from outlive.kinds.processes import Definition
    from outlive.runtime.activations import Activations
    from outlive.stores.lines import LineFiles

log = logging.getLogger("outlive")

PART_CELLS = 64
"""Ended processes looked at together."""
PART_EVENTS = 10_000
PART_BYTES = 4 * 1024 * 1024
"""Events erased and bytes archived by one transaction; but one process at least."""
PAGE_EVENTS = 2_000
DROP_TRIES = 5
AGAIN_SECONDS = 60.0


class _Ended(Struct):
    """One process that is to go."""

    cell: Cell
    head: Head
    streams: list[str]
    events: int
    line: bytes = b""


class Retention:
    """The ended processes of one node. `archive`: where they are written first, if anywhere."""

    def __init__(self, node: Activations, archive: LineFiles | None) -> None:
        self._node = node
        self._archive = archive
        self._waiting: dict[str, None] = {}
        self._running = False

    def micros(self, made: Definition | None) -> int:
        """How long an ended process of `made` is kept, and its tombstone behind it."""
        if made is None or made.retention is None:
            return self._node.retention
        return round(made.retention * MICROS)

    def end(self, cells: Iterable[Cell]) -> None:
        """These cells are of ended processes, or tombstones, and their time is over."""
        for cell in cells:
            self._waiting[cell.key] = None
        if self._waiting and not self._running:
            self._running = True
            self._node.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._waiting and not self._node.draining:
                part = list(self._waiting)[:PART_CELLS]
                for id in part:
                    del self._waiting[id]
                try:
                    await self._end_some(part)
                except OutliveError as error:
                    log.info("a retention was not ended now: %s", error.code)
                except Exception:
                    await self._end_each(part)
        finally:
            self._running = False

    async def _end_each(self, ids: Sequence[str]) -> None:
        """One of these cannot be read, such as a journal of a newer version: the others go."""
        for id in ids:
            try:
                await self._end_some((id,))
            except Exception as error:
                log.error("the retention of %s was not ended: %s", id, type(error).__name__)
                with suppress(OutliveError):
                    await self._put_off(id)

    async def _put_off(self, id: str) -> None:
        node, shards = self._node, self._node.store.shards
        (cell,) = await node.store.read((ref_of(id, shards),))
        lease = node.leases.get(shard_of(id, shards))
        if cell is not None and lease is not None:
            await self._later(lease, (_Ended(cell, read_head(cell.value), [], 0),))

    async def _end_some(self, ids: Sequence[str]) -> None:
        node, shards = self._node, self._node.store.shards
        found: dict[Lease, list[tuple[Cell, Head]]] = {}
        for cell in await node.store.read([ref_of(id, shards) for id in ids]):
            lease = None if cell is None else node.leases.get(shard_of(cell.key, shards))
            if cell is not None and lease is not None:
                found.setdefault(lease, []).append((cell, read_head(cell.value)))
        for lease, cells in found.items():
            tombs = [cell for cell, head in cells if head.status == GONE]
            if tombs:
                await self._bury(lease, tombs)
            ended = [
                (cell, head)
                for cell, head in cells
                if head.status in FINAL and not node.notices.is_due(head)
            ]
            if ended:
                await self._end_in(lease, ended)

    async def _bury(self, lease: Lease, tombs: Sequence[Cell]) -> None:
        """The time of tombstones is over: nothing is left of their processes."""
        require = tuple(Require(cell.ref, cell.version) for cell in tombs)
        drop = tuple(cell.ref for cell in tombs)
        try:
            await self._node.committer.submit(Batch(lease=lease, require=require, drop=drop))
        except Conflict:
            for cell in tombs if len(tombs) > 1 else ():
                await self._bury(lease, (cell,))

    async def _end_in(self, lease: Lease, cells: Sequence[tuple[Cell, Head]]) -> None:
        """End processes of one shard, as many together as one transaction may take."""
        part: list[_Ended] = []
        events = size = 0
        kept = {cell.key: streams_kept(head) for cell, head in cells}
        every = [stream for streams in kept.values() for stream in streams]
        lengths = await self._node.store.lengths(every)
        for cell, head in cells:
            streams = kept[cell.key]
            one = _Ended(cell, head, streams, sum(lengths.get(found, 0) for found in streams))
            if self._archive is not None:
                one.line = line_of(cell.key, head, await self._journals(streams))
            if part and (events + one.events > PART_EVENTS or size + len(one.line) > PART_BYTES):
                await self._drop(lease, part)
                part, events, size = [], 0, 0
            part.append(one)
            events, size = events + one.events, size + len(one.line)
        await self._drop(lease, part)

    async def _journals(self, streams: Sequence[str]) -> list[Event]:
        """The events of these eras, numbered over all eras."""
        found: list[Event] = []
        for stream in streams:
            events = as_they_were(await self._journal(stream))
            before = unpack("started", events[0].data).before if events else 0
            found += [replace(event, n=event.n + before) if before else event for event in events]
        return found

    async def _journal(self, stream: str) -> list[Event]:
        found: list[Event] = []
        while page := await self._node.store.events(stream, len(found) - 1, PAGE_EVENTS):
            found += page
        return found

    def leave(self, lease: Lease, head: Head) -> None:
        """The era of `head` has begun: what is kept no more is emptied, beside everything else."""
        if streams := streams_left(head):
            self._node.spawn(self._empty(lease, streams))

    async def _empty(self, lease: Lease, streams: list[str]) -> None:
        try:
            await self._node.store.erase(streams, Batch(lease=lease))
        except OutliveError as error:
            log.info("an old era was not erased now: %s", error.code)

    async def _drop(self, lease: Lease, part: Sequence[_Ended]) -> None:
        """Archive, then a tombstone for each and its journal emptied, in one transaction."""
        if self._archive is not None and not await self._archived(self._archive, part):
            await self._later(lease, part)
            return
        try:
            if not await self._erased(lease, part):
                for one in part:
                    await self._drop_one(lease, one)
        except Fenced:
            log.info("the shard of ended processes was lost; its new owner ends them")

    async def _drop_one(self, lease: Lease, one: _Ended) -> None:
        """The same for one that was claimed again meanwhile, if it says what was archived."""
        for _ in range(DROP_TRIES):
            cell = (await self._node.store.read((one.cell.ref,)))[0]
            if cell is None or cell.value != one.cell.value:
                return
            one.cell = cell
            if await self._erased(lease, (one,)):
                return

    async def _erased(self, lease: Lease, part: Sequence[_Ended]) -> bool:
        """Whether all of `part` were as they had been read, and are tombstones now."""
        now = self._node.clock.wall()
        puts = tuple(self._tomb(one, now) for one in part)
        require = tuple(Require(one.cell.ref, one.cell.version) for one in part)
        batch = Batch(lease=lease, require=require, put=puts)
        try:
            streams = [stream for one in part for stream in one.streams + streams_left(one.head)]
            await self._node.store.erase(streams, batch)
        except Conflict:
            return False
        return True

    def _tomb(self, one: _Ended, now: int) -> Put:
        made = self._node.definitions.get((one.head.type, one.head.version))
        gone = Head("", one.head.type, one.head.version, GONE, one.head.started, now)
        return Put(one.cell.ref, codec.encode(gone), now + self.micros(made))

    async def _archived(self, archive: LineFiles, part: Sequence[_Ended]) -> bool:
        """Whether all of `part` is on disk, as it was read back."""
        files: dict[str, list[bytes]] = {}
        for one in part:
            files.setdefault(name_of(one.head), []).append(one.line)
        try:
            for name, lines in files.items():
                await asyncio.to_thread(archive.append, name, lines)
        except OutliveError as error:
            log.warning("nothing is dropped while it cannot be archived: %s", error.detail)
            return False
        return True

    async def _later(self, lease: Lease, part: Sequence[_Ended]) -> None:
        """Look at them again after a while, not each time a claim's hold is over."""
        due = self._node.clock.wall() + round(AGAIN_SECONDS * MICROS)
        puts = tuple(put_head(one.cell.ref, one.head, due) for one in part)
        require = tuple(Require(one.cell.ref, one.cell.version) for one in part)
        self._node.note_due(due)
        await self._node.committer.submit(Batch(lease=lease, require=require, put=puts))
