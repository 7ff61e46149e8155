"""What is paid in memory: a call past a closed breaker, and a hit in a cache, beside peers.

A breaker's cost is that of a guarded call less that of the same call unguarded, one after the other
in one task, closed and in use: pybreaker guards a plain function (its asynchronous face needs
tornado), purgatory and ours an `async` one. A hit is one of 1,000 keys that all are there. Ours is
a `bounded` cache; `peek` is the same without `await`; cachetools' TTLCache is not asynchronous and
behind no lock, and cashews is its memory backend behind `get`.

Each is measured in an interpreter of its own, in turn; a round is the best of several short spells,
in CPU time of the process, because other programs on the machine would be counted otherwise. Shown
is the median over the rounds, and the ratio within a round.

    make bench-memory                      five rounds; WRITE=1 puts them into docs/benchmarks.md
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

from page import measured, say, short, table, write

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


def compare(rounds: int) -> list[dict[str, float]]:
    """What was found in each round."""
    found: list[dict[str, float]] = []
    for number in range(rounds):
        found.append({})
        for name in (*BREAKERS, *CACHES):
            say(f"round {number + 1}: {name}")
            found[-1][name] = run(name)
    say("")
    return found


def shown(found: list[dict[str, float]]) -> str:
    """Two tables: the medians, and how much cheaper ours is than a peer's."""
    rows = [["", "CPU µs", "a second"]]
    for name in (*BREAKERS, *CACHES):
        spent = median(one[name] for one in found)
        rows.append([name, short(spent), short(1e6 / spent)])
    ratios = [["", "ratio", "in each round"]]
    for other, mine in BARS:
        each = sorted(one[other] / one[mine] for one in found)
        listed = ", ".join(f"{ratio:.2f}" for ratio in each)
        ratios.append([f"{other} ÷ {mine}", f"× {short(median(each))}", listed])
    return f"{table(rows)}\n\n{table(ratios)}"


WHAT = """\
{measured}. CPU time of the process, not of the wall; median of {rounds} rounds in which all take
turns, each the best of {spells} short spells, ratios taken within a round. A breaker's figure is
what it adds to a call while it is closed; a hit is one of 1,000 keys that are there. pybreaker
1.4.1, purgatory 3.0.1, cashews 7.6.0, cachetools 8.0.1 (which is not asynchronous)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    parser.add_argument("--one", metavar="NAME")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(asyncio.run(measure(given.one))))
        return
    text = shown(compare(given.rounds))
    print(text, f"\n\nload {os.getloadavg()[0]:.1f}")
    if given.write:
        told = WHAT.format(measured=measured(), rounds=given.rounds, spells=SPELLS)
        write("memory-kinds", "Breakers and caches in memory", f"{told}\n\n{text}")


if __name__ == "__main__":
    main()
