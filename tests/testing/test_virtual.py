"""A clock that moves when it is told to, and makes the calls that are due, in order."""

from __future__ import annotations

import asyncio

import pytest

from outlive.testing.virtual import VirtualClock


def test_it_stands_still_and_goes_only_forward() -> None:
    clock = VirtualClock()
    assert clock.wall() == clock.wall() and clock.now().isoformat() == "2026-01-01T00:00:00+00:00"
    clock.advance(90)
    assert clock.now().isoformat() == "2026-01-01T00:01:30+00:00"
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
    assert clock.now().minute == 1


def test_calls_are_made_once_in_the_order_of_their_times_when_it_fires() -> None:
    clock, made = VirtualClock(), list[int]()
    for seconds in (30, 10, 20, 40):
        clock.call_later(seconds, lambda seconds=seconds: made.append(seconds))
    clock.call_later(15, lambda: made.append(15)).cancel()
    clock.advance(30)
    assert made == []
    clock.fire()
    clock.fire()
    assert made == [10, 20, 30]
    clock.forget()
    clock.advance(30)
    clock.fire()
    assert made == [10, 20, 30]


async def test_what_is_due_already_is_called_in_the_next_turn() -> None:
    clock, called = VirtualClock(), asyncio.Event()
    clock.call_later(0, called.set)
    assert not called.is_set()
    async with asyncio.timeout(10):
        await called.wait()
