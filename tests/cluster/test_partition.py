"""A minority is cut off from the database, in every way a line can break: it stops by itself.

Three nodes in network namespaces of their own, PostgreSQL in a fourth. The line of one is cut;
it begins no step after its lease, whatever it believes. The others take its shards over and go on.
When the line is mended it works again, and what it had not been told it finds out.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from tests.cluster.effects import calls_in, run_by_two_at_once
from tests.cluster.jobs import Jobs, flaws
from tests.cluster.namespaces import Cut, Hosts, address_here, address_there, hosts, server_in
from tests.cluster.nodes import Nodes
from tests.cluster.test_rolling import WORKSHOP, spread
from tests.crash.load import settled
from tests.crash.service import Machine, alive, looking_at, until
from tests.postgres_server import Server, answers

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SEED = 20_261_122
NODES = 3
LEASE_SECONDS = 5.0
DEMOTED = "this node could not renew its lease in time"
CUTS: tuple[Cut, ...] = ("down", "deaf", "mute")


async def test_a_node_that_is_cut_off_stops_before_its_lease_ends_and_the_rest_goes_on(
    tmp_path: Path, record_property
) -> None:
    with hosts(NODES) as places, server_in(places.hub) as server:
        machine = Machine(tmp_path, address=address_here(server))
        try:
            await until(lambda: answers(machine.address), "the server answers")
            line = await cut_and_mended(machine, places, server)
        finally:
            await machine.clean()
    print(f"\ncut off from the database: {line}")
    record_property("figures", line)


async def cut_and_mended(machine: Machine, places: Hosts, server: Server) -> str:
    effects = machine.folder / "effects"
    nodes = Nodes(
        machine.folder, WORKSHOP, NODES, OUTLIVE_STORE=address_there(server),
        EFFECTS=str(effects), LEASE_SECONDS=str(LEASE_SECONDS), NAMESPACES=",".join(places.nodes),
    )  # fmt: skip
    machine.closing.append(nodes.clean)
    await nodes.open()
    jobs = Jobs(machine, nodes.urls, SEED, clients=5, steps=6, seconds=0.05, waits=True)
    jobs.begin()
    stopped, taken = [], []
    for number, how in enumerate(CUTS):
        names = [await name_of(url) for url in nodes.urls]
        await spread(machine, NODES)
        done = len(jobs.done)
        await until(lambda done=done: len(jobs.done) >= done + 10, "work goes on")
        before = nodes.err.read_text().count(DEMOTED)
        places.cut(number, how)
        began = time.monotonic()
        await until(
            lambda n=before: nodes.err.read_text().count(DEMOTED) > n, f"{how}: it demotes itself"
        )
        stopped.append(time.monotonic() - began)
        await spread(machine, NODES - 1)
        taken.append(time.monotonic() - began)
        done = len(jobs.done)
        await until(lambda done=done: len(jobs.done) >= done + 10, f"{how}: the others go on")
        healed = time.monotonic()
        places.heal(number, how)
        await spread(machine, NODES)
        name = await name_of(nodes.urls[number])
        await until(lambda name=name, at=healed: begins(effects, name, at), "it works again")
        theirs = [call.began for call in calls_in(effects) if call.node == names[number]]
        assert theirs, "it had work when it was cut off"
        last = max(at for at in theirs if at < healed) - began
        assert last < LEASE_SECONDS, f"{how}: it has begun a step {last:.2f} s after the cut"
        assert stopped[-1] < LEASE_SECONDS, f"{how}: it demoted itself after {stopped[-1]:.2f} s"
        assert alive(nodes.pids[number]), "nobody had to start it again"
        jobs.check()
    await jobs.end()
    await settled(machine)
    assert "Traceback" not in nodes.err.read_text(), nodes.said()
    await nodes.end()  # what a client still asks on a line that has just been mended is cut off
    facts = await machine.facts()
    calls = calls_in(effects)
    assert not await flaws(machine, jobs, facts)
    assert facts.ended_as("done") == {id for ids in jobs.ids.values() for id in ids}
    assert not run_by_two_at_once(calls)
    assert not await taken_again(machine), "who was back was taken for dead"
    again = sum(count > 1 for count in Counter(call.key for call in calls).values())
    figures = {
        "cuts": len(CUTS), "jobs": len(jobs.ids), "lost": 0, "doubled": 0, "begun_again": again,
        "demoted_max": f"{max(stopped):.2f}s", "taken_max": f"{max(taken):.2f}s",
    }  # fmt: skip
    return " ".join(f"{name}={value}" for name, value in figures.items())


async def taken_again(machine: Machine) -> list[tuple[int, str]]:
    """The shards that were taken from one node more often than it was cut off: once."""
    async with looking_at(machine.address) as store:
        holds = await store.ledger(limit=10_000)
    taken = Counter((hold.shard, hold.previous) for hold in holds if hold.previous)
    return [place for place, times in taken.items() if times > 1]


async def name_of(url: str) -> str:
    """The node that answers there now."""
    async with httpx.AsyncClient(timeout=60) as client:
        answer = (await client.get(f"{url}/who")).raise_for_status()
    return answer.text.split()[1]


def begins(effects: Path, node: str, after: float) -> bool:
    """Whether a node has begun a step after that time."""
    return any(call.node == node and call.began > after for call in calls_in(effects))
