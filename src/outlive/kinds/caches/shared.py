"""What the instances of a service share of a cache: stamps, leases, values.

    space         class      key                        says
    cache-stamp   durable    cache/what was written     by its version, the generation
    cache-value   volatile   cache/digest of the key    a value with the stamps it was loaded
                                                        under, and who is loading it now

A load takes the lease of its key; the others wait for what it leaves. A lease is a token with an
end, by the store's clock: a dead or frozen loader holds nobody up for longer, and what it brings
later is refused. A value is only taken when it carries the very stamps that the reader has just
read, so what a slow loader put back after an invalidation is of no use to anybody.

A stamp is put blindly, by anybody's batch, and its version is never used again. It may go when
nothing that was loaded before can live any more: the sweep looks twice, once to note the store's
time and once to drop it. That changes its version, which costs a load and never serves a stale
value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from outlive.clock import MICROS
from outlive.codec import NULL, digest, encode
from outlive.kind import Decision, Kind, View
from outlive.model import ABSENT, Batch, Cell, Put, Ref, Storage

STAMP_SPACE, VALUE_SPACE = "cache-stamp", "cache-value"
MARGIN_SECONDS = 3600.0
"""How much longer than any value a stamp is kept."""
LATE_SECONDS = 60.0
"""A value is kept so much longer than it is of use, for the sweep."""


class Kept(Struct, frozen=True, omit_defaults=True):
    """The cell of a key: a value, or who is loading it, or both."""

    data: Raw = NULL
    is_loaded: bool = False
    stamps: tuple[int, ...] = ()
    began: int = 0
    """When its load began, by the store's clock."""
    ends: int = 0
    useless: int = 0
    """When it may go."""
    lease: str = ""
    lease_ends: int = 0


class Take(Struct, frozen=True):
    """Ask for the value loaded under `stamps`, or for the lease to load it."""

    key: str
    token: str
    lease_seconds: float
    stamps: tuple[int, ...]
    known: int = -1
    """When the load of a value began that will not do, nor any older one; -1 when any will."""


class Fill(Struct, frozen=True):
    """What the holder of the lease has loaded; `data` None gives the lease back."""

    key: str
    token: str
    data: Raw | None = None
    stamps: tuple[int, ...] = ()
    began: int = 0
    live_seconds: float = 0.0
    keep_seconds: float = 0.0


class Taken(Struct, frozen=True):
    """The answer: a value, or the lease, or until when somebody else holds it."""

    now: int
    found: Kept | None = None
    is_leased: bool = False
    wait_until: int = 0


Command = Take | Fill


class Values(Kind[Command, Taken]):
    """The kind of the values; stamps need no decision: they are put."""

    name = "caches"
    spaces: ClassVar[dict[str, Storage]] = {VALUE_SPACE: "volatile"}

    def refs(self, command: Command) -> Sequence[Ref]:
        return (Ref(VALUE_SPACE, command.key),)

    def decide(self, view: View, command: Command, now: int) -> Decision[Taken]:
        ref = Ref(VALUE_SPACE, command.key)
        cell = view[ref]
        kept = Kept() if cell is None else read(cell.value)
        if isinstance(command, Fill):
            after, reply = _filled(kept, command, now)
        else:
            after, reply = _taken(kept, command, now)
        if after is kept:
            return Decision(Batch(), reply)
        due = max(after.useless, after.lease_ends)
        return Decision(Batch(put=(Put(ref, _encode(after), due),)), reply)


class Stamps(Kind[None, None]):
    """The kind of the stamps: what becomes of them when nobody can need them any more."""

    name = "cache stamps"
    spaces: ClassVar[dict[str, Storage]] = {STAMP_SPACE: "durable"}

    def refs(self, command: None) -> Sequence[Ref]:
        raise NotImplementedError("stamps are put, not decided")

    def decide(self, view: View, command: None, now: int) -> Decision[None]:
        raise NotImplementedError("stamps are put, not decided")

    def on_due(self, cell: Cell, now: int) -> Batch:
        """The first time: keep it for as long as anything older can live. Then: let it go."""
        seconds = float(cell.value or b"0")
        if seconds <= 0:
            return Batch(drop=(cell.ref,))
        return Batch(put=(Put(cell.ref, b"0", now + round(seconds * MICROS)),))


VALUES, STAMPS = Values(), Stamps()
_encode = msgspec.json.Encoder().encode
read = msgspec.json.Decoder(Kept).decode
"""The value of a cell."""


def stamp_ref(cache: str, what: str) -> Ref:
    """The stamp of `what`: a key (its digest), `tag:…`, or `*` for all."""
    return Ref(STAMP_SPACE, f"{cache}/{what}")


def stamp_put(ref: Ref, live_seconds: float) -> Put:
    """What a batch puts to make all older that was loaded under the stamp at `ref`.

    It is due at once: the sweep then gives it the store's time to live.
    """
    return Put(ref, b"%g" % (live_seconds + MARGIN_SECONDS), 1)


def key_digest(schema: str, key: object) -> str:
    """A key in the shared store: another schema of the values is another space of keys."""
    return digest(schema.encode(), encode(key))


def version_of(cell: Cell | None) -> int:
    """The generation that a stamp says."""
    return ABSENT if cell is None else cell.version


def _taken(kept: Kept, take: Take, now: int) -> tuple[Kept, Taken]:
    is_current = kept.is_loaded and kept.stamps == take.stamps and now < kept.ends
    if is_current and kept.began > take.known:
        return kept, Taken(now, found=kept)
    if kept.lease and kept.lease != take.token and now < kept.lease_ends:
        return kept, Taken(now, wait_until=kept.lease_ends)
    ends = now + round(take.lease_seconds * MICROS)
    return replace(kept, lease=take.token, lease_ends=ends), Taken(now, is_leased=True)


def _filled(kept: Kept, fill: Fill, now: int) -> tuple[Kept, Taken]:
    if kept.lease != fill.token or now >= kept.lease_ends:
        return kept, Taken(now)
    if fill.data is None:
        return replace(kept, lease="", lease_ends=0, useless=max(kept.useless, now)), Taken(now)
    ends = fill.began + round(fill.live_seconds * MICROS)
    useless = fill.began + round((fill.keep_seconds + LATE_SECONDS) * MICROS)
    after = Kept(fill.data, True, fill.stamps, fill.began, ends, useless)
    return after, Taken(now, found=after)
