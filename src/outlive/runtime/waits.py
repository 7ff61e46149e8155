"""One time limit for many short waits: a timer for all of them, and not one for each.

All waits of a `Waits` may take as long, so they end in the order in which they began: the timer
stands at the oldest one, and those that are done are forgotten when they come to the front.

    limit ──> in line ──(done)──> forgotten
                 └──(its time has passed)──> TimeoutError
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeVar

R = TypeVar("R")


class Waits:
    """Waits of at most `seconds` each, from one event loop at a time; what one that has ended had
    left is forgotten with it."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._line: deque[tuple[float, asyncio.Future[object]]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where the timer is set; None while there is none."""

    def __len__(self) -> int:
        return len(self._line)

    def limit(self, future: asyncio.Future[R]) -> asyncio.Future[R]:
        """`future`, which fails with `TimeoutError` unless it is done in time."""
        line, loop = self._line, future.get_loop()
        if loop is not self._loop:
            line.clear()
            self._loop = loop
            loop.call_later(self._seconds, self._look)
        while line and line[0][1].done():
            line.popleft()
        line.append((loop.time() + self._seconds, future))  # type: ignore[arg-type]
        return future

    def _look(self) -> None:
        """Tell those whose time has passed, and come again for the next."""
        loop, line = asyncio.get_running_loop(), self._line
        if loop is not self._loop:
            return
        now = loop.time()
        while line and (line[0][0] <= now or line[0][1].done()):
            _, future = line.popleft()
            if not future.done():
                future.set_exception(TimeoutError())
        if line:
            loop.call_at(line[0][0], self._look)
        else:
            self._loop = None
