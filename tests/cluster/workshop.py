"""A service on PostgreSQL that says when each step ran, and on which node.

    /jobs      `steps` short steps, each with its line in a ledger outside; perhaps a wait; a row
    VERSIONS   which versions of a job this build has: `1`, or `1,2`; empty: rollout.py declares it

The ledger is one file for all nodes: a line when a step begins and one when it has ended. `/who`
says which node answers. `LEASE_SECONDS` comes from the environment too.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from msgspec import Struct

from outlive import Outlive, Run, attempt, step

VERSIONS = os.environ.get("VERSIONS", "1").split(",")

app = Outlive(lease_seconds=float(os.environ.get("LEASE_SECONDS", "10")))


class Job(Struct):
    name: str
    steps: int = 1
    seconds: float = 0.0
    waits: bool = False


class Go(Struct):
    pass


class Mark(Struct):
    """What a step gives: which node did it."""

    node: str


@app.schema
def tables(db: Any) -> None:
    db.execute("CREATE TABLE IF NOT EXISTS notes (name TEXT, node TEXT)")


def tell(word: str, name: str) -> None:
    line = f"{word} {attempt().key} {name} {app.node} {time.monotonic():.6f}\n".encode()
    with open(os.environ["EFFECTS"], "ab", buffering=0) as effects:
        effects.write(line)


@step
async def work(form: Job) -> Mark:
    tell("begins", form.name)
    await asyncio.sleep(form.seconds)
    tell("ended", form.name)
    return Mark(app.node)


def note(db: Any, form: Job) -> Mark:
    db.execute("INSERT INTO notes VALUES ($1, $2)", (form.name, app.node))
    return Mark(app.node)


async def job(run: Run, form: Job) -> Mark:
    for number in range(form.steps):
        await run.keyed(number)(work, form)
    if form.waits:
        await run.wait("go", within=3600)
    return await run.transact(note, form)


def declare(version: int) -> None:
    async def body(run: Run, form: Job) -> Mark:
        return await job(run, form)

    place = app.process(
        "/jobs", version=version, name="job", status_code=201, prefix="job", signals={"go": Go}
    )
    place(body)


for version in filter(None, VERSIONS):
    declare(int(version))


async def who(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{os.getpid()} {app.node}".encode()})


service = app.asgi(who)
