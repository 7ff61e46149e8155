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
from tests.crash.load import Load, settled, store_flaws
from tests.crash.service import Machine, Partner, alive, looking_at, send, until
from tests.failover.patroni import ASYNCHRONOUS, Patroni
from tests.failover.synchronous import SEED, SHARDS, Timed, nodes_said
from tests.postgres_server import answers, folder_of_its_own

from outlive.errors import StoreWentBack
from outlive.testing import oracles

ROUNDS = int(os.environ.get("LOSSES", "3"))
NODES = 3
CLIENTS = 8
ALONE_WRITES = 60
"""Writes that the primary acknowledges while its standbys are away."""
NOTICED_SECONDS = 90.0


@pytest.fixture
async def patroni() -> AsyncIterator[Patroni]:
    with folder_of_its_own() as folder:
        made = Patroni(folder, ASYNCHRONOUS)
        try:
            await made.start()
            yield made
        finally:
            await made.clean()


async def acknowledged_and_lost(machine: Machine, patroni: Patroni, load: Load) -> set[str]:
    """Lose the primary with what it acknowledged while it was alone; gives what is missing."""
    old = await until(patroni.leader, "somebody leads")
    others = [member for member in patroni.members if member is not old]
    for member in others:
        member.kill_all()
    assert isinstance(load, Timed)
    await load.more(ALONE_WRITES)
    await load.end()
    old.kill_all()
    for member in others:
        member.start()
    await until(lambda: patroni.leader(old), "a standby is promoted", 90)
    await until(lambda: answers(patroni.address), "it can be written", 30)
    old.start()
    async with looking_at(machine.address) as store:
        facts = await oracles.facts_of(store)
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


async def test_what_a_fail_over_lost_is_seen_and_said(tmp_path: Path, patroni: Patroni) -> None:
    machine = Machine(tmp_path, address=f"{patroni.address}&shards={SHARDS}")
    counted = []
    try:
        machine.partner = Partner(tmp_path)
        environment = {"OUTLIVE_STORE": machine.address, "PARTNER_URL": machine.partner.url}
        nodes = Nodes(tmp_path, "tests.cluster.signup:app", NODES, **environment)
        machine.closing.append(nodes.clean)
        await nodes.open()
        async with looking_at(machine.address) as store:
            durability = next(f for f in await store.doctor() if f.name == "durability")
        assert "no synchronous standby" in durability.text, durability.text
        for number in range(ROUNDS):
            load = Timed(machine, SEED + number, clients=CLIENTS, urls=nodes.urls)
            load.begin()
            await load.more(10)
            lost = await acknowledged_and_lost(machine, patroni, load)
            assert lost, "nothing was lost: there was nothing to be seen"
            async with httpx.AsyncClient(timeout=5) as http:
                for url in nodes.urls:
                    await until(
                        lambda url=url: says_it_went_back(http, url),
                        "a node notices",
                        NOTICED_SECONDS,
                    )
                    answer = await http.get(f"{url}/livez")
                    assert answer.status_code == 200
                    form = {"firstName": "A", "lastName": "B", "email": "a@example.org"}
                    answer = await http.post(f"{url}/registrations", json=form)
                    assert answer.status_code == 503, answer.text
                    assert answer.json()["code"] == StoreWentBack.code
            counted.append(len(lost))
            await restarted(nodes)
            await patroni.well()
            print(
                f"{number + 1:3} lost {len(lost)} registrations, {NODES} of {NODES} nodes said so"
            )
            async with looking_at(machine.address) as store:
                losses = next(f for f in await store.doctor() if f.name == "losses")
            assert losses.level == "warn", losses
        load = Timed(machine, SEED + ROUNDS, clients=CLIENTS, urls=nodes.urls)
        load.begin()
        await load.more(30)
        await load.end()
        await settled(machine)
        await nodes.end()
        facts = await machine.facts()
        text = (tmp_path / "nodes.err").read_text()
        assert "Traceback" not in text
    except BaseException:
        print(f"the nodes said: {nodes_said(tmp_path)}\nthe servers: {patroni.said()}")
        raise
    finally:
        await machine.clean()
    print(f"\ncommits are lost, asynchronous: lost={counted} said={NODES * ROUNDS} seed={SEED}")
    assert not oracles.p1_acknowledged_is_durable(facts, load.acknowledged)
    assert not store_flaws(facts)
    assert not oracles.p8_nothing_is_stuck(facts)
    assert text.count(StoreWentBack.code) >= NODES * ROUNDS
