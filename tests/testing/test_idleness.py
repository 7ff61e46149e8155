"""What is under way is known without looking again and again, and shown when it takes too long."""

from __future__ import annotations

import asyncio

import pytest
from tests.testing.conftest import Shop

from outlive import Run, step
from outlive.testing.idleness import NotIdle, is_moving, under_way
from outlive.testing.trial import Trial


async def test_a_waiting_process_is_not_under_way_and_one_in_a_step_is(
    shop: Shop, trial: Trial
) -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    @step
    async def holds() -> None:
        begun.set()
        await go.wait()

    @shop.process
    async def order(run: Run) -> None:
        await run.wait("begin")
        await run(holds)

    handle = await trial.start(order)
    await trial.run_until_idle()
    (activation,) = trial.runtime.activations.live.values()
    assert not is_moving(activation) and not under_way(trial.runtime)
    await handle.signal("begin")
    assert under_way(trial.runtime) == {activation.task}
    await begun.wait()
    with pytest.raises(NotIdle, match="in holds"):
        await trial.run_until_idle(within=0.05)
    go.set()
    await trial.run_until_idle()
    assert not under_way(trial.runtime)


async def test_many_processes_come_to_rest_together(shop: Shop, trial: Trial) -> None:
    @shop.process
    async def order(run: Run, number: int) -> int:
        for _ in range(3):
            await run(shop.doing(f"step of {number % 7}"))
        return number

    handles = [await trial.start(order, number) for number in range(50)]
    await trial.run_until_idle()
    assert {await handle.status() for handle in handles} == {"done"}
