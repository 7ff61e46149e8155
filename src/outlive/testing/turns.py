"""An event loop with virtual time, whose turns are dealt by a seed: same seed, same run.

    ready    whatever can go on now; one of them, drawn by the dice, is next
    time     stands still while something is ready, but for `TURN_MICROS` a turn; then it moves to
             the next timer. Nothing waits in real time
    life     what belongs to one process of a simulated cluster: a context says whose a turn is

What asyncio promises about the order of callbacks (first come, first served) is *not* kept: a
program that is right only because of it is found out. Threads have no place here: what is given to
an executor runs inline, a drawn moment later.

`Life.end` is kill -9: from then on no turn of that life is taken, so no `finally` and no handler of
it runs. What was dropped is kept until `bury`, because Python would run its `finally` blocks when
it throws it away. `freeze` is SIGSTOP: its turns are put aside, and its timers, until `thaw`.

Not promised: sockets, subprocesses, signals, threads that call back.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import warnings
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from outlive.clock import MICROS, Clock
from outlive.testing.virtual import START

if TYPE_CHECKING:
    from random import Random

T = TypeVar("T")
TURN_MICROS = 5
"""What one turn takes on the virtual clock."""
HAND_OVER_SECONDS = 0.002
"""The longest that work for a thread waits for it."""
KEPT_TASKS_MIN = 256

_life: contextvars.ContextVar[Life | None] = contextvars.ContextVar("outlive_turns", default=None)
_numbers = itertools.count()


class NothingLeft(AssertionError):
    """Something waits, and nothing that is under way will ever wake it."""


def life_here() -> Life | None:
    """Whose turn this is; None when it is nobody's."""
    return _life.get()


class Life:
    """The turns of one process, from its start to its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended = self.frozen = False
        self.turns_left: int | None = None
        """How many turns it still has before it ends; None: as many as it wants."""
        self.on_end: Callable[[], None] | None = None
        self.aside: list[asyncio.Handle] = []
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._room = KEPT_TASKS_MIN

    def context(self) -> contextvars.Context:
        """A context in which everything belongs to this life."""
        context = contextvars.copy_context()
        context.run(_life.set, self)
        return context

    def keep(self, task: asyncio.Task[Any]) -> None:
        """`task` belongs to it, and is not thrown away before it has ended."""
        if len(self._tasks) >= self._room:
            self._tasks = {task: None for task in self._tasks if not task.done()}
            self._room = max(KEPT_TASKS_MIN, 2 * len(self._tasks))
        self._tasks[task] = None

    def end(self) -> None:
        """Nothing of it runs any more."""
        if not self.ended:
            self.ended = True
            if self.on_end is not None:
                self.on_end()

    def bury(self) -> None:
        """Throw away what was dropped: its `finally` blocks run now, when nobody looks any more."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what those blocks begin is never awaited
            for task in self._tasks:
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    work: Any = task.get_coro()
                    with suppress(BaseException):
                        work.close()
        self._tasks.clear()
        self.aside.clear()


class _Task(asyncio.Task[Any]):
    """A task whose place in a set is the same in every run."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._number = next(_numbers)
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    """A future of the same kind."""

    def __init__(self, **options: Any) -> None:
        self._number = next(_numbers)
        super().__init__(**options)

    def __hash__(self) -> int:
        return self._number


class Turns(asyncio.BaseEventLoop):
    """The loop; `dice` decides everything that is open."""

    def __init__(self, dice: Random) -> None:
        global _numbers
        super().__init__()
        _numbers = itertools.count()
        self.dice = dice
        self.micros = 0
        """Virtual microseconds since it was made."""
        self.turns = 0
        self._open: list[asyncio.Handle] = []
        self._timers: list[tuple[int, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()

    # --- what asyncio asks of a loop --------------------------------------------------------------

    def time(self) -> float:
        return self.micros / MICROS

    @property
    def seconds(self) -> float:
        """Virtual seconds since it was made."""
        return self.micros / MICROS

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._open.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (round(when * MICROS), next(self._order), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is passed over when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        task = _Task(coro, loop=self, name=name or "", context=context)
        life = _life.get() if context is None else context.get(_life)
        if life is not None:
            life.keep(task)
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future = self.create_future()

        def run() -> None:
            try:
                found = func(*args)
            except BaseException as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(found)

        self.call_later(self.dice.random() * HAND_OVER_SECONDS, run)
        return future

    def _process_events(self, event_list: Any) -> None:
        """There are none."""

    # --- turns ------------------------------------------------------------------------------------

    def _run_once(self) -> None:
        ready, draw, timers = self._open, self.dice.random, self._timers
        while not self._stopping:  # type: ignore[attr-defined]
            if not ready:
                self._move_on()
            elif timers and timers[0][0] <= self.micros:
                self._ring()
            at = int(draw() * len(ready)) if len(ready) > 1 else 0
            ready[at], ready[-1] = ready[-1], ready[at]
            handle = ready.pop()
            if handle._cancelled:
                continue
            life = handle._context.get(_life)  # type: ignore[attr-defined]
            if life is not None and not self._may_run(life, handle):
                continue
            self.micros += TURN_MICROS
            self.turns += 1
            handle._run()

    def _may_run(self, life: Life, handle: asyncio.Handle) -> bool:
        if life.turns_left is not None and not life.ended:
            life.turns_left -= 1
            if life.turns_left <= 0:
                life.end()
        if life.ended or life.frozen:
            life.aside.append(handle)
            return False
        return True

    def _move_on(self) -> None:
        """To the next time at which anything is to happen."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise NothingLeft("nothing is under way, and something is waited for")
        self.micros = max(self.micros, timers[0][0])
        self._ring()

    def _ring(self) -> None:
        timers, now = self._timers, self.micros
        while timers and timers[0][0] <= now:
            timer = heapq.heappop(timers)[2]
            if not timer._cancelled:
                self._open.append(timer)

    def thaw(self, life: Life) -> None:
        """Let a frozen life go on: what came due meanwhile comes now."""
        life.frozen = False
        if not life.ended:
            self._open.extend(life.aside)
            life.aside.clear()


class TurnsClock(Clock):
    """The clock of one simulated host: virtual time, and how far it is wrong."""

    def __init__(self, loop: Turns) -> None:
        self._loop = loop
        self.skew_micros = 0

    def wall(self) -> int:
        return START + self._loop.micros + self.skew_micros

    def boot(self) -> float:
        return self._loop.micros / MICROS

    def call_later(self, seconds: float, call: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_later(seconds, call)
