"""Random stores for copying: journals, cells with marks and dues, tombstones, blobs."""

from __future__ import annotations

import random
from typing import Any

from outlive.model import Append, Batch, Put, Ref, Shard
from outlive.stores.blobs import named
from outlive.stores.chain import GENESIS, link
from outlive.stores.contents import SECTIONS, Facts

KINDS = ("started", "step", "signal", "ended")


BLOB = named(b"bytes", 100)


def events(shard: int, count: int) -> list[tuple[Any, ...]]:
    chain, made = GENESIS, []
    for n in range(count):
        chain = link(chain, shard, n + 1, "s", n, "kind", 7, b"data")
        made.append((shard, n + 1, "s", n, "kind", 7, b"data", chain))
    return made


def sound() -> dict[str, list[tuple[Any, ...]]]:
    return {
        "holds": [(0, 1, "node", 0, 5, ""), (1, 2, "node", 0, 5, "")],
        "events": [*events(0, 4), *events(1, 2)],
        "cells": [
            ("a", "1", 9, None, "[]", b"value"),
            ("a", "2", 10, 77, '[["x","y"]]', b""),
            ("blob", BLOB, 3, None, "[]", b""),
        ],
        "blobs": [(BLOB, 3, b"bytes")],
    }


def facts(rows: dict[str, list[tuple[Any, ...]]], **changes: Any) -> Facts:
    shards = (Shard(0, "node", 1, 4), Shard(1, "node", 2, 2), Shard(2, "", 0, 0))
    given = {
        "incarnation": "i", "version": 10, "clock": 9, "shards": shards,
        "counts": {section: len(rows[section]) for section in SECTIONS},
    }  # fmt: skip
    return Facts(**(given | changes))


async def fill(store: Any, seed: int, batches: int = 40) -> None:
    """Commit `batches` random batches to the open `store`; the same for the same `seed`."""
    draw = random.Random(seed)
    blobs = [await store.blobs.put(draw.randbytes(draw.randint(0, 5000))) for _ in range(3)]
    await store.commit(Batch(put=tuple(Put(Ref("blob", name), b"") for name in blobs)))
    owned = draw.sample(range(store.shards), min(store.shards, 3))
    leases = [await store.take(shard, 0, f"node-{shard}") for shard in owned]
    lengths: dict[str, int] = {}
    keys: set[tuple[str, str]] = set()
    for _ in range(batches):
        lease = draw.choice(leases)
        appends = []
        for _ in range(draw.randint(0, 4)):
            stream = f"{lease.shard}/{draw.randint(0, 6)}"
            n = lengths.get(stream, 0)
            lengths[stream] = n + 1
            data = draw.randbytes(draw.randint(0, 300))
            appends.append(Append(stream, n, draw.choice(KINDS), data))
        puts = {}
        for _ in range(draw.randint(0, 4)):
            space, key = draw.choice(("proc", "request", "größe")), f"k{draw.randint(0, 20)}€"
            marks = tuple(
                (draw.choice(("state", "type")), draw.choice(("a", "b", "ä|\"'\\")))
                for _ in range(2)
            )
            value = draw.randbytes(20) + draw.choice((b"", draw.choice(blobs).encode()))
            due = draw.choice((None, 10, 2**50))
            puts[space, key] = Put(Ref(space, key), value, due, marks)
        drops = [draw.choice(sorted(keys))] if keys and draw.random() < 0.3 else []
        drops = [key for key in drops if key not in puts]
        keys |= puts.keys()
        keys -= set(drops)
        await store.commit(
            Batch(
                lease=lease,
                put=tuple(puts.values()),
                drop=tuple(Ref(*key) for key in drops),
                append=tuple(appends),
            )
        )
    for lease in leases[:2]:
        await store.erase([f"{lease.shard}/{number}" for number in (1, 4)], Batch(lease))


async def everything(place: Any) -> dict[str, list[Any]]:
    """All rows of a place, in order."""
    source = await place.source()
    try:
        return {
            section: [tuple(row) async for page in source.pages(section) for row in page]
            for section in SECTIONS
        }
    finally:
        await source.close()
