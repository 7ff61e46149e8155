"""Caches of three processes: one load of what all miss, and no invalidation lost over a SIGKILL."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.cell_servers import CellServer
from tests.doors.programs import line_of, program

from outlive import Outlive, Run
from outlive.errors import NotCacheable
from outlive.kinds.caches.rule import bounded, exact

MISSING = """
import asyncio, os, sys
from pathlib import Path
from outlive import Outlive
from outlive.kinds.caches.rule import bounded

app = Outlive(os.environ["OUTLIVE_STORE"])

@app.cache(bounded(5.0), ttl=60.0, cells=os.environ.get("CELLS", ""))
async def price(key: str) -> str:
    with open(Path(os.environ["FOLDER"]) / key, "a") as loads:
        loads.write("x")
    await asyncio.sleep(0.1)
    return key.upper()

async def main():
    async with app:
        for key in ("tea", "milk", "rice"):
            print("ready", flush=True)
            sys.stdin.readline()
            found = await asyncio.gather(*(price(key) for _ in range(100)))
            assert set(found) == {key.upper()}
        print("over", flush=True)

asyncio.run(main())
"""
WRITING = """
import asyncio, os
from outlive import Outlive
from outlive.kinds.caches.rule import exact

app = Outlive(os.environ["OUTLIVE_STORE"])

@app.cache(exact)
async def stock(key: str) -> int:
    raise AssertionError("only invalidated here")

def sell(tables, number):
    tables.execute("UPDATE goods SET stock = " + str(number) + " WHERE name = 'tea'")
    stock.invalidate_in(tables, "tea")

async def main():
    async with app:
        number = 0
        while True:
            number += 1
            await app.transact(sell, number)
            print(number, flush=True)

asyncio.run(main())
"""


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: str = request.getfixturevalue("postgres")
    return f"{server}?schema=caches_{uuid.uuid4().hex[:8]}&shards=8"


def test_300_misses_in_three_processes_are_one_load(address: str, tmp_path: Path) -> None:
    assert_one_load(address, "", tmp_path)


def test_300_misses_are_one_load_where_the_values_lie_in_valkey(
    valkey: CellServer, tmp_path: Path
) -> None:
    place = f"{valkey.address}?prefix={uuid.uuid4().hex}"
    assert_one_load(f"sqlite:///{tmp_path}/store.db", place, tmp_path)


def assert_one_load(address: str, cells: str, tmp_path: Path) -> None:
    folder = tmp_path / "loads"
    folder.mkdir()
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                program(address, "-c", MISSING, env={"FOLDER": str(folder), "CELLS": cells})
            )
            for _ in range(3)
        ]
        for _ in range(3):
            for instance in running:
                assert line_of(instance) == "ready"
            for instance in running:
                assert instance.stdin is not None
                instance.stdin.write("go\n")
                instance.stdin.flush()
        for instance in running:
            assert line_of(instance) == "over"
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "tea": "x",
        "milk": "x",
        "rice": "x",
    }


async def test_an_invalidation_in_a_commit_is_not_lost_when_the_writer_is_killed(
    address: str,
) -> None:
    app = Outlive(address)
    name = f"goods_{uuid.uuid4().hex[:8]}" if address.startswith("postgres") else "goods"

    def truth(tables: object) -> int:
        ((found,),) = tables.execute(f"SELECT stock FROM {name}")  # type: ignore[attr-defined]
        return int(found)

    @app.cache(exact, name="stock")
    async def sure(key: str) -> int:
        return await app.transact(truth)

    @app.schema
    def make(tables: object) -> None:
        execute = tables.execute  # type: ignore[attr-defined]
        execute(f"CREATE TABLE IF NOT EXISTS {name} (name text, stock int)")
        execute(f"DELETE FROM {name}")
        execute(f"INSERT INTO {name} VALUES ('tea', 0)")

    async with app:
        for _ in range(3):
            with program(address, "-c", WRITING.replace("goods", name)) as writer:
                for _ in range(20):
                    said = await asyncio.to_thread(line_of, writer)
                    assert await sure("tea") >= int(said), "acknowledged, and not seen"
                writer.kill()
                writer.wait(30)
            assert await sure("tea") == await app.transact(truth)
        assert sure.policy.gone["invalidated"] > 0


async def test_a_bounded_cache_of_another_instance_sees_a_commit_within_its_bound(
    address: str,
) -> None:
    writer, reader = Outlive(address), Outlive(address)
    truth = {"tea": 1}

    async def stock(key: str) -> int:
        return truth[key]

    ours = writer.cache(bounded(0.3))(stock)
    theirs = reader.cache(bounded(0.3))(stock)

    def sell(_: object, number: int) -> None:
        ours.invalidate_in(_, "tea")
        if number == 0:
            raise RuntimeError("rolled back")
        truth["tea"] = number

    async with writer, reader:
        assert (await ours("tea"), await theirs("tea")) == (1, 1)
        for number in range(2, 6):
            await writer.transact(sell, number)
            assert await ours("tea") == number
            began = reader._clock.boot()
            while await theirs("tea") != number:
                assert reader._clock.boot() - began < 0.3 + 1.0  # and a second for a busy machine
                await asyncio.sleep(0.01)
        gone = ours.policy.gone["invalidated"]
        with pytest.raises(RuntimeError):
            await writer.transact(sell, 0)
        assert ours.policy.gone["invalidated"] == gone, "rolled back: nothing was invalidated"


async def test_a_step_in_a_transaction_makes_old_what_it_changes(tmp_path: Path) -> None:
    app = Outlive(f"sqlite:///{tmp_path}/store.db")
    loads = []

    @app.cache(exact)
    async def stock(key: str) -> int:
        loads.append(key)
        return len(loads)

    def sell(tables: object) -> None:
        stock.invalidate_in(tables, "tea")

    @app.process("/sales", version=1)
    async def sale(run: Run) -> None:
        await run.transact(sell)

    async with app:
        assert await stock("tea") == await stock("tea") == 1
        await (await app.start(sale)).result(within=30)
        assert await stock("tea") == 2
        assert list(app.caches) == ["stock"]
        with pytest.raises(NotCacheable):
            stock.invalidate_in(None, "tea")
        with pytest.raises(ValueError, match="declared twice"):
            app.cache(exact, name="stock")(stock._function)
