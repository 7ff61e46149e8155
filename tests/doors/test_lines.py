"""A start that is refused because too many wait: nothing is stored, and it may come again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.doors.manual import written_out

from outlive import Limit, Outlive, Rate, Run, step
from outlive.doors.lines import AHEAD_MAX
from outlive.errors import Overloaded, QuotaExceeded, StoreUnavailable
from outlive.kinds.processes.limits import tickets_of
from outlive.stores.memory import MemoryStore
from outlive.testing import Trial


async def job(run: Run, tenant: str) -> Any:
    return await run.wait("go")


def trial_of(**options: Any) -> Trial:
    app = Outlive("memory://")
    app.process("/jobs", version=1, **options)(job)
    return Trial(app, lambda clock: MemoryStore(clock=clock))


async def test_a_backlog_past_its_limit_refuses_and_stores_nothing() -> None:
    async with trial_of(limit=Limit(concurrency=1), backlog_max=3) as trial:
        handles = []
        for n in range(4):
            handles.append(await trial.start(job, "a", key=f"{n}"))
            await trial.run_until_idle()
        with pytest.raises(Overloaded) as refused:
            await trial.start(job, "a", key="late")
        assert refused.value.status == 503 and refused.value.facts["retry_after"] == 5
        assert len((await trial.app.processes())[0]) == 4
        assert (await trial.start(job, "a", key="2")).id == handles[2].id, "that one was started"
        await handles[0].signal("go")
        await trial.advance(seconds=2)
        late = await trial.start(job, "a", key="late")
        assert await late.status() == "queued"


@pytest.mark.parametrize("most", [5, AHEAD_MAX + 5])
async def test_starts_at_one_time_do_not_pass_the_limit_of_a_backlog_together(most: int) -> None:
    async with trial_of(limit=Limit(concurrency=1), backlog_max=most) as trial:
        starts = [trial.app.start(job, "a") for _ in range(most + 40)]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        refused = [found for found in outcomes if isinstance(found, Exception)]
        assert {type(found) for found in refused} == {Overloaded}
        assert most <= len(outcomes) - len(refused) <= most + 1, "one may have its turn already"


async def test_a_start_that_was_not_stored_takes_no_place_in_a_backlog(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Outlive("memory://")
    app.process("/jobs", version=1, limit=Limit(concurrency=1), backlog_max=2)(job)
    await app.open_client()

    async def fails(*_: Any) -> Any:
        raise StoreUnavailable("cut off")

    with monkeypatch.context() as patched:
        patched.setattr(app.store, "commit", fails)
        for _ in range(4):
            with pytest.raises(StoreUnavailable):
                await app.start(job, "a")
    for _ in range(2):
        await app.start(job, "a")
    with pytest.raises(Overloaded):
        await app.start(job, "a")
    await app.close()


async def test_a_key_that_has_too_many_does_not_hinder_others() -> None:
    limit = Limit(rate=Rate(1, per_seconds=60), per=lambda tenant: tenant)
    async with trial_of(limit=limit, backlog_max=2) as trial:
        for _ in range(3):
            await trial.start(job, "loud")
            await trial.run_until_idle()
        with pytest.raises(QuotaExceeded) as refused:
            await trial.start(job, "loud")
        assert refused.value.status == 429
        assert await (await trial.start(job, "quiet")).status() in ("queued", "waiting")
        assert len(await trial.app.store.scan(tickets_of("job.0/loud"))) == 2


async def test_over_http_it_is_told_when_to_come_back_and_where_it_stands() -> None:
    limit = Limit(concurrency=1)
    async with trial_of(limit=limit, backlog_max=1) as trial:
        transport = httpx.ASGITransport(app=trial.app.asgi())
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answers = []
            for _ in range(3):
                answers.append(await client.post("/jobs", json="a"))
                await trial.run_until_idle()
            assert [answer.status_code for answer in answers] == [202, 202, 503]
            assert answers[1].json()["status"] == "queued"
            seen = (await client.get(answers[1].headers["location"])).json()
            assert seen["queue"] == {
                "line": "job.0", "ahead": 0, "running": 1, "why": "1 of 1 places are taken"
            }  # fmt: skip
            assert 2 <= int(answers[2].headers["retry-after"]) <= 8
            assert answers[2].json()["code"] == "OL2031"
            assert answers[2].headers["content-type"] == "application/problem+json"


async def test_a_flood_of_starts_does_not_harm_what_runs() -> None:
    ended: list[str] = []

    @step
    async def part(n: int) -> int:
        await asyncio.sleep(0.001)
        return n

    async def steady(run: Run) -> None:
        for n in range(20):
            await run(part, n)
        ended.append(run.id)

    async def sleeper(run: Run) -> None:
        await run.wait("go")

    app = Outlive("memory://", active_max=50)
    app.process("/steady", version=1)(steady)
    app.process("/flood", version=1)(sleeper)
    async with app:
        handles = [await app.start(steady) for _ in range(10)]
        outcomes: list[Any] = []
        for _ in range(10):
            flood: list[Callable[[], Any]] = [lambda: app.start(sleeper) for _ in range(200)]
            outcomes += await asyncio.gather(*(one() for one in flood), return_exceptions=True)
        refused = [found for found in outcomes if isinstance(found, Overloaded)]
        assert refused and len(refused) < len(outcomes)
        assert len(refused) == len([found for found in outcomes if isinstance(found, Exception)])
        for handle in handles:
            await handle.result(within=30)
        assert len(ended) == 10
        kept, cursor = await app.processes(type="sleeper", limit=200)
        while cursor:
            more, cursor = await app.processes(type="sleeper", limit=200, cursor=cursor)
            kept += more
        assert len(kept) == len(outcomes) - len(refused), "what was refused is not stored"


async def test_a_start_is_refused_while_too_much_waits_to_be_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("outlive.runtime.committer.CROWDED_BATCHES", 20)
    app = Outlive("memory://")
    app.process("/jobs", version=1)(job)
    async with app:
        found = await asyncio.gather(
            *(app.start(job, "a") for _ in range(100)), return_exceptions=True
        )
        refused = [one for one in found if isinstance(one, Overloaded)]
        assert len(refused) == 80 and refused[0].facts["retry_after"] == 1
        assert app.stats().starts_refused == {"commits": 80}
        await app.start(job, "a")


async def test_what_waits_and_has_left_memory_does_not_count() -> None:
    app = Outlive("memory://", active_max=5)
    app.process("/jobs", version=1)(job)
    async with Trial(app, lambda clock: MemoryStore(clock=clock)) as trial:
        for _ in range(4):
            for _ in range(5):
                await trial.start(job, "a")
            await trial.run_until_idle()
            await trial.advance(seconds=2)
        assert len((await app.processes(status="waiting"))[0]) == 20


def test_a_limit_that_limits_nothing_or_too_much_is_refused() -> None:
    for wrong in (dict[str, Any](), {"concurrency": 0}, {"concurrency": 20_000}):
        with pytest.raises(ValueError, match="concurrency"):
            Limit(**wrong)
    for count, seconds in ((0, 1.0), (1, 0.0), (1, 90_000.0)):
        with pytest.raises(ValueError, match=r"rate|count"):
            Rate(count, seconds)
    app = Outlive("memory://")
    with pytest.raises(ValueError, match="at most 4"):
        app.process("/jobs", version=1, limit=[Limit(concurrency=1)] * 5)(job)
    with pytest.raises(ValueError, match="backlog_max"):
        app.process("/jobs", version=1, backlog_max=0)(job)
    with pytest.raises(ValueError, match="active_max"):
        Outlive("memory://", active_max=0)


def test_the_programs_of_the_page_do_what_they_say(tmp_path: Path) -> None:
    assert written_out("limits.md", tmp_path) == ["imports.py", "night.py"]
    ran = subprocess.run(
        [sys.executable, "night.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout == f"9 {10 * 5 + 10 * 6}\n", ran.stderr
