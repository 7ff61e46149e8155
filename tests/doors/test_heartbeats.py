"""One timer for all who hold a lease: nobody is beaten late, nobody who has let go."""

import asyncio
from collections.abc import Callable
from typing import Any

from outlive.doors.heartbeats import Heartbeats

BEAT = 10.0


class Rounds:
    """Timers that go off when the test says so."""

    def __init__(self) -> None:
        self.planned: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, seconds: float, call: Callable[[], None]) -> Any:
        self.planned.append((seconds, call))

    def next(self) -> None:
        ((seconds, call),) = self.planned
        self.planned.clear()
        assert seconds == BEAT / 2
        call()


class Holder:
    def __init__(self) -> None:
        self.beats = 0

    def beat(self) -> None:
        self.beats += 1


async def test_who_holds_a_lease_is_beaten_within_one_beat_and_not_within_half_of_one() -> None:
    rounds, holder = Rounds(), Holder()
    heartbeats = Heartbeats(rounds, BEAT)
    heartbeats.hold(holder)
    rounds.next()
    assert holder.beats == 0
    rounds.next()
    assert holder.beats == 1


async def test_who_goes_on_is_beaten_again_and_who_does_not_is_not() -> None:
    rounds, first, second = Rounds(), Holder(), Holder()
    heartbeats = Heartbeats(rounds, BEAT)
    heartbeats.hold(first)
    heartbeats.hold(second)
    rounds.next()
    rounds.next()
    heartbeats.hold(first)
    rounds.next()
    rounds.next()
    assert (first.beats, second.beats) == (2, 1)


async def test_who_is_dropped_is_not_beaten_young_or_old() -> None:
    rounds, young, old = Rounds(), Holder(), Holder()
    heartbeats = Heartbeats(rounds, BEAT)
    heartbeats.hold(old)
    rounds.next()
    heartbeats.hold(young)
    heartbeats.drop(young)
    heartbeats.drop(old)
    heartbeats.drop(old)
    assert len(heartbeats) == 0
    rounds.next()
    assert (young.beats, old.beats) == (0, 0)


async def test_there_is_one_timer_for_all_and_none_for_nobody() -> None:
    rounds = Rounds()
    heartbeats = Heartbeats(rounds, BEAT)
    assert rounds.planned == []
    holders = [Holder() for _ in range(5)]
    for holder in holders:
        heartbeats.hold(holder)
    assert len(rounds.planned) == 1
    for holder in holders:
        heartbeats.drop(holder)
    rounds.next()
    assert rounds.planned == []
    heartbeats.hold(holders[0])
    rounds.next()
    rounds.next()
    assert [holder.beats for holder in holders] == [1, 0, 0, 0, 0]


def test_what_an_event_loop_that_ended_had_left_is_not_renewed_in_the_next_one() -> None:
    rounds, left, new = Rounds(), Holder(), Holder()
    heartbeats = Heartbeats(rounds, BEAT)

    async def leave() -> None:
        heartbeats.hold(left)

    async def go_on() -> None:
        rounds.planned.clear()
        heartbeats.hold(new)
        rounds.next()
        rounds.next()

    asyncio.run(leave())
    asyncio.run(go_on())
    assert (left.beats, new.beats) == (0, 1)
