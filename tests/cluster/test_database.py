"""The database goes away under load: restarts, ended sessions, lines cut exactly at COMMIT.

Three nodes with default settings work on it. Each has a line of its own to the server, which the
test cuts before the server has a commit, or after it has done it and before the node hears of it.
Whatever the node was not told it looks up; so no job is lost, no row there twice, and nobody is
taken for dead who lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from tests.cluster.effects import calls_in, run_by_two_at_once
from tests.cluster.jobs import Jobs, flaws
from tests.cluster.test_rolling import WORKSHOP, spread
from tests.crash.service import Machine, Service, until
from tests.crash.test_drain import crashes
from tests.postgres_server import Server, server_of_its_own
from tests.stores.servers import Line, Rule, line_to

from outlive.testing.oracles import Facts

pytestmark = [pytest.mark.crash, pytest.mark.slow]

NODES = 3
SEED = 20_261_122
COMMIT = re.compile(rb"\bn\d+-[0-9a-z]{8}\b|COMMIT\x00")
"""In what is sent: the mark of a writer or a node's name in a commit, or the end of a transaction
with the caller's own tables."""
CUTS = 60
ENDED_SESSIONS = 120
TERMINATE = """
SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1
"""


@contextlib.asynccontextmanager
async def cluster(machine: Machine, addresses: list[str]) -> AsyncIterator[Jobs]:
    """A node for each of `addresses`, and clients that keep them busy."""
    ledger = str(machine.folder / "effects")
    services = [
        await machine.serve(WORKSHOP, EFFECTS=ledger, OUTLIVE_STORE=address)
        for address in addresses
    ]
    await spread(machine, len(services))
    urls = [service.url for service in services]
    jobs = Jobs(machine, urls, SEED, clients=10, steps=4, seconds=0.03, waits=True)
    jobs.begin()
    await until(lambda: len(jobs.done) >= 10, "the load is on")
    yield jobs
    await jobs.end()
    await spread(machine, len(services))
    for service in services:
        assert await service.end() == 0, service.said()
        demand_calm(service)


def demand_calm(service: Service) -> None:
    """What a node says while the database is away is one line, and never a traceback."""
    assert "Traceback" not in service.said(), service.said()


async def verdict(machine: Machine, jobs: Jobs, **more: object) -> tuple[str, Facts]:
    """Demand that all is as it must be; gives the figures."""
    facts = await machine.facts()
    calls = calls_in(machine.folder / "effects")
    doubled = sum(count > 1 for count in Counter(call.key for call in calls).values())
    figures = {
        "accepted": len(jobs.ids),
        "done": len(facts.ended_as("done")),
        "again": doubled,
        "spurious_takeovers": len(crashes(facts)),
        "refused": jobs.refused,
        **more,
    }
    assert not await flaws(machine, jobs, facts)
    assert facts.ended_as("done") == set(facts.processes)
    assert not run_by_two_at_once(calls)
    return " ".join(f"{name}={value}" for name, value in figures.items()), facts


async def test_the_server_is_restarted_under_load(tmp_path: Path, record_property) -> None:
    with server_of_its_own("fsync=on") as server:
        await server.answering()
        machine = Machine(tmp_path, address=server.address)
        try:
            gaps = []
            async with cluster(machine, [server.address] * NODES) as jobs:
                for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL) * 2:
                    began = time.monotonic()
                    await restarted(server, how)
                    done = len(jobs.done)
                    await until(lambda done=done: len(jobs.done) >= done + 10, "work goes on")
                    gaps.append(time.monotonic() - began)
                    jobs.check()
            line, facts = await verdict(
                machine, jobs, restarts=len(gaps), goes_on_max=f"{max(gaps):.2f}s"
            )
            print(f"\nthe server is restarted: {line}")
            record_property("figures", line)
            assert not crashes(facts), "a node that lived was taken for dead"
        finally:
            await machine.clean()


async def restarted(server: Server, how: signal.Signals) -> None:
    """End the server (SIGINT: fast, SIGQUIT: at once, SIGKILL), and wait until it answers again."""
    assert server._process is not None
    server._process.send_signal(how)
    await asyncio.to_thread(server._process.wait, 60)
    await server.answering()


async def test_sessions_are_ended_one_after_the_other_under_load(
    machine: Machine, record_property
) -> None:
    async with cluster(machine, [machine.address] * NODES) as jobs:
        link = await asyncpg.connect(machine.address)
        chance = random.Random(SEED)
        ended = 0
        try:
            while ended < ENDED_SESSIONS:
                ended += len(await link.fetch(TERMINATE))
                jobs.check()
                await asyncio.sleep(chance.uniform(0, 0.1))
        finally:
            await link.close()
    line, _ = await verdict(machine, jobs, ended_sessions=ended)
    print(f"\nsessions are ended: {line}")
    record_property("figures", line)


async def test_lines_are_cut_exactly_at_commit(machine: Machine, record_property) -> None:
    chance = random.Random(SEED)
    async with contextlib.AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(line_to(machine.address)) for _ in range(NODES)]
        async with cluster(machine, [line.address for line in lines]) as jobs:
            for line in lines:
                line.rule = sometimes(chance)
            await until(lambda: enough(lines), f"{CUTS} cuts of each kind", 60)
            jobs.check()
            for line in lines:
                line.rule = lambda data: "pass"
    cuts = Counter(cut for line in lines for cut in line.cuts)
    text, facts = await verdict(machine, jobs, cut_before=cuts["drop"], cut_after=cuts["deafen"])
    print(f"\nlines are cut at COMMIT: {text}")
    record_property("figures", text)
    assert not crashes(facts), "a node that lived was taken for dead"


def sometimes(chance: random.Random) -> Rule:
    """A rule that cuts a line at one commit in twelve: before it, or after it."""

    def rule(data: bytes) -> str:
        if COMMIT.search(data) and chance.random() < 1 / 12:
            return chance.choice(("drop", "deafen"))
        return "pass"

    return rule


def enough(lines: list[Line]) -> bool:
    cuts = Counter(cut for line in lines for cut in line.cuts)
    return min(cuts["drop"], cuts["deafen"]) >= CUTS
