"""The sign-up on a cluster under Patroni: three nodes, the partner, and clients that note the time.

Both proofs begin and end with this; what befalls the servers in between is theirs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from tests.cluster.nodes import Nodes
from tests.crash.load import Load
from tests.crash.service import Machine, Partner, looking_at, until
from tests.failover.patroni import Patroni

from outlive.store import Finding

SEED = 20_261_122
NODES = 3
CLIENTS = 8
SHARDS = 16
PAUSE_SECONDS_MAX = 90.0


class Timed(Load):
    """A load on `nodes` that notes when each write was acknowledged."""

    def __init__(self, machine: Machine, nodes: Nodes, seed: int = SEED) -> None:
        super().__init__(machine, seed, clients=CLIENTS, urls=nodes.urls)
        self.writes: list[float] = []

    async def _until_answered(
        self, path: str, body: Any, key: str, wanted: tuple[int, ...]
    ) -> httpx.Response:
        answer = await super()._until_answered(path, body, key, wanted)
        if body is not None and answer.is_success:
            self.writes.append(time.monotonic())
        return answer

    async def more(self, count: int) -> None:
        """Wait for so many more acknowledged writes."""
        wanted = len(self.writes) + count
        await until(lambda: len(self.writes) >= wanted, f"{count} writes", PAUSE_SECONDS_MAX)


@contextlib.asynccontextmanager
async def sign_up_on(patroni: Patroni, folder: Path) -> AsyncIterator[tuple[Machine, Nodes]]:
    """The sign-up's nodes, which serve, and their machine; both are cleaned with the block.

    If the block fails, what the nodes and the servers said last is printed."""
    machine = Machine(folder, address=f"{patroni.address}&shards={SHARDS}")
    try:
        machine.partner = Partner(folder)
        environment = {"OUTLIVE_STORE": machine.address, "PARTNER_URL": machine.partner.url}
        nodes = Nodes(folder, "tests.cluster.signup:app", NODES, **environment)
        machine.closing.append(nodes.clean)
        await nodes.open()
        yield machine, nodes
    except BaseException:
        print(f"the nodes said: {nodes_said(folder)}\nthe servers: {patroni.said()}")
        raise
    finally:
        await machine.clean()


async def finding(machine: Machine, name: str) -> Finding:
    """What the store's doctor finds under `name`."""
    async with looking_at(machine.address) as store:
        return next(found for found in await store.doctor() if found.name == name)


def nodes_said(folder: Path) -> str:
    """What the nodes said last; from the first traceback on, if there is one."""
    said = folder / "nodes.err"
    text = said.read_text() if said.exists() else ""
    found = text.find("Traceback")
    return text[max(0, found - 500) :][:5000] if found >= 0 else text[-3000:]
