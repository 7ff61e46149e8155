"""What came of replaying a recorded journal on other code, before that code is deployed."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Verdict = Literal["same", "drift", "no_worker_for_version", "unclear"]


class Difference(Struct, frozen=True):
    """How one process would take it: `same` when it would go on."""

    id: str
    type: str
    version: int
    status: str
    """Its status when it was read."""
    verdict: Verdict
    """same · drift: it would be paused (or go another way) · no_worker_for_version: nothing runs
    it · unclear: its body came neither to its end nor to a durable call in time, or asks for
    something else where values are redacted"""
    detail: str = ""
    """What is recorded and what the code asks for instead, as the pause would say it."""
    compared: int = 0
    """How many records the code asked for again."""

    @property
    def fits(self) -> bool:
        """Whether the process would simply go on."""
        return self.verdict == "same"
