"""Two drivers side by side on the one statement that counts: asyncpg and psycopg 3, group commits.

A group commit of the PostgreSQL store is one call of `commit_group` with 28 parameters, 22 of them
arrays; one lane sends one call after the other. Here both drivers send the same calls (planned and
chained by the store's own code, prepared, on one connection each, in autocommit) to the same
server, in turn, in an interpreter of their own; groups of 1, 16 and 128 batches, each of one cell
and one event of 200 bytes. The server does not flush, so that the driver is what is seen.

Shown is the median over the rounds of calls a second and of the client's own CPU for a call, and
the ratio of the two within a round. psycopg has its C part, and both read the answer in binary.

    make drivers                        five rounds
    bench/drivers.py --rounds 1         does it run at all?
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / "bench" / ".venv-drivers" / "bin" / "python"
DRIVERS = ("asyncpg", "psycopg")
SIZES = (1, 16, 128)
SHARDS = 64
TYPES = (
    "text bigint bigint bigint boolean boolean integer[] bigint[] text[] bigint[] bigint[] text[]"
    " text[] bigint[] integer[] bytea[] bigint[] text[] integer[] text[] bigint[] integer[]"
    " bigint[] text[] bigint[] text[] bytea[] bytea[]"
).split()
PLACES = ", ".join(f"${number}::{type}" for number, type in enumerate(TYPES, 1))
CALL = f"SELECT done, clock, base, shards, versions, lengths FROM outlive.commit_group({PLACES})"
VALUE = b"x" * 200
Send = Callable[[list[Any]], Awaitable[Any]]


# --- one driver, in its own interpreter ---------------------------------------------------------


async def asyncpg_sends(address: str) -> Send:
    import asyncpg

    link = await asyncpg.connect(address, server_settings={"jit": "off"})

    async def send(values: list[Any]) -> Any:
        (row,) = await link.fetch(CALL, *values)
        return row["done"]

    return send


async def psycopg_sends(address: str) -> Send:
    import psycopg

    link = await psycopg.AsyncConnection.connect(
        address, autocommit=True, prepare_threshold=0, options="-c jit=off"
    )
    cursor = psycopg.AsyncRawCursor(link)

    async def send(values: list[Any]) -> Any:
        await cursor.execute(CALL, values, binary=True)
        row = await cursor.fetchone()
        assert row is not None
        return row[0]

    return send


async def drive(driver: str, address: str, shard: int, seconds: float) -> None:
    """Send calls for `seconds` a size; print calls a second and CPU a call."""
    from outlive.model import Append, Batch, Lease, Put, Ref
    from outlive.stores.chain import GENESIS
    from outlive.stores.postgres_group import Group, arguments

    send = await (asyncpg_sends if driver == "asyncpg" else psycopg_sends)(address)
    lease, chains = Lease(shard, "bench", 1), {shard: (0, GENESIS)}
    number, name, figures = 0, f"{driver}{shard}", {}
    for size in SIZES:
        ready: list[list[Any]] = []
        calls, spent, took = 0, 0.0, 0.0
        while took < seconds:
            for _ in range(20):  # planned and chained outside of what is measured
                number += 1
                batches = [
                    Batch(
                        lease=lease,
                        put=(Put(Ref("bench", f"{name}-{number}-{at}"), VALUE),),
                        append=(Append(f"{name}-{number}-{at}", 0, "noted", VALUE),),
                    )
                    for at in range(size)
                ]
                now = time.time_ns() // 1000
                plan = Group(batches).plan(now, chains)
                ready.append([name, number, now, None, False, False, *arguments(plan)])
                chains.update(plan.chains)
            began, cpu = time.perf_counter(), own_seconds()
            for values in ready:
                assert await send(values)
            took += time.perf_counter() - began
            spent += own_seconds() - cpu
            calls += len(ready)
            ready.clear()
        figures[size] = [calls / took, spent / calls * 1000]
    print(json.dumps(figures))


def own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# --- both, in turn ------------------------------------------------------------------------------


async def prepare(address: str, rounds: int) -> None:
    """The store's schema, with a shard and a writer's mark for each run."""
    from outlive.stores.postgres import PostgresStore

    store = PostgresStore(address, SHARDS)
    await store.open()
    for shard in range(rounds * len(DRIVERS)):
        await store.take(shard, 0, "bench")
    names = [f"{driver}{shard}" for shard in range(SHARDS) for driver in DRIVERS]
    await store.write_rows("writer_make", names, 0)
    await store.close()


def run(address: str, rounds: int, seconds: float) -> list[dict[str, Any]]:
    found = []
    for number in range(rounds):
        figures = {}
        for place, driver in enumerate(DRIVERS[:: 1 if number % 2 == 0 else -1]):
            shard = number * len(DRIVERS) + place
            given = ["--peer", driver, "--address", address, "--shard", str(shard)]
            ran = subprocess.run(
                [PYTHON, __file__, *given, "--seconds", str(seconds)],
                capture_output=True, text=True, check=False, timeout=300,
                env={"PYTHONPATH": str(ROOT / "src")},
            )  # fmt: skip
            if ran.returncode:
                raise SystemExit(f"{driver} failed:\n{ran.stderr[-3000:]}")
            figures[driver] = json.loads(ran.stdout)
        found.append(figures)
    return found


def show(found: list[dict[str, Any]]) -> None:
    print(f"{'batches':>8} {'driver':8} {'calls/s':>9} {'CPU ms a call':>14}")
    for size in map(str, SIZES):
        for driver in DRIVERS:
            rate, cpu = (
                median(found[n][driver][size][i] for n in range(len(found))) for i in (0, 1)
            )
            print(f"{size:>8} {driver:8} {rate:9,.0f} {cpu:14.3f}")
        ratios = [
            [figures["asyncpg"][size][i] / figures["psycopg"][size][i] for figures in found]
            for i in (0, 1)
        ]
        print(
            f"{size:>8} asyncpg ÷ psycopg: calls × {median(ratios[0]):.2f},"
            f" CPU × {median(ratios[1]):.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--peer", choices=DRIVERS)
    parser.add_argument("--address", default="")
    parser.add_argument("--shard", type=int, default=0)
    given = parser.parse_args()
    if given.peer:
        asyncio.run(drive(given.peer, given.address, given.shard, given.seconds))
        return
    sys.path.insert(0, str(ROOT))
    from tests.postgres_server import running_server

    with running_server("shared_buffers=256MB") as address:
        asyncio.run(prepare(address, given.rounds))
        print(f"{given.rounds} rounds of {given.seconds:g} s for each driver and size")
        show(run(address, given.rounds, given.seconds))


main()
