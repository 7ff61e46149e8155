"""Two fences on PostgreSQL under a forgotten transaction: UPDATE of the shard's row, or FOR SHARE.

Every commit of a group is fenced by a lock on its shard's row. Ours updates the row, which leaves a
dead version for each commit; `SELECT … FOR SHARE` leaves none, and keeps the sequence in the node.
Dead versions are pruned while nobody can still see them, so they only hurt when some transaction
elsewhere (a backup, an analyst) holds an old snapshot: then each look-up of the row walks them all.

What is done, for each of the two, in turn, on one server: new tables; 16 shards, each with a
committer that has its own connection; 128 writers of one small event each. A committer takes what
waits for its shard (group commit without a timer) and writes it in one call of one PL/pgSQL
function: fence, then insert. Fsync is on. After `--before` seconds another session opens a snapshot
(REPEATABLE READ) and keeps it to the end. Then the store itself, whose fence is the update and
whose commits touch all shards: what one of them takes, after more and more of them under such a
snapshot.

Shown for each slice of the time: events and commits a second; at the end the dead versions of the
table of shards, its size, and what one fence alone takes, at the end and after the snapshot is gone
and the table vacuumed: on a busy machine that says more than the rates.

    bench/fences.py                 20 s for each fence, after 5 s without the snapshot, two rounds
    bench/fences.py --seconds 2     does it run at all?
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.postgres_server import newest_programs, running_server, system_programs

from outlive.model import Append, Batch
from outlive.stores.postgres import PostgresStore

SHARDS, WRITERS = 16, 128
SLICES = 5
EVENT = b"x" * 200
COST_CALLS = 300
SCHEMA = """
DROP SCHEMA IF EXISTS fences CASCADE;
CREATE SCHEMA fences;
CREATE TABLE fences.shard (
    id integer PRIMARY KEY, owner text NOT NULL, epoch bigint NOT NULL, head bigint NOT NULL
) WITH (fillfactor = 20);
CREATE TABLE fences.event (
    shard integer, seq bigint, data bytea NOT NULL, PRIMARY KEY (shard, seq)
);
INSERT INTO fences.shard SELECT g, 'node', 1, 0 FROM generate_series(0, 15) AS g;
CREATE FUNCTION fences.update_fence(p_shard integer, p_head bigint, p_data bytea[])
RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    UPDATE fences.shard SET head = head + cardinality(p_data)
    WHERE id = p_shard AND epoch = 1 AND owner = 'node' AND head = p_head;
    IF NOT FOUND THEN RETURN false; END IF;
    INSERT INTO fences.event
    SELECT p_shard, p_head + t.at, t.data FROM unnest(p_data) WITH ORDINALITY AS t (data, at);
    RETURN true;
END $$;
CREATE FUNCTION fences.share_fence(p_shard integer, p_head bigint, p_data bytea[])
RETURNS boolean LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    PERFORM FROM fences.shard WHERE id = p_shard AND epoch = 1 AND owner = 'node' FOR SHARE;
    IF NOT FOUND THEN RETURN false; END IF;
    INSERT INTO fences.event
    SELECT p_shard, p_head + t.at, t.data FROM unnest(p_data) WITH ORDINALITY AS t (data, at);
    RETURN true;
END $$;
"""
DEAD = """
SELECT n_dead_tup, pg_relation_size('fences.shard') / 1024 FROM pg_stat_user_tables
WHERE relid = 'fences.shard'::regclass
"""


class Load:
    """Writers that each wait for their event, and a committer for each shard."""

    def __init__(self, address: str, fence: str) -> None:
        self.address = address
        self.call = f"SELECT fences.{fence}($1, $2, $3)"
        self.waiting: list[list[asyncio.Future[None]]] = [[] for _ in range(SHARDS)]
        self.some = [asyncio.Event() for _ in range(SHARDS)]
        self.commits = self.events = 0

    async def writer(self, number: int) -> None:
        shard = number % SHARDS
        while True:
            done = asyncio.get_running_loop().create_future()
            self.waiting[shard].append(done)
            self.some[shard].set()
            await done

    async def committer(self, shard: int) -> None:
        link = await asyncpg.connect(self.address)
        head = 0
        try:
            while True:
                await self.some[shard].wait()
                self.some[shard].clear()
                group, self.waiting[shard] = self.waiting[shard], []
                assert await link.fetchval(self.call, shard, head, [EVENT] * len(group))
                head += len(group)
                self.commits += 1
                self.events += len(group)
                for done in group:
                    done.set_result(None)
        finally:
            link.terminate()


async def measure(address: str, fence: str, before: float, seconds: float) -> list[float]:
    """Events a second: without the snapshot, then slice by slice under it."""
    admin, pin = await asyncpg.connect(address), await asyncpg.connect(address)
    await admin.execute(SCHEMA)
    load = Load(address, fence)
    tasks = [asyncio.create_task(load.committer(shard)) for shard in range(SHARDS)]
    tasks += [asyncio.create_task(load.writer(number)) for number in range(WRITERS)]
    try:
        rates = await watch(load, fence, pin, tasks, before, seconds)
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    await told(admin, load.commits if fence == "update_fence" else 0)
    print(f"  {'':13} one fence alone: {await cost(admin, fence):,.0f} µs pinned", flush=True)
    await pin.execute("ROLLBACK")
    await admin.execute("VACUUM fences.shard")
    print(f"  {'':13} one fence alone: {await cost(admin, fence):,.0f} µs after VACUUM", flush=True)
    await pin.close()
    await admin.close()
    return rates


async def watch(
    load: Any,
    name: str,
    pin: Any,
    tasks: Sequence[asyncio.Task[None]],
    before: float,
    seconds: float,
) -> list[float]:
    """Events a second of `load`, slice by slice; `pin` takes its snapshot after the first."""
    rates = []
    for part in range(SLICES + 1):
        if part == 1:
            await pin.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            await pin.fetchval("SELECT count(*) FROM fences.shard")
        length = seconds / SLICES if part else before
        began, commits, events = time.monotonic(), load.commits, load.events
        await asyncio.wait(tasks, timeout=length, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
        took = time.monotonic() - began
        rates.append((load.events - events) / took)
        when = f"pinned, part {part}" if part else "not pinned"
        print(
            f"  {name:13} {when:15} {rates[-1]:8,.0f} events/s"
            f" {(load.commits - commits) / took:8,.0f} commits/s", flush=True,
        )  # fmt: skip
    return rates


async def measure_store(address: str, commits: int) -> None:
    """Print what a commit of the store takes under the snapshot, after more and more of them.

    One after the other, each with an event for every shard; the least and the median of each part.
    """
    admin, pin = await asyncpg.connect(address), await asyncpg.connect(address)
    await admin.execute("DROP SCHEMA IF EXISTS fences CASCADE")
    store = PostgresStore(address, SHARDS, schema="fences")
    await store.open()
    leases = [await store.take(shard, 0, "node") for shard in range(SHARDS)]
    numbers = itertools.count()

    async def part(name: str) -> None:
        times = []
        for n in itertools.islice(numbers, commits // SLICES):
            group = [
                Batch(lease=lease, append=(Append(f"s{lease.shard}", n, "noted", EVENT),))
                for lease in leases
            ]
            began = time.perf_counter()
            await store.commit_group(group)
            times.append((time.perf_counter() - began) * 1000)
        print(
            f"  the store     {name:22} least {min(times):6.2f} ms, median {median(times):6.2f} ms"
        )

    await part("not pinned")
    await pin.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await pin.fetchval("SELECT 1")
    for number in range(SLICES):
        await part(f"pinned, after {number * (commits // SLICES):,}")
    await pin.execute("ROLLBACK")
    await part("the snapshot is gone")
    await store.close()
    await pin.close()
    await admin.close()


async def cost(admin: Any, fence: str) -> float:
    """Microseconds for one call that only fences, journey included: the least of many."""
    least = float("inf")
    for _ in range(COST_CALLS):
        head = await admin.fetchval("SELECT head FROM fences.shard WHERE id = 0")
        began = time.perf_counter()
        await admin.fetchval(f"SELECT fences.{fence}(0, $1, ARRAY[]::bytea[])", head)
        least = min(least, (time.perf_counter() - began) * 1e6)
    return least


async def told(admin: Any, expected: int) -> None:
    """Print what the table of shards has become, once the statistics have come in."""
    dead = size = 0
    for _ in range(100):
        dead, size = await admin.fetchrow(DEAD)
        if dead >= expected // 2:
            break
        await asyncio.sleep(0.05)
    print(f"  {'':13} the table of shards: {dead:,} dead versions, {size:,} KiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--before", type=float, default=5.0)
    parser.add_argument("--commits", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--system", action="store_true", help="the system's server, not the wheel's"
    )
    given = parser.parse_args()
    programs = system_programs() if given.system else newest_programs()
    ratios: dict[str, list[float]] = {"not pinned": [], "pinned at first": [], "pinned at last": []}
    print(f"{SHARDS} shards, {WRITERS} writers, fsync on, {programs}")
    with running_server("fsync=on", "full_page_writes=on", programs=programs) as address:
        for number in range(given.rounds):
            order = ("update_fence", "share_fence")[:: 1 if number % 2 == 0 else -1]
            found = {
                fence: asyncio.run(measure(address, fence, given.before, given.seconds))
                for fence in order
            }
            for name, part in zip(ratios, (0, 1, -1), strict=True):
                ratios[name].append(found["share_fence"][part] / found["update_fence"][part])
        asyncio.run(measure_store(address, given.commits))
    for name, values in ratios.items():
        each = " ".join(f"{value:.2f}" for value in values)
        print(f"FOR SHARE ÷ UPDATE, {name}: × {median(values):.2f}  (by round: {each})")


main()
