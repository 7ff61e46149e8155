"""What one instance has seen of a dependency lately: two windows, counted in memory.

    the last N calls        a ring of outcomes, with the counts of what is in it
    the last T seconds      ten slots, each dropped when it is older than T

A call that went well in time costs two additions. Sums are made only when one did not, because only
then can the verdict change. What was counted since the last report to the other instances is the
difference of two totals, so nothing is counted twice or forgotten between reports.
"""

from __future__ import annotations

from collections import deque

from outlive.kinds.breakers.rule import Breaker

SLOTS = 10
FAILED, SLOW = 1, 2
"""What is set in an outcome; 0 is a call that went well in time."""


class Windows:
    """The outcomes of one instance's calls; `now` is any clock in seconds that does not go back."""

    __slots__ = (
        "_at", "_failures", "_ring", "_rule", "_slot_end", "_slots", "_slow", "_told",
        "calls", "failures", "slow",
    )  # fmt: skip

    def __init__(self, rule: Breaker) -> None:
        self._rule = rule
        self.calls = self.failures = self.slow = 0
        """Totals since the beginning, or since `forget`."""
        self.forget()

    def forget(self) -> None:
        """Begin anew: what was counted says nothing about what comes."""
        self._ring = bytearray(self._rule.window_calls)
        self._at = self._failures = self._slow = 0
        self._slots: deque[tuple[float, int, int, int]] = deque()
        """When a slot ended, and the totals then."""
        self._slot_end = 0.0
        self.calls = self.failures = self.slow = 0
        self._told = (0, 0, 0)

    def well(self, now: float) -> None:
        """A call went well in time."""
        at = self._at
        ring = self._ring
        if ring[at]:
            self._replace(at, 0)
        self._at = at + 1 if at + 1 < len(ring) else 0
        if now >= self._slot_end:
            self._turn(now)
        self.calls += 1

    def badly(self, now: float, failed: bool, slow: bool) -> str:
        """A call failed, or was slow, or both. Gives why that opens the breaker, or nothing."""
        at = self._at
        self._replace(at, failed * FAILED | slow * SLOW)
        self._at = at + 1 if at + 1 < len(self._ring) else 0
        if now >= self._slot_end:
            self._turn(now)
        self.calls += 1
        self.failures += failed
        self.slow += slow
        return self.verdict(now)

    def verdict(self, now: float) -> str:
        """Why what this instance has seen means that the dependency is down; empty if it does
        not."""
        seen = min(self.calls, len(self._ring))
        rule, where = self._rule, "in the last calls of one instance"
        if why := rule.verdict(seen, self._failures, self._slow, where):
            return why
        calls, failures, slow = self.lately(now)
        where = f"in {rule.window_seconds:g} s of one instance"
        return rule.verdict(calls, failures, slow, where)

    def lately(self, now: float) -> tuple[int, int, int]:
        """Calls, failures and slow ones in the last `window_seconds`, to a tenth of it."""
        self._turn(now)
        _, calls, failures, slow = self._slots[0]
        return self.calls - calls, self.failures - failures, self.slow - slow

    def tell(self) -> tuple[int, int, int]:
        """Calls, failures and slow ones that were counted since this was asked last."""
        calls, failures, slow = self._told
        self._told = (self.calls, self.failures, self.slow)
        return self.calls - calls, self.failures - failures, self.slow - slow

    def _replace(self, at: int, outcome: int) -> None:
        old, self._ring[at] = self._ring[at], outcome
        self._failures += (outcome & FAILED) - (old & FAILED)
        self._slow += ((outcome & SLOW) - (old & SLOW)) // SLOW

    def _turn(self, now: float) -> None:
        """Begin a new slot when the last one has ended; drop those that are too old."""
        span = self._rule.window_seconds
        if now >= self._slot_end:
            if self._slots and now > self._slot_end:  # nothing was counted in between
                self._slots.append((self._slot_end, self.calls, self.failures, self.slow))
            self._slots.append((now, self.calls, self.failures, self.slow))
            self._slot_end = now + span / SLOTS
        while len(self._slots) > 1 and self._slots[1][0] <= now - span:
            self._slots.popleft()
