"""Turns are dealt by dice, time is virtual, and who is dead runs nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from outlive.testing.turns import Life, NothingLeft, Turns, TurnsClock, life_here

nap = asyncio.sleep  # on virtual time: it takes none


def played(seed: int, work: Callable[[Turns], Coroutine[Any, Any, Any]]) -> Any:
    loop = Turns(random.Random(seed))
    try:
        return loop.run_until_complete(work(loop))
    finally:
        loop.close()


async def several(loop: Turns) -> str:
    said: list[str] = []

    async def talk(name: str) -> None:
        for _ in range(3):
            said.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(*(talk(name) for name in "abcde"))
    return "".join(said)


def test_the_same_dice_deal_the_same_turns_and_others_deal_others() -> None:
    assert played(1, several) == played(1, several)
    assert len({played(seed, several) for seed in range(10)}) == 10


def test_a_year_passes_at_once() -> None:
    async def a_year(loop: Turns) -> float:
        await nap(365 * 86_400)
        return loop.time()

    assert played(1, a_year) == pytest.approx(365 * 86_400, abs=0.01)


def test_timers_ring_in_the_order_of_their_times_and_cancelled_ones_do_not() -> None:
    async def ring(loop: Turns) -> list[int]:
        rung: list[int] = []
        timers = [loop.call_later(seconds, rung.append, seconds) for seconds in (3, 1, 2)]
        timers[2].cancel()
        await nap(10)
        return rung

    assert played(1, ring) == [1, 3]


def test_a_life_that_ended_runs_no_finally_before_it_is_buried() -> None:
    async def die(loop: Turns) -> list[str]:
        said: list[str] = []
        life = Life("a")

        async def live() -> None:
            try:
                while True:
                    await nap(1)
                    said.append("lives")
            finally:
                said.append("finally")

        loop.create_task(live(), context=life.context())
        await nap(2.5)
        life.end()
        await nap(10)
        assert said == ["lives", "lives"]
        life.bury()
        return said

    assert played(1, die) == ["lives", "lives", "finally"]


def test_a_life_ends_when_its_turns_are_used_up() -> None:
    async def count(loop: Turns) -> tuple[int, bool]:
        life, turns = Life("a"), 0

        async def live() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        loop.create_task(live(), context=life.context())
        life.turns_left = 5
        await nap(1)
        life.bury()
        return turns, life.ended

    assert played(1, count) == (4, True)


def test_who_is_frozen_goes_on_where_it_stood_with_its_timers_late() -> None:
    async def freeze(loop: Turns) -> list[float]:
        rung: list[float] = []
        life = Life("a")

        async def live() -> None:
            assert life_here() is life
            await nap(1)
            rung.append(loop.time())

        task = loop.create_task(live(), context=life.context())
        await nap(0.5)
        life.frozen = True
        await nap(20)
        assert not rung
        loop.thaw(life)
        await task
        return rung

    assert played(1, freeze)[0] == pytest.approx(20.5, abs=0.01)


def test_what_is_given_to_a_thread_runs_here() -> None:
    async def work(loop: Turns) -> list[Any]:
        done = [await asyncio.to_thread(lambda: 7)]
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        return done

    assert played(1, work) == [7]


def test_waiting_for_what_never_comes_is_an_error() -> None:
    async def wait(loop: Turns) -> None:
        await loop.create_future()

    loop = Turns(random.Random(1))
    with pytest.raises(NothingLeft):
        loop.run_until_complete(wait(loop))
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()


def test_a_clock_of_turns_may_be_wrong_and_its_boot_clock_is_not() -> None:
    async def look(loop: Turns) -> tuple[int, float]:
        clock = TurnsClock(loop)
        before, boot = clock.wall(), clock.boot()
        clock.skew_micros = 5_000_000
        await nap(1)
        return round((clock.wall() - before) / 1e6), round(clock.boot() - boot)

    assert played(1, look) == (6, 1)
