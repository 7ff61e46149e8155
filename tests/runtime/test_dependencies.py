"""Guarded calls: in one fixed order, within a budget, and nothing counted that should not be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from outlive.clock import Clock, Later, ManualClock
from outlive.errors import (
    AttemptTooLong,
    BreakerOpen,
    BulkheadFull,
    DeadlinePassed,
    NonRetryable,
)
from outlive.kinds.breakers.rule import Breaker, RetryBudget
from outlive.runtime import dependencies
from outlive.runtime.dependencies import Dependency, Plan
from outlive.steps import Attempt, Retry, set_attempt

BREAKER = Breaker(calls_min=4, window_calls=8, open_seconds=5.0)
PLENTY = RetryBudget(ratio=1.0, floor_per_second=100.0)
SOON = Retry(attempts=3, base_seconds=0.0)


class Skipping(ManualClock):
    """A clock that jumps to the time somebody waits for."""

    def call_later(self, seconds: float, call: Callable[[], None]) -> Later:
        self.advance(seconds)
        return asyncio.get_running_loop().call_soon(call)


class Raised(Exception):
    def __init__(self, status: int, **headers: str) -> None:
        self.response = SimpleNamespace(status_code=status, headers=headers)


class Partner:
    """What is called: it does what it is told to, one after the other."""

    def __init__(self, *does: Any) -> None:
        self.does = list(does)
        self.calls = 0
        self.under_way = self.most = 0

    async def __call__(self) -> Any:
        self.calls += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            now = self.does.pop(0) if self.does else "well"
            if isinstance(now, asyncio.Event):
                await now.wait()
                return "late"
            if isinstance(now, Exception):
                raise now
            return now
        finally:
            self.under_way -= 1


def guarded(made: Dependency, partner: Partner, **how: Any) -> Callable[[], Awaitable[Any]]:
    async def call() -> Any:
        return await partner()

    return made.guard(**how)(call)


@pytest.fixture
def clock() -> ManualClock:
    return Skipping()


def dependency(clock: Clock, **how: Any) -> Dependency:
    return Dependency("partner", breaker=BREAKER, clock=clock, **how)


async def test_a_quick_call_and_a_carried_one_count_alike(clock: ManualClock) -> None:
    for how in ({}, {"bulkhead": 9}):
        made = dependency(clock, **how)
        partner = Partner("a", OSError(), Raised(404), NonRetryable("no"), BreakerOpen("other"))
        call = guarded(made, partner)
        for _ in range(6):
            await asyncio.gather(call(), return_exceptions=True)
        gate = made.part().gate
        assert (gate.windows.calls, gate.windows.failures, gate.flying) == (5, 1, {})


async def test_a_cancelled_call_counts_for_nothing_and_leaves_nothing(clock: ManualClock) -> None:
    for how in ({}, {"bulkhead": 9}, {"hedge_seconds": 60.0}):
        made = dependency(clock, **how)
        partner = Partner(*(asyncio.Event() for _ in range(3)))
        call = guarded(made, partner, idempotent=True)
        await made.standing()
        task = asyncio.ensure_future(call())
        while not partner.under_way:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        part = made.part()
        assert (part.gate.windows.calls, part.gate.flying, part.under_way) == (0, {}, 0)


async def test_only_what_may_be_repeated_is_tried_again(clock: ManualClock) -> None:
    made = dependency(clock, retry=SOON, budget=PLENTY)
    once, again = Partner(OSError("1"), "well"), Partner(OSError("1"), OSError("2"), "well")
    with pytest.raises(OSError, match="1"):
        await guarded(made, once)()
    assert await guarded(made, again, idempotent=True)() == "well"
    assert (once.calls, again.calls) == (1, 3)


async def test_what_the_caller_got_wrong_is_not_tried_again(clock: ManualClock) -> None:
    made = dependency(clock, retry=SOON, budget=PLENTY)
    for error in (Raised(404), NonRetryable("no")):
        partner = Partner(error)
        with pytest.raises(type(error)):
            await guarded(made, partner, idempotent=True)()
        assert partner.calls == 1


async def test_an_empty_purse_ends_it_at_once_with_the_first_error(clock: ManualClock) -> None:
    budget = RetryBudget(ratio=0.0, floor_per_second=0.1)
    made = dependency(clock, retry=SOON, budget=budget)
    partner = Partner(OSError("first"), OSError("second"), "well")
    with pytest.raises(OSError, match="first"):
        await guarded(made, partner, idempotent=True)()
    assert (partner.calls, made.purse.refused) == (2, 1)


async def test_an_open_breaker_ends_the_retries(clock: ManualClock) -> None:
    made = dependency(clock, retry=Retry(attempts=20, base_seconds=0.0), budget=PLENTY)
    partner = Partner(*(OSError() for _ in range(20)))
    with pytest.raises(BreakerOpen):
        await guarded(made, partner, idempotent=True)()
    assert partner.calls == 4


async def test_the_wait_is_what_was_asked_for_and_never_past_the_deadline(
    clock: ManualClock,
) -> None:
    made = dependency(clock, retry=SOON, budget=PLENTY)
    began = clock.boot()
    busy = {"retry-after": "7"}
    assert await guarded(made, Partner(Raised(429, **busy), "well"), idempotent=True)() == "well"
    assert clock.boot() - began == pytest.approx(7.0)
    hour = Partner(Raised(503, **{"retry-after": "3600"}), "well")
    with pytest.raises(Raised):
        await guarded(made, hour, idempotent=True)()
    assert hour.calls == 1, "nobody waits for an hour"
    partner = Partner(Raised(503, **busy), "well")
    with made.within(5.0), pytest.raises(Raised):
        await guarded(made, partner, idempotent=True)()
    assert partner.calls == 1


async def test_no_attempt_is_begun_that_could_not_end(clock: ManualClock) -> None:
    made = dependency(clock, least_seconds=1.0)
    partner = Partner()
    with made.within(0.5), pytest.raises(DeadlinePassed):
        await guarded(made, partner)()
    assert partner.calls == 0


async def test_an_attempt_that_takes_too_long_is_a_failure_and_a_deadline_is_none() -> None:
    made = dependency(Clock(), timeout=0.02)
    with pytest.raises(AttemptTooLong):
        await guarded(made, Partner(asyncio.Event()))()
    assert made.part().gate.windows.failures == 1
    with made.within(0.01), pytest.raises(DeadlinePassed):
        await guarded(made, Partner(asyncio.Event()))()
    assert made.part().gate.windows.calls == 1


async def test_one_layer_retries(clock: ManualClock) -> None:
    inner = Dependency("inner", breaker=BREAKER, retry=SOON, budget=PLENTY, clock=clock)
    outer = Dependency("outer", breaker=BREAKER, retry=SOON, budget=PLENTY, clock=clock)
    partner = Partner(*(ConnectionError() for _ in range(9)))
    call = guarded(inner, partner, idempotent=True)

    @outer.guard(idempotent=True)
    async def nested() -> Any:
        return await call()

    with pytest.raises(ConnectionError):
        await nested()
    assert partner.calls == 3


async def test_inside_a_step_the_step_is_the_layer_that_retries(clock: ManualClock) -> None:
    made = dependency(clock, retry=SOON, budget=PLENTY)
    partner = Partner(ConnectionError(), "well")

    async def in_a_step() -> None:
        set_attempt(Attempt("stream", "charge", 1, "ord_1"))
        with pytest.raises(ConnectionError):
            await guarded(made, partner, idempotent=True)()

    await asyncio.create_task(in_a_step())
    assert partner.calls == 1


async def test_a_full_bulkhead_refuses_and_counts_for_nothing(clock: ManualClock) -> None:
    made = dependency(clock, bulkhead=2)
    ends = [asyncio.Event() for _ in range(2)]
    partner = Partner(*ends)
    call = guarded(made, partner)
    running = [asyncio.ensure_future(call()) for _ in range(2)]
    while partner.under_way < 2:
        await asyncio.sleep(0)
    with pytest.raises(BulkheadFull):
        await call()
    for end in ends:
        end.set()
    await asyncio.gather(*running)
    assert await call() == "well" and partner.most == 2
    assert made.part().gate.windows.calls == 3


async def test_a_hedge_answers_for_a_call_that_hangs_and_is_charged(clock: ManualClock) -> None:
    made = dependency(clock, hedge_seconds=0.01, budget=PLENTY)
    partner = Partner(asyncio.Event(), "quick")
    assert await guarded(made, partner, idempotent=True)() == "quick"
    assert (partner.calls, partner.under_way, made.purse.spent) == (2, 0, 1)
    assert made.part().gate.flying == {}


async def test_a_hedge_fails_only_when_both_did(clock: ManualClock) -> None:
    made = dependency(clock, hedge_seconds=0.01, budget=PLENTY)
    slow = asyncio.Event()
    partner = Partner(slow, OSError("the hedge"))
    call = asyncio.ensure_future(guarded(made, partner, idempotent=True)())
    while partner.calls < 2:
        await asyncio.sleep(0.001)
    slow.set()
    assert await call == "late"


async def test_a_bad_result_counts_and_the_last_one_is_given_back(clock: ManualClock) -> None:
    made = dependency(clock, retry=SOON, budget=PLENTY)
    partner = Partner("bad", "bad", "bad", "well")
    call = guarded(made, partner, idempotent=True, failed_result=lambda found: found == "bad")
    assert (await call(), partner.calls, made.part().gate.windows.failures) == ("bad", 3, 3)


async def test_a_fallback_answers_when_it_failed_or_was_refused(clock: ManualClock) -> None:
    made = dependency(clock)

    async def instead() -> str:
        return "instead"

    call = guarded(made, Partner(*(OSError() for _ in range(4)), "x"), fallback=instead)
    assert [await call() for _ in range(6)] == ["instead"] * 6
    with pytest.raises(Raised):
        await guarded(dependency(clock), Partner(Raised(404)), fallback=instead)()


async def test_each_part_has_a_breaker_of_its_own_and_their_number_is_bounded(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dependencies, "PARTS_MAX", 3)
    made = dependency(clock)
    down = guarded(made, Partner(*(ConnectionError() for _ in range(4))), part="a")
    for _ in range(4):
        with pytest.raises(ConnectionError):
            await down()
    with pytest.raises(BreakerOpen, match="partner/a"):
        await down()
    assert await guarded(made, Partner(), part="b")() == "well"
    for number in range(9):
        made.part(str(number))
    assert list(made.parts) == ["", "6", "7", "8"]


def test_a_plain_function_is_refused(clock: ManualClock) -> None:
    with pytest.raises(TypeError, match="is not async"):
        dependency(clock).guard()(lambda: None)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("wrong", ["bulkhead", "timeout", "hedge_seconds"])
def test_what_makes_no_sense_is_refused(wrong: str, clock: ManualClock) -> None:
    with pytest.raises(ValueError, match=wrong):
        dependency(clock, **{wrong: 0})


async def offered(budget: RetryBudget, clock: ManualClock) -> tuple[float, float]:
    """How many calls reach a partner for each that is asked for: while it fails one of three, which
    opens no breaker, and in a minute after that."""
    made = Dependency("partner", retry=Retry(attempts=4, base_seconds=0.0), budget=budget,
                      clock=clock)  # fmt: skip
    found = []
    for is_down in (True, False):
        partner, asked = Partner(), 0
        call = guarded(made, partner, idempotent=True)
        for _ in range(6000):
            clock.advance(0.01)
            if is_down and partner.calls % 3 == 0:
                partner.does.append(OSError())
            asked += 1
            await asyncio.gather(call(), return_exceptions=True)
        found.append(partner.calls / asked)
    return found[0], found[1]


async def test_a_brown_out_is_not_made_worse_by_those_who_retry(clock: ManualClock) -> None:
    during, behind = await offered(RetryBudget(), clock)
    assert during <= 1.2 and behind <= 1.001
    unbounded, _ = await offered(RetryBudget(ratio=1.0, floor_per_second=1000.0), clock)
    assert unbounded > 1.3


async def test_of_two_hedged_results_at_once_the_good_one_is_given_and_the_other_discarded(
    clock: ManualClock,
) -> None:
    for results in (("bad", "well"), ("well", "bad"), ("well", "also well")):
        made = dependency(clock, hedge_seconds=0.01, budget=PLENTY)
        both, given, discarded = asyncio.Event(), list(results), []
        calls: list[str] = []

        async def call(both: asyncio.Event = both, given: Any = given, calls: Any = calls) -> str:
            result: str = given.pop(0)
            calls.append(result)
            await both.wait()
            return result

        async def discard(result: str, discarded: Any = discarded) -> None:
            discarded.append(result)

        plan = Plan(
            idempotent=True, failed_result=lambda found: found == "bad", discard=discard,
        )  # fmt: skip
        carried = asyncio.ensure_future(made.carry(made.part(), plan, call))
        async with asyncio.timeout(10):
            while len(calls) < 2:
                await asyncio.sleep(0.001)
        both.set()
        found = await carried
        assert found != "bad"
        assert [found, *discarded] in ([*results], [*reversed(results)])


@pytest.mark.parametrize("plain", [True, False])
async def test_a_judgement_that_fails_leaves_no_call_under_way(
    plain: bool, clock: ManualClock
) -> None:
    def judged(found: Any) -> bool:
        raise KeyError("status")

    made = dependency(clock) if plain else dependency(clock, bulkhead=1)
    partner = Partner("a", "b", OSError(), OSError())
    by_result = guarded(made, partner, failed_result=judged)
    by_error = guarded(made, partner, failed=judged)
    for call in (by_result, by_result, by_error, by_error):
        with pytest.raises(KeyError):
            await call()
    part = made.part()
    assert (part.under_way, part.gate.flying, partner.calls) == (0, {}, 4)
