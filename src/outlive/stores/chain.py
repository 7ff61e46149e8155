"""The hash chain of a shard: it makes an edited journal visible, and says where it was edited.

Every event carries a truncated SHA-256 over the chain value of the event before it in its shard and
over all of its own fields. Who changes, removes, adds or swaps an event later breaks the chain
there, unless every later event is rewritten too: the chain shows damage and careless edits. It is
not a signature: keep a shard's last value elsewhere too if you fear somebody with write access.

    GENESIS ── link ──▶ event 1 ── link ──▶ event 2 ── link ──▶ event 3 …

The packing is frozen: a store written years ago must verify for ever. All numbers have a fixed
width, and the lengths of all texts and bytes are among them: no two events pack to the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from struct import Struct

from outlive.model import Event

CHAIN_BYTES = 16
"""Length of a chain value."""
GENESIS = bytes(CHAIN_BYTES)
"""The chain value before a shard's first event."""

_FIELDS = Struct(">IQQqIIQ")  # shard, seq, n, time, then the lengths of stream, kind and data


def link(
    previous: bytes, shard: int, seq: int, stream: str, n: int, kind: str, time: int, data: bytes
) -> bytes:
    """The chain value of an event after one whose value is `previous` (`GENESIS` for the first).

    Numbers are unsigned: `shard` 32 bits, `seq` and `n` 64; `time` is signed, 64 bits.
    """
    name, sort = stream.encode(), kind.encode()
    fields = _FIELDS.pack(shard, seq, n, time, len(name), len(sort), len(data))
    packed = b"".join((previous, fields, name, sort, data))
    return sha256(packed).digest()[:CHAIN_BYTES]


def verify(events: Iterable[Event], previous: bytes = GENESIS) -> int | None:
    """The `seq` of the first event that is not what was committed; None when all are.

    `events` are neighbours in one shard, in order; `previous` is the chain value of the one before.
    """
    for event in events:
        previous = link(
            previous,
            event.shard,
            event.seq,
            event.stream,
            event.n,
            event.kind,
            event.time,
            event.data,
        )
        if event.chain != previous:
            return event.seq
    return None
