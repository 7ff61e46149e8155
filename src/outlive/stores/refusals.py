"""Why a store refuses a batch, in the words that every database uses.

Each gives the error that is answered for one batch of a group; nothing of that batch was written.
"""

from __future__ import annotations

from collections.abc import Sequence

from outlive.errors import Conflict, Fenced, OutliveError, Refused, StreamConflict, TooLarge
from outlive.model import Append, Batch, Lease, Ref
from outlive.store import ERASE_STREAMS_MAX, VALUE_BYTES_MAX

DUE_MAX = (1 << 63) - 1
"""Microseconds since 1970 that a database has room for: 292,000 years."""


def flaw(batch: Batch, database: str) -> OutliveError | None:
    """What is wrong with `batch` by itself, before any state is looked at."""
    if batch.storage == "volatile":
        return Refused(f"{database} keeps no volatile cells; nothing was written.")
    if batch.append and batch.lease is None:
        raise ValueError("a batch that appends needs a lease")
    for put in batch.put:
        if len(put.value) > VALUE_BYTES_MAX:
            return too_large(f"cell {put.ref.space}/{put.ref.key}", len(put.value))
        if put.due is not None and not -DUE_MAX <= put.due <= DUE_MAX:
            return Refused(
                f"The deadline of cell {put.ref.space}/{put.ref.key} is out of range; "
                "nothing was written."
            )
    for append in batch.append:
        if len(append.data) > VALUE_BYTES_MAX:
            return too_large(f"event {append.n} of a stream", len(append.data))
    return None


def too_large(what: str, size: int) -> TooLarge:
    return TooLarge(f"The value of {what} has {size} bytes; at most {VALUE_BYTES_MAX} are kept.")


def conflict(ref: Ref, wanted: int, found: int) -> Conflict:
    return Conflict(
        f"Cell {ref.space}/{ref.key} is at version {found}, not {wanted}; nothing was written.",
        ref=ref,
        wanted=wanted,
        found=found,
    )


def fenced(lease: Lease) -> Fenced:
    return Fenced(
        f"Shard {lease.shard} is no longer held by {lease.owner} at epoch {lease.epoch}; "
        "nothing was written.",
        shard=lease.shard,
        epoch=lease.epoch,
    )


def stream_conflict(append: Append, length: int | None) -> StreamConflict:
    found = "is not that long" if length is None else f"has {length} events"
    return StreamConflict(
        f"Event {append.n} was expected to be next, but the stream {found}; nothing was written.",
        wanted=append.n,
        found=length,
    )


def demand_erasable(streams: Sequence[str], batch: Batch) -> None:
    """Raise `ValueError` for an erasure that is a mistake of the program."""
    if len(streams) > ERASE_STREAMS_MAX:
        raise ValueError(f"{len(streams)} streams; split the erasure at {ERASE_STREAMS_MAX}")
    if batch.append or batch.storage != "durable":
        raise ValueError("what is erased is committed durably, with a batch that appends nothing")
