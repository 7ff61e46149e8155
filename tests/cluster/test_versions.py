"""Nodes of two builds on one store: the older never takes what it cannot run.

With only the older there, what it cannot run says so, in GET, on its page and in the list; and it
goes on by itself when a newer node comes, though the older one lives and works on.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
from tests.cluster.effects import calls_in, run_by_two_at_once
from tests.cluster.jobs import Jobs, flaws
from tests.cluster.test_rolling import WORKSHOP, spread
from tests.crash.service import Machine, Service, until

from outlive.model import Event
from outlive.testing.oracles import Facts

pytestmark = [pytest.mark.crash, pytest.mark.slow]

SEED = 20_261_122
STRANDED = "no_worker_for_version"


async def node_of(service: Service) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{service.url}/who")).text.split()[1]


async def text_of(url: str) -> str:
    async with httpx.AsyncClient(timeout=60) as client:
        return (await client.get(url)).raise_for_status().text


async def status_of(service: Service, id: str) -> str:
    told: Any = msgspec.json.decode(await text_of(f"{service.url}/jobs/{id}"))
    return str(told["status"])


def who_ran(facts: Facts, version: int) -> set[str]:
    """The nodes that recorded a step of a job of `version`."""

    def node(event: Event) -> str:
        return str(msgspec.json.decode(event.data)["result"]["node"])

    return {
        node(event)
        for process in facts.processes.values()
        for event in process.journal
        if process.head.version == version and event.kind == "step"
    }


async def test_an_older_node_runs_nothing_of_a_newer_version(
    machine: Machine, record_property
) -> None:
    ledger = str(machine.folder / "effects")
    older = [await machine.serve(WORKSHOP, EFFECTS=ledger, VERSIONS="1") for _ in range(2)]
    await spread(machine, 2)
    newer = await machine.serve(WORKSHOP, EFFECTS=ledger, VERSIONS="1,2")
    await spread(machine, 3)
    nodes = {await node_of(service) for service in older}
    first = Jobs(machine, [service.url for service in older], SEED, 6, steps=3, seconds=0.02)
    second = Jobs(machine, [newer.url], SEED + 1, 6, steps=3, seconds=0.02, waits=True)
    first.begin()
    second.begin()
    # The older ones come and go while there is work of both versions; so shards move.
    for service in older:
        assert await service.end() == 0, service.said()
        await service.start()
        nodes.add(await node_of(service))
        done = len(second.done)
        await until(lambda done=done: len(second.done) >= done + 6, "version 2 goes on")
        first.check()
    await asyncio.gather(first.end(), second.end())
    for service in (*older, newer):
        assert await service.end() == 0, service.said()
    facts = await machine.facts()
    stranded = [
        process.id
        for process in facts.processes.values()
        if any(event.kind == "stranded" for event in process.journal)
    ]
    versions = {process.head.version for process in facts.processes.values()}
    line = f"jobs={len(first.ids)}+{len(second.ids)} stranded_meanwhile={len(stranded)}"
    print(f"\ntwo builds at once: {line}")
    record_property("figures", line)
    assert versions == {1, 2}
    assert who_ran(facts, 1) & nodes, "the older ones have worked too"
    assert not who_ran(facts, 2) & nodes
    assert not run_by_two_at_once(calls_in(machine.folder / "effects"))
    second.ids |= first.ids
    assert not await flaws(machine, second, facts)


async def test_what_no_node_runs_is_shown_and_goes_on_when_a_newer_node_comes(
    machine: Machine, record_property
) -> None:
    ledger = str(machine.folder / "effects")
    newer = await machine.serve(WORKSHOP, EFFECTS=ledger, VERSIONS="1,2")
    jobs = Jobs(machine, [newer.url], SEED, 0)
    waiting = [
        str((await jobs.ask("POST", "/jobs", {"name": f"w{n}", "waits": True}))["id"])
        for n in range(8)
    ]
    for n, id in enumerate(waiting):
        jobs.ids[f"w{n}"] = {id}
        await until(lambda id=id: is_now(newer, id, "waiting"), f"{id} waits")
    older = await machine.serve(WORKSHOP, EFFECTS=ledger, VERSIONS="1")
    assert await newer.end() == 0, newer.said()
    jobs.urls = [older.url]
    for n, id in enumerate(waiting[:4]):
        await jobs.ask("POST", f"/jobs/{id}/signals/go", {}, f"go-{n}")
    for id in waiting[:4]:
        await until(lambda id=id: is_now(older, id, STRANDED), f"{id} is {STRANDED}")
    page = await text_of(f"{older.url}/outlive/processes/{waiting[0]}")
    assert STRANDED in page
    listed = await text_of(f"{older.url}/outlive?status={STRANDED}")
    assert all(id in listed for id in waiting[:4]) and waiting[7] not in listed
    mine = await jobs.start("mine")
    await until(lambda: is_now(older, mine, "done"), "the older node works on")
    before = asyncio.get_running_loop().time()
    await newer.start()
    for id in waiting[:4]:
        await until(lambda id=id: is_now(older, id, "done"), f"{id} has gone on")
    seconds = asyncio.get_running_loop().time() - before
    for n, id in enumerate(waiting[4:], 4):
        await jobs.ask("POST", f"/jobs/{id}/signals/go", {}, f"go-{n}")
    for id in waiting[4:]:
        await until(lambda id=id: is_now(older, id, "done"), f"{id} has gone on")
    await spread(machine, 2)
    print(f"\nno worker for version 2: went on {seconds:.2f} s after a newer node was started")
    record_property("figures", f"went_on={seconds:.2f}s")
    for service in (older, newer):
        assert await service.end() == 0, service.said()
    assert not await flaws(machine, jobs, await machine.facts())


async def is_now(service: Service, id: str, status: str) -> bool:
    return await status_of(service, id) == status
