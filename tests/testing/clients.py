"""Clients of a store that do what they like, each call written down; also as a process of its own.

python -m tests.testing.clients FILE NAME SEED TARGET      two clients of a SQLite file; waits
                                                           for a line on stdin before it begins
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from outlive.errors import OutcomeUnknown
from outlive.model import Batch, Committed, Lease
from outlive.store import Store
from outlive.stores.sqlite import SQLiteStore
from outlive.testing.history import History
from outlive.testing.recording import Client, Scribe

SPACE = "judged"
KEYS = ("a", "b", "c")
STREAMS = ("s", "t", "u")
HOLD_SECONDS = 0.02


class LosesAnswers:
    """A store whose answers to commits are lost at times: half of those had not been done."""

    def __init__(self, inner: Any, chance: random.Random, share: float = 0.03) -> None:
        self._inner = inner
        self._chance = chance
        self._share = share
        self.lost = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def commit(self, batch: Batch) -> Committed:
        if self._chance.random() >= self._share:
            found: Committed = await self._inner.commit(batch)
            return found
        self.lost += 1
        if self._chance.random() < 0.5:
            await self._inner.commit(batch)
        raise OutcomeUnknown("the answer was lost on purpose")


async def cells(store: Any, history: History, name: str, seed: int, count: int) -> None:
    """One client of the cells: `count` calls."""
    chance = random.Random(f"{seed} {name}")
    client = Client(store, history, name, SPACE, KEYS)
    known = dict.fromkeys(KEYS, 0)
    for number in range(count):
        key = chance.choice(KEYS)
        version = chance.choice((None, known[key], known[key]))
        match chance.choice(("read", "read", "put", "put", "put", "drop", "claim")):
            case "read":
                known[key] = await client.read(key)
            case "put":
                due = chance.choice((None, 0, 0))
                made = await client.put(key, f"{name}-{number}", version, due)
                known[key] = made or known[key]
            case "drop" if chance.random() < 0.5:
                await client.drop(key, version)
            case _:
                known.update(await client.claim(2, HOLD_SECONDS))
        await asyncio.sleep(chance.choice((0, 0, 0.001)))


async def streams(
    store: Any, history: History, name: str, lease: Lease, seed: int, count: int
) -> None:
    """One client of the journal, of several that hold one lease: `count` calls."""
    chance = random.Random(f"{seed} {name}")
    scribe = Scribe(store, history, name)
    at = dict.fromkeys(STREAMS, 0)
    for number in range(count):
        chosen = sorted(chance.sample(STREAMS, chance.randint(1, 2)))
        if chance.random() < 0.5:
            at.update(await scribe.read(chosen))
            continue
        told = await scribe.append(lease, dict.fromkeys(chosen, f"{name}-{number}"), at)
        if told == "ok":
            at.update({stream: at[stream] + 1 for stream in chosen})
        else:
            at.update(await scribe.read(STREAMS))
        await asyncio.sleep(chance.choice((0, 0, 0.001)))


async def clients_of(
    stores: Sequence[Any], lease: Lease, seed: int, count: int, times: int = 2
) -> tuple[History, History]:
    """`times` clients of cells and of streams for each store; all streams are of one shard."""
    of_cells, of_streams = History(), History()
    async with asyncio.TaskGroup() as group:
        for number, store in enumerate([store for store in stores for _ in range(times)]):
            name = f"p{number}"
            group.create_task(cells(store, of_cells, name, seed, count))
            group.create_task(streams(store, of_streams, name, lease, seed, count))
    return of_cells, of_streams


async def taken(store: Store) -> Lease:
    owners = await store.owners()
    return await store.take(0, owners[0].epoch, "clients")


async def main(path: str, name: str, seed: str, target: str) -> None:
    store = SQLiteStore(path)
    await store.open()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    histories = [History(time.monotonic_ns), History(time.monotonic_ns)]
    lease = Lease(0, "clients", 1)
    async with asyncio.TaskGroup() as group:
        for number in range(2):
            who = f"{name}{number}"
            group.create_task(cells(store, histories[0], who, int(seed), 150))
            group.create_task(streams(store, histories[1], who, lease, int(seed), 150))
    await store.close()
    for kind, history in zip(("cells", "streams"), histories, strict=True):
        history.save(Path(f"{target}-{kind}.jsonl"))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
