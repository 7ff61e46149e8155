"""The workshop in the builds of one deploy: the old one, the new one, and a careless one.

BUILD=1          a job of version 1
BUILD=2          one body for both: a job that was started under 2 is inspected, too
BUILD=careless   version 2 as somebody writes it who does not think of what is under way
"""

from __future__ import annotations

import os

import msgspec
from tests.cluster.workshop import Go, Job, Mark, app, job, note, service, tell, work

from outlive import Run, step

__all__ = ["service"]


@step
async def inspect(form: Job) -> Mark:
    tell("begins", form.name)
    tell("ended", form.name)
    return Mark(app.node)


async def old(run: Run, form: Job) -> Mark:
    return await job(run, form)


async def new(run: Run, form: Job) -> Mark:
    for number in range(form.steps):
        await run.keyed(number)(work, form)
    if run.since(2):
        await run(inspect, form)
    if form.waits:
        await run.wait("go", within=3600)
    return await run.transact(note, form)


async def careless(run: Run, form: Job) -> Mark:
    for number in range(form.steps):
        await run.keyed(number)(work, msgspec.structs.replace(form, waits=False))
    await run(inspect, form)
    if form.waits:
        await run.wait("go", within=3600)
    return await run.transact(note, form)


BODY = {"1": old, "2": new, "careless": careless}[os.environ["BUILD"]]
VERSION = 1 if BODY is old else 2
place = app.process(
    "/jobs",
    version=VERSION,
    accepts=() if BODY is old else (1,),
    name="job",
    status_code=201,
    prefix="job",
    signals={"go": Go},
)
place(BODY)
