"""The only module, beside the stores, that asks what time it is.

`wall` is what a store's clock is made from; a store never lets it go back. `boot` runs through
suspension and is for stopping early on one machine (self-demotion, time limits), never for deciding
that something has expired. `Clock` is an object so that a test can put its own in its place and
move a year in a second: whoever waits for a time asks the clock to call (`call_later`), whoever
waits for the store or for the outside waits in real time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Protocol

MICROS = 1_000_000
AHEAD_SECONDS_MAX = 100 * 366 * 86_400
"""How far ahead of its clock a time in a store may lie: a hundred years."""
_boot = partial(time.clock_gettime, time.CLOCK_BOOTTIME)


def ahead(now: int, seconds: float) -> int:
    """The microsecond that is `seconds` after `now`.

    Raises `ValueError` for more than a hundred years, and for what is no number: no store could
    keep it, and a commit that it was part of would fail with all that shared it.
    """
    if not seconds <= AHEAD_SECONDS_MAX:
        raise ValueError(f"{seconds} seconds are too many to wait; 100 years at most")
    return now + round(seconds * MICROS)


class Later(Protocol):
    """A call that is to be made later, until it is cancelled."""

    def cancel(self) -> None: ...


class Clock:
    """The machine's clocks."""

    def wall(self) -> int:
        """Microseconds since 1970 UTC, as this host believes."""
        return time.time_ns() // 1000

    def boot(self) -> float:
        """Seconds since boot, suspension included; only differences mean anything."""
        return _boot()

    def call_later(self, seconds: float, call: Callable[[], None]) -> Later:
        """Make `call` in the running event loop when `seconds` have passed on this clock."""
        return asyncio.get_running_loop().call_later(seconds, call)


class StoreClock(Clock):
    """The store's clock as a node knows it: what the store said last, and the time since then by
    the clock `own` that runs through suspension.

    What becomes due is reckoned with it, because what is due is decided by the store: a machine
    whose own clock is an hour off waits as long as any other. It lies behind the store's by at most
    one journey, and hardly ever goes back; until the store has said anything it is the machine's.
    """

    def __init__(self, own: Clock) -> None:
        self._own = own
        self._boot = own.boot  # both clocks are asked for every step
        self._ahead: int | None = None
        self._high = 0

    def wall(self) -> int:
        if self._ahead is None:
            return self._own.wall()
        now = int(self._boot() * MICROS) + self._ahead
        if now > self._high:
            self._high = now
        return self._high

    def boot(self) -> float:
        return self._boot()

    def call_later(self, seconds: float, call: Callable[[], None]) -> Later:
        return self._own.call_later(seconds, call)

    def hear(self, micros: int) -> None:
        """The store has just said what time it is. Only a clock that had run far ahead is set
        back."""
        self._ahead = micros - int(self._boot() * MICROS)
        if self._high > micros + MICROS:
            self._high = micros


class ManualClock(Clock):
    """A clock that stands still until it is moved: for tests and simulation."""

    def __init__(self, start: int = 1_700_000_000 * MICROS) -> None:
        self._now = start

    def wall(self) -> int:
        return self._now

    def boot(self) -> float:
        return self._now / MICROS

    def advance(self, seconds: float) -> None:
        """Move on by `seconds` (negative: a clock that was set back)."""
        self._now += round(seconds * MICROS)


def rfc3339(micros: int) -> str:
    """`micros` as an RFC 3339 time in UTC with microseconds, such as
    `2026-01-02T03:04:05.678901Z`."""
    seconds = micros // MICROS
    return f"{_second(seconds)}.{micros - seconds * MICROS:06d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    """The same second is written again and again: every step of a process, on every look at it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]
