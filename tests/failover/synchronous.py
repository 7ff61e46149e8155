"""The primary dies again and again under load, with a synchronous standby: nothing is lost.

Three PostgreSQL servers, three nodes, clients that note whatever they were answered. The primary is
killed (with Patroni or alone), left behind by its Patroni, frozen for longer than its key lives and
then killed, as by a watchdog, or cut off. Each time the pause is measured: the longest time without
an acknowledged write, from then on. The old primary comes back before the next.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.crash.load import settled, verdict
from tests.crash.service import until
from tests.failover.patroni import (
    SYNCHRONOUS,
    TTL_SECONDS,
    Member,
    Patroni,
    is_isolated,
    running_patroni,
)
from tests.failover.sign_up import SEED, Timed, finding, sign_up_on

FAILOVERS = int(os.environ.get("FAILOVERS", "24"))
LONG_WAYS = ("host killed", "cut off", "frozen", "Patroni killed")
WAYS = tuple(way for long in LONG_WAYS for way in ("server killed", long))
WAYS_ON_LOOPBACK = tuple(way for way in WAYS if way != "cut off")
WARM_ANSWERS = 10
"""Writes acknowledged after a fail-over before the next begins."""


@pytest.fixture
async def patroni() -> AsyncIterator[Patroni]:
    async with running_patroni(SYNCHRONOUS) as made:
        yield made


async def fail_over(patroni: Patroni, way: str) -> tuple[Member, Member]:
    """Something happens to the primary; gives it and its successor, and has it come back."""
    old = await until(patroni.leader, "somebody leads")
    match way:
        case "server killed":
            old.kill_server()
        case "host killed":
            old.kill_all()
        case "Patroni killed":
            old.kill_watcher()
        case "frozen":
            old.freeze()
        case "cut off":
            old.cut()
    new = await until(lambda: patroni.leader(old), f"{old.name}, {way}: a successor", 90)
    return old, new


def bring_back(old: Member, way: str) -> None:
    match way:
        case "host killed" | "Patroni killed":
            old.start()
        case "frozen":  # what a watchdog does, and Patroni cannot do without: see docs/failover.md
            old.kill_all()
            old.start()
        case "cut off":
            old.mend()


async def test_no_acknowledged_commit_is_lost_when_the_primary_is(
    tmp_path: Path, patroni: Patroni
) -> None:
    ways = WAYS if is_isolated() else WAYS_ON_LOOPBACK
    pauses: defaultdict[str, list[float]] = defaultdict(list)
    async with sign_up_on(patroni, tmp_path) as (machine, nodes):
        durability = (await finding(machine, "durability")).text
        assert "and on a standby before the answer" in durability, durability
        load = Timed(machine, nodes)
        load.begin()
        await load.more(WARM_ANSWERS)
        chance = random.Random(SEED)
        for number in range(1, FAILOVERS + 1):
            way = ways[number % len(ways)]
            await asyncio.sleep(chance.uniform(0, 1))  # at any moment of the load
            load.check()
            began = time.monotonic()
            old, new = await fail_over(patroni, way)
            led = time.monotonic() - began
            await load.more(WARM_ANSWERS)
            bring_back(old, way)
            await patroni.well()
            await load.more(1)  # a server that was left behind still acknowledges for a moment
            pause = longest_pause(load.writes, began)
            pauses[way].append(pause)
            print(
                f"{number:3} {old.name} {way:14} {new.name} leads after {led:5.1f} s, "
                f"no write acknowledged for {pause:5.2f} s",
                flush=True,
            )
            load.check()
        await load.end()
        await settled(machine)
        await nodes.end()
        found = await verdict(machine, load)
        assert "Traceback" not in nodes.err.read_text()
    every = sorted(pause for found_pauses in pauses.values() for pause in found_pauses)
    line = found.line(
        FAILOVERS,
        writes=len(load.writes),
        pause_p50=f"{every[len(every) // 2]:.1f}s",
        pause_max=f"{every[-1]:.1f}s",
        ttl=f"{TTL_SECONDS}s",
        in_namespaces=is_isolated(),
        seed=SEED,
    )
    print(f"\nthe primary is lost under load, synchronous: {line}")
    for way, seconds in pauses.items():
        said = ", ".join(f"{pause:.1f}" for pause in sorted(seconds))
        print(f"    {way}: {said} s")
    found.demand()


def longest_pause(writes: list[float], since: float) -> float:
    """The longest time without an acknowledged write that ended after `since`."""
    first = next(at for at, when in enumerate(writes) if when >= since)
    moments = [writes[first - 1] if first else since, *writes[first:]]
    return max(later - earlier for earlier, later in itertools.pairwise(moments))
