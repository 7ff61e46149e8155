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
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.cluster.nodes import Nodes
from tests.crash.load import Load, settled, verdict
from tests.crash.service import Machine, Partner, looking_at, until
from tests.failover.patroni import SYNCHRONOUS, TTL_SECONDS, Member, Patroni, is_isolated
from tests.postgres_server import folder_of_its_own

SEED = 20_261_122
FAILOVERS = int(os.environ.get("FAILOVERS", "24"))
LONG_WAYS = ("host killed", "cut off", "frozen", "Patroni killed")
WAYS = tuple(way for long in LONG_WAYS for way in ("server killed", long))
WAYS_ON_LOOPBACK = tuple(way for way in WAYS if way != "cut off")
NODES = 3
CLIENTS = 8
SHARDS = 16
WARM_ANSWERS = 10
"""Writes acknowledged after a fail-over before the next begins."""
PAUSE_SECONDS_MAX = 90.0


class Timed(Load):
    """A load that notes when each write was acknowledged."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.writes: list[float] = []

    async def _until_answered(
        self, path: str, body: Any, key: str, wanted: tuple[int, ...]
    ) -> httpx.Response:
        answer = await super()._until_answered(path, body, key, wanted)
        if body is not None and answer.is_success:
            self.writes.append(time.monotonic())
        return answer

    async def more(self, count: int) -> None:
        """Wait for so many more acknowledged writes."""
        wanted = len(self.writes) + count
        await until(lambda: len(self.writes) >= wanted, f"{count} writes", PAUSE_SECONDS_MAX)


@pytest.fixture
async def patroni() -> AsyncIterator[Patroni]:
    with folder_of_its_own() as folder:
        made = Patroni(folder, SYNCHRONOUS)
        try:
            await made.start()
            yield made
        finally:
            await made.clean()


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
    machine = Machine(tmp_path, address=f"{patroni.address}&shards={SHARDS}")
    ways = WAYS if is_isolated() else WAYS_ON_LOOPBACK
    pauses: defaultdict[str, list[float]] = defaultdict(list)
    leads: Counter[str] = Counter()
    try:
        machine.partner = Partner(tmp_path)
        environment = {"OUTLIVE_STORE": machine.address, "PARTNER_URL": machine.partner.url}
        nodes = Nodes(tmp_path, "tests.cluster.signup:app", NODES, **environment)
        machine.closing.append(nodes.clean)
        await nodes.open()
        async with looking_at(machine.address) as store:
            durability = next(f for f in await store.doctor() if f.name == "durability")
        assert "and on a standby before the answer" in durability.text, durability.text
        load = Timed(machine, SEED, clients=CLIENTS, urls=nodes.urls)
        load.begin()
        await load.more(WARM_ANSWERS)
        chance = random.Random(SEED)
        for number in range(1, FAILOVERS + 1):
            way = ways[number % len(ways)]
            await asyncio.sleep(chance.uniform(0, 1))
            load.check()
            began = time.monotonic()
            old, new = await fail_over(patroni, way)
            leads[new.name] += 1
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
        assert "Traceback" not in (tmp_path / "nodes.err").read_text()
    except BaseException:
        print(f"the nodes said: {nodes_said(tmp_path)}\nthe servers: {patroni.said()}")
        raise
    finally:
        await machine.clean()
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


def nodes_said(folder: Path) -> str:
    """What the nodes said last; from the first traceback on, if there is one."""
    text = (folder / "nodes.err").read_text()
    found = text.find("Traceback")
    return text[max(0, found - 500) :][:5000] if found >= 0 else text[-3000:]
