"""The clock: one place that asks the time, and one that can be moved."""

import asyncio

from outlive.clock import MICROS, Clock, ManualClock, StoreClock, rfc3339


def test_the_machine_s_clocks_move_on_in_microseconds_and_seconds() -> None:
    clock = Clock()
    wall, boot = clock.wall(), clock.boot()
    assert clock.wall() >= wall > 1_600_000_000 * MICROS
    assert clock.boot() >= boot > 0


def test_a_manual_clock_stands_still_until_it_is_moved() -> None:
    clock = ManualClock(5 * MICROS)
    assert clock.wall() == clock.wall() == 5 * MICROS
    clock.advance(1.5)
    assert (clock.wall(), clock.boot()) == (6_500_000, 6.5)
    clock.advance(-1)
    assert clock.wall() == 5_500_000


def test_times_are_written_as_rfc_3339_with_microseconds() -> None:
    assert rfc3339(1_700_000_000_000_007) == "2023-11-14T22:13:20.000007Z"


async def test_the_machine_s_clock_calls_later_unless_it_is_cancelled() -> None:
    called, clock = asyncio.Event(), Clock()
    clock.call_later(0.001, called.clear).cancel()
    clock.call_later(0.001, called.set)
    async with asyncio.timeout(10):
        await called.wait()


def test_what_the_store_says_counts_and_the_time_since_then() -> None:
    own = ManualClock(5 * MICROS)
    clock = StoreClock(own)
    assert clock.wall() == 5 * MICROS, "nothing was heard yet"
    clock.hear(3605 * MICROS)
    own.advance(2)
    assert (clock.wall(), clock.boot()) == (3607 * MICROS, 7.0)
    clock.hear(3606 * MICROS)
    assert clock.wall() == 3607 * MICROS, "it never goes back"
    own.advance(3)
    assert clock.wall() == 3609 * MICROS


def test_no_microsecond_is_lost_on_the_way() -> None:
    own = ManualClock(1_700_000_000_123_457)
    clock = StoreClock(own)
    clock.hear(own.wall())
    for micros in (1, 7, 999_999, 3, 86_400_000_001):
        own.advance(micros / MICROS)
        assert clock.wall() == own.wall()


async def test_the_store_s_clock_calls_by_the_machine_s() -> None:
    called, clock = asyncio.Event(), StoreClock(Clock())
    clock.call_later(0.001, called.set)
    async with asyncio.timeout(10):
        await called.wait()
