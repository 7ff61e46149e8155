"""SIGKILL for nodes of one PostgreSQL, several times a second: nothing lost, doubled or stuck.

Three nodes; whoever is killed has a successor at once, on the same port and with another identity.
Clients send every start, GET, signal and cancel to any node, whoever owns the process.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time

import pytest
from tests.cluster.nodes import Nodes
from tests.crash.load import Load, loaded, settled, verdict
from tests.crash.service import Machine, Partner, alive, send, until
from tests.crash.takeovers import Kill, figures, take_overs

from outlive.testing import oracles

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SEED = 20_261_122
KILLS = 300
PAUSE_SECONDS = 0.1
TAKE_OVER_SECONDS_P50 = 1.0
TAKE_OVER_SECONDS_MAX = 12.0


async def kill_nodes(nodes: Nodes, load: Load, count: int, chance: random.Random) -> list[Kill]:
    """Kill `count` nodes one after the other; every fifth may be caught while it starts."""
    kills: list[Kill] = []
    for number in range(count):
        early = number % 5 == 4
        await until(lambda early=early: len(nodes.serving()) >= 1 + (not early), "nodes that serve")
        await asyncio.sleep(chance.uniform(0, 2 * PAUSE_SECONDS))
        load.check()
        serving = nodes.serving()
        victims = [at for at in nodes.pids if at not in serving] if early else []
        place = chance.choice(victims or serving or list(nodes.pids))
        pid = nodes.pids[place]
        send(pid, signal.SIGKILL)
        kills.append(Kill(pid, time.time_ns() // 1000, len(serving) - (place in serving)))
        await until(lambda pid=pid: not alive(pid), "the killed node is gone")
        await nodes.start(place)
    return kills


async def test_three_hundred_kills_of_nodes_on_one_database(
    machine: Machine, record_property
) -> None:
    machine.partner = Partner(machine.folder)
    environment = {"OUTLIVE_STORE": machine.address, "PARTNER_URL": machine.partner.url}
    nodes = Nodes(machine.folder, "tests.cluster.signup:app", 3, **environment)
    machine.closing.append(nodes.clean)
    await nodes.open()
    load = Load(machine, SEED, clients=12, urls=nodes.urls)
    load.begin()
    await loaded(load, 20)
    began = time.monotonic()
    kills = await kill_nodes(nodes, load, KILLS, random.Random(SEED))
    seconds = time.monotonic() - began
    await nodes.all_serve()
    await load.end()
    await settled(machine)
    await nodes.end()
    found = await verdict(machine, load)
    stale = oracles.p4_one_effective_holder(found.facts)
    overs = take_overs(found.facts, kills)
    more = {"stale": len(stale), "seconds": f"{seconds:.0f}", **figures(overs), "seed": SEED}
    line = found.line(len(kills), **more)
    print(f"\nthree nodes on PostgreSQL: {line}")
    record_property("figures", line)
    found.demand()
    assert len(kills) >= KILLS
    survived = sorted(over.seconds for over in overs if over.kill.survivors)
    assert survived[len(survived) // 2] < TAKE_OVER_SECONDS_P50
    assert survived[-1] < TAKE_OVER_SECONDS_MAX
