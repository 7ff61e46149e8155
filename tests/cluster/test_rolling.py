"""A rolling restart of three nodes under load: a short pause for whoever moves, and nothing else.

The pauses are measured from outside: every step writes a line when it begins and when it has
ended. The same lines say that no two nodes ever ran one process at one moment, and that no step
was cut off and run again: an end in order is no crash. Nodes have their default settings.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter

import pytest
from tests.cluster.effects import calls_in, pauses, run_by_two_at_once
from tests.cluster.jobs import Jobs, flaws
from tests.crash.service import Machine, looking_at, send, until
from tests.crash.test_drain import crashes

from outlive.model import Shard

pytestmark = [pytest.mark.crash, pytest.mark.slow]

WORKSHOP = "tests.cluster.workshop:service"
NODES = 3
PAUSE_SECONDS_P50 = 1.0
"""Asserted with room for a busy machine; the measured figure is printed."""
SEED = 20_261_122
KILLS = 6


async def spread(machine: Machine, nodes: int) -> list[Shard]:
    """Wait until `nodes` nodes own all shards, none more than one more than another."""
    async with looking_at(machine.address) as store:

        async def even() -> list[Shard] | None:
            shards = await store.owners()
            counts = Counter(shard.owner for shard in shards)
            if "" in counts or len(counts) != nodes:
                return None
            return shards if max(counts.values()) - min(counts.values()) <= 1 else None

        found: list[Shard] = await until(even, f"the shards are spread over {nodes} nodes")
        return found


async def test_a_rolling_restart_pauses_a_process_for_a_moment(
    machine: Machine, record_property
) -> None:
    ledger = machine.folder / "effects"
    services = [await machine.serve(WORKSHOP, EFFECTS=str(ledger)) for _ in range(NODES)]
    shards = len(await spread(machine, NODES))
    urls = [service.url for service in services]
    jobs = Jobs(machine, urls, SEED, clients=20, steps=25, seconds=0.06)
    jobs.begin()
    await until(lambda: len(jobs.done) >= 20, "the load is on")
    before = len((await machine.facts()).holds)
    for service in services:
        assert await service.end() == 0, service.said()
        await service.start()
        await spread(machine, NODES)
        done = len(jobs.done)
        await until(lambda done=done: len(jobs.done) >= done + 6, "work goes on")
        jobs.check()
    moves = len((await machine.facts()).holds) - before
    await jobs.end()
    await spread(machine, NODES)
    for service in services:
        assert await service.end() == 0, service.said()
    facts = await machine.facts()
    calls = calls_in(ledger)
    found = pauses(calls)
    middle, last = found[len(found) // 2].seconds, found[-1].seconds
    doubled = [key for key, count in Counter(call.key for call in calls).items() if count > 1]
    line = (
        f"jobs={len(jobs.ids)} steps={len(calls)} doubled={len(doubled)} pauses={len(found)}"
        f" pause_p50={middle:.3f} pause_p90={found[int(len(found) * 0.9)].seconds:.3f}"
        f" pause_max={last:.3f} moves={moves} shards={shards} crashes={len(crashes(facts))}"
    )
    print(f"\nrolling restart of {NODES} nodes: {line}")
    record_property("figures", line)
    assert not await flaws(machine, jobs, facts)
    assert not doubled and not run_by_two_at_once(calls) and not crashes(facts)
    assert all(call.ended is not None for call in calls), "a step was cut off"
    assert found, "nothing was under way when a node left"
    assert middle < PAUSE_SECONDS_P50
    share = -(-shards // NODES)
    assert moves <= NODES * 2 * (share + 2), "shards moved that need not have"


async def test_a_node_that_is_killed_while_it_hands_its_shards_over_takes_nothing_with_it(
    machine: Machine, record_property
) -> None:
    ledger = machine.folder / "effects"
    services = [await machine.serve(WORKSHOP, EFFECTS=str(ledger)) for _ in range(2)]
    await spread(machine, 2)
    jobs = Jobs(machine, [service.url for service in services], SEED, 10, steps=10, seconds=0.05)
    jobs.begin()
    await until(lambda: len(jobs.done) >= 10, "the load is on")
    chance = random.Random(SEED)
    for number in range(KILLS):
        service = services[number % 2]
        pids = [service.pid, *service.workers()]
        send(service.pid, signal.SIGTERM)
        await asyncio.sleep(chance.uniform(0.1, 0.6))
        killed = service.kill_all()
        await service.gone(pids)
        await service.start()
        await spread(machine, 2)
        jobs.check()
    await jobs.end()
    for service in services:
        assert await service.end() == 0, service.said()
    facts = await machine.facts()
    line = f"kills={KILLS} jobs={len(jobs.ids)} crashes={len(crashes(facts))}"
    print(f"\nkilled while handing over: {line}")
    record_property("figures", line)
    assert killed and not await flaws(machine, jobs, facts)
    assert not run_by_two_at_once(calls_in(ledger))
