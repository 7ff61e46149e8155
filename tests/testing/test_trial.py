"""An application on trial: idle when nothing runs, moved through a year, bound back at the end."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.testing.conftest import Shop

from outlive import Outlive, ProcessFailed, Retry, Run, WaitTimeout, step
from outlive.errors import NoSuchProcess, ProcessGone, StoreRefused
from outlive.testing.idleness import NotIdle
from outlive.testing.places import Place
from outlive.testing.trial import Trial


async def test_it_runs_until_it_is_idle_and_waits_for_its_signal(shop: Shop, trial: Trial) -> None:
    @shop.process
    async def order(run: Run) -> str:
        await run(shop.doing("pack"))
        word: str = await run.wait("paid", within=3600)
        await run(shop.doing("send"))
        return word

    handle = await trial.start(order)
    await trial.run_until_idle()
    assert await handle.status() == "waiting"
    assert shop.world.log == ["pack"]
    await handle.signal("paid", "in full")
    assert await handle.result() == "in full"
    assert shop.world.log == ["pack", "send"]
    assert trial.now().isoformat() == "2026-01-01T00:00:00+00:00", "nothing was due: no time passed"


async def test_time_is_moved_and_each_thing_happens_at_its_own(shop: Shop, trial: Trial) -> None:
    seen: list[str] = []

    @shop.process
    async def reminders(run: Run, days: list[int]) -> int:
        for day in days:
            await run.sleep(86_400 * day)
            seen.append(f"{run.now():%m-%d} {trial.now():%m-%d}")
        return len(days)

    handle = await trial.start(reminders, [1, 2, 3])
    await trial.advance(days=1)
    assert seen[-1] == "01-02 01-02"
    await trial.advance(hours=47.9)
    assert seen[-1] == "01-02 01-02"
    await trial.advance(minutes=10)
    assert seen[-1] == "01-04 01-04"
    assert await handle.result(within=3 * 86_400) == 3
    assert trial.now().day == 7


async def test_a_year_of_timers_passes_in_moments(shop: Shop, trial: Trial) -> None:
    @shop.process
    async def yearly(run: Run) -> int:
        for _ in range(365):
            await run.sleep(86_400)
        return 365

    handle = await trial.start(yearly)
    began = time.monotonic()
    await trial.advance(days=365)
    assert time.monotonic() - began < 60, "a year takes about a second on an idle machine"
    assert await handle.status() == "done"
    assert trial.now().year == 2027
    assert trial.app.stats().takeovers == 0, "the node kept its shards"


async def test_retries_follow_the_clock(shop: Shop, trial: Trial) -> None:
    tries: list[str] = []

    @step(retry=Retry(attempts=6, base_seconds=3600, cap_seconds=86_400))
    async def call() -> str:
        tries.append(f"{trial.now():%d %H}")
        if len(tries) < 4:
            raise ConnectionError("nobody there")
        return "at last"

    @shop.process
    async def caller(run: Run) -> str:
        return await run(call)

    handle = await trial.start(caller)
    await trial.run_until_idle()
    assert len(tries) == 1
    assert await handle.result() == "at last"
    assert len(tries) == 4 and trial.app.stats().attempts_failed == 3


async def test_time_outs_of_waits_and_of_steps_follow_the_clock(shop: Shop, trial: Trial) -> None:
    @step(retry=Retry(attempts=1), timeout=30)
    async def hang() -> None:
        await asyncio.get_running_loop().create_future()

    @shop.process
    async def patient(run: Run) -> str:
        try:
            await run.wait("never", within=86_400)
        except WaitTimeout:
            await run(hang)
        return "not reached"

    handle = await trial.start(patient)
    await trial.advance(days=1)
    assert await handle.status() == "running"
    await trial.advance(seconds=29)
    assert await handle.status() == "running"
    await trial.advance(seconds=2)
    view = await handle.view()
    assert view.status == "failed" and view.failure is not None
    assert "longer than 30 s" in view.failure.message


async def test_retention_and_idempotency_keys_follow_the_clock(shop: Shop, trial: Trial) -> None:
    @shop.process
    async def short(run: Run) -> str:
        return "done"

    handle = await trial.start(short, key="k")
    assert await handle.result() == "done"
    assert (await trial.start(short, key="k")).id == handle.id
    await trial.advance(days=8)
    assert (await trial.start(short, key="k")).id != handle.id
    await trial.advance(days=23)
    with pytest.raises(ProcessGone):
        await handle.view()
    await trial.advance(days=31)
    with pytest.raises(NoSuchProcess):
        await handle.view()


async def test_a_result_that_never_comes_says_so_at_once(shop: Shop, trial: Trial) -> None:
    @shop.process
    async def waits(run: Run) -> None:
        await run.wait("go")

    @shop.process
    async def sleeps(run: Run) -> None:
        await run.sleep(1000)

    @shop.process
    async def fails(run: Run) -> None:
        raise ValueError("no")

    with pytest.raises(NotIdle, match="waiting for the signal 'go', and nothing is due"):
        await (await trial.start(waits)).result()
    with pytest.raises(TimeoutError, match="after 10 s of the moved clock"):
        await (await trial.start(sleeps)).result(within=10)
    with pytest.raises(ProcessFailed, match="no"):
        await (await trial.start(fails)).result()


async def test_what_does_not_come_to_rest_is_shown_with_its_line(shop: Shop, trial: Trial) -> None:
    begun, ready = asyncio.Event(), asyncio.Event()

    @step
    async def stands_here() -> None:
        begun.set()
        await ready.wait()

    @shop.process
    async def slow(run: Run) -> None:
        await run(stands_here)

    handle = await trial.start(slow)
    await begun.wait()
    with pytest.raises(NotIdle) as failed:
        await trial.run_until_idle(within=0.05)
    assert handle.id in str(failed.value) and "(slow, running)" in str(failed.value)
    assert "test_trial.py" in str(failed.value) and "in stands_here" in str(failed.value)
    ready.set()
    await trial.run_until_idle()
    assert await handle.status() == "done"


async def test_steps_in_threads_and_synchronous_bodies_are_waited_for(
    shop: Shop, trial: Trial
) -> None:
    begun, go = threading.Event(), threading.Event()

    @step
    def blocks() -> str:
        begun.set()
        assert go.wait(60)
        return "gone"

    @shop.process
    def plain(run: Any) -> str:
        said: str = run(blocks)
        run.sleep(60)
        return said

    handle = await trial.start(plain)
    assert await asyncio.to_thread(begun.wait, 60)
    with pytest.raises(NotIdle, match="in blocks in a thread"):
        await trial.run_until_idle(within=0.2)
    go.set()
    await trial.run_until_idle()
    assert await handle.status() == "waiting"
    assert await handle.result() == "gone"


async def test_branches_that_run_beside_each_other_all_come_to_rest(
    shop: Shop, trial: Trial
) -> None:
    @shop.process
    async def both(run: Run) -> list[Any]:
        return list(
            await asyncio.gather(
                run(shop.doing("one")), run.wait("go", within=600), run(shop.doing("two"))
            )
        )

    handle = await trial.start(both)
    await trial.run_until_idle()
    assert sorted(shop.world.log) == ["one", "two"]
    await handle.signal("go", 7)
    await trial.run_until_idle()
    assert await handle.result() == ["one", 7, "two"]


async def test_put_out_of_memory_it_is_replayed_by_what_comes_next(
    shop: Shop, trial: Trial
) -> None:
    bodies: list[str] = []

    @shop.process
    async def order(run: Run) -> str:
        bodies.append(run.id)
        await run(shop.doing("pack"))
        word: str = await run.wait("paid")
        return word

    handle = await trial.start(order)
    await trial.run_until_idle()
    assert trial.in_memory(handle)
    await trial.evict(handle)
    assert not trial.in_memory(handle) and len(bodies) == 1
    await handle.signal("paid", "yes")
    assert await handle.result() == "yes"
    assert len(bodies) == 2 and shop.world.calls["pack"] == 1
    with pytest.raises(NoSuchProcess):
        await trial.evict("order_nobody")


async def test_in_the_pause_of_a_retry_it_is_put_out_and_goes_on(shop: Shop, trial: Trial) -> None:
    bodies, tries = [], []

    @step(retry=Retry(attempts=3, base_seconds=0.5, cap_seconds=0.5))
    async def flaky() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("once")
        return "well"

    @shop.process
    async def order(run: Run) -> str:
        bodies.append(1)
        return await run(flaky)

    handle = await trial.start(order)
    await trial.run_until_idle()
    await trial.evict(handle)
    assert await handle.result() == "well"
    assert len(tries) == 2 and len(bodies) == 2


async def test_it_goes_only_forward(trial: Trial) -> None:
    with pytest.raises(ValueError, match="does not go back"):
        await trial.advance(days=-1)


async def test_the_application_is_bound_back_and_its_own_store_never_touched(
    shop: Shop, tmp_path: Path
) -> None:
    @shop.process
    async def order(run: Run) -> str:
        return await run(shop.doing("pack")) or ""

    address = shop.app.store_address
    for _ in range(2):  # a second trial finds nothing of the first
        async with Trial(shop.app, Place("memory://", tmp_path).store) as trial:
            handle = await trial.start(order, key="the same")
            assert await handle.result() == "pack"
            assert len((await shop.app.processes())[0]) == 1
    assert shop.app.store_address == address and shop.app.phase == "new"
    assert not Path("never").exists() and shop.world.calls["pack"] == 2


async def test_an_application_that_is_open_is_refused(tmp_path: Path) -> None:
    async with Outlive("memory://") as app:
        with pytest.raises(StoreRefused, match="open already"):
            await Trial(app, Place("memory://", tmp_path).store).open()
        assert app.phase == "ready"


async def test_on_postgresql_it_lies_in_a_schema_of_its_own(
    shop: Shop, postgres: str, tmp_path: Path
) -> None:
    @shop.process
    async def order(run: Run) -> str:
        await run.sleep(30 * 86_400)
        return str(await run(shop.doing("pack")))

    place = Place(postgres, tmp_path)
    try:
        async with Trial(shop.app, place.store) as trial:
            handle = await trial.start(order)
            await trial.advance(days=29)
            assert await handle.status() == "waiting" and shop.world.log == []
            await trial.advance(days=2)
            assert await handle.status() == "done" and shop.world.log == ["pack"]
            assert trial.now().day == 1 and trial.now().month == 2
    finally:
        place.remove()
