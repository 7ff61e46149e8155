"""SIGKILL at any moment: nothing accepted is lost, nothing happens twice, nothing stands still.

A hundred kills of the only worker, a hundred of one of three, kills of everything at once, and
kills while the partner misbehaves; all under load, on the sign-up that a newcomer reads first.

    Service   `outlive serve`: its supervisor starts each successor, which imports everything first
    Nodes     the same workers, born by a nursery that has imported everything: so there is time for
              hundreds of deaths
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence

import pytest
from tests.cluster.nodes import Nodes
from tests.crash.load import Load, loaded, settled, verdict
from tests.crash.service import SIGN_UP, Machine, Partner, Service, alive, send, until
from tests.crash.takeovers import Kill, figures, take_overs

pytestmark = [pytest.mark.crash, pytest.mark.slow]

TAKE_OVER_SECONDS = 2.0
TAKE_OVER_SECONDS_MAX = 8.0
TAKE_OVERS_IN_TIME = 0.95
SEED = 20_261_122


def kill(pid: int, serving: Sequence[int]) -> Kill:
    survivors = len([other for other in serving if other != pid])
    send(pid, signal.SIGKILL)
    return Kill(pid, time.time_ns() // 1000, survivors)


async def nodes_under_load(machine: Machine, count: int, load: Load) -> Nodes:
    """As many workers of the sign-up on this machine's store, and a load on them that is on."""
    assert machine.partner is not None
    environment = {"OUTLIVE_STORE": machine.address, "PARTNER_URL": machine.partner.url}
    nodes = Nodes(machine.folder, SIGN_UP, count, **environment)
    machine.closing.append(nodes.clean)
    await nodes.open()
    load.urls = nodes.urls
    load.begin()
    await loaded(load, 20)
    return nodes


async def kill_nodes(
    nodes: Nodes,
    load: Load,
    count: int,
    chance: random.Random,
    pause_seconds: float,
    survivors: int = 0,
) -> list[Kill]:
    """Kill `count` nodes, one after the other, each `0…2·pause_seconds` after the one before.

    Most had time to say that they serve; every fifth may be caught while it starts. Before each
    kill `survivors` more than the victim must serve. Whoever is killed has a successor at once.
    """
    kills: list[Kill] = []
    for number in range(count):
        early = number % 5 == 4
        least = survivors if early else survivors + 1
        await until(lambda least=least: len(nodes.serving()) >= least, "nodes that serve")
        if not early:
            # A life without any progress counts as a crash of everything in it; ten are too many.
            await loaded(load, len(load.answers) + 3)
        await asyncio.sleep(chance.uniform(0, 2 * pause_seconds))
        load.check()
        serving = nodes.serving()
        starting = [at for at in nodes.pids if at not in serving]
        place = chance.choice((early and starting) or serving or [*nodes.pids])
        pid = nodes.pids[place]
        kills.append(kill(pid, [nodes.pids[at] for at in serving]))
        await until(lambda pid=pid: not alive(pid), "it is gone")
        await nodes.start(place)
    return kills


async def kill_worker(service: Service, load: Load) -> Kill:
    """Kill one of the workers of `outlive serve` when all serve; its supervisor notices."""
    await service.all_serve()
    load.check()
    serving = service.serving()
    return kill(serving[0], serving)


async def finish_nodes(machine: Machine, nodes: Nodes, load: Load) -> None:
    """Let everything come to its end, then stop the nodes in order."""
    await nodes.all_serve()
    await load.end()
    await settled(machine)
    await nodes.end()
    assert "Traceback" not in nodes.err.read_text(), nodes.said()


async def finish(machine: Machine, service: Service, load: Load) -> None:
    """Let everything come to its end, then stop the service in order."""
    await load.end()
    await settled(machine)
    assert await service.end() == 0, service.said()


async def test_a_hundred_kills_of_the_only_worker(machine: Machine, record_property) -> None:
    machine.partner = Partner(machine.folder)
    load = Load(machine, SEED, pause_seconds=0.6)
    nodes = await nodes_under_load(machine, 1, load)
    kills = await kill_nodes(nodes, load, 100, random.Random(SEED), 0.1)
    await finish_nodes(machine, nodes, load)
    found = await verdict(machine, load)
    line = found.line(len(kills), **figures(take_overs(found.facts, kills)), seed=SEED)
    print(f"\none worker: {line}")
    record_property("figures", line)
    found.demand()
    assert len(kills) >= 100


async def test_a_hundred_kills_of_one_of_three_workers(machine: Machine, record_property) -> None:
    machine.partner = Partner(machine.folder)
    load = Load(machine, SEED + 1)
    nodes = await nodes_under_load(machine, 3, load)
    kills = await kill_nodes(nodes, load, 100, random.Random(SEED + 1), 0.1, survivors=1)
    await finish_nodes(machine, nodes, load)
    found = await verdict(machine, load)
    overs = take_overs(found.facts, kills)
    alone = len([found for found in kills if not found.survivors])
    line = found.line(len(kills), alone=alone, **figures(overs), seed=SEED + 1)
    print(f"\none of three workers: {line}")
    record_property("figures", line)
    found.demand()
    assert len(kills) >= 100
    survived = [over for over in overs if over.kill.survivors]
    late = [over for over in survived if over.seconds > TAKE_OVER_SECONDS]
    assert len(late) <= len(survived) * (1 - TAKE_OVERS_IN_TIME), f"late: {late}"
    assert max(over.seconds for over in overs) <= TAKE_OVER_SECONDS_MAX
    assert len(overs) >= len(kills) / 2


async def test_killing_everything_at_once(machine: Machine, record_property) -> None:
    service = await machine.sign_up(workers=3)
    load = Load(machine, SEED + 2)
    load.begin()
    chance = random.Random(SEED + 2)
    killed = 0
    for _ in range(4):
        await kill_worker(service, load)
        await loaded(load, len(load.answers) + 20)
        await service.all_serve()
        await asyncio.sleep(chance.uniform(0, 0.3))
        killed += 1 + service.kill_all()
        await service.start()
        load.check()
    await finish(machine, service, load)
    found = await verdict(machine, load)
    line = found.line(killed, seed=SEED + 2)
    print(f"\neverything at once: {line}")
    record_property("figures", line)
    found.demand()


MOODS = (
    {"answer": "after_commit_drop"},
    {"fail": "rate:0.3", "on": ["customers", "mails", "undo"]},
    {"delay_seconds": 0.4},
    {},
)


async def test_kills_while_the_partner_misbehaves(machine: Machine, record_property) -> None:
    machine.partner = Partner(machine.folder)
    load = Load(machine, SEED + 3)
    nodes = await nodes_under_load(machine, 2, load)
    chance = random.Random(SEED + 3)
    kills: list[Kill] = []
    for mood in MOODS * 2:
        await machine.partner.behave(**mood)
        await loaded(load, len(load.answers) + 10)
        kills += await kill_nodes(nodes, load, 4, chance, 0.1, survivors=1)
    await machine.partner.behave()
    await finish_nodes(machine, nodes, load)
    found = await verdict(machine, load, calm=False)
    line = found.line(len(kills), **figures(take_overs(found.facts, kills)), seed=SEED + 3)
    print(f"\na partner that misbehaves: {line}")
    record_property("figures", line)
    found.demand()
