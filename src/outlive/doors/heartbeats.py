"""The heartbeat of what holds a lease here: one timer, however many there are.

    hold ──> young ──(half a beat)──> old ──(half a beat)──> beat, and young again if it says so
               └───────────── drop: it is over ──────────────┘

Most of what holds a lease is over within milliseconds, and would have made and cancelled a timer
of its own for nothing. So a timer goes round twice in a beat while anything is held, and none when
nothing is: what has been held for two rounds is beaten, which is after half a beat at the earliest
and a whole one at the latest. Beats of one round come together, and share a commit.

Not promised: a beat while the event loop is busy; the lease is longer than the beat for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol


class Holder(Protocol):
    """What holds a lease."""

    def beat(self) -> None:
        """Renew the lease; who goes on holding it says so by `Heartbeats.hold`."""


class Heartbeats:
    """The heartbeats of those who hold a lease; used from one event loop at a time.

    `call_later`: as `Clock.call_later`. `beat_seconds`: how long it may be from `hold` to `beat`;
    a third of the lease, so that two beats may fail. What an event loop that has ended had left is
    forgotten with it: its leases end.
    """

    def __init__(
        self, call_later: Callable[[float, Callable[[], None]], Any], beat_seconds: float
    ) -> None:
        self._call_later = call_later
        self._half = beat_seconds / 2
        self._young: dict[Holder, None] = {}
        self._old: dict[Holder, None] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        """Where the timer runs; None while there is none."""

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def hold(self, holder: Holder) -> None:
        """Beat `holder` once from now on, unless it is dropped before."""
        self._young[holder] = None
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._young, self._old = {holder: None}, {}
            self._loop = loop
            self._call_later(self._half, self._round)

    def drop(self, holder: Holder) -> None:
        """It is over; dropping what is not held does no harm."""
        self._young.pop(holder, None)
        self._old.pop(holder, None)

    def _round(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            return
        due, self._old, self._young = self._old, self._young, {}
        for holder in due:
            holder.beat()
        if self._old or due:
            self._call_later(self._half, self._round)
        else:
            self._loop = None
