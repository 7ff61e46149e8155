"""Replayed after every record: a sound body does everything once, an unsound one is found out."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from tests.testing.conftest import Shop

from outlive import Run, step
from outlive.testing.idleness import Drifted
from outlive.testing.places import Place
from outlive.testing.trial import Trial


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("memory://", tmp_path)


@step
async def take(number: int) -> int:
    return number


async def test_a_sound_body_is_replayed_after_every_record_and_does_everything_once(
    shop: Shop, place: Place
) -> None:
    bodies: list[int] = []

    @shop.process
    async def order(run: Run) -> list[Any]:
        bodies.append(1)
        run.state = "begun"
        first = await run(shop.doing("one"))
        beside = await asyncio.gather(run(shop.doing("two")), run(shop.doing("three")))
        word = await run.wait("go", within=600)
        await run.sleep(3600)
        run.pivot()
        return [first, *beside, word, await run(shop.doing("four")), run.random().random()]

    async with Trial(shop.app, place.store, always_replay=True) as trial:
        handle = await trial.start(order)
        await trial.run_until_idle()
        await handle.signal("go", "now")
        result = await handle.result()
    assert result[:5] == ["one", "two", "three", "now", "four"]
    assert sorted(shop.world.log) == ["four", "one", "three", "two"], "no step ran twice"
    assert len(bodies) >= 6


async def test_a_rollback_is_replayed_too_and_undoes_once(shop: Shop, place: Place) -> None:
    undone: list[str] = []

    async def give_back(number: int, made: Any) -> None:
        undone.append(f"{number}")

    @step(undo=give_back)
    async def lend(number: int) -> int:
        return number

    @shop.process
    async def order(run: Run) -> None:
        for number in range(3):
            await run(lend, number)
        raise ValueError("no more")

    async with Trial(shop.app, place.store, always_replay=True) as trial:
        handle = await trial.start(order)
        await trial.run_until_idle()
        assert await handle.status() == "rolled_back"
    assert undone == ["2", "1", "0"]


async def test_a_body_that_draws_its_own_chance_is_found_out_at_once(
    shop: Shop, place: Place
) -> None:
    @shop.process
    async def order(run: Run) -> int:
        await run(take, random.randrange(10**9))
        return await run(take, 2)

    async with Trial(shop.app, place.store) as trial:
        assert await (await trial.start(order)).result() == 2, "nobody noticed"
    async with Trial(shop.app, place.store, always_replay=True) as trial:
        await trial.start(order)
        with pytest.raises(Drifted, match=r"order is not deterministic.*drift.*take"):
            await trial.run_until_idle()
