"""A deploy, whole: compared before it happens, then rolled out node by node under load.

The comparison runs beside the live nodes. It names what a careless build would stop, and finds
nothing in the build that is deployed. Then nothing is stranded, nothing pauses, nothing is done
twice: what was started under the old version goes its old way to its end, on whichever build.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from typing import Any

import msgspec
import pytest
from tests.cluster.effects import calls_in, run_by_two_at_once
from tests.cluster.jobs import Jobs, flaws
from tests.cluster.test_rolling import spread
from tests.cluster.test_versions import is_now, node_of, who_ran
from tests.crash.service import ROOT, Machine, until
from tests.crash.test_drain import crashes

pytestmark = [pytest.mark.crash, pytest.mark.slow]

ROLLOUT = "tests.cluster.rollout:service"
SEED = 20_261_122
WAITING = 6


async def compare(machine: Machine, build: str) -> tuple[int, list[dict[str, Any]], str]:
    """What `outlive process diff` says of the code of `build`: exit code, verdicts, and stderr."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "src")))
    words = ("process", "diff", "--against", ROLLOUT, "--store", machine.address, "-o", "json")
    ran = await asyncio.to_thread(
        subprocess.run,
        (sys.executable, "-m", "outlive.commands", *words),
        env={
            **os.environ,
            "PYTHONPATH": path,
            "BUILD": build,
            "VERSIONS": "",
            "EFFECTS": "/nowhere",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.stdout, ran.stderr
    return ran.returncode, msgspec.json.decode(ran.stdout), ran.stderr


def done_by(process: Any) -> list[str]:
    """The steps that are recorded of a process."""
    return [
        str(msgspec.json.decode(event.data)["name"])
        for event in process.journal
        if event.kind == "step"
    ]


async def test_a_deploy_strands_nothing_and_the_comparison_names_what_would_have_drifted(
    machine: Machine, record_property
) -> None:
    ledger = machine.folder / "effects"
    ledger.touch()
    build = {"EFFECTS": str(ledger), "VERSIONS": ""}
    services = [await machine.serve(ROLLOUT, BUILD="1", **build) for _ in range(2)]
    await spread(machine, 2)
    older = {await node_of(service) for service in services}
    urls = [service.url for service in services]
    jobs = Jobs(machine, urls, SEED, clients=4, steps=4, seconds=0.02)
    waiting = []
    for n in range(WAITING):
        told = {"name": f"w{n}", "waits": True, "steps": 2}
        id = str((await jobs.ask("POST", "/jobs", told, f"w{n}"))["id"])
        jobs.ids[f"w{n}"] = {id}
        await until(lambda id=id: is_now(services[0], id, "waiting"), f"{id} waits")
        waiting.append(id)

    # Before the deploy.
    jobs.begin()
    await until(lambda: len(jobs.done) >= 4, "the load is on")
    holds = len((await machine.facts()).holds)
    code, said, _ = await compare(machine, "careless")
    drifts = {one["id"]: one["detail"] for one in said if one["verdict"] == "drift"}
    assert code == 1 and drifts.keys() >= set(waiting)
    assert all("work:0 is recorded with arguments" in drifts[id] for id in waiting)
    code, said, told_why = await compare(machine, "2")
    assert code == 0 and {one["verdict"] for one in said} == {"same"}, (said, told_why)
    assert {one["id"] for one in said} >= set(waiting)
    assert len((await machine.facts()).holds) == holds, "a comparison owns nothing"

    # The deploy.
    for service in services:
        assert await service.end() == 0, service.said()
        service.environment["BUILD"] = "2"
        await service.start()
        await spread(machine, 2)
        done = len(jobs.done)
        await until(lambda done=done: len(jobs.done) >= done + 4, "work goes on")
        jobs.check()
    for n, id in enumerate(waiting):
        await jobs.ask("POST", f"/jobs/{id}/signals/go", {}, f"go-{n}")
        await until(lambda id=id: is_now(services[0], id, "done"), f"{id} has gone on")
    await jobs.end()
    for service in services:
        assert await service.end() == 0, service.said()

    # Afterwards.
    facts, calls = await machine.facts(), calls_in(ledger)
    kinds = Counter(event.kind for found in facts.processes.values() for event in found.journal)
    versions = Counter(found.head.version for found in facts.processes.values())
    doubled = [key for key, count in Counter(call.key for call in calls).items() if count > 1]
    line = f"jobs={dict(versions)} steps={len(calls)} doubled={len(doubled)}"
    print(f"\na deploy under load: {line}")
    record_property("figures", line)
    assert not await flaws(machine, jobs, facts)
    assert not doubled and not run_by_two_at_once(calls) and not crashes(facts)
    assert kinds["stranded"] == kinds["paused"] == 0
    assert set(versions) == {1, 2}
    for process in facts.processes.values():
        inspected = "inspect" in done_by(process)
        assert inspected is (process.head.version == 2), "each goes the way of its own version"
    assert not who_ran(facts, 2) & older
    assert who_ran_last(facts, waiting).isdisjoint(older), "the new build ends the old ones' work"


def who_ran_last(facts: Any, ids: list[str]) -> set[str]:
    """The nodes that recorded the last step of each of `ids`."""
    found = set()
    for id in ids:
        last = [event for event in facts.processes[id].journal if event.kind == "step"][-1]
        found.add(str(msgspec.json.decode(last.data)["result"]["node"]))
    return found
