"""A cluster of nodes on one SQLite file, in one thread and in virtual time, and what is done to it.

    seat     where a node runs, life after life: its clock, its weather, its store on the file
    client   whoever asks the cluster: it outlives the nodes, repeats what got no answer, and
             remembers what it was told
    eye      a store of nobody's, by which the oracles look while the cluster runs and afterwards

Each node is a twin of the user's application: the same declarations, an `Outlive` and a store of
its own. Runtime and store are those of production; in the place of threads the store has lanes
that the dice deal (`faults.DealtLane`). When a life ends, this does what the kernel does: locks and
descriptors of the process are let go, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextvars
import copy
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from outlive.app import LEASE_SECONDS_MAX
from outlive.errors import NoSuchProcess, OutliveError, ProcessError, ProcessTerminal
from outlive.kinds.processes.vocabulary import FINAL, unpack
from outlive.model import Committed, shard_of
from outlive.runtime import meters
from outlive.stores.sqlite import SQLiteStore
from outlive.testing.faults import DealtLane, Fault, FaultyStore, Weather
from outlive.testing.oracles import PAGE
from outlive.testing.turns import Life, Turns, TurnsClock, life_here

if TYPE_CHECKING:
    from random import Random

    from outlive.app import Outlive
    from outlive.model import Event

ANSWER_SECONDS = 30.0
"""How long a client waits for one answer."""
AGAIN_SECONDS = 1.0
SHARDS = 4
FROZEN_SECONDS = 3.0
FORGOTTEN_SECONDS = 15.0
"""When the sign of life of a dead node is gone that nobody was told of: later than its lease."""
WATCH_SECONDS = 5.0
LEAVE_SECONDS = 5.0
NODE = "node"


class NoAnswer(Exception):
    """The node died, or said nothing in time: what was asked may have been done."""


class Seat:
    """One place in the cluster, and the node that runs there now."""

    def __init__(self, number: int, loop: Turns, dice: Random) -> None:
        self.number = number
        self.clock = TurnsClock(loop)
        self.weather = Weather(dice)
        self.lives = 0
        self.life: Life | None = None
        self.app: Any = None
        self.store: SQLiteStore | None = None
        self.ready = False
        self.asked: dict[asyncio.Future[Any], None] = {}
        self.down_seconds = 1.0
        self.told = True
        self.waits_since: float | None = None

    def holds_the_lock(self) -> bool:
        file = getattr(self.store, "_file", None)
        lock = getattr(file, "_lock", None)
        return bool(lock is not None and lock.held)


class Cluster:
    """Nodes of one application; what clients were told is kept for the oracles."""

    def __init__(
        self,
        app: Outlive,
        path: Path,
        loop: Turns,
        dice: Random,
        nodes: int,
        shards: int = SHARDS,
        stretch: float = 1.0,
    ) -> None:
        self.app, self.loop, self.dice = app, loop, dice
        self.seats = [Seat(number, loop, dice) for number in range(nodes)]
        self.stretch = stretch
        """How many times as long leases last, and clients think."""
        self.over = False
        """Whether the time of faults is over: clients begin nothing new then."""
        self.acknowledged: dict[str, set[str]] = {}
        """For each idempotency key that was sent the ids that came back."""
        self.seen: dict[str, str] = {}
        """The final status of each process of which a client was told."""
        self.flaws: list[str] = []
        self.counts: Counter[str] = Counter()
        self.shards = shards
        self.tails: dict[int, list[Event]] = {shard: [] for shard in range(shards)}
        """What a reader saw of each shard while the cluster ran."""
        self._path = path
        self._recorded: set[tuple[str, str]] = set()
        self._owners: dict[int, str] = {}
        self._history = hashlib.blake2b(digest_size=12)
        self._root = contextvars.copy_context()
        self._lives: list[Life] = []
        self._named = 0
        self.eye: Any = SQLiteStore(path, shards, TurnsClock(loop), lane=self._plain_lane)

    # --- nodes ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the file and start every node; what the caller's context says, every life sees."""
        self._root = contextvars.copy_context()
        await self.eye.open()
        for seat in self.seats:
            self.start_node(seat)

    def start_node(self, seat: Seat) -> None:
        """Begin a new life in `seat`, unless one is under way."""
        if seat.life is not None:
            return
        seat.lives += 1
        life = seat.life = Life(f"{seat.number}.{seat.lives}")
        self._lives.append(life)
        life.on_end = lambda: self._ended(seat)
        seat.store = SQLiteStore(
            self._path, self.shards, seat.clock, frozen_seconds=FROZEN_SECONDS,
            lane=lambda name: self._lane(seat, name),
        )  # fmt: skip
        seat.weather.on_done = lambda *told: self._note(seat, *told)
        port: Any = FaultyStore(seat.store, seat.weather)
        seat.app = twin(self.app, port, seat.clock)
        lease_seconds = seat.app._lease_seconds * self.stretch
        seat.app._lease_seconds = min(lease_seconds, LEASE_SECONDS_MAX)
        seat.down_seconds, seat.told, seat.waits_since = 1.0, True, None
        self.loop.create_task(self._open(seat, seat.app), context=life.context())

    async def _open(self, seat: Seat, app: Outlive) -> None:
        try:
            await app.open()
        except OutliveError:
            self.counts["starts failed"] += 1
            if seat.life is not None:
                seat.life.end()
        else:
            seat.ready = True

    def _ended(self, seat: Seat) -> None:
        """What the kernel does when a process is gone; a new one is started after a while."""
        store, app = seat.store, seat.app
        seat.life, seat.ready = None, False
        runtime = app._runtime
        if runtime is not None:
            meters.unobserve(runtime)
        assert store is not None
        file = getattr(store, "_file", None)
        if file is not None and file._opened:
            file.close()
        self.later(0.0 if seat.told else FORGOTTEN_SECONDS * self.stretch, store._presence.forget)
        asked, seat.asked = seat.asked, {}
        for future in asked:
            if not future.done():
                future.set_exception(NoAnswer("the node died"))
        self.later(seat.down_seconds, lambda: self.start_node(seat))

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Make `call` in `seconds`, whoever has died meanwhile."""
        self.loop.call_later(seconds, call, context=self._root)

    def _lane(self, seat: Seat, name: str) -> Any:
        writing = name == "outlive-write"
        return DealtLane(self.loop, (lambda: self._blocked(seat)) if writing else None)

    def _plain_lane(self, name: str) -> Any:
        return DealtLane(self.loop, None)

    def _blocked(self, seat: Seat) -> bool:
        """Whether another process holds the write lock; one that is frozen is killed for it, as the
        waiter does in production."""
        for other in self.seats:
            if other is not seat and other.holds_the_lock():
                now = self.loop.seconds
                seat.waits_since = seat.waits_since or now
                holder = other.life
                if holder is not None and holder.frozen and now - seat.waits_since > FROZEN_SECONDS:
                    self.counts["frozen holders killed"] += 1
                    holder.end()
                    break
                return True
        seat.waits_since = None
        return False

    # --- faults -----------------------------------------------------------------------------------

    def strike(self, fault: Fault) -> None:
        """Let `fault` begin; it ends by itself."""
        seat = self.seats[fault.node % len(self.seats)]
        self.counts[fault.kind] += 1
        life = seat.life
        match fault.kind:
            case "jump":
                for each in self.seats:
                    each.clock.skew_micros += fault.amount
            case "skew":
                seat.clock.skew_micros += fault.amount
                self.later(fault.seconds, lambda: self._unskew(seat, fault.amount))
            case "kill" | "freeze" | "leave":
                if life is not None and not life.frozen:
                    self._strike_life(seat, life, fault)
            case kind:
                seat.weather.active[kind] += 1
                self.later(fault.seconds, lambda: _clear(seat.weather, kind))

    def _strike_life(self, seat: Seat, life: Life, fault: Fault) -> None:
        if fault.kind == "freeze":
            life.frozen = True
            self.later(fault.seconds, lambda: self.loop.thaw(life))
            return
        seat.down_seconds, seat.told = fault.seconds, fault.told
        if fault.kind == "kill":
            life.turns_left = fault.amount
        else:
            work = self._leave(life, seat.app)
            self.loop.create_task(work, context=life.context())

    async def _leave(self, life: Life, app: Outlive) -> None:
        with suppress(OutliveError):
            await app.drain(LEAVE_SECONDS)
            await app.close()
        life.end()

    def _unskew(self, seat: Seat, micros: int) -> None:
        seat.clock.skew_micros -= micros

    def heal(self) -> None:
        """No fault lasts any longer, and every node runs or is about to."""
        self.over = True
        for seat in self.seats:
            seat.weather.active.clear()
            if seat.life is not None and seat.life.frozen:
                self.loop.thaw(seat.life)

    # --- asking -----------------------------------------------------------------------------------

    async def ask(
        self, work: Callable[[Outlive], Awaitable[Any]], within: float = ANSWER_SECONDS
    ) -> Any:
        """Let one node do `work(app)`; gives or raises what it does.

        Raises `NoAnswer` when the node died or nothing came `within` seconds, or when none runs.
        """
        ready = [seat for seat in self.seats if seat.ready and seat.life is not None]
        if not ready:
            raise NoAnswer("no node runs")
        seat = self.dice.choice(ready)
        assert seat.life is not None
        answer: asyncio.Future[Any] = self.loop.create_future()
        seat.asked[answer] = None

        async def asked(app: Outlive) -> None:
            try:
                found = await work(app)
            except Exception as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(found)

        self.loop.create_task(asked(seat.app), context=seat.life.context())
        try:
            async with asyncio.timeout(within):
                return await answer
        except TimeoutError:
            raise NoAnswer("no answer in time") from None
        finally:
            seat.asked.pop(answer, None)

    async def insist(self, work: Callable[[Outlive], Awaitable[Any]]) -> Any:
        """Ask one node after the other until one answers; an error that repeating cannot mend is
        raised."""
        while True:
            try:
                return await self.ask(work)
            except NoAnswer:
                self.counts["no answer"] += 1
            except ProcessError as error:
                if not error.retryable:
                    raise
                self.counts[error.code] += 1
            except OutliveError as error:
                self.counts[error.code] += 1
            await self.pause(AGAIN_SECONDS)

    async def pause(self, seconds: float) -> None:
        """Wait a drawn time of `seconds` at most."""
        await asyncio.sleep(self.dice.random() * seconds)

    async def start(self, body: Callable[..., Any], value: Any = None, *, key: str = "") -> str:
        """Start a process of `body`, repeating it under one key until a node says it is started;
        gives its id, and remembers that it was acknowledged."""
        if not key:
            self._named += 1
            key = f"simulated {self._named}"
        handle = await self.insist(lambda app: app.start(body, value, key=key))
        self.acknowledged.setdefault(key, set()).add(handle.id)
        return str(handle.id)

    async def signal(self, id: str, name: str, value: Any = None, *, key: str = "") -> None:
        """Send a signal, repeating it under one key until it is accepted or the process ended."""
        self._named += 1
        key, payload = key or f"simulated {self._named}", msgspec.json.encode(value)
        with suppress(ProcessTerminal, NoSuchProcess):
            await self.insist(lambda app: app.signal(id, name, payload, key=key))

    async def end_of(self, id: str) -> str:
        """Wait for the end of a process; gives its status, and remembers that a client saw it."""
        while True:
            try:
                view = await self.insist(lambda app: app.view(id))
            except NoSuchProcess:
                self.flaws.append(f"P1: {id} was acknowledged, and is not there")
                return "lost"
            if view.status in FINAL:
                told = self.seen.setdefault(id, view.status)
                if told != view.status:
                    self.flaws.append(f"P1: {id} was {told}, and later {view.status}")
                return str(view.status)
            await self.pause(4 * AGAIN_SECONDS * self.stretch)

    # --- what the oracles are told ----------------------------------------------------------------

    async def watch(self) -> None:
        """Read on in every shard while the cluster runs."""
        while True:
            await asyncio.sleep(WATCH_SECONDS * self.stretch)
            await self.read_on()

    async def read_on(self) -> None:
        """Read what is new in every shard."""
        for shard, tail in self.tails.items():
            while page := await self.eye.tail(shard, tail[-1].seq if tail else 0, PAGE):
                tail += page

    def _note(self, seat: Seat, verb: str, asked: tuple[Any, ...], found: Any) -> None:
        """A write was done: remember what matters, and make it a part of the run's digest."""
        said: Any = found
        if verb == "commit_group":
            self.counts["commits"] += 1
            said = []
            for batch, result in zip(asked[0], found, strict=True):
                if isinstance(result, Committed):
                    self._remember(batch.append)
                if not any(put.ref.space == NODE for put in batch.put):
                    said.append((batch, str(result)))
        elif verb == "take":
            self.counts["take-overs"] += 1
            self._owners[found.shard] = found.owner
        line = msgspec.json.encode((self.loop.micros, seat.number, verb, said))
        self._history.update(line)

    def _remember(self, appends: Any) -> None:
        for add in appends:
            if add.kind == "step" and add.data[:1] != b"@":  # a blob: unread here
                self._recorded.add((add.stream, unpack(add.kind, add.data).id))

    def step_begins(self, attempt: Any) -> None:
        """A step's function is about to be called: by the owner it must not be recorded yet."""
        if attempt.undoing or (attempt._stream, attempt.id) not in self._recorded:
            return
        owner = self._owners.get(shard_of(attempt.process, self.shards))
        caller = self._seat_here()
        if caller is not None and caller.app.node == owner:
            self.flaws.append(f"P7: step {attempt.id} was recorded and has run again")

    def _seat_here(self) -> Seat | None:
        life = life_here()
        return next((seat for seat in self.seats if seat.life is life is not None), None)

    @property
    def digest(self) -> str:
        """What was written by whom and when, as one short text: the same for the same run."""
        return self._history.hexdigest()

    # --- the end ----------------------------------------------------------------------------------

    def end(self) -> None:
        """End every node and throw away what was dropped."""
        self.over = True
        for seat in self.seats:
            seat.told = True
            if seat.life is not None:
                life, store = seat.life, seat.store
                life.end()
                assert store is not None
                store._presence.forget()
        for life in self._lives:
            life.bury()
        self.eye._file.close()


def _clear(weather: Weather, kind: str) -> None:
    weather.active[kind] -= 1
    if weather.active[kind] <= 0:
        del weather.active[kind]


def twin(app: Outlive, store: Any, clock: Any) -> Outlive:
    """An application with the declarations of `app`, on another store and clock."""
    made = copy.copy(app)
    made._given, made._clock = store, clock
    made._phase, made._runtime, made._store, made._owns_store = "new", None, None, False
    made._home = None
    made._counts, made._computing = {}, set()
    return made
