"""One timer for everything: on the store's clock, in order, and a jump of the clock is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from tests.service import until

from outlive import Outlive, Run
from outlive.clock import MICROS, Clock, Later, ManualClock
from outlive.runtime.timers import HEAP_MIN, Timers
from outlive.stores.memory import MemoryStore


async def test_calls_are_made_in_order_of_their_time_and_never_before_it() -> None:
    clock, made = ManualClock(), list[str]()
    timers = Timers(clock)
    for name, seconds in (("late", 30.0), ("early", 10.0), ("middle", 20.0)):
        timers.after(seconds, lambda name=name: made.append(name))
    timers.run_due()
    assert made == []
    clock.advance(25)
    timers.run_due()
    assert made == ["early", "middle"]
    clock.advance(25)
    timers.run_due()
    assert made == ["early", "middle", "late"]


async def test_a_cancelled_timer_makes_no_call() -> None:
    clock, made = ManualClock(), list[int]()
    timers = Timers(clock)
    timers.after(1, lambda: made.append(1)).cancel()
    clock.advance(2)
    timers.run_due()
    assert made == []


async def test_a_clock_that_jumps_is_noticed() -> None:
    clock, made = ManualClock(), list[int]()
    timers = Timers(clock)
    timers.after(86_400, lambda: made.append(1))
    clock.advance(86_401)
    await until(lambda: made, seconds=3)


async def test_a_call_may_set_the_next_timer_and_a_stop_ends_them_all() -> None:
    clock, made = ManualClock(), list[int]()
    timers = Timers(clock)

    def again() -> None:
        made.append(1)
        timers.after(1, again)

    timers.after(1, again)
    for _ in range(3):
        clock.advance(1)
        timers.run_due()
    assert len(made) == 3
    timers.stop()
    clock.advance(10)
    timers.run_due()
    assert len(made) == 3


async def test_a_call_that_fails_does_not_put_the_others_off() -> None:
    clock, made = ManualClock(), list[str]()
    timers = Timers(clock)

    def fails() -> None:
        raise ValueError("a fault of its own")

    timers.after(1, fails)
    timers.after(2, lambda: made.append("due too"))
    timers.after(4, lambda: made.append("later"))
    faults: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    clock.advance(3)
    await until(lambda: made == ["due too"], seconds=10)
    assert [str(fault["exception"]) for fault in faults] == ["a fault of its own"]
    clock.advance(3)
    await until(lambda: made == ["due too", "later"], seconds=30)
    timers.stop()


class Listening(ManualClock):
    """A clock that remembers how long it was last asked to wait."""

    asked = 0.0

    def call_later(self, seconds: float, call: Callable[[], None]) -> Later:
        self.asked = seconds
        return super().call_later(seconds, call)


async def test_a_call_that_sets_a_far_timer_does_not_put_the_next_one_off() -> None:
    clock = Listening()
    timers = Timers(clock)

    def nothing() -> None:
        pass

    def sets_a_far_one() -> None:
        timers.after(60, nothing)

    timers.after(1.0, sets_a_far_one)
    timers.after(1.1, nothing)
    clock.advance(1)
    timers.run_due()
    assert clock.asked == pytest.approx(0.1)
    timers.stop()


async def test_sleeping_follows_the_clock() -> None:
    clock = ManualClock()
    timers = Timers(clock)
    task = asyncio.ensure_future(timers.sleep(60))
    await asyncio.sleep(0)
    assert not task.done()
    clock.advance(61)
    await asyncio.wait_for(task, 30)
    timers.stop()


async def test_the_next_due_is_that_of_the_earliest_call_that_is_still_to_be_made() -> None:
    clock = ManualClock()
    timers = Timers(clock)
    assert timers.next_due is None
    late = timers.after(20, lambda: None)
    timers.after(10, lambda: None).cancel()
    assert timers.next_due == late.due
    late.cancel()
    assert timers.next_due is None
    timers.stop()


async def test_cancelled_timers_of_far_times_do_not_pile_up() -> None:
    timers = Timers(ManualClock())
    kept = timers.after(86_400, lambda: None)
    for _ in range(10 * HEAP_MIN):
        timers.after(86_400, lambda: None).cancel()
    assert len(timers._heap) <= HEAP_MIN
    assert any(found[2] is kept for found in timers._heap)
    timers.stop()


class Behind(Clock):
    """The clock of a machine that is an hour behind."""

    def wall(self) -> int:
        return super().wall() - 3600 * MICROS


async def test_a_machine_whose_clock_is_wrong_waits_as_long_as_any_other() -> None:
    store = MemoryStore()
    app = Outlive(store, clock=Behind())

    @app.process("/waits", version=1)
    async def wait(run: Run) -> None:
        await run.wait("go", within=3600)

    @app.process("/naps", version=1)
    async def nap(run: Run) -> None:
        await run.sleep(3600)

    async with app:
        for body in (wait, nap):
            handle = await app.start(body)
            view = await until(lambda handle=handle: parked(handle), "it waits")
            left = (view.due - await store.now()) / MICROS
            assert 3500 < left <= 3600


async def parked(handle: Any) -> Any:
    view = await handle.view()
    return view if view.status == "waiting" else None
