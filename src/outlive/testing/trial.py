"""An application on trial: on a store of its own, under a clock that moves when it is told to.

    async with Trial(app, lambda clock: MemoryStore(clock=clock)) as trial:
        handle = await trial.start(register, form)
        await trial.run_until_idle()               nothing runs, and nothing is due now
        await trial.advance(days=2)                everything that is due until then, in order
        account = await handle.result()            moves the clock from due to due to the end

It is the user's own object, bound to another store and clock while the trial lasts and bound back
afterwards, so everything else that holds it (views, an ASGI application, `app.blocking()`) takes
part. The node's loops stand still: whatever waits for a time or a message waits until the trial
takes it up. Leases are renewed before each move, so a node never loses its shards by a jump.

Not promised: that what waits in the user's own code for real time (`asyncio.sleep`, a socket's
time-out) follows this clock. Steps' time limits do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from msgspec import Raw

from outlive.clock import MICROS
from outlive.doors.updates import answer_of
from outlive.errors import ProcessFailed, StoreRefused
from outlive.handle import Handle
from outlive.kinds.processes import FINAL, View
from outlive.kinds.processes.cells import read_head, space_of
from outlive.kinds.processes.vocabulary import GONE
from outlive.store import Store
from outlive.testing.idleness import Idleness, NotIdle, is_moving
from outlive.testing.replay import AlwaysReplay, put_out
from outlive.testing.virtual import VirtualClock

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.runtime.node import NodeRuntime

P = ParamSpec("P")
R = TypeVar("R")
StoreMaker = Callable[[VirtualClock], Store]

IDLE_SECONDS = 10.0
"""Real seconds within which everything must come to rest."""
STEP_SECONDS, STEP_SECONDS_AGAIN = 1.0, 0.02
"""Real seconds that steps under way are waited for before the clock is moved over them, the first
time and later."""
SHARDS_LOOKS = 100
"""Rounds in which a node that was just opened takes every shard."""
STOPS_MAX = 100_000
"""Times at which one move of the clock may stop because something is due."""


class Trial:
    """An application bound to a store of its own and a clock that is moved by hand.

    `make_store` is called once, with the clock, when the trial is opened; the first call opens it.
    `always_replay`: put every process out of memory after each of its records, so that a body that
    is not deterministic fails at once.
    """

    def __init__(
        self,
        app: Outlive,
        make_store: StoreMaker,
        *,
        clock: VirtualClock | None = None,
        always_replay: bool = False,
    ) -> None:
        self.app = app
        self.clock = clock or VirtualClock()
        self.always_replay = always_replay
        self._make_store = make_store
        self._bound: tuple[Any, Any] | None = None
        self._idleness: Idleness | None = None
        self._replay: AlwaysReplay | None = None
        self._slow: set[str] = set()
        """Processes with a step that was waited for already."""

    # --- opening and closing ----------------------------------------------------------------------

    async def open(self) -> None:
        """Bind the application and open it. Raises `StoreRefused` when it is open already."""
        if self._bound is not None:
            return
        app = self.app
        if app._store is not None:
            raise StoreRefused("The application is open already; close it before it is on trial.")
        store = self._make_store(self.clock)
        self._bound = app._given, app._clock
        app._given, app._clock = store, self.clock
        try:
            await app.open()
        except BaseException:
            self._unbind()
            raise
        await self.runtime.stand_still()
        for _ in range(SHARDS_LOOKS):
            if len(self.runtime.activations.leases) == self.runtime.store.shards:
                break
            await self.runtime.look_around()
        self._idleness = Idleness(self.runtime)
        self._replay = AlwaysReplay(self.runtime) if self.always_replay else None

    async def close(self) -> None:
        """End it as it stands, without waiting for steps, and bind the application back."""
        if self._bound is None:
            return
        app = self.app
        try:
            app._phase = "stopped"  # nothing to drain: whoever ends a test waits for nothing
            await app.close()
        finally:
            self._unbind()

    def drop(self) -> None:
        """Bind the application back where no event loop is left to close it in."""
        if self._bound is not None:
            runtime = self.app._runtime
            for activation in list(runtime.activations.live.values()) if runtime else ():
                activation.gone = activation.halted = True
            if runtime is not None:
                runtime.activations.threads.shutdown(wait=False, cancel_futures=True)
            self._unbind()

    def _unbind(self) -> None:
        app = self.app
        assert self._bound is not None
        (app._given, app._clock), self._bound = self._bound, None
        app._runtime = app._store = app._home = None
        app._phase = "new"
        self._idleness = self._replay = None
        self.clock.forget()

    async def __aenter__(self) -> Trial:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def runtime(self) -> NodeRuntime:
        """The running node. Raises `StoreRefused` before `open`."""
        runtime = self.app._runtime
        if self._bound is None or runtime is None:
            raise StoreRefused("The trial is not open.")
        return runtime

    # --- starting and asking ----------------------------------------------------------------------

    @overload
    async def start(
        self,
        body: Callable[P, Awaitable[R]],
        value: Any = None,
        *,
        key: str | None = None,
        notify: str = "",
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> Handle[R]: ...
    @overload
    async def start(
        self,
        body: Callable[P, R],
        value: Any = None,
        *,
        key: str | None = None,
        notify: str = "",
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> Handle[R]: ...
    async def start(
        self,
        body: Callable[..., Any],
        value: Any = None,
        *,
        key: str | None = None,
        notify: str = "",
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> Handle[Any]:
        """See `Outlive.start`. The handle's `result` moves the clock."""
        await self.open()
        begun = await self.app.start(
            body, value, key=key, notify=notify, priority=priority, tags=tags
        )
        return Handle(self, begun.id)

    def handle(self, id: str) -> Handle[Any]:
        """The process with this public id; its `result` moves the clock."""
        return Handle(self, id)

    async def view(self, id: str) -> View:
        """See `Outlive.view`."""
        await self.open()
        return await self.app.view(id)

    async def signal(self, id: str, name: str, payload: bytes, *, key: str | None = None) -> None:
        """See `Outlive.signal`."""
        await self.open()
        await self.app.signal(id, name, payload, key=key)

    async def update(
        self,
        id: str,
        name: str,
        payload: bytes,
        *,
        key: str | None = None,
        within: float | None = None,
    ) -> Raw:
        """See `Outlive.update`; moves the clock from due to due until it is decided."""
        await self.open()
        key = await self.app.ask(id, name, payload, key=key)
        ends = None if within is None else self.clock.wall() + round(within * MICROS)
        await self.run_until_idle()
        for _ in range(STOPS_MAX):
            found = await self.app.standing(id, name, key)
            due = await self._work_due()
            late = due is None or (ends is not None and due > ends)
            if found.status != "accepted" or late:
                return answer_of(found, id, within)
            await self._move(due or 0)
        raise NotIdle(f"{id} has not answered {name} after {STOPS_MAX} moves of the clock.")

    async def ask_query(
        self, id: str, query: Callable[..., Any] | str, parameters: Mapping[str, Any]
    ) -> Any:
        """See `Outlive.ask_query`."""
        await self.open()
        return await self.app.ask_query(id, query, parameters)

    async def cancel(self, id: str, *, reason: str = "", who: str = "") -> None:
        """See `Outlive.cancel`."""
        await self.open()
        await self.app.cancel(id, reason=reason, who=who)

    async def result(self, id: str, within: float | None = None) -> Any:
        """Move the clock from due to due until the process has ended; gives its result.

        `within`: seconds of the moved clock, after which `TimeoutError` is raised. Raises
        `ProcessFailed` when it ended otherwise or waits for an operator, `NotIdle` when it waits
        for what never comes.
        """
        await self.run_until_idle()
        ends = None if within is None else self.clock.wall() + round(within * MICROS)
        for _ in range(STOPS_MAX):
            view = await self.view(id)
            if view.final:
                return await self.app.result(id)
            if view.status in ("paused", "stuck", "no_worker_for_version"):
                raise ProcessFailed(f"{id} is {view.status}. {await self._last_line(id)}")
            due = await self._work_due()
            if due is None:
                waits = f" for the signal {view.waits_for!r}" if view.waits_for else ""
                raise NotIdle(f"{id} is {view.status}{waits}, and nothing is due that ends this.")
            if ends is not None and due > ends:
                await self._move(ends)
                raise TimeoutError(f"{id} is {view.status} after {within:g} s of the moved clock")
            await self._move(due)
        raise NotIdle(f"{id} has not ended after {STOPS_MAX} moves of the clock.")

    async def _last_line(self, id: str) -> str:
        return (await self.app.journal(id))[-1].text

    # --- time -------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """What the clock shows, in UTC."""
        return self.clock.now()

    async def run_until_idle(self, within: float = IDLE_SECONDS) -> None:
        """Return when nothing runs and nothing is due now; the clock stands still.

        Raises `NotIdle` with a picture of what is still under way after `within` real seconds.
        """
        await self.open()
        assert self._idleness is not None
        await self._idleness.settle(within)
        if self._replay is not None:
            await self._replay.demand_no_drift(self.app)

    async def advance(
        self,
        *,
        days: float = 0.0,
        hours: float = 0.0,
        minutes: float = 0.0,
        seconds: float = 0.0,
    ) -> None:
        """Move the clock on, and let happen what is due until then, each at its own time.

        Timers, retries, sleeps, time-outs of waits and steps, retention. A step that is under way
        is waited for (one real second), then left running while the clock moves. Raises
        `ValueError` for a move backwards: nothing was moved.
        """
        moved = seconds + 60 * (minutes + 60 * (hours + 24 * days))
        if moved < 0:
            raise ValueError(f"the clock does not go back by {-moved:g} s; nothing was moved")
        await self.open()
        target = self.clock.wall() + round(moved * MICROS)
        await self._rest()
        for _ in range(STOPS_MAX):
            due = await self.runtime.next_due()
            if due is None or due > target:
                break
            await self._move(due)
        else:
            raise NotIdle(f"Something was due {STOPS_MAX} times before the clock was where asked.")
        await self._move(target)

    async def _move(self, time: int) -> None:
        """Show `time`, and let happen what is due then."""
        runtime, clock = self.runtime, self.clock
        if time > clock.wall():
            await runtime.ownership.keep((time - clock.wall()) / MICROS)
            clock.move_to(time)
        await runtime.look_around()
        clock.fire()
        runtime.activations.note_due(clock.wall())
        await self._rest()

    async def _rest(self) -> None:
        """Idle, or with nothing but steps under way that take their (real) time."""
        live = self.runtime.activations.live
        try:
            await self.run_until_idle(STEP_SECONDS_AGAIN if self._slow else STEP_SECONDS)
            self._slow = set()
        except NotIdle:
            slow = {id for id, found in live.items() if found.interrupts}
            if not slow:
                await self.run_until_idle()
            elif not slow <= self._slow:
                self._slow |= slow
                await self._rest_of(STEP_SECONDS)

    async def _rest_of(self, seconds: float) -> None:
        with suppress(NotIdle):
            await self.run_until_idle(seconds)

    async def _work_due(self) -> int | None:
        """When something is due next, the retention of what has ended left aside."""
        runtime = self.runtime
        dues = [runtime.timers.next_due]
        for shard in runtime.activations.leases:
            for cell in await runtime.store.scan(space_of(shard), limit=1_000_000):
                if read_head(cell.value).status not in (*FINAL, GONE):
                    dues.append(cell.due)
        return min((due for due in dues if due is not None), default=None)

    # --- memory -----------------------------------------------------------------------------------

    async def evict(self, process: Handle[Any] | str) -> None:
        """Put a process out of memory, so that what comes next replays its body from the journal.

        One that waits stays out until it is woken; any other is replayed at once. Raises `NotIdle`
        when it does not come to a durable point, `NoSuchProcess`.
        """
        id = process if isinstance(process, str) else process.id
        await self.run_until_idle()
        activation = self.runtime.activations.live.get(id)
        if activation is None:
            await self.view(id)
        elif is_moving(activation):
            raise NotIdle(f"{id} is in the middle of a step; it was not put out of memory.")
        else:
            await put_out(self.runtime, activation)
            await self.run_until_idle()

    def in_memory(self, process: Handle[Any] | str) -> bool:
        """Whether anything of a process is in this node's memory."""
        id = process if isinstance(process, str) else process.id
        return id in self.runtime.activations.live
