"""What an operator asks of a process: done once, by its owner, with who and why in its journal."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.service import check_grammar
from tests.testing.conftest import Shop

from outlive import NonRetryable, Retry, Run, StepFailed, Unknown, WaitTimeout, attempt, step
from outlive.errors import (
    NothingToSkip,
    NotPausable,
    NotPaused,
    NotStuck,
    PastPivot,
    ProcessFailed,
    RollingBack,
    UnfitValue,
)
from outlive.testing.trial import Trial

SLOW = Retry(attempts=5, base_seconds=600, cap_seconds=600)


async def texts(trial: Trial, id: str) -> list[str]:
    return [entry.text for entry in await trial.app.journal(id)]


async def whys(trial: Trial, id: str) -> list[str]:
    return [past.why for past in (await trial.app.view(id)).history]


def waiter(shop: Shop) -> Any:
    """A step, a wait of a day, and a step."""
    first, last = shop.doing("first"), shop.doing("last")

    @shop.process
    async def waits(run: Run) -> str:
        await run(first)
        try:
            said = await run.wait("go", within=86_400)
        except WaitTimeout:
            said = "late"
        await run(last)
        return str(said)

    return waits


# --- pause and resume -----------------------------------------------------------------------------


async def test_a_waiting_process_is_paused_at_once_and_waits_on_when_it_is_resumed(
    shop: Shop, trial: Trial
) -> None:
    handle = await trial.start(waiter(shop))
    await trial.run_until_idle()
    await trial.app.pause(handle.id, who="ann", why="the bank is down")
    view = await handle.view()
    assert (view.status, view.failure, view.history[-1].why) == (
        "paused", None, "paused by ann: the bank is down",
    )  # fmt: skip
    assert not trial.in_memory(handle)
    await trial.advance(days=3)
    assert await handle.status() == "paused", "no time-out passes"
    await trial.app.resume(handle.id, who="bob")
    assert (await handle.view()).history[-1].why == "goes on by bob"
    await trial.run_until_idle()
    assert await handle.result() == "late"
    assert shop.world.calls == {"first": 1, "last": 1}
    check_grammar(await trial.app.journal(handle.id))


async def test_a_resumed_wait_is_shown_as_the_wait_it_was(shop: Shop, trial: Trial) -> None:
    handle = await trial.start(waiter(shop))
    await trial.run_until_idle()
    before = await handle.view()
    await trial.app.pause(handle.id)
    await trial.app.resume(handle.id)
    await trial.run_until_idle()
    after = await handle.view()
    assert (after.status, after.waits_for, after.due) == ("waiting", "go", before.due)
    await trial.advance(seconds=3)
    assert not trial.in_memory(handle), "it has left memory again"
    await trial.advance(hours=25)
    assert await handle.result() == "late"


async def test_a_signal_during_a_pause_is_kept_and_wins_over_the_time_out_that_passed(
    shop: Shop, trial: Trial
) -> None:
    handle = await trial.start(waiter(shop))
    await trial.run_until_idle()
    await trial.app.pause(handle.id)
    await trial.advance(days=2)
    await handle.signal("go", "yes")
    assert await handle.status() == "paused"
    await trial.app.resume(handle.id)
    assert await handle.result() == "yes"


async def test_a_step_under_way_ends_and_is_recorded_and_the_next_does_not_begin(
    shop: Shop, trial: Trial
) -> None:
    gate = asyncio.Event()

    @step
    async def slow() -> str:
        shop.world.do(attempt().key, "slow")
        await gate.wait()
        return "slow"

    @shop.process
    async def body(run: Run) -> str:
        await run(slow)
        return await run(shop.doing("next"))

    handle = await trial.start(body)
    while "slow" not in shop.world.log:
        await asyncio.sleep(0)
    await trial.app.pause(handle.id)
    gate.set()
    await trial.run_until_idle()
    assert await handle.status() == "paused"
    assert (await texts(trial, handle.id))[-2:] == ["paused", "slow done at attempt 1"]
    assert not trial.in_memory(handle)
    await trial.app.resume(handle.id)
    assert await handle.result() == "next"
    assert shop.world.calls == {"slow": 1, "next": 1}


async def test_a_body_that_would_end_while_it_is_paused_ends_when_it_is_resumed(
    shop: Shop, trial: Trial
) -> None:
    gate = asyncio.Event()

    @step
    async def slow() -> str:
        shop.world.do(attempt().key, "slow")
        await gate.wait()
        raise NonRetryable("no")

    @shop.process
    async def body(run: Run) -> str:
        return await run(slow)

    handle = await trial.start(body)
    while "slow" not in shop.world.log:
        await asyncio.sleep(0)
    await trial.app.pause(handle.id)
    gate.set()
    await trial.run_until_idle()
    assert await handle.status() == "paused"
    await trial.app.resume(handle.id)
    with pytest.raises(ProcessFailed):
        await handle.result()
    assert shop.world.calls == {"slow": 1}


@pytest.mark.parametrize("then", ["resume", "retry", "cancel"])
async def test_what_is_told_before_the_step_under_way_has_ended_is_not_lost(
    shop: Shop, trial: Trial, then: str
) -> None:
    gate = asyncio.Event()

    async def unmake(made: str | Unknown) -> None:
        shop.world.do(attempt().key, "unmade")

    @step(undo=unmake)
    async def slow_one() -> str:
        shop.world.do(attempt().key, "slow_one")
        await gate.wait()
        return "slow_one"

    async def slowly(run: Run) -> str:
        return await run(slow_one)

    async def waiting(run: Run) -> Any:
        return await run.wait("go")

    @shop.process
    async def body(run: Run) -> Any:
        return await run.gather(slowly, waiting)

    handle = await trial.start(body)
    while "slow_one" not in shop.world.log or not trial.in_memory(handle):
        await asyncio.sleep(0)
    await trial.app.pause(handle.id)
    await handle.signal("go", 1)
    if then == "cancel":
        await trial.app.cancel(handle.id)
    else:
        await getattr(trial.app, then)(handle.id)
    gate.set()
    await trial.run_until_idle()
    await trial.advance(seconds=5)
    if then == "cancel":
        assert await handle.status() == "cancelled"
        assert shop.world.calls["unmade"] == 1
    else:
        assert await handle.result() == ["slow_one", 1]
        assert shop.world.calls == {"slow_one": 1}
    check_grammar(await trial.app.journal(handle.id))


async def test_a_pause_asked_for_twice_is_recorded_once(shop: Shop, trial: Trial) -> None:
    handle = await trial.start(waiter(shop))
    await trial.run_until_idle()
    await trial.app.pause(handle.id, who="ann")
    await trial.app.pause(handle.id, who="bob")
    kinds = [entry.kind for entry in await trial.app.journal(handle.id)]
    assert kinds.count("paused") == 1


async def test_what_is_done_is_undone_when_a_paused_process_is_cancelled(
    shop: Shop, trial: Trial
) -> None:
    async def back(made: str | Unknown) -> None:
        shop.world.do(attempt().key, "back")

    there = shop.doing("there", undo=back)

    @shop.process
    async def body(run: Run) -> Any:
        await run(there)
        return await run.wait("go")

    handle = await trial.start(body)
    await trial.run_until_idle()
    await trial.app.pause(handle.id)
    await trial.app.cancel(handle.id)
    await trial.run_until_idle()
    assert await handle.status() == "cancelled"
    assert shop.world.log == ["there", "back"]


async def test_a_rollback_is_paused_between_two_undos(shop: Shop, trial: Trial) -> None:
    gate = asyncio.Event()

    async def back(made: str | Unknown) -> None:
        shop.world.do(attempt().key, "back")
        await gate.wait()

    one, two = shop.doing("one", undo=back), shop.doing("two", undo=back)

    @shop.process
    async def body(run: Run) -> None:
        await run(one)
        await run(two)
        raise ValueError("no")

    handle = await trial.start(body)
    while "back" not in shop.world.log:
        await asyncio.sleep(0)
    await trial.app.pause(handle.id)
    gate.set()
    await trial.run_until_idle()
    assert await handle.status() == "paused" and shop.world.calls["back"] == 1
    await trial.app.resume(handle.id)
    assert await handle.status() == "compensating"
    await trial.run_until_idle()
    assert await handle.status() == "rolled_back" and shop.world.calls["back"] == 2


# --- the next attempt -----------------------------------------------------------------------------


def flaky(shop: Shop, fails: int, retry: Retry = SLOW) -> Any:
    async def back(made: Any) -> None:
        shop.world.do(attempt().key, f"back {made!r}")

    @step(retry=retry, undo=back)
    def charge() -> int:
        shop.world.do(attempt().key, "charge")
        if attempt().number <= fails:
            raise ConnectionError("the bank is down")
        return attempt().number

    return charge


async def test_what_waits_for_its_next_attempt_makes_it_at_once_and_is_counted_on(
    shop: Shop, trial: Trial
) -> None:
    charge = flaky(shop, 2)

    @shop.process
    async def body(run: Run) -> int:
        return await run(charge)

    handle = await trial.start(body)
    for tried in (1, 2):
        await trial.run_until_idle()
        assert shop.world.calls["charge"] == tried
        await trial.evict(handle) if tried == 2 else None
        await trial.app.retry(handle.id, now=True, who="ann", why="it is up")
    assert await handle.result() == 3
    assert "tried at once: charge by ann: it is up" in await texts(trial, handle.id)
    assert "the next attempt is made at once by ann: it is up" in await whys(trial, handle.id)
    with pytest.raises(NotStuck):
        await trial.app.retry(handle.id, now=True)


async def test_a_paused_process_keeps_the_count_of_its_attempts(shop: Shop, trial: Trial) -> None:
    charge = flaky(shop, 9, Retry(attempts=3, base_seconds=600, cap_seconds=600))

    @shop.process
    async def body(run: Run) -> int:
        return await run(charge)

    handle = await trial.start(body)
    await trial.run_until_idle()
    await trial.app.pause(handle.id)
    with pytest.raises(NotStuck):
        await trial.app.retry(handle.id, now=True)
    await trial.app.resume(handle.id)
    await trial.advance(hours=2)
    assert await handle.status() in ("rolled_back", "failed")
    assert shop.world.calls["charge"] == 3


# --- skip -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_undo", [True, False])
async def test_a_step_between_attempts_is_declared_done_and_undone_like_one(
    shop: Shop, trial: Trial, with_undo: bool
) -> None:
    charge = flaky(shop, 9)

    @shop.process
    async def body(run: Run) -> None:
        got = await run(charge)
        assert got == 7
        raise ValueError("after all")

    handle = await trial.start(body)
    await trial.run_until_idle()
    with pytest.raises(UnfitValue):
        await trial.app.skip(handle.id, value="seven")
    with pytest.raises(NothingToSkip):
        await trial.app.skip(handle.id, "refund", value=7)
    await trial.app.skip(handle.id, value=7, with_undo=with_undo, who="ann", why="by hand")
    await trial.run_until_idle()
    assert await handle.status() == ("rolled_back" if with_undo else "failed")
    assert shop.world.log == ["charge", *(["back 7"] if with_undo else [])]
    said = await texts(trial, handle.id)
    assert "charge is declared done by ann: by hand" in said
    assert "charge skipped by ann: by hand" in said
    (found,) = [found for found in (await handle.view()).steps if found.kind == "step"]
    assert (found.name, found.outcome) == ("charge", "skipped")
    check_grammar(await trial.app.journal(handle.id))


async def test_a_step_is_declared_failed_and_the_body_goes_the_other_way(
    shop: Shop, trial: Trial
) -> None:
    charge = flaky(shop, 9)

    @shop.process
    async def body(run: Run) -> str:
        try:
            await run(charge)
        except StepFailed as error:
            return f"{error.failure_type}: {error.message}"
        return ""

    handle = await trial.start(body)
    await trial.run_until_idle()
    await trial.evict(handle)
    await trial.app.skip(handle.id, "charge", error="never mind")
    assert await handle.result() == "Skipped: never mind"


async def test_a_stuck_step_is_given_a_value_and_the_process_goes_on(
    shop: Shop, trial: Trial
) -> None:
    charge = flaky(shop, 9, Retry(attempts=1))

    @shop.process
    async def body(run: Run) -> int:
        run.pivot()
        return await run(charge)

    handle = await trial.start(body)
    await trial.run_until_idle()
    assert await handle.status() == "stuck"
    with pytest.raises(NotPausable):
        await trial.app.pause(handle.id)
    await trial.app.skip(handle.id, value=5, who="ann")
    assert await handle.result() == 5
    assert shop.world.calls["charge"] == 1


async def test_a_stuck_undo_is_declared_done_and_the_rollback_goes_on(
    shop: Shop, trial: Trial
) -> None:
    async def broken(made: Any) -> None:
        shop.world.do(attempt().key, "broken")
        raise ConnectionError("for ever")

    async def back(made: Any) -> None:
        shop.world.do(attempt().key, "back")

    one, two = shop.doing("one", undo=back), shop.doing("two", undo=broken)

    @shop.process
    async def body(run: Run) -> None:
        await run(one)
        await run(two)
        raise ValueError("no")

    handle = await trial.start(body)
    await trial.advance(hours=1)
    assert await handle.status() == "stuck" and shop.world.calls["broken"] == 12
    with pytest.raises(UnfitValue):
        await trial.app.skip(handle.id, "undo two", value=1)
    await trial.app.skip(handle.id, who="ann", why="refunded by hand")
    await trial.run_until_idle()
    assert await handle.status() == "rolled_back" and shop.world.calls["back"] == 1
    assert "undo of two skipped by ann: refunded by hand" in await texts(trial, handle.id)
    check_grammar(await trial.app.journal(handle.id))


async def test_an_undo_between_attempts_is_declared_done(shop: Shop, trial: Trial) -> None:
    async def broken(made: Any) -> None:
        shop.world.do(attempt().key, "broken")
        raise ConnectionError("for ever")

    one = shop.doing("one", undo=broken)

    @shop.process
    async def body(run: Run) -> None:
        await run(one)
        raise ValueError("no")

    handle = await trial.start(body)
    await trial.run_until_idle()
    assert await handle.status() == "compensating"
    await trial.app.skip(handle.id, "one")
    await trial.run_until_idle()
    assert await handle.status() == "rolled_back"
    assert shop.world.calls["broken"] == 1


async def test_the_stuck_undo_of_a_scope_is_declared_done_and_the_body_goes_on(
    shop: Shop, trial: Trial
) -> None:
    async def broken(made: Any) -> None:
        raise NonRetryable("for ever")

    one = shop.doing("one", undo=broken)

    @shop.process
    async def body(run: Run) -> str:
        try:
            async with run.scope():
                await run(one)
                raise LookupError("no")
        except LookupError:
            return "went on"

    handle = await trial.start(body)
    await trial.run_until_idle()
    assert await handle.status() == "stuck"
    await trial.app.skip(handle.id, "undo one")
    assert await handle.result() == "went on"


async def test_a_skip_of_a_transaction_counts_as_its_record(shop: Shop, trial: Trial) -> None:
    @step(retry=SLOW)
    def write(tables: Any) -> int:
        shop.world.do(attempt().key, "write")
        raise LookupError("no such table")

    @shop.process
    async def body(run: Run) -> int:
        return await run.transact(write)

    handle = await trial.start(body)
    await trial.run_until_idle()
    await trial.app.skip(handle.id, "write", value=3)
    assert await handle.result() == 3
    assert shop.world.calls["write"] == 1


async def test_a_paused_process_stays_paused_when_a_step_of_it_is_skipped(
    shop: Shop, trial: Trial
) -> None:
    charge = flaky(shop, 9)

    @shop.process
    async def body(run: Run) -> int:
        return await run(charge)

    handle = await trial.start(body)
    await trial.run_until_idle()
    await trial.app.pause(handle.id)
    await trial.app.skip(handle.id, value=7)
    await trial.run_until_idle()
    assert await handle.status() == "paused"
    await trial.app.resume(handle.id)
    assert await handle.result() == 7


# --- the deadline ---------------------------------------------------------------------------------


async def test_a_deadline_is_set_from_outside_and_lifted_again(shop: Shop, trial: Trial) -> None:
    handle = await trial.start(waiter(shop))
    await trial.run_until_idle()
    await trial.advance(seconds=3)
    await trial.app.deadline(handle.id, 60, who="ann", why="it must end")
    await trial.app.deadline(handle.id, None, who="bob")
    await trial.advance(hours=1)
    assert await handle.status() == "waiting"
    await trial.app.deadline(handle.id, 60)
    await trial.advance(minutes=2)
    view = await handle.view()
    assert view.failure is not None and view.failure.type == "DeadlineExceeded"
    assert "its deadline is set by ann: it must end" in await whys(trial, handle.id)
    assert "its deadline is lifted by bob" in await whys(trial, handle.id)


async def test_one_that_the_body_has_just_set_does_not_come_back_with_its_next_record(
    shop: Shop, trial: Trial
) -> None:
    begun, through = asyncio.Event(), asyncio.Event()

    @step
    async def long() -> None:
        begun.set()
        await through.wait()

    @shop.process
    async def hasty(run: Run) -> str:
        run.deadline(60)
        await run(long)
        await run.sleep(600)
        return "in time"

    handle = await trial.start(hasty)
    await begun.wait()
    await trial.app.deadline(handle.id, None, who="ann")
    through.set()
    await trial.run_until_idle()
    await trial.evict(handle)
    assert await handle.result() == "in time"


async def test_a_declared_deadline_is_put_off(shop: Shop, trial: Trial) -> None:
    @shop.process
    async def waits(run: Run) -> Any:
        return await run.wait("go")

    shop.app._bodies[waits].deadline = 60
    handle = await trial.start(waits)
    await trial.run_until_idle()
    await trial.app.deadline(handle.id, 3600)
    await trial.advance(minutes=30)
    assert await handle.status() == "waiting"
    await trial.advance(minutes=31)
    assert (await handle.view()).final


async def test_no_deadline_is_set_behind_the_pivot_or_while_it_rolls_back(
    shop: Shop, trial: Trial
) -> None:
    async def broken(made: Any) -> None:
        raise ConnectionError("for ever")

    one = shop.doing("one", undo=broken)

    @shop.process
    async def back(run: Run) -> None:
        await run(one)
        raise ValueError("no")

    @shop.process
    async def forth(run: Run) -> None:
        run.pivot()
        await run.wait("go")

    rolling, pivoted = await trial.start(back), await trial.start(forth)
    await trial.run_until_idle()
    with pytest.raises(RollingBack):
        await trial.app.deadline(rolling.id, 5)
    with pytest.raises(PastPivot):
        await trial.app.deadline(pivoted.id, 5)
    with pytest.raises(ValueError, match="above 0"):
        await trial.app.deadline(pivoted.id, 0)
    with pytest.raises(NotPaused):
        await trial.app.resume(pivoted.id)
