"""DBOS on SQLite, as its documentation says: async workflows and steps, default durability.

Run by `bench/processes.py` in `bench/.venv-dbos`. Logging is down to errors; telemetry is off by
default. With `--wal` the file is put into WAL mode first: DBOS leaves the mode as it finds it, and
syncs less there.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import sqlite3
from argparse import Namespace

from dbos import DBOS, DBOSConfig

from measure import MIDDLE, STEPS, Gate, arguments, report, run_all

VERSION = ".".join(importlib.metadata.version("dbos").split(".")[:2])
UNFINISHED = ["PENDING", "ENQUEUED", "DELAYED"]
given = arguments()
gate = Gate(given.store)


@DBOS.step()
async def one(value: int) -> int:
    return value + 1


@DBOS.step()
async def at_the_gate(value: int) -> int:
    await gate.wait()
    return value + 1


@DBOS.workflow()
async def five_steps(value: int) -> int:
    for _ in range(STEPS):
        value = await one(value)
    return value


@DBOS.workflow()
async def gated_steps(value: int) -> int:
    for place in range(STEPS):
        value = await (at_the_gate if place == MIDDLE else one)(value)
    return value


async def through(number: int) -> int:
    handle = await DBOS.start_workflow_async(five_steps, number)
    return await handle.get_result()


async def start_gated(count: int) -> None:
    for number in range(count):
        await DBOS.start_workflow_async(gated_steps, number)
    await gate.all_arrived(count)


async def finish_gated(count: int) -> None:
    """Recovery runs by itself after `launch`; look, cheaply, until none is left to be done."""
    while await DBOS.list_workflows_async(status=UNFINISHED, limit=1, load_input=False):
        await asyncio.sleep(0.1)
    print("done", flush=True)
    ended = await DBOS.list_workflows_async(status="SUCCESS", load_input=False)
    assert len(ended) == count, f"{len(ended)} of {count} ended well"


async def perform(given: Namespace) -> None:
    if given.phase == "start":
        await start_gated(given.processes)
    elif given.phase == "finish":
        await finish_gated(given.processes)
    elif given.processes:
        await through(-1 - STEPS)
        meter = await run_all(given.processes, given.concurrency, through)
        report(
            f"DBOS {VERSION}{', WAL' if given.wal else ''}", sqlite3.sqlite_version, given, meter
        )


def main() -> None:
    if given.wal:
        with sqlite3.connect(given.store) as db:
            db.execute("PRAGMA journal_mode = WAL")
        db.close()
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": f"sqlite:///{given.store.absolute()}",
        "log_level": "ERROR",
        "application_version": "1",
    }
    DBOS(config=config)
    DBOS.launch()
    asyncio.run(perform(given))
    DBOS.destroy()


main()
