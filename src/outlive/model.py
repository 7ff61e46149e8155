"""The vocabulary of the store: frozen values, and nothing that acts.

Every kind of state a service keeps is one of two shapes, or both.

    Journal   what happened: streams of events, each stream inside one shard, numbered without a
              hole, hash-chained, never edited.
    Cell      what is true, and until when: (space, key) -> value, version, due.

A `Batch` is the only way to write either, and it is a value: it can be grouped with others into one
fsync, refused whole, replayed by a simulator, or applied inside a user's own SQL transaction.

    version   drawn from a counter that never goes back, so a cell that was dropped and made again
              has a higher one: it is the fencing token.
    due       a deadline on the store's clock, in integer microseconds since 1970 UTC. The kind says
              what passes then; the store only hands due cells out (`claim`).
    lease     (shard, owner, epoch): who may append to a shard. The epoch is checked by the commit
              itself.
    stream    the events of one process or entity, counted 0, 1, 2 … by `n`.
    seq       the place of an event in its shard: dense, so a reader that sees a hole waits.

Nothing here promises anything; what each verb promises stands in `store.py`.
"""

from __future__ import annotations

import zlib
from typing import Literal

from msgspec import Struct

Storage = Literal["durable", "relaxed", "volatile"]
"""What "acknowledged" means: on disk (or the quorum) · committed, power loss may take the last
moments · in memory."""

ABSENT = 0
"""The version to `Require` of a cell that must not exist."""


ERASED = "erased"
"""The kind of an event whose contents were taken away: only its place, its time and its chain value
are left."""


class Ref(Struct, frozen=True, gc=False, order=True):
    """The address of a cell."""

    space: str
    key: str


class Cell(Struct, frozen=True, gc=False):
    """What is true about a key, and until when."""

    space: str
    key: str
    value: bytes
    version: int
    due: int | None = None

    @property
    def ref(self) -> Ref:
        return Ref(self.space, self.key)


class Event(Struct, frozen=True, gc=False):
    """One thing that happened, at its place in a stream and in a shard."""

    shard: int
    seq: int
    stream: str
    n: int
    kind: str
    data: bytes
    time: int
    chain: bytes
    """SHA-256, cut to 16 bytes, over the shard's previous chain value and this event: an edited row
    breaks every later one."""


class Require(Struct, frozen=True, gc=False):
    """The cell at `ref` must be at `version` (`ABSENT`: must not exist), or the whole batch is
    refused."""

    ref: Ref
    version: int


class Put(Struct, frozen=True, gc=False):
    """Make the cell say `value`; its marks (secondary look-ups, name and value) are replaced as a
    whole."""

    ref: Ref
    value: bytes
    due: int | None = None
    marks: tuple[tuple[str, str], ...] = ()


class Append(Struct, frozen=True, gc=False):
    """Add an event to `stream` as its `n`-th: refused when the stream is not exactly that long."""

    stream: str
    n: int
    kind: str
    data: bytes


class Lease(Struct, frozen=True, gc=False):
    """Who may append to a shard. A hint about *should*; the commit compares it with the shard's
    row."""

    shard: int
    owner: str
    epoch: int


class Batch(Struct, frozen=True, gc=False):
    """The only way to write: committed whole or refused whole.

    Order inside: all `require` first, then `drop`, `put`, `append`. A batch with a `lease` is
    fenced by it, also when it appends nothing; a batch without one may not append.
    """

    lease: Lease | None = None
    require: tuple[Require, ...] = ()
    put: tuple[Put, ...] = ()
    drop: tuple[Ref, ...] = ()
    append: tuple[Append, ...] = ()
    storage: Storage = "durable"


class Committed(Struct, frozen=True, gc=False):
    """The receipt of a batch: it is as durable as its storage class says."""

    time: int
    """The store's clock at the commit: the `time` of every event in it."""
    versions: tuple[int, ...] = ()
    """The new version of each `put`, in order."""
    seq: int = 0
    """The shard's `seq` of the first appended event; the others follow without a hole."""


class Shard(Struct, frozen=True, gc=False):
    """The unit of ownership: one row that is owner, fence, lock and sequencer at once."""

    id: int
    owner: str
    """The node that may append; empty when the last owner handed the shard back in order."""
    epoch: int
    head: int
    """The `seq` of the last event; 0 when there is none."""


class Hold(Struct, frozen=True, gc=False):
    """One line of the ownership ledger: who held a shard at which epoch, from which position."""

    shard: int
    epoch: int
    owner: str
    head: int
    """The shard's head when it changed hands: the previous owner's last event."""
    time: int
    previous: str
    """Whom it was taken from; empty when it had been handed back, or never held."""


def shard_of(key: str, shards: int) -> int:
    """The shard of a key: CRC-32 modulo the store's fixed count, the same on every node and for
    ever."""
    return zlib.crc32(key.encode()) % shards
