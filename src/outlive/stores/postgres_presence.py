"""Signs of life through the server: an advisory lock that ends with the connection of its node.

The server lets go of the lock when the connection is gone, however the process died; a host that
vanished is noticed when TCP keep-alive gives up. A hint about who *should* own shards. Who *may*
write is decided by the epoch.

A connection that was cut looks like a death, until its node has made it again; so a sign must have
been missed for a moment before anybody believes in a death, and a node whose sign ended while it
lives is told, so that it can say so meanwhile. When our own was cut, the server or the network may
have been away for all, and for a while no death is believed: the leases decide then.

Kept in the process's own session, which leads straight to the server. Behind a pooler without
`direct=` no sign is given, and then none can be missed: only nodes that once gave one are ever
reported as departed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from hashlib import blake2b
from typing import TYPE_CHECKING

from outlive.clock import MICROS, Clock
from outlive.errors import NoSession, StoreUnavailable
from outlive.stores.postgres_links import Connection
from outlive.stores.postgres_session import Session

if TYPE_CHECKING:
    from outlive.stores.postgres_lane import ServerClock

SWEEP_MICROS = 7 * 86_400 * MICROS
MISSED_SECONDS = 0.5
"""How long a sign of life must be missed, at each look, before its node is taken for dead."""
DOUBT_SECONDS = 5.0
"""How long no death is believed after our own session was cut off."""


class PostgresPresence:
    """The signs of life of this process's nodes, in its `session`."""

    def __init__(
        self, session: Session, sql: dict[str, str], schema: str, clock: ServerClock
    ) -> None:
        self._session = session
        self._sql = sql
        self._schema = schema
        self._clock = clock
        self._nodes: dict[str, Callable[[bool], None] | None] = {}
        self._machine = Clock()
        self._missed: dict[str, float] = {}
        self._doubt_until = 0.0
        session.restores.append(self._give_again)
        session.losses.append(self._lost)
        session.gains.append(self._given)

    async def announce(self, node: str, told: Callable[[bool], None] | None = None) -> None:
        """Hold the lock of `node` until this process or its connection ends; again asks the server
        whether that connection is still there. `told` is called with whether it is held, whenever
        that changes.

        Raises `StoreUnavailable`. Behind a pooler nothing is held. Nodes that gave their sign long
        ago are swept on the way.
        """
        if node in self._nodes:
            with suppress(NoSession):
                await self._session.run(self._sql["backend"])
            return
        key, now = self._key(node), self._clock.now()
        try:
            ((is_held,),) = await self._session.run(self._sql["node_lock"], key)
            _demand(is_held, node)
            await self._session.run(self._sql["nodes_sweep"], now - SWEEP_MICROS)
            await self._session.run(self._sql["node_announce"], node, key, now)
        except NoSession:
            return
        self._nodes[node] = told

    async def _give_again(self, link: Connection) -> None:
        """The connection broke while the process lives: give all signs again on the new one."""
        for node in self._nodes:
            key = self._key(node)
            _demand(await link.fetchval(self._sql["node_lock"], key), node)
            await link.fetch(self._sql["node_announce"], node, key, self._clock.now())

    async def farewell(self, link: Connection) -> None:
        """End our own signs of life, in order: nobody shall think that we died."""
        await link.execute(self._sql["node_forget"], list(self._nodes))

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

    def _lost(self) -> None:
        self._doubt_until = self._machine.boot() + DOUBT_SECONDS
        self._tell(False)

    def _given(self) -> None:
        self._tell(True)

    def _tell(self, is_held: bool) -> None:
        for told in self._nodes.values():
            if told is not None:
                told(is_held)


def _demand(is_held: bool, node: str) -> None:
    if not is_held:
        raise StoreUnavailable(f"Another session gives the sign of life of {node}.")
