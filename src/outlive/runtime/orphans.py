"""Blobs that nobody names: swept by one node of the store, now and then.

A blob is durable before the commit that names it, so a death between the two leaves an orphan. That
commit makes a cell `blob/<name>`; a blob without one that is older than any commit can be late is
swept. The owner of shard 0 does it, so one node at a time does, and no row says when: a sweep that
is done twice does no harm.
"""

from __future__ import annotations

import asyncio
import logging

from outlive.clock import Clock
from outlive.errors import OutliveError
from outlive.model import Ref
from outlive.store import Store

log = logging.getLogger("outlive")

SPACE = "blob"
"""The space of the cells that say which blobs are kept; the key is the blob's name."""
SHARD = 0
"""Whose owner sweeps."""
FIRST_SECONDS = 600.0
"""From the start of a node to its first sweep: after a restart there is other work."""
EVERY_SECONDS = 6 * 3600.0
OLDER_SECONDS = 86_400.0
"""A commit that names a blob comes within this time, or never."""


class Orphans:
    """The sweeping of one node."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._next = clock.boot() + FIRST_SECONDS

    def due(self, owned: bool) -> bool:
        """Whether a sweep is to begin now; `owned`: whether this node owns `SHARD`."""
        if not owned or self._clock.boot() < self._next:
            return False
        self._next = self._clock.boot() + EVERY_SECONDS
        return True

    async def sweep(self) -> int:
        """Remove the orphans; gives how many. When it dies half-way the next one goes on."""
        try:
            removed = await self._store.blobs.sweep(self._is_kept, OLDER_SECONDS)
        except OutliveError as error:
            log.info("orphaned blobs were not swept now: %s", error.code)
            return 0
        if removed:
            log.info("%d orphaned blobs were swept", removed)
        return removed

    async def _is_kept(self, name: str) -> bool:
        await asyncio.sleep(0)  # there may be very many, and other work comes first
        return (await self._store.read((Ref(SPACE, name),)))[0] is not None
