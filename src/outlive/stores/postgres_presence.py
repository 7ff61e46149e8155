"""Signs of life through the server: an advisory lock that ends with the connection of its node.

The server lets go of the lock when the connection is gone, however the process died; a host that
vanished is noticed when TCP keep-alive gives up. A hint about who *should* own shards. Who *may*
write is decided by the epoch.

A connection that was cut looks like a death, until its node has made it again; so a sign must have
been missed for a moment before anybody believes in a death. When our own was cut, the server or the
network may have been away for all, and for a while no death is believed: the leases decide then.

Needs a session of its own, so behind a pooler in transaction mode no sign is given, and then none
can be missed: only nodes that once gave one are ever reported as departed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import asyncpg

from outlive import ids
from outlive.clock import MICROS, Clock
from outlive.errors import OutliveError, StoreUnavailable
from outlive.stores.postgres_links import CUT, Connection, Links, mapped

if TYPE_CHECKING:
    from outlive.stores.postgres_lane import ServerClock

SWEEP_MICROS = 7 * 86_400 * MICROS
AGAIN_SECONDS_MAX = 0.5
MISSED_SECONDS = 0.3
"""How long a sign of life must be missed, at each look, before its node is taken for dead."""
DOUBT_SECONDS = 5.0
"""How long no death is believed after our own sign was cut off."""


class PostgresPresence:
    """The signs of life of this process's nodes, on one connection of their own."""

    def __init__(self, links: Links, sql: dict[str, str], schema: str, clock: ServerClock) -> None:
        self._links = links
        self._sql = sql
        self._schema = schema
        self._clock = clock
        self._nodes: list[str] = []
        self._link: Connection | None = None
        self._again: asyncio.Task[None] | None = None
        self._closed = False
        self._machine = Clock()
        self._missed: dict[str, float] = {}
        self._doubt_until = 0.0

    async def announce(self, node: str) -> None:
        """Hold the lock of `node` until this process or its connection ends; again does nothing.

        Raises `StoreUnavailable`. Nodes that gave their sign long ago are swept on the way.
        """
        if node in self._nodes:
            return
        try:
            if self._link is None or self._link.is_closed():
                self._link = await self._links.connect()
                self._link.add_termination_listener(self._lost)
            await self._lock(self._link, node)
        except (*CUT, asyncpg.PostgresError) as error:
            raise mapped(error) from error
        self._nodes.append(node)

    async def _lock(self, link: Connection, node: str) -> None:
        key = self._key(node)
        if not await link.fetchval(self._sql["node_lock"], key):
            raise StoreUnavailable(f"Another session gives the sign of life of {node}.")
        now = self._clock.now()
        await link.execute(self._sql["nodes_sweep"], now - SWEEP_MICROS)
        await link.execute(self._sql["node_announce"], node, key, now)

    def believed(self, missed: Collection[str]) -> set[str]:
        """Those of `missed`, whose signs are not there, that have been missed for long enough."""
        now = self._machine.boot()
        if now < self._doubt_until:
            missed = ()
        self._missed = {node: self._missed.get(node, now) for node in missed}
        return {node for node, since in self._missed.items() if now - since >= MISSED_SECONDS}

    def _key(self, node: str) -> int:
        made = blake2b(f"{self._schema}/{node}".encode(), digest_size=8).digest()
        return int.from_bytes(made, "big", signed=True)

    def _lost(self, _link: Any) -> None:
        self._doubt_until = self._machine.boot() + DOUBT_SECONDS
        if not self._closed and self._nodes and (self._again is None or self._again.done()):
            self._again = asyncio.get_running_loop().create_task(self._announce_again())

    async def _announce_again(self) -> None:
        """The connection broke while the process lives: give the signs again, as soon as we can."""
        nodes, self._nodes = self._nodes, []
        attempt = 0
        while nodes and not self._closed:
            attempt += 1
            try:
                await self.announce(nodes[-1])
                nodes.pop()
            except OutliveError:
                await asyncio.sleep(ids.full_jitter(0.1, AGAIN_SECONDS_MAX, attempt))

    async def close(self) -> None:
        """End our own signs of life, in order: nobody shall think that we died."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        if self._link is not None:
            with suppress(*CUT, asyncpg.PostgresError):
                await self._link.execute(self._sql["node_forget"], self._nodes)
            await self._links.end(self._link)

    def forget(self) -> None:
        """In a forked child: the session is the parent's."""
        self._closed = True
        if self._link is not None:
            self._links.keep_for_parent(self._link)
            self._link = None
