"""Real clients of every store at once, their answers lost at times: what they were told is judged.

In memory, on one SQLite file by several stores and by several processes, and on PostgreSQL; with
answers that are lost on purpose, a disk that fails, and a line that is cut.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.stores.faults import ROOT, faulty_disk
from tests.stores.servers import line_to, store_at
from tests.testing.clients import SPACE, LosesAnswers, clients_of, taken

from outlive.model import Batch, Committed
from outlive.stores import postgres_lane
from outlive.stores.memory import MemoryStore
from outlive.stores.sqlite import SQLiteStore
from outlive.testing.appends import anomalies
from outlive.testing.history import History, Operation, load
from outlive.testing.linearize import Cells, violations
from outlive.testing.recording import Client, Scribe

SEED = 20_261_122


def demand_sound(of_cells: list[Operation], of_streams: list[Operation], least: int) -> str:
    """No violation in either history, and enough happened in them to mean something."""
    found = [*violations(of_cells, Cells()), *anomalies(of_streams)]
    assert not found, "\n".join(map(str, found))
    outcomes = Counter(operation.outcome for operation in (*of_cells, *of_streams))
    assert outcomes["ok"] >= least
    told = " ".join(f"{name}={count}" for name, count in sorted(outcomes.items()))
    return f"cells={len(of_cells)} transactions={len(of_streams)} {told}"


async def run(stores: Sequence[Any], count: int = 150, least: int = 600) -> str:
    of_cells, of_streams = await clients_of(stores, await taken(stores[0]), SEED, count)
    return demand_sound(of_cells.operations(), of_streams.operations(), least)


@pytest.fixture
def say(record_property: Any, request: pytest.FixtureRequest) -> Any:
    def said(line: str) -> None:
        print(f"\n{request.node.name}: {line}")
        record_property("figures", line)

    return said


async def test_that_nothing_was_there_is_an_answer() -> None:
    history, store = History(), MemoryStore()
    await store.open()
    client = Client(store, history, "a", SPACE)
    assert await client.read("k") == 0
    (told,) = history.operations()
    assert (told.outcome, told.answered) == ("ok", ("absent",))


async def test_clients_of_the_memory_store(say: Any) -> None:
    store = MemoryStore()
    await store.open()
    chance = random.Random(SEED)
    losing = [LosesAnswers(store, chance) for _ in range(3)]
    say(await run(losing))
    assert sum(each.lost for each in losing) > 5


async def test_clients_of_several_stores_on_one_file(tmp_path: Path, say: Any) -> None:
    stores = [SQLiteStore(tmp_path / "store.db") for _ in range(3)]
    for store in stores:
        await store.open()
    chance = random.Random(SEED)
    losing = [LosesAnswers(store, chance) for store in stores]
    say(await run(losing))
    assert sum(each.lost for each in losing) > 5
    for store in stores:
        await store.close()


async def test_clients_of_a_disk_that_fails(tmp_path: Path, say: Any) -> None:
    chance, left = random.Random(SEED), [0]
    failed = Counter[str]()

    def fails(call: str) -> bool:
        if left[0]:
            left[0] -= 1
        elif call == "write" or chance.random() >= 0.03:
            return False
        else:
            left[0] = chance.choice((0, 0, 3))
        failed[call] += 1
        return True

    with faulty_disk() as disk:
        stores = [SQLiteStore(tmp_path / "store.db") for _ in range(2)]
        for store in stores:
            await store.open()
        lease = await taken(stores[0])
        disk.fails = fails
        of_cells, of_streams = await clients_of(stores, lease, SEED, 120)
        disk.fails = lambda call: False
        for store in stores:
            await store.close()
    line = demand_sound(of_cells.operations(), of_streams.operations(), 300)
    say(f"{line} failed={dict(sorted(failed.items()))}")
    assert failed.total() > 20


async def test_clients_of_two_processes_on_one_file(tmp_path: Path, say: Any) -> None:
    path = tmp_path / "store.db"
    store = SQLiteStore(path)
    await store.open()
    await taken(store)
    await store.close()
    command = (sys.executable, "-m", "tests.testing.clients", str(path))
    places = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    running = [
        await asyncio.create_subprocess_exec(
            *command,
            name,
            str(SEED),
            str(tmp_path / name),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": places},
        )
        for name in "xy"
    ]
    async with asyncio.timeout(100):
        for each in running:
            assert each.stdout is not None
            assert await each.stdout.readline() == b"ready\n"
        for each in running:
            assert each.stdin is not None
            each.stdin.write(b"go\n")
            await each.stdin.drain()
        for each in running:
            assert await each.wait() == 0
    of = {k: load(*(tmp_path / f"{n}-{k}.jsonl" for n in "xy")) for k in ("cells", "streams")}
    overlap = {operation.process[0] for operation in of["cells"][100:500]}
    assert overlap == {"x", "y"}, "they were not at it at one time"
    say(demand_sound(of["cells"], of["streams"], 600))


async def test_clients_of_postgres(postgres: str, say: Any) -> None:
    async with store_at(postgres) as one, store_at(postgres, schema=one.schema) as two:
        chance = random.Random(SEED)
        losing = [LosesAnswers(store, chance) for store in (one, two)]
        say(await run(losing, 120, 400))
        assert sum(each.lost for each in losing) > 5


async def test_clients_of_postgres_whose_line_is_cut(
    postgres: str, say: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_lane, "LOOK_UP_TRIES", 1)
    async with line_to(postgres) as line, store_at(line.address) as one:
        async with store_at(line.address, schema=one.schema) as two:
            chance = random.Random(SEED)
            lease = await taken(one)

            def rule(data: bytes) -> str:
                told = b"noted" in data or SPACE.encode() in data
                if told and chance.random() < 0.02:
                    return chance.choice(("drop", "deafen"))
                return "pass"

            line.rule = rule
            of_cells, of_streams = await clients_of([one, two], lease, SEED, 80)
            line.rule = lambda data: "pass"
            cuts = len(line.cuts)
    say(f"{demand_sound(of_cells.operations(), of_streams.operations(), 200)} cuts={cuts}")
    assert cuts > 3


class Forgetful(MemoryStore):
    """A store that answers a write and forgets it, once in a while."""

    forgets = 5

    async def commit(self, batch: Batch) -> Committed:
        before = dict(self._cells)
        committed = await super().commit(batch)
        self.forgets -= bool(batch.put)
        if not self.forgets:
            self._cells = before
        return committed


class Careless(MemoryStore):
    """A store that does not look at versions."""

    async def commit(self, batch: Batch) -> Committed:
        return await super().commit(Batch(put=batch.put, drop=batch.drop, lease=batch.lease))


@pytest.mark.parametrize("flawed", [Forgetful, Careless])
async def test_a_store_that_forgets_or_does_not_compare_is_found(flawed: type[MemoryStore]) -> None:
    store = flawed()
    await store.open()
    of_cells, _ = await clients_of([store], await taken(store), SEED, 150)
    assert violations(of_cells.operations(), Cells())


async def test_a_store_that_says_not_applied_when_it_was_is_found() -> None:
    store = MemoryStore()
    await store.open()
    history = History()
    client = Client(store, history, "p", SPACE)
    assert await client.put("a", "x", 0) == 1
    assert await client.read("a") == 1
    told, read = history.operations()
    assert not violations([told, read], Cells())
    denied = Operation("p", "a", told.asked, "fail", None, told.began, told.ended)
    assert violations([denied, read], Cells()), "P13"


async def test_refusals_say_what_was_found() -> None:
    store = MemoryStore()
    await store.open()
    history = History()
    client = Client(store, history, "p", SPACE, ("a",))
    version = await client.put("a", "x", None, 0)
    await client.put("a", "y", version + 1)
    await client.drop("a", 0)
    assert await client.claim(1, 5) == {"a": version + 1}
    scribe = Scribe(store, history, "q")
    lease = await store.take(0, 0, "q")
    assert await scribe.append(lease, {"s": "e"}, {"s": 0}) == "ok"
    assert await scribe.append(lease, {"s": "f"}, {"s": 0}) == "fail"
    assert await scribe.read(["s", "t"]) == {"s": 1, "t": 0}
    outcomes = [(each.name, each.outcome, each.answered) for each in history.operations()]
    assert outcomes[:3] == [
        ("put", "ok", (1,)),
        ("put", "fail", (1,)),
        ("drop", "fail", (1,)),
    ]
    assert outcomes[-1] == ("transaction", "ok", (("s", ("e",)), ("t", ())))
