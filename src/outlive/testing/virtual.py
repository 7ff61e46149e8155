"""A clock that moves when it is told to: a year of timers in a second.

It stands still until `move_to`, and only goes forward. Calls that were asked for in the meantime
are made by `fire`, in the order of their times, each at most once; a call for a time that has come
already is made in the loop's next turn. Time in the real world does not count here, and time here
does not count in the real world: what waits for a socket waits for the socket.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime

from outlive.clock import MICROS, Later, ManualClock

START = 1_767_225_600 * MICROS
"""2026-01-01, midnight UTC: the same in every test."""


class _Call:
    """A call that was asked for."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class VirtualClock(ManualClock):
    """A clock for tests; `start` is in microseconds since 1970 UTC."""

    def __init__(self, start: int = START) -> None:
        super().__init__(start)
        self._heap: list[tuple[int, int, _Call]] = []
        self._order = itertools.count()

    def now(self) -> datetime:
        """The time it shows, in UTC."""
        return datetime.fromtimestamp(self._now / MICROS, UTC)

    def advance(self, seconds: float) -> None:
        """Move on by `seconds` (0 or more), which makes no call. Raises `ValueError` for less."""
        self.move_to(self._now + round(seconds * MICROS))

    def move_to(self, time: int) -> None:
        """Show `time`, which makes no call yet. Raises `ValueError` when that has passed."""
        if time < self._now:
            raise ValueError("a clock for tests does not go back; nothing was moved")
        self._now = time

    def call_later(self, seconds: float, call: Callable[[], None]) -> Later:
        """Make `call` once the clock was moved so far; soon when `seconds` is 0 or less."""
        if seconds <= 0:
            return asyncio.get_running_loop().call_soon(call)
        asked = _Call(call)
        due = self._now + round(seconds * MICROS)
        heapq.heappush(self._heap, (due, next(self._order), asked))
        return asked

    def fire(self) -> None:
        """Make every call whose time has come."""
        while self._heap and self._heap[0][0] <= self._now:
            call = heapq.heappop(self._heap)[2].call
            if call is not None:
                call()

    def forget(self) -> None:
        """Make none of the calls that were asked for: who asked is dead."""
        self._heap.clear()
