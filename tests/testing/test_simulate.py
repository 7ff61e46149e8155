"""A user's own application, simulated; and what is said about a case."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from outlive import Outlive, Run, attempt, step
from outlive.testing import simulate
from outlive.testing.cluster import Cluster
from outlive.testing.oracles import Facts
from outlive.testing.simulate import Case, Found, lines_of, repeated, run, run_case, search, shrunk

nap = asyncio.sleep  # on virtual time: it takes none

outside: dict[str, str] = {}


@step
async def charge(name: str) -> str:
    await nap(0.5)
    outside[attempt().key] = name
    return name


async def buy(run: Run, name: str) -> str:
    await run.sleep(2)
    return await run(charge, name)


def shop() -> Outlive:
    app = Outlive()
    app.process("/purchases", version=1)(buy)
    return app


async def clients(cluster: Cluster) -> None:
    outside.clear()
    number = 0
    while not cluster.over:
        number += 1
        id = await cluster.start(buy, f"buyer {number}")
        assert await cluster.end_of(id) == "done"


async def charged_once(cluster: Cluster, facts: Facts) -> list[str]:
    names = list(outside.values())
    return [f"{name} was charged twice" for name in sorted({*names}) if names.count(name) > 1]


def test_a_users_application_is_simulated_with_the_users_own_oracle() -> None:
    report = run(shop(), clients, charged_once, seeds=[1], seconds=240.0)
    assert report.seeds == 1 and report.violations == {}
    assert report.counts["processes"] > 5 and len(outside) >= 5
    assert outside.values() and report.simulated_hours > 0.01


def test_what_the_users_oracle_finds_is_raised_with_the_smallest_case() -> None:
    async def never(cluster: Cluster, facts: Facts) -> list[str]:
        return ["somebody was charged"] if outside else []

    with pytest.raises(AssertionError, match="somebody was charged") as raised:
        run(shop(), clients, never, seeds=[1], nodes=1, seconds=20.0)
    again = re.search(r"repeated\('(.*)'\)", str(raised.value))
    assert again is not None
    small = repeated(again[1])
    assert small.faults == () and small.nodes == 1 and small.lasts <= 20
    assert run_case(small, shop(), clients, never).violations == ["somebody was charged"]


def test_a_client_that_fails_is_a_violation() -> None:
    async def broken(cluster: Cluster) -> None:
        raise LookupError("no key")

    found = run_case(Case(1, 1, 5.0, ()), shop(), broken)
    assert found.violations and "LookupError('no key')" in found.violations[0]


def test_an_error_of_our_own_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    from outlive.runtime.node import NodeRuntime

    async def broken(self: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(NodeRuntime, "look_around", broken)

    async def idle(cluster: Cluster) -> None:
        await nap(5)

    found = run_case(Case(1, 1, 5.0, ()), shop(), idle)
    assert found.violations[0].startswith("unexpected: a tick failed: ZeroDivisionError()")


def test_a_synchronous_body_is_refused() -> None:
    app = Outlive()

    @app.process("/blocking", version=1)
    def blocking(run: Any) -> None: ...

    with pytest.raises(ValueError, match="blocking has a synchronous body"):
        run_case(Case(1), app, clients)
    with pytest.raises(ValueError, match="1 to 16 nodes"):
        run_case(Case(1, 17))


CASES = [Case(7), Case(7, 2, 30.0), Case(7, faults=()), Case(7, faults=(1, 5))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.options)
def test_the_options_of_a_case_name_it(case: Case) -> None:
    assert repeated(case.options) == case


@pytest.mark.parametrize("options", ["", "--nodes 3", "--seed 1 --sed 2", "--seed"])
def test_what_names_no_case_is_refused(options: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        repeated(options)


def test_a_case_is_made_as_small_as_its_two_culprits() -> None:
    case = Case(9)
    assert len(case.drawn()) > 12
    tried: list[Case] = []

    def fails(one: Case) -> bool:
        tried.append(one)
        return {3, 11} <= {fault.number for fault in one.drawn()}

    small = shrunk(case, fails, 200)
    assert small.faults == (3, 11) and small.nodes == 1 and len(tried) <= 200
    assert small.lasts < case.lasts and fails(small)
    assert shrunk(case, lambda _: False) == case


def test_faults_keep_their_numbers_when_time_and_nodes_become_fewer() -> None:
    case = Case(9)
    less = replace(case, seconds=case.lasts / 2)
    assert case.drawn()[: len(less.drawn())] == less.drawn()


def test_a_search_ends_with_its_time_and_says_what_it_found() -> None:
    def found(case: Case) -> Found:
        flaws = ["P1: lost"] if case.seed == 2 else []
        return Found(case, flaws, {"kill": 1}, {"commits": 2}, 3600.0, 5, "")

    report = search((Case(seed) for seed in range(1, 4)), run=found)
    assert report.seeds == 3 and report.simulated_hours == 3 and report.faults == {"kill": 3}
    assert report.violations == {"--seed 2": ["P1: lost"]}
    said = "\n".join(lines_of(report))
    assert "python -m outlive.testing.simulate --seed 2\n    P1: lost" in said
    assert search((Case(seed) for seed in range(9)), minutes=0.0, run=found).seeds == 0


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "QUICK", tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        run_case(Case(1, 2, 20.0), shop(), clients)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1
    assert not list(tmp_path.iterdir())
