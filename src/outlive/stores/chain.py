"""The hash chain of a shard: it makes an edited journal visible, and says where it was edited.

Every event carries a truncated SHA-256 over the chain value of the event before it in its shard and
over all of its own fields. Who changes, removes, adds or swaps an event later breaks the chain
there, unless every later event is rewritten too: the chain shows damage and careless edits. It is
not a signature: keep a shard's last value elsewhere too if you fear somebody with write access.
What was erased keeps its value, which cannot be made again: it is trusted, and what comes behind it
hangs on it as before.

    GENESIS ── link ──▶ event 1 ── link ──▶ event 2 ── link ──▶ event 3 …

The packing is frozen: a store written years ago must verify for ever. It is one MessagePack array,
each number in its shortest form and each text and byte string with its length before it, so no two
events pack to the same bytes.

Reference: MessagePack specification, https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import msgspec

from outlive.model import ERASED, Event

CHAIN_BYTES = 16
"""Length of a chain value."""
GENESIS = bytes(CHAIN_BYTES)
"""The chain value before a shard's first event."""

_pack = msgspec.msgpack.Encoder().encode


def link(
    previous: bytes, shard: int, seq: int, stream: str, n: int, kind: str, time: int, data: bytes
) -> bytes:
    """The chain value of an event after one whose value is `previous` (`GENESIS` for the first).

    Numbers have at most 64 bits.
    """
    packed = _pack((previous, shard, seq, stream, n, kind, time, data))
    return sha256(packed).digest()[:CHAIN_BYTES]


def verify(events: Iterable[Event], previous: bytes = GENESIS) -> int | None:
    """The `seq` of the first event that is not what was committed; None when all are.

    `events` are neighbours in one shard, in order; `previous` is the chain value of the one before.
    An erased event is taken at its word: nothing is left that its value was made from.
    """
    for event in events:
        if event.kind == ERASED and not event.data:
            previous = event.chain
            continue
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
