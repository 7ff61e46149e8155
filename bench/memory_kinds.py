"""What is paid in memory: a call past a closed breaker, and a hit in a cache, beside peers.

A breaker's cost is that of a guarded call less that of the same call unguarded, one after the other
in one task, closed and in use: pybreaker guards a plain function (its asynchronous face needs
tornado), purgatory and ours an `async` one. A hit is one of 1,000 keys that all are there. Ours is
a `bounded` cache; `peek` is the same without `await`; cachetools' TTLCache is not asynchronous and
behind no lock, and cashews is its memory backend behind `get`.

Each is measured in an interpreter of its own, in turn; a round is the best of several short spells,
in CPU time of the process, because other programs on the machine would be counted otherwise. Shown
is the median over the rounds, and the ratio within a round.

    make bench-memory                      five rounds
    bench/memory_kinds.py --rounds 1       does it run at all?
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "bench" / ".venv-memory" / "bin" / "python"
CALLS = 20_000
SPELLS = 12
KEYS = [f"user {number}" for number in range(1000)]
BREAKERS = ("outlive", "purgatory", "pybreaker")
CACHES = ("outlive-hit", "outlive-peek", "cachetools-hit", "cashews-hit")
BARS = (
    ("pybreaker", "outlive"),
    ("purgatory", "outlive"),
    ("cachetools-hit", "outlive-hit"),
    ("cashews-hit", "outlive-hit"),
)
Spell = Callable[[], Awaitable[None]]


# --- one of them, in its own interpreter ----------------------------------------------------------


async def _nothing() -> int:
    return 1


def _plain() -> int:
    return 1


async def _awaited(call: Callable[[], Awaitable[Any]]) -> None:
    for _ in range(CALLS):
        await call()


async def _called(call: Callable[[], Any]) -> None:
    for _ in range(CALLS):
        call()


async def breaker(name: str) -> tuple[Spell, Spell]:
    """A spell of guarded calls, and one of the same calls unguarded."""
    if name == "outlive":
        from outlive import Outlive

        app = Outlive("memory://")
        await app.open()
        ours = app.dependency("bench").guard()(_nothing)
        return lambda: _awaited(ours), lambda: _awaited(_nothing)
    if name == "purgatory":
        from purgatory import AsyncCircuitBreakerFactory

        theirs = AsyncCircuitBreakerFactory()("bench")(_nothing)
        return lambda: _awaited(theirs), lambda: _awaited(_nothing)
    from pybreaker import CircuitBreaker

    guarded = CircuitBreaker()(_plain)
    return lambda: _called(guarded), lambda: _called(_plain)


async def cache(name: str) -> Spell:
    """A spell of hits."""
    if name.startswith("outlive"):
        from outlive import Outlive, bounded

        app = Outlive("memory://")
        await app.open()

        @app.cache(bounded(3600.0), ttl=3600.0)
        async def value(key: str) -> int:
            return len(key)

        for key in KEYS:
            await value(key)
        if name == "outlive-peek":
            return lambda: _hit_plain(value.peek)
        return lambda: _hit(value)
    if name.startswith("cachetools"):
        from cachetools import TTLCache

        kept: Any = TTLCache(maxsize=10_000, ttl=3600)
        for key in KEYS:
            kept[key] = len(key)
        return lambda: _hit_plain(kept.__getitem__)
    from cashews import Cache

    shared = Cache()
    shared.setup("mem://", size=10_000)
    for key in KEYS:
        await shared.set(key, len(key), expire=3600)
    return lambda: _hit(shared.get)


async def _hit(get: Callable[[str], Awaitable[Any]]) -> None:
    for _ in range(CALLS // len(KEYS)):
        for key in KEYS:
            await get(key)


async def _hit_plain(get: Callable[[str], Any]) -> None:
    for _ in range(CALLS // len(KEYS)):
        for key in KEYS:
            get(key)


async def _least(spell: Spell) -> float:
    """Microseconds for one call, in the best spell."""
    found = []
    for _ in range(SPELLS):
        began = time.process_time()
        await spell()
        found.append((time.process_time() - began) / CALLS * 1e6)
        await asyncio.sleep(0)
    return min(found)


async def measure(name: str) -> float:
    if name in CACHES:
        return await _least(await cache(name))
    guarded, plain = await breaker(name)
    return await _least(guarded) - await _least(plain)


# --- all of them, in turn -------------------------------------------------------------------------


def run(name: str) -> float:
    program = sys.executable if name.startswith("outlive") else str(PEER)
    ran = subprocess.run(
        [program, __file__, "--one", name], stdout=subprocess.PIPE, text=True, check=True,
        timeout=120,
    )  # fmt: skip
    return float(json.loads(ran.stdout))


def compare(rounds: int) -> None:
    names = (*BREAKERS, *CACHES)
    found: list[dict[str, float]] = []
    for number in range(rounds):
        found.append({})
        for name in names:
            print(f"round {number + 1}: {name:24}", end="\r", file=sys.stderr)
            found[-1][name] = run(name)
    print(f"{'':24}{'CPU µs':>8}{'a second':>12}   (load {os.getloadavg()[0]:.1f})")
    for name in names:
        spent = median(one[name] for one in found)
        print(f"{name:24}{spent:8.2f}{1e6 / spent:12,.0f}")
    for other, mine in BARS:
        ratios = sorted(one[other] / one[mine] for one in found)
        listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{other} : {mine}  × {median(ratios):.2f}  ({listed})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", metavar="NAME")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(asyncio.run(measure(given.one))))
    else:
        compare(given.rounds)


if __name__ == "__main__":
    main()
