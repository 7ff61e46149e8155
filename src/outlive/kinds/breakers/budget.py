"""How much retrying one instance still gives a dependency: earned by calls that went well.

    allowed = floor · window + ratio · first tries that went well − retries made
              (all of the last `window_seconds`)

It starts at its floor, never full, and what was not used is gone with its window. One purse for
each dependency: however many callers retry, they share it. A hedge is a retry.
"""

from __future__ import annotations

from collections import deque

from outlive.kinds.breakers.rule import RetryBudget

SLOTS = 10


class Purse:
    """What is left of a budget; `now` is any clock in seconds that does not go back."""

    __slots__ = ("_slot_end", "_slots", "budget", "earned", "refused", "spent")

    def __init__(self, budget: RetryBudget) -> None:
        self.budget = budget
        self.earned = self.spent = self.refused = 0
        """First tries that went well, retries made, and retries there was nothing left for."""
        self._slots: deque[tuple[float, int, int]] = deque()
        self._slot_end = 0.0

    def earn(self, now: float) -> None:
        """A first try went well."""
        if now >= self._slot_end:
            self._turn(now)
        self.earned += 1

    def spend(self, now: float) -> bool:
        """Whether a retry may be made now; it is counted then."""
        if self.left(now) < 1.0:
            self.refused += 1
            return False
        self.spent += 1
        return True

    def left(self, now: float) -> float:
        """How many retries are allowed now."""
        self._turn(now)
        _, earned, spent = self._slots[0]
        budget = self.budget
        allowed = budget.floor_per_second * budget.window_seconds
        return allowed + budget.ratio * (self.earned - earned) - (self.spent - spent)

    def _turn(self, now: float) -> None:
        span = self.budget.window_seconds
        if now >= self._slot_end:
            if self._slots and now > self._slot_end:  # nothing was counted in between
                self._slots.append((self._slot_end, self.earned, self.spent))
            self._slots.append((now, self.earned, self.spent))
            self._slot_end = now + span / SLOTS
        while len(self._slots) > 1 and self._slots[1][0] <= now - span:
            self._slots.popleft()
