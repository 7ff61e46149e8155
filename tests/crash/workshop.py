"""A service whose every record says which node wrote it, and which can freeze itself.

    /jobs      work (a step outside, in a ledger of one file) → perhaps a wait → note (a row)
    /freezes   a row, and in the middle of its transaction SIGSTOP for the own process, once
    /who       which worker answers on this connection

`LEASE_SECONDS`, `FROZEN_SECONDS` and `WAIT_SECONDS` (of a job that waits) come from the
environment; `EFFECTS` is the file of the outside world, `FREEZE` one that is removed by who
freezes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

from msgspec import Struct

from outlive import Outlive, Run, attempt, step
from outlive.stores.sqlite import SQLiteStore

store = SQLiteStore(
    os.environ["OUTLIVE_STORE"].removeprefix("sqlite:///"),
    frozen_seconds=float(os.environ.get("FROZEN_SECONDS", "6")),
)
app = Outlive(store, lease_seconds=float(os.environ.get("LEASE_SECONDS", "10")))

WAIT_SECONDS = float(os.environ.get("WAIT_SECONDS", "3600"))


class Job(Struct):
    name: str
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


@step
async def work(form: Job) -> Mark:
    line = f"{attempt().key} {form.name} {app.node}\n".encode()
    with open(os.environ["EFFECTS"], "ab", buffering=0) as effects:  # noqa: ASYNC230
        effects.write(line)
    await asyncio.sleep(form.seconds)
    return Mark(app.node)


def note(db: Any, form: Job) -> Mark:
    db.execute("INSERT INTO notes VALUES (?, ?)", (form.name, app.node))
    return Mark(app.node)


@app.process("/jobs", version=1, status_code=201, prefix="job", signals={"go": Go})
async def job(run: Run, form: Job) -> Mark:
    await run(work, form)
    if form.waits:
        await run.wait("go", within=WAIT_SECONDS)
    return await run.transact(note, form)


def freeze(db: Any, form: Job) -> Mark:
    db.execute("INSERT INTO notes VALUES (?, ?)", (form.name, app.node))
    try:
        os.unlink(os.environ["FREEZE"])
    except FileNotFoundError:
        return Mark(app.node)
    # To this thread: it stops here, and not a few statements later when another was slow to.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    return Mark(app.node)


@app.process("/freezes", version=1, status_code=201, prefix="frz")
async def frozen(run: Run, form: Job) -> Mark:
    return await run.transact(freeze, form)


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
