"""SIGTERM under load: an end in order is no crash, and a rolling restart is not an outage.

Running steps end and are recorded, so nothing outside is asked twice; shards are handed back, so
nobody counts a crash; who asks for readiness is told no while it lasts.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import httpx
import msgspec
import pytest
from tests.crash.load import Load, loaded, settled, verdict
from tests.crash.service import Machine, alive, send, until

from outlive.testing.oracles import Facts

pytestmark = [pytest.mark.crash, pytest.mark.slow]

GRACE_SECONDS = 20.0
STEP_SECONDS = 6.0
"""The partner opens a customer after half of it, and answers after the other half."""
SEED = 20_261_222


def crashes(facts: Facts) -> list[str]:
    """The take-overs that were counted as crashes."""
    taken = [event for tail in facts.tails.values() for event in tail if event.kind == "taken"]
    said: list[Any] = [msgspec.json.decode(event.data) for event in taken]
    return [event["node"] for event in said if event.get("crash")]


def recorded(facts: Facts, ids: list[str], step: str) -> int:
    """How many of the processes `ids` have recorded `step`."""
    return sum(
        msgspec.json.decode(event.data)["id"] == step
        for id in ids
        for event in facts.processes[id].journal
        if event.kind == "step"
    )


async def test_sigterm_under_load_records_running_steps_and_counts_no_crash(
    machine: Machine, record_property
) -> None:
    service = await machine.sign_up(workers=2)
    load = Load(machine, SEED)
    load.begin()
    await loaded(load, 40)
    began = time.monotonic()
    assert await service.end() == 0, service.said()
    seconds = time.monotonic() - began
    assert seconds < GRACE_SECONDS
    first = await machine.facts()
    assert not crashes(first)
    assert all(shard.owner == "" for shard in first.shards), "a shard was not handed back"
    await service.start()
    await loaded(load, len(load.answers) + 20)
    await load.end()
    await settled(machine)
    assert await service.end() == 0, service.said()
    found = await verdict(machine, load)
    line = found.line(0, drained_seconds=f"{seconds:.2f}", crashes=len(crashes(found.facts)))
    print(f"\nSIGTERM under load: {line}")
    record_property("figures", line)
    found.demand()
    assert not crashes(found.facts)


async def test_steps_under_way_end_and_readiness_says_no_meanwhile(machine: Machine) -> None:
    service = await machine.sign_up(workers=1)
    assert machine.partner is not None
    await machine.partner.behave(delay_seconds=STEP_SECONDS, on=["customers"])
    form = {"firstName": "Ada", "lastName": "L", "email": "ada@example.org"}
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        begun = await asyncio.gather(*(client.post("/registrations", json=form) for _ in range(10)))
        ids = [answer.json()["id"] for answer in begun]
        await until(lambda: under_way(machine, 10), "ten steps are under way")
        assert (await client.get("/readyz")).status_code == 200

        async def refused() -> Any:
            answer = await client.get("/readyz")
            return answer if answer.status_code == 503 else None

        ending = asyncio.create_task(service.end())
        answer = await until(refused, "readiness says no")
        assert answer.json()["phase"] == "draining"
        assert (await client.post("/registrations", json=form)).status_code == 503
        assert (await client.get("/livez")).status_code == 200
    assert await ending == 0, service.said()
    facts = await machine.facts()
    assert recorded(facts, ids, "open_customer") == 10
    assert recorded(facts, ids, "send_mail") == 0, "no new step begins while draining"
    assert {effect.count for effect in await machine.partner.effects("customer")} == {1}
    assert set(facts.processes) == set(ids)


async def under_way(machine: Machine, count: int) -> bool:
    """Whether the partner has done so much, which it answers only a while later."""
    assert machine.partner is not None
    return len(await machine.partner.effects("customer")) == count


async def test_a_rolling_restart_loses_nothing_and_counts_no_crash(
    machine: Machine, record_property
) -> None:
    service = await machine.sign_up(workers=3)
    load = Load(machine, SEED + 1)
    load.begin()
    await loaded(load, 20)
    before = service.serving()
    for worker in before:
        send(worker, signal.SIGTERM)
        await until(lambda pid=worker: not alive(pid), f"worker {worker} ends")
        await service.all_serve()
        await loaded(load, len(load.answers) + 10)
        assert f"worker {worker} ended with exit status 0" in service.said(), service.said()
    assert not set(before) & set(service.workers())
    await load.end()
    await settled(machine)
    assert await service.end() == 0, service.said()
    found = await verdict(machine, load)
    answered = dict(load.statuses)
    line = found.line(0, crashes=len(crashes(found.facts)), broken=load.broken, answers=answered)
    print(f"\nrolling restart: {line}")
    record_property("figures", line)
    found.demand()
    assert not crashes(found.facts)
