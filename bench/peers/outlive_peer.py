"""outlive on either database, as its documentation says: default settings, with uvloop."""

from __future__ import annotations

import asyncio

import apsw
import uvloop

from measure import Gate, arguments, engine_of, report, run_all, until
from outlive import Outlive, Run, step

given = arguments()
gate = Gate(given.gate)
app = Outlive(given.store)


@step()
async def one(value: int) -> int:
    return value + 1


@step()
async def at_the_gate(value: int) -> int:
    await gate.wait()
    return value + 1


@app.process("/steps", version=1)
async def all_steps(run: Run, value: int) -> int:
    for _ in range(given.steps):
        value = await run(one, value)
    return value


@app.process("/gated-steps", version=1)
async def gated_steps(run: Run, value: int) -> int:
    for place in range(given.steps):
        value = await run(at_the_gate if place == given.steps // 2 else one, value)
    return value


async def through(number: int) -> int:
    handle = await app.start(all_steps, number)
    result: int = await handle.result()
    return result


async def start_gated(count: int) -> None:
    await asyncio.gather(*(app.start(gated_steps, number) for number in range(count)))
    await gate.all_arrived(count)


async def finish_gated(count: int) -> None:
    """Recovery runs by itself after `open`."""
    await until(lambda: sum(app.stats().ended.values()) >= count)
    print("done", flush=True)


async def perform() -> None:
    await app.open()
    if given.phase == "start":
        await start_gated(given.processes)
    elif given.phase == "finish":
        await finish_gated(given.processes)
    elif given.processes:
        await through(-1 - given.steps)
        meter = await run_all(given, through)
        report("outlive", engine_of(given.store, apsw.sqlite_lib_version()), given, meter)
    await app.close()


uvloop.run(perform())
