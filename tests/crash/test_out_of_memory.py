"""A step eats all memory, and the kernel kills its worker: nothing is lost, and another goes on.

The workers are put into a memory control group of the test's own making (memory.py). It is the
kernel that chooses the victim and the moment, inside of any instruction.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

import httpx
import pytest
from tests.crash.load import settled, store_flaws
from tests.crash.memory import memory_group
from tests.crash.service import Machine, until

from outlive.testing import oracles

pytestmark = [pytest.mark.crash, pytest.mark.slow]

WORKERS = 2
NEIGHBOURS = 12
WORK_SECONDS = 1.5
"""Of each neighbour: so that they are under way when it happens."""
ROOM_BYTES = 96 << 20
"""What the workers may take beyond what they had when they served."""


async def test_a_worker_killed_for_its_memory_loses_and_doubles_nothing(
    machine: Machine, record_property
) -> None:
    effects, greed = machine.folder / "effects", machine.folder / "greed"
    greed.touch()
    with memory_group() as group:
        service = await machine.serve(
            "tests.crash.greedy:service", WORKERS, EFFECTS=str(effects), GREED=str(greed)
        )
        group.limit(ROOM_BYTES)
        before = service.workers()
        for pid in before:
            group.put(pid)
        names = [str(number) for number in range(NEIGHBOURS)]
        ids = await begun(service.url, names[:-2])
        ids |= await begun(service.url, ["greedy"])
        await until(lambda: group.kills(), "the kernel kills")
        ids |= await begun(service.url, names[-2:])
        await settled(machine)
        killed = group.kills()
        (victim,) = {*before} - {*service.workers()}
        await service.all_serve()
        assert await service.end() == 0, service.said()
    facts = await machine.facts()
    runs: dict[str, list[str]] = defaultdict(list)
    keys: dict[str, set[str]] = defaultdict(set)
    for line in effects.read_text().splitlines():
        key, name, pid = line.split()
        runs[name].append(pid)
        keys[name].add(key)
    again = sorted(name for name, pids in runs.items() if len(pids) > 1)
    said = f"oom_kills={killed} jobs={len(ids)} begun_again={len(again)} lost=0 doubled=0"
    print(f"\nout of memory: {said}")
    assert killed == 1 and not greed.exists(), "one worker was killed, by the kernel"
    assert f"worker {victim}" in service.said() and "Traceback" not in service.said()
    assert not oracles.p1_acknowledged_is_durable(facts, set(ids.values()))
    assert not oracles.p6_work_ends_once(facts, set(ids.values()))
    assert not store_flaws(facts)
    assert facts.ended_as("done") == set(ids.values())
    assert runs["greedy"][0] == str(victim) != runs["greedy"][1], "another one took it over"
    assert len(runs["greedy"]) == 2
    assert all(len(found) == 1 for found in keys.values()), "one key for each job's step"
    rows = sorted(name for (name,) in await machine.rows("SELECT name FROM notes"))
    assert rows == sorted([*names, "greedy"]), "one row for each job"
    record_property("figures", said)


async def begun(url: str, names: list[str]) -> dict[str, str]:
    """Start a job for each of `names`, however often its answer gets lost; gives their ids."""

    async def start(client: httpx.AsyncClient, name: str) -> str:
        form = {"name": name, "seconds": WORK_SECONDS, "greedy": name == "greedy"}
        while True:
            try:
                key = {"Idempotency-Key": f'"{name}"'}
                answer = await client.post("/jobs", json=form, headers=key)
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                assert answer.status_code == 201, answer.text
                return str(answer.json()["id"])

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        return dict(
            zip(names, await asyncio.gather(*(start(client, n) for n in names)), strict=True)
        )
