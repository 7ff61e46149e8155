"""A shop whose orders wait to be paid: used without an event loop, by views, scripts and tests."""

from __future__ import annotations

import time
from typing import Any

from outlive import Outlive, Run, attempt, step

app = Outlive()  # at OUTLIVE_STORE
client = app.blocking()


@step
def pack(what: str) -> str:
    return f"{what} packed by {attempt().process}"


@app.process("/orders", version=1, signals={"paid": int})
async def order(run: Run, what: str) -> str:
    paid = await run.wait("paid", within=600)
    await run(pack, what)
    return f"{what} for {paid}"


@app.process("/greetings", version=1)
async def greeting(run: Run, name: str) -> str:
    return f"hello {name}"


@app.schema
def tables(tables: Any) -> None:
    tables.execute("CREATE TABLE IF NOT EXISTS wish (name text PRIMARY KEY)")
    tables.execute("CREATE TABLE IF NOT EXISTS granted (name text)")


def grant(tables: Any, name: str) -> None:
    tables.execute("INSERT INTO granted VALUES ($1)", (name,))


@app.process("/wishes", version=1)
async def wish(run: Run, name: str) -> None:
    await run.transact(grant, name)


@step
def knead(turn: int) -> int:
    time.sleep(0.01)
    return turn


@app.process("/breads", version=1)
async def bread(run: Run, turns: int) -> int:
    return sum([await run(knead, turn) for turn in range(turns)])
