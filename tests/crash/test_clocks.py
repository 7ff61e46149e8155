"""Workers with clocks an hour apart, and one twice as fast: nothing is held twice, nothing lost.

Each service has one worker under libfaketime, which shifts what the kernel says to that process
alone; all of them work on one SQLite file. Workers are killed meanwhile, so that shards are taken
over between the clocks. Judged like the kills: every promise of the store, and the holder of each
record.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
from tests.crash.load import settled, store_flaws
from tests.crash.service import ROOT, Machine, Service, alive, looking_at, send, until
from tests.crash.test_freeze import environment, first_answer, writer

from outlive.clock import MICROS
from outlive.testing import oracles

pytestmark = [pytest.mark.crash, pytest.mark.slow]

CLOCKS = {
    "right": "",
    "an hour ahead": "+3600",
    "an hour behind": "-3600",
    "twice as fast": "+0 x2",
}
ROUNDS = 2
JOBS = 6
"""For each worker in each round."""
LEASE_SECONDS = 3.0
WAIT_SECONDS = 4 * 3600
"""Longer than the clocks are apart: the store's clock is the fastest one's, so it may jump by that
while a wait is under way."""
# Debian 12's libfaketime 0.9.10 answers EINVAL to an absolute sleep on the monotonic clock, which
# is what time.sleep is made of; select is not.
SLEEP = """
import select, time
time.sleep = lambda seconds: select.select((), (), (), seconds)
"""


def library() -> Path:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        pytest.fail("libfaketime is not installed (apt-get install libfaketime)")
    return found[0]


def under(clock: str, folder: Path) -> dict[str, str]:
    """The environment of a process with that clock; its monotonic clock is the real one."""
    if not clock:
        return {}
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(SLEEP)
    return {
        "LD_PRELOAD": str(library()),
        "FAKETIME": clock,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT), str(ROOT / "src"))),
    }


async def start_jobs(services: dict[str, Service], round: int) -> set[str]:
    """A few jobs at each service, half of which wait."""
    ids: set[str] = set()
    for name, service in services.items():
        async with httpx.AsyncClient(base_url=service.url, timeout=10) as client:
            for number in range(JOBS):
                form = {
                    "name": f"{name}-{round}-{number}",
                    "seconds": 0.2,
                    "waits": number % 2 == 0,
                }
                headers = {"Idempotency-Key": form["name"].replace(" ", "-")}
                ids.add(await first_answer(client, "/jobs", form, headers))
    return ids


async def tell_all(service: Service, ids: set[str]) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=10) as client:
        for id in sorted(ids):

            async def told(id: str = id) -> bool:
                with contextlib.suppress(httpx.TransportError):
                    headers = {"Idempotency-Key": f"go-{id}"}
                    answer = await client.post(f"/jobs/{id}/signals/go", json={}, headers=headers)
                    return answer.status_code in (202, 409)
                return False

            await until(told, f"{id} is told")


async def test_clocks_an_hour_apart_hold_nothing_twice(machine: Machine, record_property) -> None:
    names = environment(machine, LEASE_SECONDS=str(LEASE_SECONDS), WAIT_SECONDS=str(WAIT_SECONDS))
    services: dict[str, Service] = {}
    for name, clock in CLOCKS.items():
        faked = under(clock, machine.folder / "sleep")
        services[name] = await machine.serve("tests.crash.workshop:service", 1, **names, **faked)
    ids: set[str] = set()
    kills = 0
    for round in range(ROUNDS):
        begun = await start_jobs(services, round)
        ids |= begun
        for service in services.values():  # each clock's shards go to the others
            await service.all_serve()
            (victim,) = service.workers()
            send(victim, signal.SIGKILL)
            kills += 1
            await until(lambda victim=victim: not alive(victim), "it is gone")
            await service.all_serve()
        await tell_all(services["right"], begun)
    await settled(machine)
    for service in services.values():
        assert await service.end() == 0, service.said()
    facts = await machine.facts()
    stale = oracles.p4_one_effective_holder(facts, writer)
    times = [event.time for tail in facts.tails.values() for event in tail]
    ahead = max(times) / MICROS - time.time()
    nodes = len({hold.owner for hold in facts.holds})
    line = f"kills={kills} jobs={len(ids)} nodes={nodes} ahead={ahead:.0f}s twice={len(stale)}"
    print(f"\nclocks an hour apart: {line}")
    record_property("figures", line)
    assert not stale and not store_flaws(facts)
    assert ahead > 3000, "the fast clock was really an hour ahead"
    assert not oracles.p1_acknowledged_is_durable(facts, ids)
    assert not oracles.p6_work_ends_once(facts, ids)
    assert facts.ended_as("done") == ids
    rows = Counter(name for name, _ in await machine.rows("SELECT name, node FROM notes"))
    assert len(rows) == len(ids) and max(rows.values()) == 1
    async with looking_at(machine.address) as store:
        assert abs(await store.now() / MICROS - time.time()) > 3000, "the clock never goes back"
