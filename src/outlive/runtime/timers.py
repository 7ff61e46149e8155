"""One timer for all that a node waits for: a heap on the store's clock, one handle on the loop.

A timer only says "look now": whether something is due is decided by the store's clock at that
moment. Cancelled timers stay in the heap until they surface, or until it has doubled, so cancelling
costs nothing and far deadlines of what has long ended do not pile up.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

from outlive.clock import MICROS, Clock, Later

LOOK_SECONDS_MAX = 0.5
"""The clock is looked at least this often while a timer is set, so that a clock that jumps is
noticed."""

HEAP_MIN = 1024
"""Timers from which on cancelled ones are taken out when as many were added again."""


class Timer:
    """A call that is to be made when the clock has passed `due`."""

    __slots__ = ("call", "due")

    def __init__(self, due: int, call: Callable[[], None]) -> None:
        self.due = due
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Do not make the call."""
        self.call = None


class Timers:
    """The timers of one node; used from one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[int, int, Timer]] = []
        self._order = itertools.count()
        self._handle: Later | None = None
        self._armed = 0
        self._room = HEAP_MIN

    def at(self, due: int, call: Callable[[], None]) -> Timer:
        """Make `call` once the clock has passed `due` (µs); soon when it has already."""
        timer = Timer(due, call)
        if len(self._heap) >= self._room:
            self._heap = [found for found in self._heap if found[2].call is not None]
            heapq.heapify(self._heap)
            self._room = max(HEAP_MIN, 2 * len(self._heap))
        heapq.heappush(self._heap, (due, next(self._order), timer))
        if self._handle is None or due < self._armed:
            self._arm(due)
        return timer

    def after(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Make `call` in `seconds`."""
        return self.at(self._clock.wall() + round(seconds * MICROS), call)

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds` on this clock."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        timer = self.after(seconds, wake)
        try:
            await woken
        finally:
            timer.cancel()

    def run_due(self) -> None:
        """Make every call whose time has come. One that raises is the loop's to report, and the
        others are made right after it."""
        self._handle = None
        now = self._clock.wall()
        try:
            while self._heap and (self._heap[0][0] <= now or self._heap[0][2].call is None):
                call = heapq.heappop(self._heap)[2].call
                if call is not None:
                    call()
        finally:
            if self._heap and (self._heap[0][0] < self._armed or self._handle is None):
                self._arm(self._heap[0][0])

    @property
    def next_due(self) -> int | None:
        """The time of the earliest call that is still to be made; None when there is none."""
        while self._heap and self._heap[0][2].call is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def stop(self) -> None:
        """Make no call any more."""
        self._heap.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _arm(self, due: int) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed = due
        seconds = min(max(0.0, (due - self._clock.wall()) / MICROS), LOOK_SECONDS_MAX)
        self._handle = self._clock.call_later(seconds, self.run_due)
