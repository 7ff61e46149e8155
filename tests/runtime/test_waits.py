"""Many waits under one timer: each ends with what it waits for, or when its time has passed."""

from __future__ import annotations

import asyncio

import pytest

from outlive.runtime.waits import Waits


async def test_what_is_done_in_time_is_given_and_forgotten() -> None:
    waits, loop = Waits(30.0), asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(3)]
    for number, future in enumerate(futures):
        loop.call_soon(future.set_result, number)
        assert await waits.limit(future) == number
    assert len(waits) == 1  # those before it


async def test_who_waits_too_long_is_told_and_those_behind_as_well() -> None:
    waits, loop = Waits(0.02), asyncio.get_running_loop()
    first: asyncio.Future[None] = waits.limit(loop.create_future())
    await asyncio.sleep(0.01)
    second: asyncio.Future[None] = waits.limit(loop.create_future())
    began = loop.time()
    for late in (first, second):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await late
    assert loop.time() - began >= 0.02
    assert len(waits) == 0


async def test_a_wait_that_was_given_up_disturbs_nobody() -> None:
    waits, loop = Waits(0.02), asyncio.get_running_loop()
    given_up: asyncio.Future[None] = waits.limit(loop.create_future())
    late: asyncio.Future[None] = waits.limit(loop.create_future())
    given_up.cancel()
    with pytest.raises(TimeoutError):
        await late
    assert given_up.cancelled()


def test_each_event_loop_begins_anew() -> None:
    waits = Waits(0.02)

    async def leave_one() -> None:
        waits.limit(asyncio.get_running_loop().create_future())

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await waits.limit(asyncio.get_running_loop().create_future())

    asyncio.run(leave_one())
    asyncio.run(wait())
    assert len(waits) == 0
