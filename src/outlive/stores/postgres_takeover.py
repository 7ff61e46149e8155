"""Taking a shard, also from a node that froze in the middle of a transaction.

    take ──the row is free──> ours
      └── held for `HELD_SECONDS` ──> end the session that holds it ──┐
                 ▲─────────── still held ───────────┘                 └──> ours

Whoever takes a shard has judged its owner to be gone. If the owner's session still holds the row,
it stands idle in a transaction that nobody may ever end. It is ended if, and only if, all of this
is so:

    the server says that exactly this backend keeps our take waiting
    it bears the name written into the ledger when the owner took the shard: pid and random of that
    start of that process, so neither a later process nor another service is meant
    it is of our role and database, and has been idle in its transaction for as long as we waited

Ending it is safe whatever it was about to do: its transaction is undone whole, and the node that
wakes up looks its commit up and finds the shard taken. If it may not be ended (another role), the
server ends it after `FROZEN_MILLISECONDS`, and until then the take waits or is refused as busy.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg

from outlive.errors import Fenced
from outlive.model import Lease
from outlive.stores.chain import GENESIS
from outlive.stores.postgres_group import Chains
from outlive.stores.postgres_lane import ServerClock
from outlive.stores.postgres_links import CUT, Connection, Links, is_cut, mapped

log = logging.getLogger("outlive")

TAKE_TRIES = 5
HELD_SECONDS = 0.25
"""How long a take waits for the row before it looks who holds it."""


class Takes:
    """Takes shards on `working` links, and looks at who is in the way on `reading` ones."""

    def __init__(
        self,
        working: Links,
        reading: Links,
        sql: dict[str, str],
        clock: ServerClock,
        chains: Chains,
    ) -> None:
        self._working = working
        self._reading = reading
        self._sql = sql
        self._clock = clock
        self._chains = chains

    async def take(self, shard: int, epoch: int, owner: str) -> Lease:
        """See `Store.take`. Raises `Fenced`, `StoreBusy` or `StoreUnavailable`."""
        lost = False
        for attempt in range(1, TAKE_TRIES + 1):
            self._chains.pop(shard, None)
            try:
                async with self._working.borrow() as link:
                    rows = await self._taken(link, shard, epoch, owner)
                    if not rows and lost:  # then the lost try may have been the one that won
                        held = await self._working.fetch(
                            link, self._sql["hold_read"], shard, epoch + 1
                        )
                        if held and held[0]["owner"] == owner:
                            return Lease(shard, owner, epoch + 1)
                break
            except (*CUT, asyncpg.PostgresError) as error:
                lost = is_cut(error)
                if not lost or attempt == TAKE_TRIES:
                    raise mapped(error) from error
        if not rows:
            raise Fenced(f"Shard {shard} is not at epoch {epoch} any more; it was not taken.")
        row = rows[0]
        self._clock.raised(row["moment"])
        if row["head"] == 0 or row["chain"] is not None:
            self._chains[shard] = (row["head"], row["chain"] or GENESIS)
        return Lease(shard, owner, row["epoch"])

    async def _taken(self, link: Connection, shard: int, epoch: int, owner: str) -> list[Any]:
        clock, is_pooled = self._clock, self._working.way.is_pooled
        backend = link.get_server_pid()
        if is_pooled:  # the number is the pooler's, and the server's holds for a transaction
            await self._working.begin(link)
            backend = await link.fetchval(self._sql["backend"])
        values = (shard, epoch, owner, self._working.way.name, clock.high, clock.wall)
        taking = asyncio.ensure_future(link.fetch(self._sql["take"], *values))
        try:
            while not (await asyncio.wait((taking,), timeout=HELD_SECONDS))[0]:
                await self._end_frozen(shard, epoch, backend)
        finally:
            taking.cancel()
        rows: list[Any] = await taking
        if is_pooled:
            await link.execute("COMMIT")
        return rows

    async def _end_frozen(self, shard: int, epoch: int, backend: int) -> None:
        """End the old owner's session if it is what keeps `backend` waiting."""
        idle = round(HELD_SECONDS * 1000)
        values = (shard, epoch, backend, self._working.way.name, idle)
        try:
            async with self._reading.borrow() as link:
                for pid, name in await self._reading.fetch(link, self._sql["frozen_end"], *values):
                    log.warning(
                        "shard %d: the session of its last owner stood idle in a transaction and"
                        " was ended (backend %d, %s)", shard, pid, name,
                    )  # fmt: skip
        except (*CUT, asyncpg.PostgresError) as error:
            log.info("who holds shard %d was not found out: %s", shard, type(error).__name__)
