"""What goes wrong in a simulation: faults drawn by a seed, and the port through which they come.

    kill        the node's process dies, a drawn number of turns after the time: between any awaits
    freeze      it stands still, perhaps longer than its lease, and goes on as if nothing was
    leave       it is asked to leave, hands over and starts again (a deploy)
    cut         nothing of it reaches the store
    refuse      the store says no, and nothing was written
    delay       calls take up to a second
    stall       calls take up to 20 seconds
    lose        the answer is lost: of what was written, and of what was not
    double      a batch arrives twice
    skew        the node's wall clock is wrong by up to 30 seconds
    jump        all wall clocks jump together

A fault is a value: one can be left out of a run by its number, which is how a failing seed is made
smaller. Which calls are hit within a fault's time is decided by dice that are thrown on the way.

`Weather` is how one node sees the store. It also knows the truth, which nobody in the cluster does:
what was applied although its answer was lost, and which batch was applied twice.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from outlive.errors import OutcomeUnknown, OutliveError, StoreUnavailable
from outlive.model import ABSENT, Batch, Committed

if TYPE_CHECKING:
    from random import Random

    from outlive.testing.turns import Turns

KINDS = (
    "kill", "freeze", "leave", "cut", "refuse", "delay", "stall", "lose", "double", "skew", "jump",
)  # fmt: skip
OF_THE_PORT = frozenset(("cut", "refuse", "delay", "stall", "lose", "double"))
WRITES = frozenset(("commit_group", "transact", "erase", "take", "release", "claim"))
ASKED_IN_TURN = frozenset(("open", "close", "announce", "departed"))
"""Verbs that are about this process alone: nothing lies between."""
DELAY_SECONDS_MAX = 1.0
STALL_SECONDS_MAX = 20.0
CUT_SECONDS_MAX = 1.0
NODES_MAX = 16
PAUSE_SECONDS = 8.0
"""About how far apart faults are."""
SHARE_HIT = 0.35
"""Of the calls made while a fault of the port lasts, how many it hits."""
LANE_SECONDS = 0.0004
LANE_SECONDS_SLOW = 0.08
SHARE_SLOW = 0.01
LOCK_SECONDS = 0.002
"""How soon who waits for the write lock looks again."""


class Fault(Struct, frozen=True):
    """One thing that goes wrong."""

    number: int
    at: float
    """Seconds after the beginning."""
    kind: str
    node: int
    seconds: float
    """How long it lasts: of a kill and a leave, until the node starts again."""
    amount: int = 0
    """Of a kill: the turns that the node still has. Of a skew or jump: microseconds."""
    told: bool = True
    """Of a kill: whether others learn of it at once, as on one host."""

    def __str__(self) -> str:
        more = f" {self.amount / 1e6:+.1f} s" if self.kind in ("skew", "jump") else ""
        when = f"{self.number}: at {self.at:.1f} s"
        return f"{when} {self.kind} node {self.node}{more}, for {self.seconds:.1f} s"


def drawn(dice: Random, seconds: float, nodes: int, stretch: float = 1.0) -> list[Fault]:
    """The faults of one run of `seconds`: about one every `PAUSE_SECONDS`, none in the first
    second; `stretch` times as far apart and as long."""
    pause_seconds = PAUSE_SECONDS * stretch
    found: list[Fault] = []
    at = 1.0 + dice.random() * pause_seconds
    while at < seconds:
        kind, node = dice.choice(KINDS), int(dice.random() * NODES_MAX) % nodes
        lasts, amount, told = dice.uniform(0.5, 12.0), 0, dice.random() < 0.6
        if kind == "kill":
            amount = 1 + int(dice.random() ** 3 * 400)
        elif kind == "freeze":
            lasts = dice.choice((0.3, 2.0, 7.0, 11.0, 25.0)) * dice.uniform(0.7, 1.3)
        elif kind in ("skew", "jump"):
            amount = round(dice.uniform(-1, 1) * dice.choice((0.2, 3.0, 30.0)) * stretch * 1e6)
        found.append(Fault(len(found), at, kind, node, lasts * stretch, amount, told))
        at += dice.expovariate(1 / pause_seconds)
    return found


class Weather:
    """How one node sees the store just now, and what became of what it asked."""

    def __init__(self, dice: Random) -> None:
        self.dice = dice
        self.active: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.flaws: list[str] = []
        """What must never be: found while it ran."""
        self.on_done: Callable[[str, tuple[Any, ...], Any], None] | None = None
        """Told of each write that was done: the verb, what was asked, and what came of it."""

    def hit(self, kind: str) -> bool:
        """Whether a fault of `kind` hits the call that is just made."""
        if not self.active[kind] or self.dice.random() >= SHARE_HIT:
            return False
        self.hits[kind] += 1
        return True


class FaultyStore:
    """The store as one node sees it: the promises of `store.py`, kept in bad weather."""

    def __init__(self, inner: Any, weather: Weather) -> None:
        self._inner, self._weather = inner, weather
        self.shards = inner.shards
        self.blobs = inner.blobs

    async def open(self) -> None:
        await self._inner.open()
        self.shards = self._inner.shards

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(found) or name in ASKED_IN_TURN:
            return found
        call = partial(self._write if name in WRITES else self._read, name, found)
        self.__dict__[name] = call
        return call

    async def _read(self, name: str, verb: Any, *args: Any, **options: Any) -> Any:
        if self._weather.active:
            await self._endure()
        return await verb(*args, **options)

    async def _endure(self) -> None:
        weather = self._weather
        if weather.active["cut"]:
            weather.hits["cut"] += 1
            await asyncio.sleep(weather.dice.random() * CUT_SECONDS_MAX)
            raise StoreUnavailable("The store cannot be reached. Nothing was written.")
        if weather.hit("stall"):
            await asyncio.sleep(weather.dice.random() * STALL_SECONDS_MAX)
        if weather.hit("delay"):
            await asyncio.sleep(weather.dice.random() * DELAY_SECONDS_MAX)
        if weather.hit("refuse"):
            raise StoreUnavailable("The store refused the call. Nothing was written.")

    async def _write(self, name: str, verb: Any, *args: Any, **options: Any) -> Any:
        weather = self._weather
        lost = False
        if weather.active:
            await self._endure()
            lost = weather.hit("lose")
            if lost and weather.dice.random() < 0.4:
                raise _unknown()
        found = await verb(*args, **options)
        if weather.on_done is not None:
            weather.on_done(name, args, found)
        if name == "commit_group" and weather.hit("double"):
            await self._again(args[0], found)
        if weather.active["delay"] and weather.hit("delay"):
            await asyncio.sleep(weather.dice.random() * DELAY_SECONDS_MAX)
        if lost:
            raise _unknown()
        return found

    async def commit(self, batch: Batch) -> Committed:
        (result,) = await self._write("commit_group", self._inner.commit_group, [batch])
        if isinstance(result, OutliveError):
            raise result
        return result  # type: ignore[no-any-return]

    async def _again(self, batches: Sequence[Batch], first: Sequence[Any]) -> None:
        """The same once more: what was applied and is guarded must be refused now."""
        guarded = [
            batch
            for batch, result in zip(batches, first, strict=True)
            if isinstance(result, Committed) and is_guarded(batch)
        ]
        if not guarded:
            return
        again = await self._inner.commit_group(guarded)
        for batch, result in zip(guarded, again, strict=True):
            if isinstance(result, Committed):
                self._weather.flaws.append(f"P2: a batch was applied twice: {batch}")


def is_guarded(batch: Batch) -> bool:
    """Whether applying `batch` again must fail: it appends, or changes a cell that it requires.

    A new command is none: its cell goes when it is carried out, perhaps before it arrives again,
    and its key says then that it was."""
    written = {*(put.ref for put in batch.put), *batch.drop}
    return bool(batch.append) or any(
        need.ref in written and not (need.version == ABSENT and need.ref.space.startswith("inbox/"))
        for need in batch.require
    )


def _unknown() -> OutcomeUnknown:
    return OutcomeUnknown("The connection was lost before the answer came.")


class DealtLane:
    """What a store's thread is in a simulation: its jobs run in order, each inline and at once, at
    a moment that the dice choose.

    `blocked`: whether somebody else holds the write lock; then a job of the writing lane waits,
    as a thread would.
    """

    def __init__(self, loop: Turns, blocked: Callable[[], bool] | None) -> None:
        self._loop, self._blocked = loop, blocked
        self._jobs: deque[tuple[asyncio.Future[Any] | None, Callable[[], Any]]] = deque()
        self._busy = self._ended = False

    @property
    def idle(self) -> bool:
        return not self._busy

    def do(self, job: Callable[[], Any]) -> asyncio.Future[Any]:
        if self._ended:
            raise StoreUnavailable("The store is closed; nothing was read or written.")
        future = self._loop.create_future()
        self._give(future, job)
        return future

    def do_later(self, job: Callable[[], None]) -> None:
        self._give(None, job)

    async def end(self) -> None:
        if not self._ended:
            last = self.do(lambda: None)
            self._ended = True
            await last

    def _give(self, future: asyncio.Future[Any] | None, job: Callable[[], Any]) -> None:
        self._jobs.append((future, job))
        if not self._busy:
            self._busy = True
            self._next()

    def _next(self) -> None:
        draw = self._loop.dice.random
        slow = draw() < SHARE_SLOW
        self._loop.call_later(draw() * (LANE_SECONDS_SLOW if slow else LANE_SECONDS), self._run)

    def _run(self) -> None:
        if self._blocked is not None and self._blocked():
            self._loop.call_later(self._loop.dice.random() * LOCK_SECONDS, self._run)
            return
        future, job = self._jobs.popleft()
        try:
            found = job()
        except BaseException as error:
            if future is not None and not future.done():
                future.set_exception(error)
        else:
            if future is not None and not future.done():
                future.set_result(found)
        if self._jobs:
            self._next()
        else:
            self._busy = False
