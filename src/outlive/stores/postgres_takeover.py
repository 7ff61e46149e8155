"""Taking a shard, also from a node that froze in the middle of a transaction.

    take ──the row is free──> ours
      └── held for `HELD_SECONDS` ──> end the session that holds it ──┐
                 ▲─────────── still held ───────────┘                 └──> ours

Shards that one owner takes at one time go in one transaction, when nothing is in the way of any of
them within `HELD_SECONDS`; else each is taken alone, so that one that is held delays no other.

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

from outlive.errors import Fenced, OutliveError
from outlive.model import Lease
from outlive.stores.chain import GENESIS
from outlive.stores.postgres_group import Chains
from outlive.stores.postgres_lane import ServerClock
from outlive.stores.postgres_links import CUT, Connection, Links, is_cut, mapped

log = logging.getLogger("outlive")

TAKE_TRIES = 5
HELD_SECONDS = 0.25
"""How long a take waits for the row before it looks who holds it."""


_Asked = tuple[int, int, str, "asyncio.Future[Lease | bool]"]
"""A shard, the epoch that it is at, who takes it, and where that is told: the lease, or that it is
to be taken alone, and whether it may have been taken already."""


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
        self._asked: list[_Asked] = []
        self._task: asyncio.Task[None] | None = None

    async def take(self, shard: int, epoch: int, owner: str) -> Lease:
        """See `Store.take`. Raises `Fenced`, `StoreBusy` or `StoreUnavailable`."""
        self._chains.pop(shard, None)
        told: asyncio.Future[Lease | bool] = asyncio.get_running_loop().create_future()
        self._asked.append((shard, epoch, owner, told))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._take_asked())
        found = await told
        if isinstance(found, Lease):
            return found
        return await self._take_alone(shard, epoch, owner, lost=found)

    async def _take_asked(self) -> None:
        """Take together what was asked for in the last turn of the loop, or since."""
        try:
            while self._asked:
                owner, asked = self._asked[0][2], self._asked
                group: dict[int, _Asked] = {}
                for one in asked:
                    if one[2] == owner:
                        group.setdefault(one[0], one)
                self._asked = [one for one in asked if group.get(one[0]) is not one]
                try:
                    await self._take_group(owner, [group[shard] for shard in sorted(group)])
                finally:
                    for *_, told in group.values():
                        told.cancel()  # of those that were told this asks nothing
        finally:
            self._task = None
            for *_, told in self._asked:
                told.cancel()

    async def _take_group(self, owner: str, group: list[_Asked]) -> None:
        rows = await self._together(group, owner) if len(group) > 1 else None
        for shard, epoch, _, told in group:
            if told.done():
                continue
            if rows is None:
                told.set_result(len(group) > 1)
            elif (row := rows.get(shard)) is not None:
                told.set_result(self._learned(shard, owner, row))
            else:
                told.set_exception(_gone(shard, epoch))

    async def _together(self, asked: list[_Asked], owner: str) -> dict[int, Any] | None:
        """The rows of the shards that were taken; None when something was in the way of any.

        Then some may have been taken all the same, and who takes them alone finds that out."""
        shards, epochs = [one[0] for one in asked], [one[1] for one in asked]
        clock, name = self._clock, self._working.way.name
        values = (shards, epochs, owner, name, clock.high, clock.wall)
        try:
            async with self._working.borrow() as link:
                call = self._working.fetch(link, self._sql["take_all"], *values)
                taking = asyncio.ensure_future(call)
                try:
                    await asyncio.wait((taking,), timeout=HELD_SECONDS)
                finally:
                    taking.cancel()
                await asyncio.wait((taking,))
                if taking.cancelled():
                    return None
                return {row["shard"]: row for row in taking.result()}
        except (*CUT, asyncpg.PostgresError, OutliveError):
            return None

    async def _take_alone(self, shard: int, epoch: int, owner: str, *, lost: bool) -> Lease:
        for attempt in range(1, TAKE_TRIES + 1):
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
                if not is_cut(error) or attempt == TAKE_TRIES:
                    raise mapped(error) from error
                lost = True
        if not rows:
            raise _gone(shard, epoch)
        return self._learned(shard, owner, rows[0])

    def _learned(self, shard: int, owner: str, row: Any) -> Lease:
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
        except (*CUT, asyncpg.PostgresError, OutliveError) as error:
            log.info("who holds shard %d was not found out: %s", shard, type(error).__name__)


def _gone(shard: int, epoch: int) -> Fenced:
    return Fenced(f"Shard {shard} is not at epoch {epoch} any more; it was not taken.")
