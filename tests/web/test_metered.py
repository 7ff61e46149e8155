"""What is called and what is cached, as a scrape sees it."""

from __future__ import annotations

import pytest
from tests.web.test_metrics import SAMPLE

from outlive import Keys, NoSlot, Outlive, Quota, SealedSessions, Slots, bounded
from outlive.errors import BreakerOpen
from outlive.kinds.breakers.rule import Breaker
from outlive.web.metered import lines_of_caches, lines_of_dependencies, lines_of_requests


async def test_calls_are_counted_by_dependency_whatever_its_parts() -> None:
    app = Outlive("memory://")
    partner = app.dependency("partner", breaker=Breaker(calls_min=2))
    async with app:
        for host in ("a", "b"):

            @partner.guard(part=host)
            async def call() -> None:
                raise ConnectionError

            for _ in range(2):
                with pytest.raises(ConnectionError):
                    await call()
            with pytest.raises(BreakerOpen):
                await call()
        lines = list(lines_of_dependencies(app))
    assert all(line.startswith("# ") or SAMPLE.fullmatch(line) for line in lines), lines
    of = 'dependency="partner"'
    assert f'outlive_dependency_calls_total{{{of},outcome="passed"}} 4' in lines
    assert f'outlive_dependency_calls_total{{{of},outcome="refused"}} 2' in lines
    assert f'outlive_dependency_parts{{{of},state="open"}} 2' in lines
    assert f'outlive_dependency_parts{{{of},state="closed"}} 1' in lines
    assert f"outlive_dependency_alone{{{of}}} 0" in lines


async def test_a_cache_counts_what_it_was_asked_and_what_it_keeps() -> None:
    app = Outlive("memory://")

    @app.cache(bounded(5.0))
    async def price(name: str) -> int:
        return 3

    async with app:
        for name in ("tea", "tea", "milk"):
            await price(name)
        await price.invalidate("tea")
        lines = list(lines_of_caches(app))
    assert all(line.startswith("# ") or SAMPLE.fullmatch(line) for line in lines), lines
    assert 'outlive_cache_asked_total{cache="price",outcome="hit"} 1' in lines
    assert 'outlive_cache_asked_total{cache="price",outcome="miss"} 2' in lines
    assert 'outlive_cache_loads_total{cache="price",outcome="done"} 2' in lines
    assert 'outlive_cache_gone_total{cache="price",cause="invalidated"} 1' in lines
    assert 'outlive_cache_entries{cache="price"} 1' in lines
    assert list(lines_of_dependencies(app)) == []


async def test_limits_slots_keys_and_sessions_are_counted_by_name_and_outcome_only() -> None:
    app = Outlive("memory://")
    quotas = Quota("burst", 1), Quota("daily", 9)
    one, same = app.ratelimits(*quotas), app.ratelimits(*quotas)
    exports, sessions = app.slots(Slots("exports", 1)), app.sessions()
    sealed = SealedSessions(Keys(Keys.new("2026-11")), place=app)
    async with app:
        for caller in ("ada", "ada", "bob"):
            await one.hit(caller)
        await same.hit("cy")
        async with exports.hold("acme"):
            with pytest.raises(NoSlot):
                async with exports.hold("acme"):
                    pass
        for _ in range(2):
            async with app.once("mails", "k", 1) as claim:
                claim.finish(1)
        sessions.counts["new"] += 2
        sealed.counts["new"] += 1
        lines = list(lines_of_requests(app))
    assert all(line.startswith("# ") or SAMPLE.fullmatch(line) for line in lines), lines
    assert 'outlive_ratelimit_hits_total{limiter="burst,daily",outcome="admitted"} 3' in lines
    assert 'outlive_ratelimit_hits_total{limiter="burst,daily",outcome="refused"} 1' in lines
    assert 'outlive_slots_total{slots="exports",outcome="held"} 1' in lines
    assert 'outlive_slots_total{slots="exports",outcome="refused"} 1' in lines
    assert 'outlive_sessions_total{outcome="new"} 3' in lines
    assert 'outlive_idempotency_keys_total{outcome="claimed"} 1' in lines
    assert 'outlive_idempotency_keys_total{outcome="replay"} 1' in lines
    assert not [line for line in lines if "ada" in line or "acme" in line]
