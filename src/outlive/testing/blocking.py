"""A trial without `await`: for plain tests of Django views, Flask views and scripts.

The application lives in an event loop in a thread of its own, so `app.blocking()` in the code under
test finds it there. Calls from the test wait for that loop; nothing is moved meanwhile.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, ParamSpec, TypeVar, cast, overload

from outlive.doors.blocking import (
    BlockingHandle,
    BlockingOutlive,
    LoopThread,
    demand_no_loop,
    wait_in,
)
from outlive.testing.trial import IDLE_SECONDS, Trial

P = ParamSpec("P")
R = TypeVar("R")


class BlockingTrial:
    """`Trial` without `await`; the first call opens it."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._thread: LoopThread | None = None

    def call(self, work: Callable[[Trial], Coroutine[Any, Any, R]]) -> R:
        """Run `work(trial)` in the loop of the trial; gives what it gives. Raises `InEventLoop` in
        one."""
        demand_no_loop()
        if self._thread is None:
            self._thread = LoopThread()
        return wait_in(self._thread.loop, work(self._trial))

    def open(self) -> None:
        """See `Trial.open`."""
        self.call(lambda trial: trial.open())

    def close(self) -> None:
        """See `Trial.close`. Does nothing when it is not open."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                wait_in(thread.loop, self._trial.close())
            finally:
                thread.end()

    @overload
    def start(
        self,
        body: Callable[P, Awaitable[R]],
        value: Any = None,
        *,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> BlockingHandle[R]: ...
    @overload
    def start(
        self,
        body: Callable[P, R],
        value: Any = None,
        *,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> BlockingHandle[R]: ...
    def start(
        self,
        body: Callable[..., Any],
        value: Any = None,
        *,
        key: str | None = None,
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> BlockingHandle[Any]:
        """See `Trial.start`."""
        begun = self.call(lambda trial: trial.start(body, value, key=key, tags=tags))
        return self.handle(begun.id)

    def handle(self, id: str) -> BlockingHandle[Any]:
        """See `Trial.handle`."""
        return BlockingHandle(cast(BlockingOutlive, self), id)

    def now(self) -> datetime:
        """See `Trial.now`."""
        return self._trial.now()

    def run_until_idle(self, within: float = IDLE_SECONDS) -> None:
        """See `Trial.run_until_idle`."""
        self.call(lambda trial: trial.run_until_idle(within))

    def advance(
        self,
        *,
        days: float = 0.0,
        hours: float = 0.0,
        minutes: float = 0.0,
        seconds: float = 0.0,
    ) -> None:
        """See `Trial.advance`."""
        self.call(
            lambda trial: trial.advance(days=days, hours=hours, minutes=minutes, seconds=seconds)
        )

    def evict(self, process: BlockingHandle[Any] | str) -> None:
        """See `Trial.evict`."""
        id = process if isinstance(process, str) else process.id
        self.call(lambda trial: trial.evict(id))
