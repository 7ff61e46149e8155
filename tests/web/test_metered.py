"""What is called and what is cached, as a scrape sees it."""

from __future__ import annotations

import pytest
from tests.web.test_metrics import SAMPLE

from outlive import Outlive, bounded
from outlive.errors import BreakerOpen
from outlive.kinds.breakers.rule import Breaker
from outlive.web.metered import lines_of_caches, lines_of_dependencies


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
