"""SIGSTOP beyond the lease on PostgreSQL: who wakes up late writes nothing, whatever it believes.

The scenario is that of tests/crash/test_freeze.py. The same with the fence switched off shows that
the oracle would see a stale write.
"""

from __future__ import annotations

import asyncpg
import httpx
import pytest
from tests.cluster.effects import calls_in
from tests.cluster.test_rolling import WORKSHOP, spread
from tests.crash.load import settled, store_flaws
from tests.crash.service import Machine, alive
from tests.crash.takeovers import pid_of
from tests.crash.test_freeze import LEASE_SECONDS, Freeze, environment, tell, writer

from outlive.testing import oracles

pytestmark = [pytest.mark.crash, pytest.mark.slow]

FENCES = (
    "AND l.epoch = r.epoch AND l.owner = r.owner",
    "AND s.epoch = l.epoch AND s.owner = l.owner",
)


async def unfence(address: str) -> None:
    """Make the function that commits let everybody in."""
    link = await asyncpg.connect(address)
    try:
        name = "SELECT oid FROM pg_proc WHERE proname = 'commit_group'"
        made = await link.fetchval(f"SELECT pg_get_functiondef(({name}))")
        for fence in FENCES:
            assert made.count(fence) == 1, "the fence is written otherwise now: plant the bug anew"
            made = made.replace(fence, "")
        await link.execute(made)
    finally:
        await link.close()


async def test_a_node_that_wakes_after_its_lease_writes_nothing_stale(
    machine: Machine, record_property
) -> None:
    names = environment(machine, LEASE_SECONDS=str(LEASE_SECONDS))
    service = await machine.serve(WORKSHOP, 3, **names)
    await spread(machine, 3)
    freeze = Freeze(machine, service)
    await freeze.run()
    await freeze.useful_again()
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        for id in freeze.started:
            assert await tell(client, id) in (202, 409)
    await settled(machine)
    assert alive(pid_of(freeze.node)), service.said()
    assert await service.end() == 0, service.said()
    facts = await machine.facts()
    stale = oracles.p4_one_effective_holder(facts, writer)
    line = f"asleep={freeze.asleep_seconds:.2f}s jobs={len(freeze.started)} stale={len(stale)}"
    print(f"\nfrozen beyond its lease: {line}")
    record_property("figures", line)
    assert not stale
    assert not store_flaws(facts)
    assert not oracles.p1_acknowledged_is_durable(facts, freeze.started)
    assert not oracles.p6_work_ends_once(facts, freeze.started)
    assert facts.ended_as("done") == set(freeze.started)
    names_of_rows = [name for (name,) in await machine.rows("SELECT name FROM notes")]
    assert len(set(names_of_rows)) == len(names_of_rows) == len(freeze.started)
    calls = calls_in(machine.folder / "effects")
    keys = {(call.key, call.job) for call in calls}
    assert len(keys) == len(freeze.started), "each job's work had one key, however often it ran"
    thrown_away = [facts.processes[id] for id in freeze.flying]
    taken = [p for p in thrown_away if any(event.kind == "taken" for event in p.journal)]
    assert taken, "no step was under way when the node was frozen"
    for process in taken:
        (done,) = [event for event in process.journal if event.kind == "step"][:1]
        assert writer(done) != freeze.node, "a thrown-away activation has recorded its step"


async def test_with_the_fence_switched_off_the_oracle_sees_stale_writes(machine: Machine) -> None:
    names = environment(machine, LEASE_SECONDS=str(LEASE_SECONDS))
    service = await machine.serve("tests.cluster.planted:service", 3, **names)
    await unfence(machine.address)
    await spread(machine, 3)
    freeze = Freeze(machine, service)
    await freeze.run()
    service.kill_all()
    facts = await machine.facts()
    stale = oracles.p4_one_effective_holder(facts, writer)
    print(f"\nfence off: stale={len(stale)}, the first: {stale[:1]}")
    assert stale, "the detector of stale writes has detected nothing"
    assert any(freeze.node in flaw for flaw in stale)
