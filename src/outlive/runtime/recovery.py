"""After a take-over: what was under way in a shard goes on, and suspects one by one.

    look      which processes of the shard are queued, running or compensating
    take up   record `taken` (whether the last owner died), then run the body again from its journal
    suspect   it was under way in 3 or more deaths of its node in a row, with no new record between:
              it runs when its turn comes, so that the one which kills the node is known from those
              that were beside it
    paused    10 such deaths: it waits for an operator, and its neighbours live on
    doubted   one that waited and came due about then: the last owner may have died of waking it, so
              its first wake after such a take-over is recorded like a take-up, and counted

A command for a process waits until its recovery has gone on with it. For a suspect it is recorded
at once and carried out when its turn has come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from outlive.errors import Discarded, OutliveError
from outlive.kinds.processes.cells import read_head
from outlive.kinds.processes.vocabulary import FINAL, QUARANTINED, Paused, Taken
from outlive.model import Cell, Lease, shard_of
from outlive.runtime.activation import Activation
from outlive.runtime.ahead import Ahead

if TYPE_CHECKING:
    from outlive.runtime.activations import Activations

log = logging.getLogger("outlive")

SUSPECT_CRASHES = 3
CRASHES_MAX = 10
"""Deaths of its node in a row, without a new record, after which a process is paused."""
TURN_SECONDS = 2.0
"""How long a suspect runs before the next one's turn, unless it makes a record."""
TURN_LOOKS = 40
TOGETHER_MAX = 128
"""Processes of one shard that are taken up at once: their journals are read together, and their
take-overs are recorded in one group."""
DOUBT_SECONDS = 10.0
"""How long after a take-over a wake is doubted: well above the time for which a wake is claimed."""


class Recovery:
    """The take-overs of one node."""

    def __init__(self, node: Activations) -> None:
        self._node = node
        self._looking: dict[int, asyncio.Future[None]] = {}
        """Shards in which what was under way is being looked for."""
        self._resuming: dict[str, asyncio.Future[None]] = {}
        """Processes that were found and not gone on with yet."""
        self._suspects: dict[str, Lease] = {}
        """Processes that do not run before their turn."""
        self._turn = asyncio.Semaphore(1)
        self.ahead = Ahead(node.store, node.spawn)
        self._doubted: dict[int, tuple[float, set[str]]] = {}
        """Shards whose last owner died: until when (boot clock) wakes are doubted, and which have
        been."""

    def recover(self, lease: Lease, *, crash: bool) -> Coroutine[Any, Any, None]:
        """Go on with every process of a shard that was under way: the work is given back.

        From this call on, before the work begins, commands for the shard wait for it. `crash`: the
        last owner did not hand the shard over. The work raises what the store raises while it is
        asked what there is; a single process that cannot be read is tried again later.
        """
        looking = asyncio.get_running_loop().create_future()
        self._looking[lease.shard] = looking
        self._doubted.pop(lease.shard, None)
        if crash:
            self._doubted[lease.shard] = self._node.clock.boot() + DOUBT_SECONDS, set()
        return self._recover(lease, crash, looking)

    async def _recover(self, lease: Lease, crash: bool, looking: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            cells = await self._look(lease)
            resuming = {cell.key: loop.create_future() for cell in cells}
            self._resuming.update(resuming)
        finally:
            looking.set_result(None)
            if self._looking.get(lease.shard) is looking:
                del self._looking[lease.shard]
        try:
            broken: list[Exception] = []
            with self.ahead.keeping(cells):
                for first in range(0, len(cells), TOGETHER_MAX):
                    some = cells[first : first + TOGETHER_MAX]
                    await self.ahead.read_journals(some)
                    work = (
                        self._resume(cell.key, lease, crash, resuming[cell.key]) for cell in some
                    )
                    ended = await asyncio.gather(*work, return_exceptions=True)
                    broken += [error for error in ended if isinstance(error, Exception)]
            if broken:
                raise broken[0]
        finally:
            for id, gone_on in resuming.items():
                self._let_pass(id, gone_on)

    async def _look(self, lease: Lease) -> list[Cell]:
        """What was under way in the shard of `lease`; nothing when that is another's again."""
        node = self._node
        due, found = await self.ahead.under_way(lease.shard)
        if due is not None:
            node.note_due(due)
        if node.leases.get(lease.shard) != lease:
            return []
        here = node.live.keys() | node.starting
        return [cell for cell in found if cell.key not in here and not _in_line(cell)]

    async def passed(self, id: str) -> None:
        """Wait until a recovery that is under way has gone on with `id`, if it is to."""
        looking = self._looking.get(shard_of(id, self._node.store.shards))
        if looking is not None:
            await asyncio.shield(looking)
        resuming = self._resuming.get(id)
        if resuming is not None:
            await asyncio.shield(resuming)

    def doubts(self, id: str) -> bool:
        """Whether the last owner may have died of waking `id`, which is to be woken: asked once."""
        if not self._doubted or id in self._node.live:
            return False
        shard = shard_of(id, self._node.store.shards)
        until, seen = self._doubted.get(shard, (0.0, set[str]()))
        if until <= self._node.clock.boot():
            self._doubted.pop(shard, None)
            return False
        if id in seen:
            return False
        seen.add(id)
        return True

    async def wake(self, id: str) -> None:
        """Take up a process that waited, as after a death of its node."""
        lease = self._node.leases.get(shard_of(id, self._node.store.shards))
        if lease is None:
            return
        try:
            await self._take_up(id, lease, True, in_turn=False)
        except (OutliveError, Discarded) as error:
            log.warning("a process is woken again later: %s", type(error).__name__)
            self._node.revive_later(id)

    def holds(self, id: str) -> bool:
        """Whether `id` is a suspect whose turn has not come: its body must not run."""
        return id in self._suspects

    async def _resume(
        self,
        id: str,
        lease: Lease,
        crash: bool,
        gone_on: asyncio.Future[None],
    ) -> None:
        try:
            await self._take_up(id, lease, crash, in_turn=False)
        except (OutliveError, Discarded) as error:
            log.warning("a process is taken up again later: %s", type(error).__name__)
            self._node.revive_later(id)
        finally:
            self._let_pass(id, gone_on)

    def _let_pass(self, id: str, gone_on: asyncio.Future[None]) -> None:
        """The commands that wait for this take-up of `id` go on; a later take-over has its own."""
        if not gone_on.done():
            gone_on.set_result(None)
        if self._resuming.get(id) is gone_on:
            del self._resuming[id]

    async def _take_up(self, id: str, lease: Lease, crash: bool, *, in_turn: bool) -> None:
        node = self._node
        activation = await node.load(id)
        if activation is None or activation.task is not None:
            return
        journal = activation.journal
        if activation.head.status in ("paused", "stuck", *FINAL):  # told so before its turn
            self._suspects.pop(id, None)
            node.put_down_idle(activation)
            return
        if journal.crashes >= SUSPECT_CRASHES and not in_turn:
            self._suspects[id] = lease
            node.forget(activation)
            node.spawn(self._suspect(id, lease, crash))
            return
        activation.users += 1
        try:
            if journal.started is None:
                await node.commands.begin(activation, ())
                return
            node.stats.takeovers += 1
            node.stats.crashes += crash
            stranded = activation.head.status == "no_worker_for_version"
            head = activation.with_status("running") if stranded else None
            await activation.record(Taken(node.name, lease.epoch, crash), head=head)
            self._suspects.pop(id, None)
            if journal.crashes > CRASHES_MAX:
                await _quarantine(activation)
            else:
                activation.run()
        finally:
            activation.users -= 1
            node.put_down_idle(activation)
        if in_turn:
            await _progress(activation)

    async def _suspect(self, id: str, lease: Lease, crash: bool) -> None:
        """Its take-over is recorded when its turn has come: waiting for it counts nothing."""
        try:
            async with self._turn:
                if self._node.leases.get(lease.shard) == lease:
                    await self._take_up(id, lease, crash, in_turn=True)
        except (OutliveError, Discarded) as error:
            log.warning("a suspect is taken up again later: %s", type(error).__name__)
            self._node.revive_later(id)
        finally:
            if self._suspects.get(id) == lease:
                del self._suspects[id]


def _in_line(cell: Cell) -> bool:
    """Whether it waits for its turn: it is told when that has come."""
    head = read_head(cell.value)
    return head.status == "queued" and bool(head.lines)


async def _quarantine(activation: Activation) -> None:
    detail = (
        f"its node died {activation.journal.crashes} times in a row while running it, and its "
        "neighbours live on. Mend the cause, then resume or cancel it"
    )
    event = Paused(QUARANTINED, detail)
    await activation.record(event, head=activation.with_status("paused"))


async def _progress(activation: Activation) -> None:
    """Wait until a suspect has made a record, has left memory, or its turn is over."""
    for _ in range(TURN_LOOKS):
        if activation.gone or activation.journal.crashes == 0 or activation.parking:
            return
        await activation.node.timers.sleep(TURN_SECONDS / TURN_LOOKS)
