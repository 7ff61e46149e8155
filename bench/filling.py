"""Histories for the benches of size: ended processes and sleepers, written straight into a store.

They are what a service would have left behind, word for word, but many fit into one commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import Raw

from outlive import ids
from outlive.clock import MICROS
from outlive.kinds.processes.cells import Head, put_head, ref_of
from outlive.kinds.processes.vocabulary import (
    KIND_OF,
    Ended,
    SleepBegan,
    Started,
    StepDone,
    pack,
)
from outlive.model import Append, Batch, Lease
from outlive.store import GROUP_BATCHES_MAX, Store

Made = Callable[[int, Lease, int], Batch]
"""The commit of number n, in a shard that is held, at a time."""
MONTH = 30 * 86_400 * MICROS


async def fill_ended(store: Store, megabytes: float, payload_bytes: int) -> int:
    """Ended processes of the type `order`, until their payloads are `megabytes`; gives how many."""
    text = Raw(b'"' + b"x" * payload_bytes + b'"')
    count = max(1, round(megabytes * 1e6 / (3 * payload_bytes)))

    def made(number: int, lease: Lease, now: int) -> Batch:
        id = ids.public_id("order", store.shards, lease.shard)
        customer = (("customer", f"c-{number % 1000}"),)
        head = Head(ids.internal_id(now), "order", 1, "done", now - number, now, tags=customer)
        events = (
            Started(id, "order", 1, text, "n", tags=customer),
            StepDone("work", "work", 0, "hash", now, result=text),
            Ended("done", text),
        )
        return written(lease, id, head, events, now + MONTH, store)

    await _fill(store, count, made)
    return count


async def fill_sleepers(store: Store, count: int, type: str, soon: list[int], far: int) -> None:
    """`count` processes of `type` that sleep: one until each of `soon`, the others until `far`."""

    def made(number: int, lease: Lease, now: int) -> Batch:
        id = ids.public_id(type, store.shards, lease.shard)
        until = soon[number] if number < len(soon) else far
        head = Head(ids.internal_id(now), type, 1, "waiting", now, now)
        events = (Started(id, type, 1, Raw(b"null"), "n"), SleepBegan("sleep", 0, until))
        return written(lease, id, head, events, until, store)

    await _fill(store, count, made)


def written(
    lease: Lease, id: str, head: Head, events: tuple[object, ...], due: int, store: Store
) -> Batch:
    """The commit of a process that is known from its beginning to its end."""
    appends = tuple(
        Append(head.stream, n, KIND_OF[type(event)], pack(event)) for n, event in enumerate(events)
    )
    return Batch(lease, put=(put_head(ref_of(id, store.shards), head, due),), append=appends)


async def _fill(store: Store, count: int, made: Made) -> None:
    leases = [await store.take(row.id, row.epoch, "filler") for row in await store.owners()]
    for numbers in _parts(count):
        now = await store.now()
        batches = [made(n, leases[n // 64 % len(leases)], now) for n in numbers]
        await store.commit_group(batches)
    for lease in leases:
        await store.release(lease)


def _parts(count: int) -> Iterator[range]:
    for first in range(0, count, GROUP_BATCHES_MAX):
        yield range(first, min(first + GROUP_BATCHES_MAX, count))
