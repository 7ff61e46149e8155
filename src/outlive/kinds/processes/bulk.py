"""What is said about many processes of which something is asked at once: before, and after."""

from __future__ import annotations

from msgspec import Struct


class Preview(Struct, frozen=True):
    """What a bulk call would be done to; nothing is done yet."""

    token: str
    verb: str
    count: int
    ids: tuple[str, ...]
    """The first of them, newest first."""
    more: bool
    """Whether there are more than the limit; they are left alone."""
    expires: int
    seconds: float | None = None
    """For a deadline: how long from when it is carried out; None lifts it."""


class Refusal(Struct, frozen=True):
    """A process of which it could not be asked."""

    id: str
    code: str
    why: str


class Report(Struct, frozen=True):
    """How far a bulk call has come."""

    token: str
    verb: str
    count: int
    looked_at: int
    asked: int
    refused: int
    refusals: tuple[Refusal, ...]
    """The first of them, with the reasons."""

    @property
    def finished(self) -> bool:
        return self.looked_at >= self.count
