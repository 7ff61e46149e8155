"""SIGSTOP beyond the lease: who wakes up late writes nothing, whatever it still believes.

A worker is frozen with requests in its sockets and steps under way. The others take its shards when
its lease has ended. Woken, it acts at once on what it finds, before it can learn that time has
passed; only the fence in the commit stands between that and the journal. The same scenario with the
fence switched off shows that the oracle would see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from tests.crash.load import settled, store_flaws
from tests.crash.service import Machine, Service, alive, looking_at, send, state_of, until
from tests.crash.takeovers import pid_of

from outlive.model import Event
from outlive.testing import oracles

pytestmark = [pytest.mark.crash, pytest.mark.slow]

LEASE_SECONDS = 2.0
CONNECTIONS = 8
"""Held open to the worker that is frozen."""
CONNECTIONS_MAX = 200


def writer(event: Event) -> str | None:
    """The node that wrote an event of the workshop: its steps say so themselves."""
    if event.kind == "step":
        result: Any = msgspec.json.decode(event.data).get("result")
        return result["node"] if isinstance(result, dict) else None
    return oracles.writer_in_journal(event)


@contextlib.asynccontextmanager
async def connections_to_one(url: str) -> AsyncIterator[tuple[str, list[httpx.AsyncClient]]]:
    """Open connections until one worker has `CONNECTIONS` of them; gives its node's name."""
    async with contextlib.AsyncExitStack() as stack:
        found: dict[str, list[httpx.AsyncClient]] = {}
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        for _ in range(CONNECTIONS_MAX):
            client = httpx.AsyncClient(base_url=url, timeout=60, limits=limits)
            await stack.enter_async_context(client)
            node = (await client.get("/who")).text.split()[1]
            found.setdefault(node, []).append(client)
            if len(found[node]) == CONNECTIONS:
                yield node, found[node]
                return
        raise AssertionError(f"{CONNECTIONS_MAX} connections: {Counter(map(len, found.values()))}")


async def start(client: httpx.AsyncClient, name: str, **form: Any) -> str:
    """Start a job; gives its id."""
    headers = {"Idempotency-Key": name}
    answer = await client.post("/jobs", json={"name": name, **form}, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def tell(client: httpx.AsyncClient, id: str) -> int:
    headers = {"Idempotency-Key": f"go-{id}"}
    return (await client.post(f"/jobs/{id}/signals/go", json={}, headers=headers)).status_code


class Freeze:
    """What a worker that was frozen for longer than its lease has left behind."""

    def __init__(self, machine: Machine, service: Service) -> None:
        self.machine, self.service = machine, service
        self.started: list[str] = []
        self.asleep_seconds = 0.0

    async def run(self) -> None:
        """Freeze one worker of three with work and requests in it, and wake it when all that was
        its is another's."""
        async with connections_to_one(self.service.url) as (node, clients):
            self.node = node
            waiting = [await start(clients[0], f"waits{n}", waits=True) for n in range(12)]
            flying = [
                await start(client, f"flies{at}", seconds=0.8) for at, client in enumerate(clients)
            ]
            self.flying = flying
            pid = pid_of(node)
            frozen_at = time.monotonic()
            send(pid, signal.SIGSTOP)
            await until(lambda: state_of(pid) == "T", "the worker is frozen")
            half = CONNECTIONS // 2
            late = [
                asyncio.create_task(start(client, f"late{at}", waits=True))
                for at, client in enumerate(clients[:half])
            ]
            told = [
                asyncio.create_task(tell(client, id))
                for client, id in zip(clients[half:], waiting, strict=False)
            ]
            await self._taken_over()
            self.asleep_seconds = time.monotonic() - frozen_at
            send(pid, signal.SIGCONT)
            self.started = [*waiting, *flying, *await asyncio.gather(*late)]
            assert set(await asyncio.gather(*told)) <= {202}

    async def _taken_over(self) -> None:
        async with looking_at(self.machine.address) as store:

            async def taken() -> bool:
                return all(shard.owner != self.node for shard in await store.owners())

            await until(taken, "the others take the frozen worker's shards")

    async def useful_again(self) -> None:
        """Wait until the woken worker owns shards again."""
        async with looking_at(self.machine.address) as store:

            async def owns() -> bool:
                return any(shard.owner == self.node for shard in await store.owners())

            await until(owns, "the woken worker owns shards again")


def environment(machine: Machine, **more: str) -> dict[str, str]:
    return {"EFFECTS": str(machine.folder / "effects"), **more}


def effects_of(machine: Machine) -> list[list[str]]:
    return [line.split() for line in (machine.folder / "effects").read_text().splitlines()]


async def test_a_worker_that_wakes_after_its_lease_writes_nothing_stale(
    machine: Machine, record_property
) -> None:
    names = environment(machine, LEASE_SECONDS=str(LEASE_SECONDS))
    service = await machine.serve("tests.crash.workshop:service", 3, **names)
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
    rows = await machine.rows("SELECT name, node FROM notes")
    assert max(Counter(name for name, _ in rows).values()) == 1
    assert len(rows) == len(freeze.started)
    keys = {(key, name) for key, name, _ in effects_of(machine)}
    assert len(keys) == len(freeze.started), "each job's work had one key, however often it ran"
    thrown_away = [facts.processes[id] for id in freeze.flying]
    taken = [p for p in thrown_away if any(event.kind == "taken" for event in p.journal)]
    assert taken, "no step was under way when the worker was frozen"
    for process in taken:
        (done,) = [event for event in process.journal if event.kind == "step"][:1]
        assert writer(done) != freeze.node, "a thrown-away activation has recorded its step"


async def test_with_the_fence_switched_off_the_oracle_sees_stale_writes(machine: Machine) -> None:
    names = environment(machine, LEASE_SECONDS=str(LEASE_SECONDS))
    service = await machine.serve("tests.crash.planted:service", 3, **names)
    freeze = Freeze(machine, service)
    await freeze.run()
    service.kill_all()
    facts = await machine.facts()
    stale = oracles.p4_one_effective_holder(facts, writer)
    print(f"\nfence off: stale={len(stale)}, the first: {stale[:1]}")
    assert stale, "the detector of stale writes has detected nothing"
    assert any(freeze.node in flaw for flaw in stale)


async def test_a_worker_frozen_inside_a_transaction_does_not_block_the_others(
    machine: Machine, record_property
) -> None:
    marker = machine.folder / "freeze"
    names = environment(machine, FROZEN_SECONDS="1.5", FREEZE=str(marker))
    service = await machine.serve("tests.crash.workshop:service", 3, **names)
    workers = service.workers()
    marker.touch()
    async with httpx.AsyncClient(base_url=service.url, timeout=5) as client:
        headers = {"Idempotency-Key": "f"}
        frozen = await first_answer(client, "/freezes", {"name": "f"}, headers)
        (victim,) = await until(
            lambda: [pid for pid in workers if state_of(pid) in ("T", "Z", "")], "one is frozen"
        )
        began = time.monotonic()
        others = [await first_answer(client, "/jobs", {"name": f"o{n}"}, {}) for n in range(3)]
        blocked = time.monotonic() - began
    await until(lambda: not alive(victim), "the frozen holder of the lock is killed")
    await service.all_serve()
    await settled(machine)
    assert f"worker {victim} was ended by SIGKILL" in service.said()
    assert await service.end() == 0, service.said()
    print(f"\nfrozen inside a transaction: others were blocked for {blocked:.2f} s")
    record_property("figures", f"blocked={blocked:.2f}s")
    facts = await machine.facts()
    assert not store_flaws(facts)
    assert {frozen, *others} <= facts.ended_as("done")
    rows = [name for name, _ in await machine.rows("SELECT name, node FROM notes")]
    assert sorted(rows).count("f") == 1, "the frozen transaction was rolled back and done again"
    assert not os.path.exists(marker)


async def first_answer(
    client: httpx.AsyncClient, path: str, form: Any, headers: dict[str, str]
) -> str:
    """Ask until somebody answers: a frozen worker does not."""
    end = time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.TransportError):
            answer = await client.post(path, json=form, headers=headers)
            if answer.status_code == 201:
                return str(answer.json()["id"])
            assert answer.status_code == 503, answer.text
        assert time.monotonic() < end, "nobody answers"
        await asyncio.sleep(0.05)
