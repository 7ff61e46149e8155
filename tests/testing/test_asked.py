"""A search that was asked for nothing, or for something else than was meant, is refused."""

from __future__ import annotations

import pytest

from outlive.testing import simulate
from outlive.testing.asked import faults_of, seeds_of


def test_seeds_are_one_number_or_a_range_with_both_its_ends() -> None:
    assert list(seeds_of("7")) == [7]
    assert list(seeds_of("1-3")) == [1, 2, 3]
    assert list(seeds_of("5-5")) == [5]


@pytest.mark.parametrize("said", ["", "-", "-3", "1-", "1-2-3", "5-1", "a", "1,2", "1.5", "²"])
def test_what_is_no_range_of_seeds_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        seeds_of(said)


def test_faults_are_numbers_with_commas_and_a_dash_is_none() -> None:
    assert faults_of("-") == ()
    assert faults_of("1,3,13") == (1, 3, 13)


@pytest.mark.parametrize("said", ["", "1-3", "1,", ",1", "-1", "--", "1 3", "x"])
def test_what_is_no_list_of_faults_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        faults_of(said)


@pytest.mark.parametrize(
    "line",
    [
        "--seeds 5-1",
        "--seeds x",
        "--seed 1 --faults 1-3",
        "--seed 1 --seeds 1-2",
        "--seeds 1-2 --faults 1",
        "--seed 1 --nodes 0",
        "--seed 1 --seconds -1",
        "--seed 1 --seconds nan",
        "--seeds 1-2 --minutes 0",
    ],
)
def test_the_command_line_refuses_it_with_one_line_and_runs_nothing(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(simulate, "Turns", None)
    with pytest.raises(SystemExit) as ended:
        simulate.main(line.split())
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_a_simulation_of_no_seeds_is_no_proof() -> None:
    async def clients(_: object) -> None:
        raise AssertionError("nothing may run")

    from outlive.testing import workload

    with pytest.raises(ValueError, match="no seeds"):
        simulate.run(workload.app, clients, seeds=range(5, 1))


def test_the_case_that_a_search_names_is_read_by_the_same_rules() -> None:
    assert simulate.repeated("--seed 17 --faults -").faults == ()
    with pytest.raises(ValueError, match="1-3"):
        simulate.repeated("--seed 17 --faults 1-3")
