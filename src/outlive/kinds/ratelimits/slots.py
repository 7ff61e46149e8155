"""Slots: so many at once, each held until it is released or its lease ends.

    free ──Acquire──> held ──Acquire by the same holder──> held longer
                        └──Release, or the lease ends──> free

Who holds is a token that the holder has drawn: it is what fences. A release or renewal under a
token that is not held any more is answered so, and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from outlive.kind import Decision
from outlive.model import Batch, Cell, Put, Ref, Storage

if TYPE_CHECKING:
    from outlive.kinds.ratelimits.quotas import Keys

MICROS = 1_000_000
SLOTS_MAX = 1000
LEASE_SECONDS_MIN, LEASE_SECONDS_MAX = 1.0, 86_400.0
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}\Z")
Holders = dict[str, int]
"""Until when each holder has its slot, in microseconds of the store's clock."""
read_holders: Any = msgspec.json.Decoder(Holders).decode
"""The value of a cell."""


class Slots(Struct, frozen=True):
    """At most `count` (1 to 1000) at once, for each key.

    `lease_seconds` (1 to 86,400): how long a slot is held by somebody who does not renew it; a
    holder that is there renews it by itself. `per`: as of a quota. No quota that is kept in the
    same place may have the same `name`.
    """

    name: str
    count: int
    lease_seconds: float = 30.0
    per: str = ""

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError(f"slots cannot be named {self.name!r}: a-z, 0-9, _ and -, at most 32")
        if not 1 <= self.count <= SLOTS_MAX:
            raise ValueError(f"slots {self.name}: {self.count} is not 1 to {SLOTS_MAX}")
        if not LEASE_SECONDS_MIN <= self.lease_seconds <= LEASE_SECONDS_MAX:
            limits = f"{LEASE_SECONDS_MIN:g} to {LEASE_SECONDS_MAX:g}"
            raise ValueError(f"slots {self.name}: a lease is {limits} seconds")

    def key(self, keys: Keys) -> str:
        """The name of the cell for the part of `keys` that they are about."""
        from outlive.kinds.ratelimits.quotas import named

        if self.per == "*":
            return f"{self.name}/*"
        return f"{self.name}/{named(keys[self.per] if isinstance(keys, Mapping) else keys)}"


class Acquire(Struct, frozen=True, gc=False):
    """Take a slot for `holder`, or hold its own longer."""

    key: str
    holder: str
    count: int
    lease: int
    """Microseconds."""
    storage: Storage = "volatile"
    renew: bool = False
    """Only if it is held already."""


class Release(Struct, frozen=True, gc=False):
    """Give the slot of `holder` back."""

    key: str
    holder: str
    storage: Storage = "volatile"


class Held(Struct, frozen=True, gc=False):
    """Whether the holder has a slot (of a release: had one), and how many are taken."""

    held: bool
    taken: int
    seconds: float
    """Until the next slot is free at the latest, if nobody renews; 0 when one is."""


def decide_slot(ref: Ref, cell: Cell | None, command: Acquire | Release, now: int) -> Decision[Any]:
    """Decide on the slots in `cell`."""
    found: Holders = {} if cell is None else read_holders(cell.value)
    holders = {name: until for name, until in found.items() if until > now}
    had = command.holder in holders
    if isinstance(command, Release):
        if not had:
            return Decision(Batch(), Held(False, len(holders), 0.0))
        del holders[command.holder]
        if not holders:
            return Decision(Batch(drop=(ref,)), Held(True, 0, 0.0))
        return Decision(_kept(ref, holders), Held(True, len(holders), 0.0))
    if not had and (command.renew or len(holders) >= command.count):
        return Decision(Batch(), Held(False, len(holders), _wait(holders, command.count, now)))
    holders[command.holder] = now + command.lease
    wait = _wait(holders, command.count, now)
    return Decision(_kept(ref, holders), Held(True, len(holders), wait))


def _kept(ref: Ref, holders: Holders) -> Batch:
    value = msgspec.json.encode(holders)
    return Batch(put=(Put(ref, value, max(holders.values())),))


def _wait(holders: Holders, count: int, now: int) -> float:
    if len(holders) < count:
        return 0.0
    return (sorted(holders.values())[len(holders) - count] - now) / MICROS
