"""Without a synchronous standby a fail-over loses acknowledged commits: that is seen and said.

The standbys are away for a while, the primary goes on alone and is lost with what it acknowledged.
A standby that knows nothing of it is promoted. Every node that was told of a commit which is not
there any more must say so, take nothing more, and go on from what is there only after a restart.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from tests.cluster.nodes import Nodes
from tests.crash.load import settled, store_flaws
from tests.crash.service import Machine, alive, send, until
from tests.failover.patroni import ASYNCHRONOUS, Patroni, running_patroni
from tests.failover.sign_up import NODES, SEED, Timed, finding, sign_up_on
from tests.postgres_server import answers

from outlive.errors import StoreWentBack
from outlive.testing import oracles

ROUNDS = int(os.environ.get("LOSSES", "3"))
ALONE_WRITES = 60
"""Writes that the primary acknowledges while its standbys are away."""
NOTICED_SECONDS = 90.0


@pytest.fixture
async def patroni() -> AsyncIterator[Patroni]:
    async with running_patroni(ASYNCHRONOUS) as made:
        yield made


async def acknowledged_and_lost(machine: Machine, patroni: Patroni, load: Timed) -> set[str]:
    """Lose the primary with what it acknowledged while it was alone; gives what is missing."""
    old = await until(patroni.leader, "somebody leads")
    others = [member for member in patroni.members if member is not old]
    for member in others:
        member.kill_all()
    await load.more(ALONE_WRITES)
    await load.end()
    old.kill_all()
    for member in others:
        member.start()
    await until(lambda: patroni.leader(old), "a standby is promoted", 90)
    await until(lambda: answers(patroni.address), "it can be written", 30)
    old.start()
    facts = await machine.facts()
    return load.acknowledged - facts.processes.keys()


async def says_it_went_back(http: httpx.AsyncClient, url: str) -> bool:
    """Whether a node is not ready for that reason; it lives, and takes nothing."""
    answer = await http.get(f"{url}/readyz")
    return answer.status_code == 503 and answer.json().get("code") == StoreWentBack.code


async def restarted(nodes: Nodes) -> None:
    for place, pid in list(nodes.pids.items()):
        send(pid, signal.SIGTERM)
        await until(lambda pid=pid: not alive(pid), "the node's end")
        await nodes.start(place)
    await nodes.all_serve()


async def all_say_so(nodes: Nodes) -> None:
    """Wait until every node says that the store went back; each lives, and takes nothing."""
    async with httpx.AsyncClient(timeout=5) as http:
        for url in nodes.urls:
            await until(
                lambda url=url: says_it_went_back(http, url), "a node notices", NOTICED_SECONDS
            )
            answer = await http.get(f"{url}/livez")
            assert answer.status_code == 200
            form = {"firstName": "A", "lastName": "B", "email": "a@example.org"}
            answer = await http.post(f"{url}/registrations", json=form)
            assert answer.status_code == 503, answer.text
            assert answer.json()["code"] == StoreWentBack.code


async def test_what_a_fail_over_lost_is_seen_and_said(tmp_path: Path, patroni: Patroni) -> None:
    counted = []
    async with sign_up_on(patroni, tmp_path) as (machine, nodes):
        durability = (await finding(machine, "durability")).text
        assert "no synchronous standby" in durability, durability
        for number in range(ROUNDS):
            load = Timed(machine, nodes, SEED + number)
            load.begin()
            await load.more(10)
            lost = await acknowledged_and_lost(machine, patroni, load)
            assert lost, "nothing was lost: there was nothing to be seen"
            await all_say_so(nodes)
            counted.append(len(lost))
            await restarted(nodes)
            await patroni.well()
            print(
                f"{number + 1:3} lost {len(lost)} registrations, {NODES} of {NODES} nodes said so"
            )
            losses = await finding(machine, "losses")
            assert losses.level == "warn", losses
        load = Timed(machine, nodes, SEED + ROUNDS)
        load.begin()
        await load.more(30)
        await load.end()
        await settled(machine)
        await nodes.end()
        facts = await machine.facts()
        text = nodes.err.read_text()
        assert "Traceback" not in text
    print(f"\ncommits are lost, asynchronous: lost={counted} said={NODES * ROUNDS} seed={SEED}")
    assert not oracles.p1_acknowledged_is_durable(facts, load.acknowledged)
    assert not store_flaws(facts)
    assert not oracles.p8_nothing_is_stuck(facts)
    assert text.count(StoreWentBack.code) >= NODES * ROUNDS
