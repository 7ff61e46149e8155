"""A life that ends: dropped and not cancelled, and its store written before or after, not both."""

from __future__ import annotations

import asyncio

import pytest

from outlive.model import Append, Batch, Put, Ref
from outlive.stores.memory import MemoryStore
from outlive.testing.mortality import Life, Mortals, Port, When


async def test_what_a_life_began_runs_no_further_line_and_what_others_began_does() -> None:
    life, lines, go = Life(), list[str](), asyncio.Event()

    async def mortal(name: str) -> None:
        try:
            lines.append(f"{name} begins")
            await go.wait()
            lines.append(f"{name} goes on")
        except asyncio.CancelledError:
            lines.append(f"{name} is cancelled")
            raise
        finally:
            lines.append(f"{name} cleans up")

    async def work() -> None:
        child = asyncio.create_task(mortal("child"))
        asyncio.get_running_loop().call_later(0.01, life.end)
        await asyncio.gather(child, mortal("body"))

    with Mortals():
        other = asyncio.create_task(mortal("other"))
        assert await life.run(work()) is None
        await life.rest()
        go.set()
        await other
    assert life.ended
    assert sorted(lines) == [
        "body begins", "child begins", "other begins", "other cleans up", "other goes on",
    ]  # fmt: skip


async def test_a_life_that_does_not_end_gives_what_its_work_gave() -> None:
    async def work() -> int:
        return await asyncio.create_task(asyncio.sleep(0, 7))

    async def fails() -> None:
        raise ValueError("no")

    with Mortals():
        assert await Life().run(work()) == 7
        with pytest.raises(ValueError, match="no"):
            await Life().run(fails())


@pytest.mark.parametrize(("when", "events"), [("before", 1), ("after", 2)])
async def test_the_store_ends_its_life_before_or_after_the_commit_that_was_named(
    when: When, events: int
) -> None:
    inner, life = MemoryStore(1), Life()
    port = Port(inner, life, 2, when)
    await port.open()
    lease = await port.take(0, 0, "node")

    async def write() -> None:
        relaxed = Batch(put=(Put(Ref("node", "x"), b""),), storage="relaxed")
        for n in range(5):
            await port.commit(relaxed)  # of no process: not counted
            await port.commit(
                Batch(lease=lease, append=(Append("s", n, "woke", b'{"id": "sleep"}'),))
            )

    with Mortals():
        assert await life.run(write()) is None
    assert len(port.said) == 2
    assert len(await inner.tail(0, 0)) == events
    assert "sleep" in port.said[0]


@pytest.mark.parametrize(("when", "rows"), [("before", {}), ("after", {"k": 1})])
async def test_a_transaction_is_there_with_its_record_or_not_at_all(
    when: When, rows: dict[str, int]
) -> None:
    inner, life = MemoryStore(1), Life()
    port = Port(inner, life, 1, when)
    await port.open()
    lease = await port.take(0, 0, "node")

    def work(tables: dict[str, int]) -> Batch:
        tables["k"] = 1
        return Batch(lease=lease, append=(Append("s", 0, "woke", b'{"id": "sleep"}'),))

    async def write() -> None:
        await port.transact(work)

    with Mortals():
        assert await life.run(write()) is None
    assert inner.rows == rows
    assert len(await inner.tail(0, 0)) == len(rows)
