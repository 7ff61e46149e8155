"""Why a store may not be served, and the refusals that say so.

    filling   a restore or a move is writing it         ─┐ not opened: what is there is not all
    filled    all is there; the old place is told next  ─┘
    moving    it is being moved; frozen                 ─┐ not opened, and no write is taken, also
    moved     it was moved; frozen for good             ─┘ from a process that has it open

    source   –  ─> moving ───────────────────────> moved
    target   –  ──────────> filling ─> filled ────────────> –

A service can be opened on at most one of the two at any moment, whenever a move dies, and the same
command run again goes on. The freeze is made of triggers in the database itself, so it holds for
every process, whatever that process knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from outlive.errors import StoreIncomplete, StoreMoved, StoreNotEmpty

FROZEN = "outlive: the store is halted"
"""What the triggers of a frozen SQLite store say."""

Reason = Literal["filling", "filled", "moving", "moved"]


class Halt(Struct, frozen=True):
    """Why a store is not served: what is done with it, and where the other end is."""

    reason: Reason
    other: str
    """The other place, without a password: where to for a source, where from for a target."""
    token: str
    """The same at both ends of one move, and for every try of one restore."""


def halt_of(row: Sequence[Any] | None) -> Halt | None:
    """The halt that a store's row tells of."""
    return None if row is None else Halt(row[0], row[1], row[2])


def demand_service(name: str, row: Sequence[Any] | None) -> None:
    """Raise `StoreMoved` or `StoreIncomplete` if the store `name` may not be served."""
    halt = halt_of(row)
    if halt is None:
        return
    if halt.reason == "moved":
        raise StoreMoved(f"The store in {name} was moved to {halt.other}; it was not opened.")
    if halt.reason == "moving":
        raise StoreMoved(f"The store in {name} is being moved to {halt.other}; it was not opened.")
    raise StoreIncomplete(f"The store in {name} is being filled from {halt.other}.")


def frozen(name: str) -> StoreMoved:
    """The refusal of a write to a store that was frozen while it was open."""
    return StoreMoved(f"{name}: the store is frozen by a move. Nothing was written.")


def demand_filling(name: str, row: Sequence[Any] | None, token: str) -> None:
    """Raise `StoreNotEmpty` unless the fill `token` is under way: another run may have ended it."""
    halt = halt_of(row)
    if halt is None or halt.reason != "filling" or halt.token != token:
        what = "was filled" if halt is None else f"is being filled from {halt.other}"
        raise StoreNotEmpty(f"{name} {what} by somebody else meanwhile; nothing was written.")


def demand_mine(name: str, row: Sequence[Any] | None, reason: Reason, token: str) -> None:
    """Raise `StoreMoved` if the move `token` may not make a halt with `reason` out of `row`.

    One move begins where there is no halt; only what it froze itself can it call moved, because
    what was given up meanwhile may have been written to.
    """
    halt = halt_of(row)
    if halt is None:
        if reason == "moved":
            raise StoreMoved(f"The move of {name} was given up meanwhile; it is as it was.")
    elif halt.token != token:
        raise StoreMoved(f"{name} is already on its way to {halt.other}; nothing was done.")
