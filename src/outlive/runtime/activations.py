"""The processes that live on this node: started, found again, woken, told, and put down.

    start      one commit (cell, first event, idempotency key), then the body runs
    command    a signal, cancel or retry: appended to the journal by the owner (commands.py)
    recover    a shard was taken over: what was under way in it goes on (recovery.py)
    wake       a cell's `due` has passed: load its process and let it go on
    sweep      what has been parked for longer than a second leaves memory

All decisions about one process are made in the turn of the event loop in which they are appended,
so they need no lock.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from outlive.clock import MICROS, Clock
from outlive.errors import (
    Discarded,
    OutcomeUnknown,
    OutliveError,
    Overloaded,
)
from outlive.kinds.processes import FINAL, Definition, Failure, Head, Journal, Stats
from outlive.kinds.processes.cells import Notice, read_head, ref_of
from outlive.kinds.processes.pending import PLAIN, Wish
from outlive.kinds.processes.subscriptions import Subscriptions
from outlive.kinds.processes.transfer import as_they_were
from outlive.kinds.processes.vocabulary import (
    GONE,
    HALTED,
    LIVE,
    Ended,
    Paused,
    Started,
    Stranded,
    WaitDone,
    unpack,
)
from outlive.model import ABSENT, Batch, Cell, Committed, Lease, Put, Ref, Require, shard_of
from outlive.runtime.activation import Activation
from outlive.runtime.attempts import thread_pool
from outlive.runtime.body import live
from outlive.runtime.callbacks import Addresses
from outlive.runtime.commands import Commands
from outlive.runtime.committer import Committer
from outlive.runtime.lines import Lines
from outlive.runtime.notices import Notices
from outlive.runtime.recovery import Recovery
from outlive.runtime.retention import Retention
from outlive.runtime.telemetry import Telemetry
from outlive.runtime.timers import Timers
from outlive.store import Store

if TYPE_CHECKING:
    from outlive.stores.lines import LineFiles

log = logging.getLogger("outlive")

ACTIVE_MAX = 50_000
"""Processes in memory at once; a start beyond it is answered `Overloaded`."""
STARTS_IN_A_ROW = 256
"""Processes started in one shard before the next shard's turn comes."""
REVIVE_SECONDS = 0.5
STEPS_LOOK_SECONDS = 0.01


class Activations:
    """The processes of one node."""

    def __init__(
        self,
        store: Store,
        committer: Committer,
        timers: Timers,
        clock: Clock,
        node: str,
        definitions: Mapping[tuple[str, int], Definition],
        retention_seconds: float,
        tell: Callable[[str], None],
        active_max: int = ACTIVE_MAX,
        telemetry: Telemetry | None = None,
        archive: LineFiles | None = None,
    ) -> None:
        self.store = store
        self.committer = committer
        self.timers = timers
        self.clock = clock
        self.name = node
        self.definitions = definitions
        self.retention = round(retention_seconds * MICROS)
        self.tell = tell
        self.on_park: Callable[[], None] | None = None  # told when a body begins to wait
        self.stats = Stats(ended={}, starts_refused={})
        self.active_max = active_max
        self.draining = False
        self.trusted_until = math.inf
        """On the boot clock: after it no step begins, because the shards may be another's."""
        self.leases: dict[int, Lease] = {}
        self._start_shard = -1
        self._starts = 0
        self.live: dict[str, Activation] = {}
        self.starting: set[str] = set()
        """Processes whose start is being committed here: nobody else takes them up."""
        self.next_due: int | None = None
        self.threads: ThreadPoolExecutor = thread_pool()
        self.bodies: ThreadPoolExecutor | None = None
        self.recovery = Recovery(self)
        self.lines = Lines(self)
        self.commands = Commands(self)
        self.addresses = Addresses(store)
        self.notices = Notices(self)
        self.subscriptions = Subscriptions()
        self.obeying: set[str] = set()
        """Cells of commands that are being carried out: nobody takes them up beside that."""
        self.ended = Retention(self, archive)
        self.telemetry = telemetry
        self.live_body = live if telemetry is None else telemetry.live
        self._loading: dict[str, tuple[Lease | None, asyncio.Future[Activation | None]]] = {}
        """What is being read, and under which lease of its shard that began."""
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    # --- starting ---------------------------------------------------------------------------------

    def shard_for_start(self) -> int | None:
        """The shard that new processes go to now; None when this node owns none.

        The same for `STARTS_IN_A_ROW` starts, then the next: what is under way at one time lies
        together, so that a commit touches few pages; in the long run every shard gets the same.
        """
        if not self.leases:
            return None
        self._starts += 1
        if self._start_shard not in self.leases or self._starts >= STARTS_IN_A_ROW:
            later = (shard for shard in self.leases if shard > self._start_shard)
            self._start_shard, self._starts = min(later, default=min(self.leases)), 0
        return self._start_shard

    async def start(
        self,
        definition: Definition,
        ref: Ref,
        stream: str,
        raw: Raw,
        value: Any,
        key: Put | None,
        wish: Wish = PLAIN,
    ) -> Committed:
        """Start a process in a shard that this node owns: one commit, then its body runs.

        Raises `Conflict` when `key` (the idempotency cell) exists, `Fenced` when the shard was
        lost, `OutcomeUnknown`: if it was committed then, it runs. So it does when who waits here
        is cancelled.
        """
        if len(self.live) >= self.active_max or self.committer.is_crowded():
            self.demand_room()
        lease = self.leases[shard_of(ref.key, self.store.shards)]
        now = self.clock.wall()
        head = Head(
            stream, definition.name, definition.version, "running", now, now, tags=wish.tags
        )
        if wish.notify:
            head = msgspec.structs.replace(head, notice=Notice(wish.notify))
        started = Started(
            ref.key, definition.name, definition.version, raw, self.name,
            trace=wish.trace, tags=wish.tags,
        )  # fmt: skip
        activation = Activation(self, definition, ref, head, lease, Journal())
        batch = activation.batch(
            (started,),
            head,
            None,
            (),
        )
        puts: tuple[Put, ...] = batch.put
        new: tuple[Require, ...] = (Require(ref, ABSENT),)
        if key is not None:
            puts, new = (*puts, key), (*new, Require(key.ref, ABSENT))
        batch = Batch(lease, new, puts, (), batch.append)
        gate = self.committer.submit(batch)
        self.starting.add(ref.key)
        try:
            committed = await gate
        except OutcomeUnknown:
            self.revive_later(ref.key)  # if it is there it runs, whoever asks again or not
            raise
        except asyncio.CancelledError:  # who asked is gone, and what is committed runs
            self.spawn(self._revive_behind(ref.key))
            raise
        finally:
            self.starting.discard(ref.key)
        activation.journal.times[""] = committed.time
        self.stats.started += 1
        if (already := self.live.get(ref.key)) is not None:  # read before this was told of it
            activation.discard()
            already.run()
            return committed
        self._adopt(activation)
        activation.run(value, decoded=True)
        return committed

    async def begin_queued(self, id: str, head: Head, done: tuple[Require, ...]) -> None:
        """Begin a process that was queued by a commit of this node in a shard of its own: nothing
        need be read.

        Leaves it to whoever finds its command when it is not to begin here and now.
        """
        await self.recovery.passed(id)
        lease = self.leases.get(shard_of(id, self.store.shards))
        made = self.definitions.get((head.type, head.version))
        known = id in self.live or id in self._loading
        if lease is None or made is None or known or len(self.live) >= self.active_max:
            return
        ref = ref_of(id, self.store.shards)
        activation = Activation(self, made, ref, head, lease, Journal())
        self._adopt(activation)
        activation.users += 1
        try:
            await self.commands.begin(activation, done)
        finally:
            activation.users -= 1
            self.put_down_idle(activation)

    def demand_room(self) -> None:
        """Raise `Overloaded` when a start would harm what runs: too much is in memory, or waits to
        be committed."""
        if len(self.live) >= self.active_max:
            self.count_refused("memory")
            raise Overloaded(
                f"{len(self.live)} processes are in memory; nothing was started.", retry_after=2
            )
        if self.committer.is_crowded():
            self.count_refused("commits")
            raise Overloaded(
                f"{self.committer.pending} writes wait to be committed; nothing was started.",
                retry_after=1,
            )

    def count_refused(self, why: str) -> None:
        """A start is refused because of `why`."""
        refused = self.stats.starts_refused
        refused[why] = refused.get(why, 0) + 1

    def _adopt(self, activation: Activation) -> None:
        if activation.lease != self.leases.get(activation.lease.shard):
            activation.discard()
            return
        self.live[activation.id] = activation
        self._empty.clear()
        if self.draining:
            activation.drain()

    # --- loading ----------------------------------------------------------------------------------

    async def load(self, id: str) -> Activation | None:
        """The process `id` in memory, from its journal if need be; None when not ours or gone."""
        while (found := self.live.get(id)) is None:
            lease = self.leases.get(shard_of(id, self.store.shards))
            begun = self._loading.get(id)
            if begun is None:
                loading = asyncio.ensure_future(self._load(id))
                begun = self._loading[id] = lease, loading
                loading.add_done_callback(lambda _: self._loading.pop(id, None))
            if begun[0] == lease:
                return await asyncio.shield(begun[1])
            await asyncio.wait({begun[1]})  # under another lease: what it comes to is not ours
        return found

    async def _load(self, id: str) -> Activation | None:
        ref = ref_of(id, self.store.shards)
        lease = self.leases.get(shard_of(id, self.store.shards))
        cell = await self.recovery.ahead.cell(ref)
        if lease is None or cell is None:
            return None
        head = read_head(cell.value)
        if head.status == GONE:
            return None
        journal = Journal()
        events = await self.recovery.ahead.events(id, head.stream)
        for event in as_they_were(events) if head.imported else events:
            journal.apply(unpack(event.kind, event.data), event.time)
        definition = self.definitions.get((head.type, head.version))
        if definition is None:
            await self._strand(lease, ref, head, journal)
            return None
        recovered = head.status in LIVE or head.status in HALTED
        activation = Activation(
            self, definition, ref, head, lease, journal, loaded=True, recovered=recovered
        )
        if (already := self.live.get(id)) is not None:
            return already
        if head.status not in FINAL:
            self._adopt(activation)
        return activation

    async def _strand(self, lease: Lease, ref: Ref, head: Head, journal: Journal) -> None:
        """Show that nobody here runs this type and version; whoever does takes it up after a
        take-over."""
        if head.status in FINAL or head.status in HALTED:
            return  # it does not run now: who lets it go on waits for a node that can
        if head.lines and not await self.lines.has_place(ref.key, head):
            return  # nobody is wanted for it yet
        stranded = Activation(self, _NOBODY, ref, head, lease, journal)
        begun = () if journal.started is None else (Stranded(self.name),)
        with suppress(Discarded):  # refused: it is thrown away, and looked at again if it is ours
            await stranded.record(*begun, head=stranded.with_status("no_worker_for_version"))

    # --- ends and times ---------------------------------------------------------------------------

    async def result_of(
        self, id: str, timeout_seconds: float | None
    ) -> tuple[Ended, Definition] | None:
        """Wait for the end of a process that lives here, without asking the store.

        None when it does not live here, not any more, or not at its end in time.
        """
        activation = self.live.get(id)
        if activation is None:
            return None
        ending: asyncio.Future[Ended | None] = asyncio.get_running_loop().create_future()
        activation.endings.append(ending)
        timer = None
        if timeout_seconds is not None:
            timer = self.timers.after(
                timeout_seconds, lambda: None if ending.done() else ending.set_result(None)
            )
        try:
            ended = await ending
            return None if ended is None else (ended, activation.definition)
        finally:
            if timer is not None:
                timer.cancel()
            if ending in activation.endings:
                activation.endings.remove(ending)

    def time_out(self, activation: Activation, wait: str) -> None:
        """The time of a wait is up: decide so, unless a signal has ended it."""
        if wait in activation.journal.waited or activation.gone:
            return
        self.spawn(self._time_out(activation, wait))

    async def _time_out(self, activation: Activation, wait: str) -> None:
        while activation.transacting is not None:
            await asyncio.shield(activation.transacting)
        if wait not in activation.journal.waited and not activation.gone:
            head = activation.with_status("running")
            time = await activation.record(WaitDone(wait), head=head)
            activation.settle(wait, time)

    def note_due(self, due: int) -> None:
        """A cell of ours is due then."""
        if self.next_due is None or due < self.next_due:
            self.next_due = due

    # --- waking ----------------------------------------------------------------------

    async def wake(self, cells: Iterable[Cell]) -> None:
        """Cells of processes whose `due` has passed: let them go on, or end their retention."""
        ended = []
        for cell in cells:
            head = read_head(cell.value)
            if head.status in FINAL and self.notices.is_due(head):
                self.notices.take(cell, head)
            elif head.status in FINAL or head.status == GONE:
                ended.append(cell)
            elif head.status == "waiting" and self.recovery.doubts(cell.key):
                await self.recovery.wake(cell.key)
            elif (activation := await self.load(cell.key)) is not None:
                if activation.head.status not in HALTED:
                    activation.run()
                    activation.look()
                self.put_down_idle(activation)
        self.ended.end(ended)

    # --- leaving ----------------------------------------------------------------------------------

    def lost(self, activation: Activation, error: BaseException) -> None:
        """A commit of `activation` was refused or its outcome is unknown: throw it away; the
        journal has the truth."""
        log.info("process thrown away: %s", type(error).__name__)
        self._drop(activation)
        if self._owns(activation) and not self.draining:
            self.revive_later(activation.id)

    def doubted(self, activation: Activation) -> None:
        """The lease may be over, so `activation` may begin nothing: it is thrown away. If the lease
        is renewed all the same, late, it goes on; else whoever has its shard then takes it up."""
        activation.discard()
        if self._owns(activation):
            self.revive_later(activation.id)

    def broken(self, activation: Activation, error: Exception) -> None:
        """Our own code failed: pause the process, visibly, instead of running it for ever."""
        log.exception("outlive failed while running a process", exc_info=error)
        self._drop(activation)
        if self._owns(activation):
            self.spawn(self._pause_broken(activation.id, error))

    async def _pause_broken(self, id: str, error: Exception) -> None:
        activation = await self.load(id)
        if activation is not None and activation.task is None:
            detail = Failure(type(error).__name__, str(error)[:500])
            event = Paused("internal error", f"{detail.type}: {detail.message}")
            await activation.record(event, head=activation.with_status("paused"))
            self.left(activation)

    def revive_later(self, id: str) -> None:
        self.timers.after(REVIVE_SECONDS, lambda: self.revive(id))

    def revive(self, id: str) -> None:
        if id not in self.live and not self.draining:
            self.spawn(self._revive_now(id))

    async def _revive_behind(self, id: str) -> None:
        """Revive it when all that was handed over before is committed or refused."""
        with suppress(OutliveError):
            await self.committer.submit(Batch(), patient=True)
        self.revive(id)

    async def _revive_now(self, id: str) -> None:
        try:
            activation = await self.load(id)
        except OutliveError:
            self.revive_later(id)
            raise
        if activation is not None:
            if activation.journal.started is None:
                await self.commands.begin(activation, ())
            elif activation.head.status not in (*FINAL, *HALTED):
                activation.run()
            self.put_down_idle(activation)

    def _owns(self, activation: Activation) -> bool:
        return self.leases.get(activation.lease.shard) == activation.lease

    def left(self, activation: Activation) -> None:
        """The body of `activation` has ended, for whatever reason.

        Asked to go on while it was ending (a retry), it is built anew.
        """
        again = not (activation.gone or activation.leaving or self.draining)
        self._drop(activation)
        if again and activation.head.status in _UNDER_WAY and self._owns(activation):
            self.spawn(self._revive_now(activation.id))

    def put_down_idle(self, activation: Activation) -> None:
        """Nothing of it runs and nobody decides on it: it runs if it is to, or leaves memory."""
        if activation.gone and activation.head.status in _UNDER_WAY and not self.draining:
            if self._owns(activation) and not activation.leaving:
                self.spawn(self._revive_now(activation.id))
            return
        if activation.task is None and not activation.users:
            if activation.head.status in _UNDER_WAY and not activation.gone:
                activation.run()
            if activation.task is None:
                self._drop(activation)

    def forget(self, activation: Activation) -> None:
        """Take `activation` out of memory without running it; it is loaded again in time."""
        if activation.task is None and not activation.users:
            self._drop(activation)

    def put_down(self, activation: Activation) -> None:
        """Take `activation`, which is parked, out of memory."""
        self._drop(activation)

    def _drop(self, activation: Activation) -> None:
        activation.discard()
        activation.tell_end(None)
        if self.live.get(activation.id) is activation:
            del self.live[activation.id]
            if not self.live:
                self._empty.set()

    def sweep(self) -> None:
        """Let what has been parked long enough leave memory; its cell brings it back."""
        now = self.clock.boot()
        for activation in list(self.live.values()):
            if activation.may_leave(now):
                self._drop(activation)
            elif activation.parked_at is not None and activation.may_wait(now):
                self.spawn(activation.wait_on())

    def release(self, shard: int) -> None:
        """The shard is another's: throw away what lives in it."""
        self.leases.pop(shard, None)
        for activation in [found for found in self.live.values() if found.lease.shard == shard]:
            self._drop(activation)

    async def hand_over(self, shard: int, grace_seconds: float) -> None:
        """Put down what lives in a shard, at durable points; steps under way end within
        `grace_seconds`."""
        lease = self.leases.pop(shard, None)
        leaving = [found for found in self.live.values() if found.lease == lease]
        for activation in leaving:
            activation.leaving = True
            activation.drain()
        tasks = [found.task for found in leaving if found.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_seconds)
        for activation in leaving:
            self._drop(activation)

    def end_parked(self, activation: Activation) -> None:
        """Throw `activation`, which is parked, away: at once, or when its steps have ended."""
        if activation.interrupts or activation.transacting is not None:
            if not activation.gone:  # looked at in real time: steps are the user's own code
                loop = asyncio.get_running_loop()
                loop.call_later(STEPS_LOOK_SECONDS, self.end_parked, activation)
        else:
            activation.discard()

    async def drain(self, grace_seconds: float) -> None:
        """No new step begins; steps under way end and are recorded, at most `grace_seconds`; the
        rest is dropped."""
        self.draining = True
        for activation in list(self.live.values()):
            activation.drain()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._empty.wait()
                await self.committer.settle()
        except TimeoutError:
            log.warning(
                "%d processes were still in a step when the grace time ended", len(self.live)
            )
        for activation in list(self.live.values()):
            self._drop(activation)

    async def close(self) -> None:
        """End what runs beside the processes."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.threads.shutdown(wait=False, cancel_futures=True)
        if self.bodies is not None:
            self.bodies.shutdown(wait=False, cancel_futures=True)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` beside everything else; what it raises is logged by name."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._spawned)
        return task

    def _spawned(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.info("background work ended: %s", type(error).__name__)


_UNDER_WAY = ("running", "compensating")


def _nothing(run: Any) -> None:
    """The body of what is not declared here."""


_NOBODY = Definition(_nothing, "/nobody", 1, "nobody", "none", 202, None, ())
