"""DBOS on either database, as its documentation says: async workflows and steps, its defaults.

Run by `bench/processes.py` in `bench/.venv-dbos`. Logging is down to errors; telemetry is off by
default. With `--wal` a SQLite file is put into WAL mode first: DBOS leaves the mode as it finds it,
and syncs less there.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import sqlite3
from argparse import Namespace

from dbos import DBOS, DBOSConfig

from measure import Gate, arguments, engine_of, report, run_all, sqlite_file

VERSION = ".".join(importlib.metadata.version("dbos").split(".")[:2])
UNFINISHED = ["PENDING", "ENQUEUED", "DELAYED"]
given = arguments()
gate = Gate(given.gate)


@DBOS.step()
async def one(value: int) -> int:
    return value + 1


@DBOS.step()
async def at_the_gate(value: int) -> int:
    await gate.wait()
    return value + 1


@DBOS.workflow()
async def all_steps(value: int) -> int:
    for _ in range(given.steps):
        value = await one(value)
    return value


@DBOS.workflow()
async def gated_steps(value: int) -> int:
    for place in range(given.steps):
        value = await (at_the_gate if place == given.steps // 2 else one)(value)
    return value


async def through(number: int) -> int:
    handle = await DBOS.start_workflow_async(all_steps, number)
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
        await through(-1 - given.steps)
        meter = await run_all(given, through)
        name = f"DBOS {VERSION}{', WAL' if given.wal else ''}"
        report(name, engine_of(given.store), given, meter)


def main() -> None:
    if given.wal:
        with sqlite3.connect(str(sqlite_file(given.store))) as db:
            db.execute("PRAGMA journal_mode = WAL")
        db.close()
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": given.store,
        "log_level": "ERROR",
        "application_version": "1",
    }
    DBOS(config=config)
    DBOS.launch()
    asyncio.run(perform(given))
    DBOS.destroy()


main()
