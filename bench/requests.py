"""What every request pays: rate limiter hits, beside the `limits` library, in one run.

128 askers hit 100 keys as fast as they are answered, under a limit that admits them all (a refusal
is cheaper: here it is remembered). Ours decides by GCRA; `limits` by its fixed window, which is its
cheapest, on `redis.asyncio` with hiredis, and in memory. Each is measured in an interpreter of its
own, in turn, on the same servers; shown is the median over the rounds of hits a second and of the
client's CPU for a hit, and the ratio within a round. PostgreSQL and SQLite flush as they do for a
service; what is `volatile` or `relaxed` does not wait for it.

    make bench-requests                  three rounds
    bench/requests.py --rounds 1         does it run at all?
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "bench" / ".venv-requests" / "bin" / "python"
ASKERS = 128
KEYS = 100
SECONDS = 2.0
OURS = ("local", "sqlite", "postgres", "redis", "redis-ahead", "redis-one-key")
THEIRS = ("limits-memory", "limits-redis", "limits-redis-one-key")
BARS = (
    ("redis", "limits-redis"),
    ("redis-ahead", "limits-redis"),
    ("redis-one-key", "limits-redis-one-key"),
    ("local", "limits-memory"),
)
Hit = Callable[[str], Awaitable[Any]]


# --- one of them, in its own interpreter ----------------------------------------------------------


async def ours(name: str, address: str) -> Hit:
    from outlive import Outlive, Quota

    options: dict[str, Any] = {"timeout_seconds": 30, "on_failure": "closed"}
    own = "memory://"
    if name == "local":
        options["scope"] = "local"
    elif name.startswith("redis"):
        options["cells"] = address
    else:
        own = address
    if name == "redis-ahead":
        options |= {"scope": "hybrid", "ahead": 100}
    app = Outlive(own)
    limits = app.ratelimits(Quota("bench", 100_000_000, per_seconds=60), **options)
    await app.open_client()
    return limits.hit


async def theirs(name: str, address: str) -> Hit:
    from limits import parse
    from limits.aio.storage import MemoryStorage, RedisStorage
    from limits.aio.strategies import FixedWindowRateLimiter

    storage: Any = MemoryStorage()
    if name != "limits-memory":
        plain = {"implementation": "redispy", "max_connections": 2 * ASKERS}
        storage = RedisStorage(f"async+{address}", **plain)
    limiter, item = FixedWindowRateLimiter(storage), parse("100000000/minute")

    async def hit(key: str) -> bool:
        return await limiter.hit(item, key)

    return hit


async def measure(name: str, address: str) -> dict[str, float]:
    hit = await (ours if name in OURS else theirs)(name, address)
    keys = ["ada"] if name.endswith("one-key") else [f"user {n}" for n in range(KEYS)]
    count, ends = 0, 0.0

    async def ask(number: int) -> None:
        nonlocal count
        while time.perf_counter() < ends:
            for _ in range(8):
                number += 1
                assert await hit(keys[number % len(keys)])
            count += 8

    for seconds in (0.3, SECONDS):  # the first time to warm up
        count, ends = 0, time.perf_counter() + seconds
        began, spent = time.perf_counter(), _cpu()
        await asyncio.gather(*(ask(number) for number in range(ASKERS)))
    took, spent = time.perf_counter() - began, _cpu() - spent
    return {"hits": count / took, "cpu_us": spent / count * 1e6}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# --- all of them, in turn -------------------------------------------------------------------------


def run(name: str, address: str) -> dict[str, float]:
    program = sys.executable if name in OURS or not PEER.exists() else str(PEER)
    command = [program, __file__, "--one", name, address]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=120)
    found: dict[str, float] = json.loads(ran.stdout)
    return found


def compare(rounds: int) -> None:
    sys.path.insert(0, str(ROOT))
    from tests.cell_servers import valkey_server
    from tests.postgres_server import running_server

    valkey = valkey_server()
    valkey.start()
    with tempfile.TemporaryDirectory() as folder, running_server("fsync=on") as postgres:
        places = {"sqlite": f"sqlite:///{folder}/store.db", "postgres": postgres}
        found: list[dict[str, dict[str, float]]] = []
        for number in range(rounds):
            found.append({})
            for name in (*OURS, *THEIRS):
                print(f"round {number + 1}: {name:24}", end="\r", file=sys.stderr)
                found[-1][name] = run(name, places.get(name, valkey.address))
    valkey.kill()
    print(f"{'':24}{'hits/s':>10}{'CPU µs/hit':>12}   (load {os.getloadavg()[0]:.1f})")
    for name in (*OURS, *THEIRS):
        hits, spent = (median(one[name][what] for one in found) for what in ("hits", "cpu_us"))
        print(f"{name:24}{hits:10,.0f}{spent:12.1f}")
    for mine, other in BARS:
        ratios = sorted(one[mine]["hits"] / one[other]["hits"] for one in found)
        listed = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        print(f"{mine} : {other}  × {median(ratios):.1f}  ({listed})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("NAME", "ADDRESS"))
    given = parser.parse_args()
    if given.one:
        print(json.dumps(asyncio.run(measure(*given.one))))
    else:
        compare(given.rounds)


if __name__ == "__main__":
    main()
