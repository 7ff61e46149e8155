"""One instance's view of a breaker: quick while it is closed, bounded in what it does not know."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from outlive.clock import ManualClock
from outlive.errors import BreakerOpen, OutliveError, StoreUnavailable
from outlive.kinds.breakers.rule import Breaker
from outlive.kinds.breakers.standing import read, ref_of, state_of
from outlive.model import Batch, Cell, Committed, Ref
from outlive.runtime.apply import Applier
from outlive.runtime.breakers import Gate
from outlive.stores.memory import MemoryStore

RULE = Breaker(calls_min=4, window_calls=8, open_seconds=5.0, probe_seconds=4.0, slow_seconds=2.0)
KEY = "payments"


class Flaky(MemoryStore):
    """A store that counts what it is asked, and can be away."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self.reads = self.writes = 0
        self.away = False

    async def read(self, refs: Sequence[Ref]) -> list[Cell | None]:
        self.reads += 1
        self._demand_here()
        return await super().read(refs)

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        self.writes += 1
        self._demand_here()
        return await super().commit_group(batches)

    def _demand_here(self) -> None:
        if self.away:
            raise StoreUnavailable("cut off")


class Fleet:
    """Several instances on one store."""

    def __init__(self, size: int, rule: Breaker = RULE) -> None:
        self.clock = ManualClock()
        self.store = Flaky(self.clock)
        self.gates = [self.gate(str(number), rule) for number in range(size)]

    def gate(self, who: str, rule: Breaker = RULE) -> Gate:
        made = Applier(self.store, self.clock)

        async def applier() -> Applier:
            return made

        return Gate(KEY, rule, self.clock, applier, lambda: who)

    async def settled(self) -> None:
        for gate in self.gates:
            await gate.settled()


@pytest.fixture
async def fleet() -> Fleet:
    made = Fleet(3)
    await made.store.open()
    return made


async def fail(gate: Gate, times: int = 4) -> None:
    for _ in range(times):
        (await gate.enter()).badly()
    await gate.settled()


async def entered(gates: Sequence[Gate], times: int) -> list[Any]:
    """What `times` calls on each gate, all at once, were given."""
    asked = [gate.enter() for _ in range(times) for gate in gates]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert all(not isinstance(one, Exception) or isinstance(one, BreakerOpen) for one in found)
    return [one for one in found if not isinstance(one, Exception)]


async def test_a_closed_breaker_asks_the_store_once_an_interval_and_never_writes(
    fleet: Fleet,
) -> None:
    gate = fleet.gates[0]
    for _ in range(100):
        (await gate.enter()).well()
    assert (fleet.store.reads, fleet.store.writes) == (1, 0)
    for _ in range(10):
        fleet.clock.advance(0.1)
        (await gate.enter()).well()
        await gate.settled()
    assert fleet.store.reads <= 3 and fleet.store.writes == 0


async def test_what_one_instance_opened_is_open_for_all_within_the_bound(fleet: Fleet) -> None:
    first, second, third = fleet.gates
    (await second.enter()).well()
    await fail(first)
    assert state_of(first.standing) == "open"
    fleet.clock.advance(RULE.share_seconds)
    with pytest.raises(BreakerOpen) as refused:
        await second.enter()
    assert 3.9 < refused.value.facts["retry_after"] <= 5.0
    assert refused.value.facts["dependency"] == KEY and "4 of 4 calls failed" in str(refused.value)
    with pytest.raises(BreakerOpen):
        await (
            third.enter()
        )  # it has just started: it reads before its first call, and resets nothing


async def test_failures_spread_over_the_instances_open_it_together(fleet: Fleet) -> None:
    for gate in fleet.gates:
        for _ in range(2):
            (await gate.enter()).badly()
    assert {state_of(gate.standing) for gate in fleet.gates} == {"closed"}
    for _ in range(2):
        fleet.clock.advance(RULE.share_seconds)
        for gate in fleet.gates:
            await gate.refresh()
    assert {state_of(gate.standing) for gate in fleet.gates} == {"open"}


async def test_of_600_calls_on_three_instances_one_is_let_through_to_try(fleet: Fleet) -> None:
    await fail(fleet.gates[0])
    fleet.clock.advance(5.1)
    let = await entered(fleet.gates, 200)
    assert len(let) == 1
    fleet.clock.advance(1.1)
    assert await entered(fleet.gates, 200) == []
    let[0].well()
    await fleet.settled()
    fleet.clock.advance(1.1)
    assert len(await entered(fleet.gates, 10)) == 30


async def test_a_probe_that_never_ends_is_followed_by_another_at_its_end(fleet: Fleet) -> None:
    await fail(fleet.gates[0])
    fleet.clock.advance(5.1)
    (stuck,) = await entered(fleet.gates, 5)
    fleet.clock.advance(3.9)
    assert await entered(fleet.gates, 5) == []
    fleet.clock.advance(0.2)
    (probe,) = await entered(fleet.gates, 5)
    stuck.badly()  # late: it says nothing any more
    await fleet.settled()
    probe.well()
    await fleet.settled()
    assert read(fleet.store._cells[ref_of(KEY)].value).mode == "closed"


async def test_a_failed_probe_opens_it_again_and_a_cancelled_one_gives_its_right_back(
    fleet: Fleet,
) -> None:
    first = fleet.gates[0]
    await fail(first)
    fleet.clock.advance(5.1)
    (await first.enter()).forget()
    await first.settled()
    (await first.enter()).badly()
    await first.settled()
    assert (first.standing.mode, first.standing.failed_probes) == ("open", 1)
    assert first.standing.rights == ()


async def test_who_asks_for_a_right_and_is_cancelled_gives_it_back(fleet: Fleet) -> None:
    first = fleet.gates[0]
    await fail(first)
    fleet.clock.advance(5.1)
    await first.refresh()
    asking = asyncio.create_task(first.enter())
    while not first._asking:
        await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await first.settled()
    assert first.standing.rights == ()
    assert (await first.enter()).token


async def test_a_call_that_is_slow_counts_before_it_ends_and_only_once(fleet: Fleet) -> None:
    gate = fleet.gates[0]
    calls = [await gate.enter() for _ in range(4)]
    fleet.clock.advance(2.1)
    with pytest.raises(BreakerOpen, match="took 2 s or longer"):
        await gate.enter()
    await gate.settled()
    for call in calls:
        call.well()
    assert gate.windows.slow == 4 and gate.windows.calls == 4


async def test_a_cancelled_call_counts_for_nothing(fleet: Fleet) -> None:
    gate = fleet.gates[0]
    for _ in range(20):
        (await gate.enter()).forget()
    assert (gate.windows.calls, len(gate.flying), state_of(gate.standing)) == (0, 0, "closed")


async def test_without_its_store_an_instance_decides_alone_and_the_stricter_stands(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, _ = fleet.gates
    (await first.enter()).well()
    (await second.enter()).well()
    fleet.store.away = True
    fleet.clock.advance(1.1)
    (await first.enter()).well()
    assert "StoreUnavailable" in first.alone
    await fail(first, 2)
    with pytest.raises(BreakerOpen):
        await first.enter()
    (await second.enter()).well()
    fleet.store.away = False
    fleet.clock.advance(1.1)
    with pytest.raises(BreakerOpen):
        await first.enter()
    await first.settled()
    assert not first.alone and "is shared again" in caplog.text
    fleet.clock.advance(1.1)
    (await second.enter()).well()  # it was alone: it looks behind this call
    await second.settled()
    with pytest.raises(BreakerOpen):
        await second.enter()


async def test_alone_it_tries_again_by_itself(fleet: Fleet) -> None:
    gate = fleet.gates[0]
    fleet.store.away = True
    await fail(gate)
    fleet.clock.advance(5.1)
    assert len(await entered([gate], 50)) == 1


async def test_an_operator_holds_it_open_over_a_restart_and_everybody_knows_why(
    fleet: Fleet,
) -> None:
    first, second, _ = fleet.gates
    (await second.enter()).well()
    await first.control("force open", "ann", "they asked for a pause")
    fleet.clock.advance(1.1)
    restarted = fleet.gate("new")
    for gate in (first, second, restarted):
        with pytest.raises(BreakerOpen, match="held open by ann: they asked for a pause"):
            await gate.enter()
    await restarted.control("release", "bob", "they are back")
    (await restarted.enter()).well()
    notes = [(note.what, note.who) for note in restarted.standing.controls]
    assert notes == [("force open", "ann"), ("release", "bob")]
    with pytest.raises(ValueError, match="who does it and why"):
        await first.control("reset", "", "no reason")


async def test_held_closed_it_lets_everything_through_and_counts_nothing(fleet: Fleet) -> None:
    gate = fleet.gates[0]
    await gate.control("force closed", "ann", "it reports errors that are none")
    await fail(gate, 50)
    assert (state_of(gate.standing), gate.windows.calls, gate.refused) == ("held closed", 0, 0)


async def test_an_operator_is_told_when_the_store_did_not_take_it(fleet: Fleet) -> None:
    fleet.store.away = True
    with pytest.raises(StoreUnavailable):
        await fleet.gates[0].control("force open", "ann", "because")


async def test_in_its_shadow_it_decides_and_refuses_nothing() -> None:
    fleet = Fleet(1, Breaker(calls_min=4, window_calls=8, open_seconds=5.0, shadow=True))
    await fleet.store.open()
    (gate,) = fleet.gates
    await fail(gate)
    assert state_of(gate.standing) == "open"
    assert len(await entered([gate], 10)) == 10 and gate.refused == 10
