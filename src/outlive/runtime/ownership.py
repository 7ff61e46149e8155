"""Which node runs which shard: leases and hints say who should, the shard's row says who may.

    node cell   space `node`: host, pid, what it runs; `due` is the end of its lease (10 s), which
                is renewed every fifth of it
    trust       a node stops starting steps 0.6 of a lease after its last renewal was *sent*, on the
                boot clock
    hint        a killed process of the same host is known to be dead at the next tick; of another
                host a moment after its sign of life in the store has ended (unless it renews its
                lease after that, or has said that its sign means nothing just now), not in 10 s
    placement   shards are spread evenly over the nodes that are alive and not draining, as far as
                these run what lives in them (placement.py)

    tick:  renew ─> who is alive ─> too many shards? hand some back
                                 ─> too few? take what is free, or a dead node's

A tick comes five times a second, and twenty times while anything moves: what was handed back is
taken up at once. A node that leaves says so first and hands its shards over a few at a time; what
lives in the others runs on meanwhile.

Taking a shard raises its epoch in its row; the journal is read after that commit, so no waiting
margin is needed and the last owner can write nothing any more, whatever its clock says.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from outlive.clock import MICROS, Clock, Later
from outlive.codec import encode
from outlive.errors import Fenced, OutliveError, StoreUnavailable
from outlive.kinds.processes import Node
from outlive.model import Batch, Cell, Lease, Put, Ref, Require, Shard
from outlive.runtime.neighbours import has_ended, home
from outlive.runtime.placement import Builds, Needs, move_of, of_one_build
from outlive.store import Store
from outlive.stores.writelock import start_time

log = logging.getLogger("outlive")

SPACE = "node"
LEASE_SECONDS = 10.0
RENEW_SHARE = 0.2
DEMOTE_SHARE = 0.6
WATCH_SECONDS = 0.02
"""How long behind the moment at which the lease may be over a node demotes itself at the latest."""
TICK_SECONDS = 0.2
QUICK_TICK_SECONDS = 0.05
"""While nodes come and go and shards move."""
QUICK_TICKS = 20
"""Ticks without any movement after which they are slow again."""
LOOK_SECONDS = 5.0
"""How often nodes of several builds look what lives in which shard."""
LEAVING_SHARDS = 4
"""Shards that a leaving node hands over at one time, unless their steps take longer than"""
LEAVING_SECONDS = 0.25
NODES_MAX = 1000


class NodeCell(Struct, frozen=True, omit_defaults=True):
    """What a node says of itself."""

    host: str
    pid: int
    since: int
    phase: str
    runs: tuple[str, ...] = ()
    home: str = ""
    """Where its pid means something; see neighbours.py."""
    started: int = 0
    signs: bool = True
    """Whether it gives its sign of life in the store: if not, nothing follows from missing it."""


_read = msgspec.json.Decoder(NodeCell).decode


SETTLE_SECONDS = 3.0
"""How long a start waits for a node that runs its version to own a shard."""


class Ownership:
    """The shards of one node: taken, kept and handed back.

    `gained(lease, crash)` is called after each take-over and gives the work that follows from it,
    `releasing(shard)` before a shard is handed back, `lost(shard)` when it turns out to be
    another's, `demoted()` when this node may not trust its leases any more.
    """

    def __init__(
        self,
        store: Store,
        node: str,
        clock: Clock,
        runs: Sequence[str],
        gained: Callable[[Lease, bool], Coroutine[Any, Any, object]],
        releasing: Callable[[int], Awaitable[None]],
        lost: Callable[[int], None],
        demoted: Callable[[], None],
        trust: Callable[[float], None],
        lease_seconds: float = LEASE_SECONDS,
        needs: Callable[[], Awaitable[Needs]] | None = None,
        hear: Callable[[int], None] | None = None,
    ) -> None:
        self._needs_now = needs
        self._hear = hear
        """Is told the store's time whenever it is asked."""
        self._needs: Needs = {}
        self._builds: Builds = {}
        self._looked = -LOOK_SECONDS
        self._home = home()
        self._last_words: dict[str, int] = {}
        """The versions of the cells of nodes without a sign of life, when that was first noticed:
        who renews after it lives, whatever has become of the sign."""
        self._seen: object = None
        self._quick = 0
        self._store = store
        self._node = node
        self._clock = clock
        self._gained = gained
        self._releasing = releasing
        self._lost = lost
        self._leaving: dict[int, asyncio.Task[None]] = {}
        self._beginning: dict[asyncio.Task[None], None] = {}
        self._demoted = demoted
        self._trust = trust
        self._since = 0
        self._runs = tuple(runs)
        self.phase = "ready"
        self.leases: dict[int, Lease] = {}
        self._lease_seconds = lease_seconds
        self._renew_seconds = lease_seconds * RENEW_SHARE
        self._demote_seconds = lease_seconds * DEMOTE_SHARE
        self._lapsed = False
        """Whether the own lease is over by the store's clock, as all others see it."""
        self._renewed = -self._renew_seconds
        self._trusted = False
        self._signs = self._said_signs = True
        self._proving: asyncio.Task[None] | None = None
        self._lapses: Later | None = None
        """Asked for with the clock: the next look whether the lease may be over."""

    async def join(self) -> None:
        """Become a node of the store, and take the first shards."""
        self._since = await self._now()
        await self._store.announce(self._node, self._sign)
        await self.tick()

    async def tick(self) -> None:
        """Renew, look around, and move towards an even spread by a few shards."""
        now = self._clock.boot()
        if self._trusted and now > self._renewed + self._demote_seconds:
            self._demote()
        is_due = now - self._renewed >= self._renew_seconds
        if is_due or not self._trusted or self._signs != self._said_signs:
            await self._renew()
        if not self._signs:
            self._prove_sign()
        alive, gone = await self._look()
        owners = await self._store.owners()
        self._forget_lost(owners)
        if self._lapsed:  # in time, and over all the same: the store's clock has jumped
            await self._renew()
            self._quick = QUICK_TICKS
            return  # nobody could renew yet: who seems dead may live as this node does
        self._note(alive, owners)
        await self._balance(owners, alive)
        await self._bury(gone, owners)

    def stop_watching(self) -> None:
        """From now on nobody ticks: what is under way may come to its end, fenced by its epoch."""
        if self._lapses is not None:
            self._lapses.cancel()
            self._lapses = None

    @property
    def pause_seconds(self) -> float:
        """How long to wait before the next tick."""
        return QUICK_TICK_SECONDS if self._quick else TICK_SECONDS

    async def hand_over(self) -> None:
        """Give every shard to the other nodes, if there are any, a few at a time.

        They are given a moment to learn of it, so that they take up at once what comes.
        """
        others = [name for name, _ in working((await self._look())[0]) if name != self._node]
        if not others or not self.leases:
            return
        await asyncio.sleep(TICK_SECONDS)
        while self.leases:
            while len(self._leaving) < LEAVING_SHARDS and self.leases:
                self._begin_to_hand_back(self._next_lease())
            before = list(self._leaving.values())
            await asyncio.wait(before, timeout=LEAVING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if self.leases and not any(task.done() for task in before):
                self._begin_to_hand_back(self._next_lease())
        if self._leaving:
            await asyncio.wait(self._leaving.values())

    def _next_lease(self) -> Lease:
        return self.leases.pop(min(self.leases))

    async def leave(self) -> None:
        """Hand every shard back and end in order: not counted as a crash."""
        self._trusted = False
        for beginning in self._beginning:
            beginning.cancel()
        await asyncio.gather(*self._beginning, return_exceptions=True)
        if self._leaving:
            await asyncio.wait(self._leaving.values())
        self.leases.clear()
        for shard in await self._store.owners():  # also what was taken while the ticks ended
            if shard.owner == self._node:
                await self._store.release(Lease(shard.id, shard.owner, shard.epoch))
        await self._store.commit(Batch(drop=(self._ref(),), storage="relaxed"))

    async def say(self, phase: str) -> None:
        """Publish another phase at once."""
        self.phase = phase
        await self._renew()

    async def keep(self, ahead_seconds: float) -> None:
        """Renew as of `ahead_seconds` from now, before a test moves its clock so far."""
        await self._renew(ahead_seconds)

    async def shard_elsewhere(self, label: str) -> int | None:
        """Where this node starts a process of `label` while it owns no shard; None: anywhere.

        While a deploy rolls, not in a shard of a node that does not run it. When nobody who does
        owns a shard, this node waits a moment for one of its own.
        """
        alive = (await self._look())[0]
        runs = {name for name, cell in working(alive) if label in cell.runs}
        if len(runs) == len(working(alive)):
            return None
        ends = self._clock.boot() + SETTLE_SECONDS
        while True:
            fit = [shard.id for shard in await self._store.owners() if shard.owner in runs]
            if fit or self._clock.boot() >= ends:
                return next(iter(fit), None)
            await asyncio.sleep(QUICK_TICK_SECONDS)

    # --- the steps of a tick ----------------------------------------------------------------------

    async def _renew(self, ahead_seconds: float = 0.0) -> None:
        sent = self._clock.boot() + ahead_seconds
        pid = os.getpid()
        value = NodeCell(
            socket.gethostname(), pid, self._since, self.phase, self._runs, self._home,
            start_time(pid), signs := self._signs,
        )  # fmt: skip
        due = await self._now() + round((self._lease_seconds + ahead_seconds) * MICROS)
        put = Put(self._ref(), encode(value), due)
        await self._store.commit(Batch(put=(put,), storage="relaxed"))
        self._renewed, self._trusted, self._said_signs = sent, True, signs
        self._trust(sent + self._demote_seconds)
        self._watch()

    def _sign(self, given: bool) -> None:
        """The sign of life in the store ended, or is given again. Its end looks like a death: the
        others are told at once that it is none, and not to go by the sign until it is back."""
        self._signs = given
        if not given and self._trusted:
            self._keep(self._say_signs())

    async def _say_signs(self) -> None:
        try:
            await self._renew()
        except OutliveError as error:
            log.warning("the others were not told that the sign of life is lost: %s", error.code)

    def _prove_sign(self) -> None:
        if self._proving is None or self._proving.done():
            self._proving = self._keep(self._announce_again())

    async def _announce_again(self) -> None:
        try:
            await self._store.announce(self._node, self._sign)
        except OutliveError as error:
            log.debug("the sign of life is not given yet: %s", error.code)
        else:
            self._signs = True

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._beginning[task] = None
        task.add_done_callback(self._beginning.pop)
        return task

    def _watch(self) -> None:
        """Be woken when the lease may be over: a tick may wait for a line that is dead, and nobody
        says so, for longer than that."""
        self.stop_watching()
        left = self._renewed + self._demote_seconds - self._clock.boot()
        self._lapses = self._clock.call_later(max(left, 0) + WATCH_SECONDS, self._lapse)

    def _lapse(self) -> None:
        self._lapses = None
        if self._trusted and self._clock.boot() > self._renewed + self._demote_seconds:
            self._demote()
        elif self._trusted:
            self._watch()

    def _demote(self) -> None:
        self._trusted = False
        self._signs = False  # as long as it was cut off, its sign may have ended without a word
        self.leases.clear()
        self._demoted()

    async def _now(self) -> int:
        now = await self._store.now()
        if self._hear is not None:
            self._hear(now)
        return now

    async def _look(self) -> tuple[list[tuple[str, NodeCell]], list[Cell]]:
        """The nodes that are alive, and the cells of those that are not."""
        cells = await self._store.scan(SPACE, limit=NODES_MAX)
        now = await self._now()
        departed = await self._store.departed([cell.key for cell in cells])
        versions = {cell.key: cell.version for cell in cells if cell.key in departed}
        self._last_words = {**versions, **_within(self._last_words, departed)}
        alive, gone = [], []
        for cell in cells:
            said = _read(cell.value)
            silent = said.signs and self._last_words.get(cell.key) == cell.version
            dead = silent or cell.due is None or cell.due < now or self._saw_end_of(said)
            if cell.key == self._node:
                self._lapsed = cell.due is not None and cell.due < now
            if dead and cell.key != self._node:
                gone.append(cell)
            else:
                alive.append((cell.key, said))
        return alive, gone

    def _saw_end_of(self, said: NodeCell) -> bool:
        """Whether a node of this host is known to have ended."""
        return said.home == self._home != "" and has_ended(said.pid, said.started)

    def _forget_lost(self, owners: Sequence[Shard]) -> None:
        """What the rows say is ours and we do not hold, or hold and is not ours."""
        for shard in owners:
            lease = self.leases.get(shard.id)
            if lease is not None and (shard.owner, shard.epoch) != (self._node, lease.epoch):
                del self.leases[shard.id]
                self._lost(shard.id)

    async def _balance(
        self, owners: Sequence[Shard], alive: Sequence[tuple[str, NodeCell]]
    ) -> None:
        names = {name for name, _ in alive}
        builds = {name: frozenset(cell.runs) for name, cell in working(alive)}
        if self._node not in builds:
            return
        free = {
            shard.id
            for shard in owners
            if shard.id not in self.leases
            and shard.id not in self._leaving
            and (shard.owner not in names or shard.owner == self._node)
        }
        needs = await self._known_needs(builds, any_free=bool(free))
        move = move_of(self._node, builds, owners, free, self.leases, needs)
        for id in move.hand_back:
            self._begin_to_hand_back(self.leases.pop(id))
        for shard in owners:  # ours by its row alone: a hand-over that failed, or an answer lost
            if shard.owner == self._node and shard.id in free and shard not in move.take:
                self._begin_to_hand_back(Lease(shard.id, shard.owner, shard.epoch))
        taking = [self._take(shard) for shard in move.take]
        results = await asyncio.gather(*taking, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _known_needs(self, builds: Builds, *, any_free: bool) -> Needs:
        """What lives in which shard: asked only while nodes of several builds are there."""
        if self._needs_now is None or of_one_build(builds):
            self._needs = {}
        else:
            now = self._clock.boot()
            if any_free or builds != self._builds or now - self._looked >= LOOK_SECONDS:
                self._needs, self._looked = await self._needs_now(), now
        self._builds = builds
        return self._needs

    def _note(self, alive: Sequence[tuple[str, NodeCell]], owners: Sequence[Shard]) -> None:
        """Whether anything moves: then ticks are quick."""
        phases = {name: cell.phase for name, cell in alive}
        seen = (phases, [(shard.owner, shard.epoch) for shard in owners])
        self._quick = QUICK_TICKS if seen != self._seen else max(0, self._quick - 1)
        self._seen = seen

    def _begin_to_hand_back(self, lease: Lease) -> None:
        task = asyncio.get_running_loop().create_task(self._hand_back(lease))
        self._leaving[lease.shard] = task
        task.add_done_callback(self._handed_back(lease.shard))

    def _begun(self, work: Coroutine[Any, Any, object]) -> Callable[[asyncio.Task[None]], None]:
        def forget(task: asyncio.Task[None]) -> None:
            self._beginning.pop(task, None)
            work.close()  # it was never begun if the task was cancelled at once

        return forget

    async def _begin(self, lease: Lease, work: Awaitable[object]) -> None:
        """Go on with what is in a shard, beside the ticks, which must not wait for it.

        When that fails the shard is let go and taken again at the next tick.
        """
        try:
            await work
        except Exception as error:
            log.warning("shard %d could not be taken up: %s", lease.shard, type(error).__name__)
            if self.leases.get(lease.shard) == lease:
                del self.leases[lease.shard]
                self._lost(lease.shard)

    def _handed_back(self, shard: int) -> Callable[[object], None]:
        def forget(_: object) -> None:
            self._leaving.pop(shard, None)

        return forget

    async def _hand_back(self, lease: Lease) -> None:
        await self._releasing(lease.shard)
        try:
            await self._store.release(lease)
        except OutliveError as error:
            log.warning("shard %d was not handed back: %s", lease.shard, error.code)

    async def _take(self, shard: Shard) -> None:
        """Take a shard and begin to go on with what is in it."""
        try:
            lease = await self._store.take(shard.id, shard.epoch, self._node)
        except Fenced:
            return  # another node was faster
        self.leases[shard.id] = lease
        work = self._gained(lease, shard.owner not in ("", self._node))
        task = asyncio.get_running_loop().create_task(self._begin(lease, work))
        self._beginning[task] = None
        task.add_done_callback(self._begun(work))

    async def _bury(self, gone: Sequence[Cell], owners: Sequence[Shard]) -> None:
        """Remove the cell of a dead node that owns nothing any more."""
        held = {shard.owner for shard in owners}
        for cell in gone:
            if cell.key not in held:
                drop = Batch(
                    require=(Require(cell.ref, cell.version),), drop=(cell.ref,), storage="relaxed"
                )
                try:
                    await self._store.commit(drop)
                except StoreUnavailable:
                    raise
                except OutliveError:
                    log.debug("a node's cell changed while it was being removed")

    def _ref(self) -> Ref:
        return Ref(SPACE, self._node)


def working(alive: Sequence[tuple[str, NodeCell]]) -> list[tuple[str, NodeCell]]:
    """Those of the living that take shards."""
    return [(name, cell) for name, cell in alive if cell.phase == "ready"]


def _within(versions: dict[str, int], names: Collection[str]) -> dict[str, int]:
    return {name: version for name, version in versions.items() if name in names}


async def nodes_of(store: Store) -> list[Node]:
    """The nodes of `store` whose lease runs, with the number of shards each owns."""
    counts: dict[str, int] = {}
    for shard in await store.owners():
        counts[shard.owner] = counts.get(shard.owner, 0) + 1
    cells = await store.scan(SPACE, limit=NODES_MAX)
    now = await store.now()
    departed = await store.departed([cell.key for cell in cells])
    found = []
    for cell in cells:
        if cell.due is None or cell.due < now or cell.key in departed:
            continue
        said = _read(cell.value)
        found.append(
            Node(
                cell.key,
                said.host,
                said.pid,
                said.since,
                cell.due,
                said.phase,
                counts.get(cell.key, 0),
                said.runs,
            )
        )
    return found
