"""One of several nodes of outlive on one store: starts its part of the work when it is told to.

Run by `bench/scale.py`. It says `ready` when all nodes are there and its share of the shards has
come; a line on its standard input begins the work, whose end it says with a line of JSON; at the
end of its standard input it leaves in order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

import uvloop

from measure import Meter, run_all
from outlive import Outlive, Run, step

LOOK_SECONDS = 0.05
SETTLE_SECONDS_MAX = 30.0
parser = argparse.ArgumentParser()
parser.add_argument("--store", required=True)
parser.add_argument("--nodes", type=int, required=True)
parser.add_argument("--processes", type=int, required=True)
parser.add_argument("--concurrency", type=int, required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--rate", type=int, default=0, help="started by the clock, in a second")
given = parser.parse_args()
given.server_pid = []
app = Outlive(given.store)


@step()
async def one(value: int) -> int:
    return value + 1


@app.process("/steps", version=1)
async def all_steps(run: Run, value: int) -> int:
    for _ in range(given.steps):
        value = await run(one, value)
    return value


async def through(number: int) -> int:
    handle = await app.start(all_steps, number)
    result: int = await handle.result()
    return result


async def run_paced() -> Meter:
    """The same work, begun by the clock and not by who is done."""
    with Meter() as meter:
        began, under_way = time.perf_counter(), set[asyncio.Task[int]]()
        for number in range(given.processes):
            left = began + number / given.rate - time.perf_counter()
            await asyncio.sleep(max(0.0, left))
            under_way.add(asyncio.create_task(through(number)))
        await asyncio.gather(*under_way)
    return meter


async def settled() -> bool:
    """Whether every node is there and has its share."""
    shards = await app.shards()
    mine = sum(shard.owner == app.node for shard in shards)
    owners = {shard.owner for shard in shards}
    share = len(shards) / given.nodes
    return len(owners - {""}) == given.nodes and "" not in owners and abs(mine - share) < 1


async def perform() -> None:
    async with app:
        async with asyncio.timeout(SETTLE_SECONDS_MAX):
            while not await settled():
                await asyncio.sleep(LOOK_SECONDS)
        await through(0)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        meter = await (run_paced() if given.rate else run_all(given, through))
        print(json.dumps({"seconds": round(meter.seconds, 4)}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


uvloop.run(perform())
