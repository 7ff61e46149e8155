"""One running node: the parts of the runtime, put together, and the two loops that drive them.

    tick   5 to 20 a s     ownership (leases, take-over, balance) and the sweep of parked processes
    pump   on a hint       commands in the inboxes of our shards, and cells of our processes that
           are due

A test that moves the clock by hand ends the two and makes their rounds itself (`stand_still`).

Both survive an unavailable store: they go on when it is back. A node that cannot renew stops its
processes by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from outlive import ids
from outlive.clock import MICROS, Clock, StoreClock
from outlive.errors import (
    OutcomeUnknown,
    OutliveError,
    ProcessError,
    Refused,
    StoreUnavailable,
    StoreWentBack,
)
from outlive.kinds.processes import FINAL, Definition, Stats
from outlive.kinds.processes.cells import inbox_of, read_command, read_head, ref_of, space_of
from outlive.kinds.processes.definition import label_of
from outlive.kinds.processes.requests import REQUESTS, read_request
from outlive.kinds.processes.undelivered import UNDELIVERED, undelivered
from outlive.model import Batch, Cell, Lease, Put, Require
from outlive.runtime import meters
from outlive.runtime.activations import ACTIVE_MAX, Activations
from outlive.runtime.committer import Committer
from outlive.runtime.history import History
from outlive.runtime.orphans import SHARD, Orphans
from outlive.runtime.ownership import LEASE_SECONDS, Ownership
from outlive.runtime.telemetry import Telemetry
from outlive.runtime.timers import Timers
from outlive.runtime.versions import needs_of
from outlive.runtime.watchers import Watchers
from outlive.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from outlive.stores.lines import LineFiles

log = logging.getLogger("outlive")

PUMP_SECONDS_MIN = 0.02
PUMP_SECONDS_MAX = 1.0
COMMANDS_MAX = 256
OBEY_SECONDS = 1.0
WAKES_MAX = 1000
HOLD_SECONDS = 2.0
"""How long what was claimed waits if this node dies over it: the shard's next owner has it then."""
HAND_OVER_SECONDS = 30.0
REQUESTS_SECONDS = 30.0


class NodeRuntime:
    """The runtime of one node over one open store."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        definitions: Mapping[tuple[str, int], Definition],
        retention_seconds: float,
        lease_seconds: float = LEASE_SECONDS,
        active_max: int = ACTIVE_MAX,
        telemetry: Telemetry | None = None,
        archive: Path | None = None,
    ) -> None:
        self.store = store
        self.clock = clock = StoreClock(clock)
        self.name = ids.node_id()
        self.committer = Committer(store, clock, clock.hear)
        self.timers = Timers(clock)
        self.watchers = Watchers(store, clock)
        self.orphans = Orphans(store, clock)
        self.activations = Activations(
            store,
            self.committer,
            self.timers,
            clock,
            self.name,
            definitions,
            retention_seconds,
            self.watchers.tell,
            active_max,
            telemetry,
            None if archive is None else _files(archive, self.name),
        )
        runs = tuple(sorted(label_of(name, version) for name, version in definitions))
        self.ownership = Ownership(
            store,
            self.name,
            clock,
            runs,
            self._gained,
            self._releasing,
            self.activations.release,
            self._demoted,
            self._trust,
            lease_seconds,
            lambda: needs_of(store),
            clock.hear,
        )
        self.activations.lines.obey = self._obey
        self.history = History(store, clock, self.name, self.stats)
        self._leaving_until: float | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._obeying = self.activations.obeying
        self._requests_at = 0.0

    async def start(self) -> None:
        """Join the store, take shards, go on with what was under way, and run."""
        await self.ownership.join()
        meters.observe(self)
        loop = asyncio.get_running_loop()
        self._loops = [loop.create_task(self._tick()), loop.create_task(self._pump())]

    async def drain(self, grace_seconds: float) -> None:
        """Take nothing new, hand the shards to the other nodes one by one, let steps under way end.

        What is in a shard runs on until it is that shard's turn.
        """
        self._leaving_until = self.clock.boot() + grace_seconds
        try:
            await self.ownership.say("draining")
            await self.ownership.hand_over()
        except OutliveError as error:
            log.warning("shards were not handed over: %s", error.code)
        await self._end_loops()
        await self.activations.drain(max(0.0, self._leaving_until - self.clock.boot()))
        self.watchers.close()

    async def stop(self) -> None:
        """Hand the shards back and end."""
        meters.unobserve(self)
        await self._end_loops()
        self.watchers.close()
        for shard in list(self.activations.leases):
            self.activations.release(shard)
        await self.committer.settle()
        await self.history.write()
        try:
            await self.ownership.leave()
        except OutliveError as error:
            log.warning("shards were not handed back: %s", error.code)
        await self.activations.close()
        self.timers.stop()

    def stats(self) -> Stats:
        """The counters of this node since it started."""
        stats, committer = self.activations.stats, self.committer
        stats.commits, stats.batches = committer.commits, committer.batches
        stats.refused, stats.fenced = committer.refused, committer.fenced
        stats.commit_seconds = committer.seconds
        stats.commit_latency = tuple(committer.latency)
        stats.pending, stats.pending_bytes = committer.pending, committer.pending_bytes
        stats.active, stats.shards = len(self.activations.live), len(self.activations.leases)
        return stats

    async def _end_loops(self) -> None:
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []
        self.ownership.stop_watching()

    # --- by hand ----------------------------------------------------------------------------------

    async def stand_still(self) -> None:
        """End the loops: from now on nothing happens by itself that waits for a time or a cell."""
        await self._end_loops()

    async def look_around(self) -> None:
        """One round of the tick: parked processes leave memory, leases are kept, shards move."""
        self.activations.sweep()
        await self.ownership.tick()

    async def take_due(self) -> int:
        """One round of the pump, and what has expired; gives how many cells were due."""
        return await self._commands() + await self._wakes() + await self._expire_requests()

    async def next_due(self) -> int | None:
        """When something of what this node sees to is due next; None when nothing ever is."""
        shards = self.activations.leases
        spaces = [REQUESTS, *map(space_of, shards), *map(inbox_of, shards)]
        dues = (self.timers.next_due, await self.store.next_due(spaces))
        return min((due for due in dues if due is not None), default=None)

    # --- ownership --------------------------------------------------------------------------------

    def _gained(self, lease: Lease, crash: bool) -> Coroutine[Any, Any, None]:
        """A shard is ours at once; going on with what is in it is the work that is given back."""
        self.activations.leases[lease.shard] = lease
        self.activations.lines.gained(lease.shard)
        return self.activations.recovery.recover(lease, crash=crash)

    async def _releasing(self, shard: int) -> None:
        seconds = HAND_OVER_SECONDS
        if self._leaving_until is not None:
            seconds = max(0.0, min(seconds, self._leaving_until - self.clock.boot()))
        await self.activations.hand_over(shard, seconds)

    def _demoted(self) -> None:
        log.warning("this node could not renew its lease in time; its processes are put down")
        self._put_down()

    def _put_down(self) -> None:
        """What is in memory may be more than the store has, or another's by now."""
        for shard in list(self.activations.leases):
            self.activations.release(shard)

    def _trust(self, until: float) -> None:
        self.activations.trusted_until = until

    # --- the loops --------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.ownership.pause_seconds)
            try:
                await self.look_around()
                if self.clock.boot() - self._requests_at >= REQUESTS_SECONDS:
                    await self._expire_requests()
                if self.history.is_due:
                    await self.history.write()
                if self.orphans.due(SHARD in self.activations.leases):
                    self.activations.spawn(self.orphans.sweep())
            except StoreWentBack:
                self._put_down()
                return
            except OutliveError as error:
                log.warning("the store did not answer a tick: %s", error.code)
            except Exception:
                log.exception("a tick failed")

    async def _pump(self) -> None:
        seen = -1
        while True:
            try:
                seen = await self.store.changed(seen, self._pause())
                await self._commands()
                await self._wakes()
            except StoreWentBack:
                return  # the tick puts everything down
            except OutliveError as error:
                log.warning("the store did not answer the pump: %s", error.code)
                await asyncio.sleep(PUMP_SECONDS_MAX)
            except Exception:
                log.exception("the pump failed")
                await asyncio.sleep(PUMP_SECONDS_MAX)
            await asyncio.sleep(PUMP_SECONDS_MIN)

    def _pause(self) -> float:
        due = self.activations.next_due
        if due is None:
            return PUMP_SECONDS_MAX
        return min(PUMP_SECONDS_MAX, max(0.0, (due - self.clock.wall()) / MICROS))

    async def _commands(self) -> int:
        spaces, found = [inbox_of(shard) for shard in self.activations.leases], 0
        if not spaces:
            return found
        while cells := await self.store.claim(spaces, COMMANDS_MAX, HOLD_SECONDS):
            found += len(cells)
            fresh = [cell for cell in cells if cell.key not in self._obeying]
            obeying = [self.activations.spawn(self._obey(cell)) for cell in fresh]
            if obeying:  # one that must wait (for a recovery) does not hold up the others
                await asyncio.wait(obeying, timeout=OBEY_SECONDS)
            if len(cells) < COMMANDS_MAX:
                break
        return found

    async def _obey(self, cell: Cell) -> None:
        """Carry a command out; its cell is dropped by the commit that does, or when it can never be
        done."""
        command = read_command(cell.value)
        self._obeying.add(cell.key)
        done = (Require(cell.ref, cell.version),)
        try:
            if command.kind == "admit":
                await self.activations.lines.answer(command.id, done)
            else:
                await self.activations.commands.obey(command, done)
        except ProcessError as error:
            if not error.retryable:
                log.info("a command was not carried out: %s", error.code)
                now, kept = self.clock.wall(), self.activations.retention
                await self._drop(cell, undelivered(command, error.detail, now, kept))
        except (Refused, StoreUnavailable, OutcomeUnknown) as error:
            log.info("a command is tried again later: %s", error.code)
        except Exception:
            log.exception("a command failed")
        finally:
            self._obeying.discard(cell.key)

    async def _drop(self, cell: Cell, puts: tuple[Put, ...] = ()) -> None:
        batch = Batch(require=(Require(cell.ref, cell.version),), drop=(cell.ref,), put=puts)
        try:
            await self.store.commit(batch)
        except OutliveError as error:
            log.info("a command's cell was not dropped: %s", error.code)

    async def _wakes(self) -> int:
        activations = self.activations
        due = activations.next_due
        if due is None or due > self.clock.wall():
            return 0
        activations.next_due = None
        try:
            return await self._wake_due()
        except BaseException:
            activations.note_due(due)  # what is due is still to be found
            raise

    async def _wake_due(self) -> int:
        activations, found = self.activations, 0
        spaces = [space_of(shard) for shard in activations.leases]
        if not spaces:
            return found
        while cells := await self.store.claim(spaces, WAKES_MAX, HOLD_SECONDS):
            found += len(cells)
            await activations.wake(cells)
            if len(cells) < WAKES_MAX:
                break
        due = await self.store.next_due(spaces)
        if due is not None:
            activations.note_due(due)
        return found

    async def _expire_requests(self) -> int:
        """Idempotency keys past their retention go, unless their process is still under way."""
        self._requests_at = self.clock.boot()
        cells = await self.store.claim((REQUESTS, UNDELIVERED), COMMANDS_MAX, 60.0)
        if requests := [cell for cell in cells if cell.space == REQUESTS]:
            await self._end_requests(requests)
        for cell in cells:
            if cell.space == UNDELIVERED:
                await self._drop(cell)
        return len(cells)

    async def _end_requests(self, cells: Sequence[Cell]) -> None:
        refs = [ref_of(read_request(cell.value).id, self.store.shards) for cell in cells]
        day = await self.store.now() + 86_400 * MICROS
        for cell, process in zip(cells, await self.store.read(refs), strict=True):
            require = (Require(cell.ref, cell.version),)
            ended = process is None or read_head(process.value).status in (*FINAL, "gone")
            batch = (
                Batch(require=require, drop=(cell.ref,))
                if ended
                else Batch(require=require, put=(Put(cell.ref, cell.value, day),))
            )
            await self.committer.submit(batch)


def _files(archive: Path, node: str) -> LineFiles:
    """The archive's files of this node. Raises `BadPlace` when they cannot be written."""
    from outlive.stores.lines import LineFiles

    files = LineFiles(archive, node)
    files.prepare()
    return files
