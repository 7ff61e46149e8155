"""Planted bugs still apply to the source, and a few of them are caught on each run of the tests.

`make planted` tries all of them.
"""

from __future__ import annotations

import ast
import sqlite3
from typing import Any

import pytest
from msgspec.structs import replace
from tests.planted.bugs import LAYERS, ROOT, SOURCE, Bug, all_bugs
from tests.planted.run import line, main, run

BUGS = all_bugs()
LEAST = 25
SLICE = (
    "chain-ignored",
    "fence-off",
    "recorded-step-again",
    "torn-histories",
    "unknown-as-refused",
)


def test_there_are_enough_of_them_and_each_has_its_number() -> None:
    assert len(BUGS) >= LEAST
    assert [int(bug.name[:2]) for bug in BUGS] == list(range(1, len(BUGS) + 1))
    assert len({bug.name[3:] for bug in BUGS}) == len(BUGS)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_it_applies_in_one_place_and_changes_something(bug: Bug) -> None:
    text = bug.applied((SOURCE / bug.file).read_text("utf-8"))
    if bug.file.endswith(".py"):
        ast.parse(text)
    else:
        assert sqlite3.complete_statement(text), "half a statement"
    assert bug.layer in LAYERS
    assert bug.why.endswith(".")
    for tests in bug.tests:
        assert (ROOT / tests.split(" ")[0]).exists(), f"{bug.name} names {tests}"


def test_a_bug_whose_place_is_gone_says_so() -> None:
    gone = replace(BUGS[0], find="what no file says")
    with pytest.raises(ValueError, match="0 times: plant it anew"):
        gone.applied("anything else")
    with pytest.raises(ValueError, match="changes nothing"):
        replace(BUGS[0], find="any", put="any").applied("anything")


def test_the_runner_tells_who_caught_it_who_missed_it_and_what_failed_before() -> None:
    quick = "tests/test_model.py"
    caught = replace(bug_named("buckets-by-hash"), tests=(quick,))

    harmless = replace(caught, name="00-harmless", put=f"{caught.find}  # the same", tests=(quick,))
    broken, found = run([caught, harmless])
    assert broken == []
    assert [(each.caught, each.by.split("::")[0]) for each in found] == [
        (True, quick),
        (False, "nobody"),
    ]
    assert line(found[0]).startswith("caught") and line(found[1]).startswith("MISSED")
    broken, found = run([replace(caught, tests=("tests/no_such_test.py",))])
    assert len(broken) == 1 and found == []


@pytest.mark.parametrize("only", ["99", "7,x", "fence-off"])
def test_a_bug_that_there_is_not_is_refused_and_nothing_counts_as_caught(
    only: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.planted.run.run", None)
    with pytest.raises(SystemExit) as ended:
        main(["--only", only])
    assert ended.value.code == 2


def test_a_bug_is_named_with_or_without_its_nought(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tests.planted.run.run", lambda bugs, jobs: ([], []))
    assert main(["--only", "7"]) == 1
    assert "planted=1 caught=0" in capsys.readouterr().out


@pytest.mark.slow
def test_a_few_of_them_are_caught(record_property: Any) -> None:
    broken, found = run([bug_named(name) for name in SLICE], jobs=2)
    assert broken == []
    seconds = sum(each.seconds for each in found)
    record_property("figures", f"caught={sum(e.caught for e in found)} seconds={seconds:.0f}")
    assert all(each.caught for each in found), "\n".join(map(line, found))


def bug_named(name: str) -> Bug:
    return next(bug for bug in BUGS if bug.name[3:] == name)
