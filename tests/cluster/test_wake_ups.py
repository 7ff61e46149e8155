"""What is written on one node wakes the process on another, by a hint and not by a poll."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from outlive import Outlive, Run, ids
from outlive.errors import ProcessFailed
from outlive.runtime import node
from outlive.stores import postgres_hints
from outlive.stores.postgres import PostgresStore

DEADLINE_SECONDS = 60.0


def service(address: str) -> Outlive:
    """A service whose only process waits to be told."""
    app = Outlive(address, lease_seconds=300)  # a renewal would wake the owner too

    @app.process("/waits", version=1, signals={"go": int})
    async def waits(run: Run, name: str) -> int:
        told: int = await run.wait("go", within=3600)
        return told

    return app


@pytest.fixture
async def nodes(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Outlive, Outlive]]:
    """The owner of every shard, and another instance on the same store, which owns none.

    Nothing is looked for by itself before the deadline of these tests is over: a hint must come."""
    monkeypatch.setattr(postgres_hints, "POLL_HEARING_SECONDS", DEADLINE_SECONDS * 2)
    monkeypatch.setattr(node, "PUMP_SECONDS_MAX", DEADLINE_SECONDS * 2)
    address = f"{postgres}?schema=cluster_{ids.token(40)}&shards=4"
    owner, other = service(address), service(address)
    async with owner:
        await other.open_client()
        await hearing(owner)
        try:
            yield owner, other
        finally:
            await other.close()


async def hearing(app: Outlive) -> None:
    assert isinstance(getattr(app.store, "_store", None), PostgresStore)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not app.store._hints.is_hearing:
            await asyncio.sleep(0.01)


async def waiting(app: Outlive, id: str) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (await app.view(id)).status != "waiting":
            await asyncio.sleep(0.01)


async def test_a_start_and_a_signal_from_another_node_are_acted_upon(
    nodes: tuple[Outlive, Outlive],
) -> None:
    owner, other = nodes
    delays = []
    for number in range(5):
        async with asyncio.timeout(DEADLINE_SECONDS):
            begun = await other.begin("waits", b'"x"')
            await waiting(owner, begun.id)
            await asyncio.sleep(0.05)  # the owner is idle again
            began = time.monotonic()
            await other.signal(begun.id, "go", b"%d" % number)
            assert await owner.result(begun.id) == number
            delays.append(time.monotonic() - began)
    print(f"from a signal to the end of its process: {sorted(delays)[2] * 1000:.1f} ms")


async def test_a_cancel_from_another_node_is_acted_upon(nodes: tuple[Outlive, Outlive]) -> None:
    owner, other = nodes
    begun = await owner.begin("waits", b'"x"')
    await waiting(owner, begun.id)
    async with asyncio.timeout(DEADLINE_SECONDS):
        await other.cancel(begun.id)
        with pytest.raises(ProcessFailed):
            await owner.result(begun.id)
