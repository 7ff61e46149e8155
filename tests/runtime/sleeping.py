"""Processes that sleep, and one that hangs in a step: what tests of the runtime hold in memory."""

from __future__ import annotations

import asyncio

from tests.service import Outside

from outlive import Outlive, Run, attempt, step

world = Outside()


def fresh(outside: Outside) -> None:
    """From now on the step is seen by `outside`."""
    global world
    world = outside


def sleepers(app: Outlive) -> None:
    @app.process("/sleepers", version=1)
    async def sleeper(run: Run, seconds: float) -> str:
        await run.sleep(seconds)
        return "awake"

    @app.process("/hangers", version=1)
    async def hanger(run: Run) -> str:
        return await run(hang)


@step
async def hang() -> str:
    world.do(attempt().key, "hang")
    await asyncio.get_running_loop().create_future()
    return "never"


def live(app: Outlive) -> int:
    assert app._runtime is not None
    return len(app._runtime.activations.live)
