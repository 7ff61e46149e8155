"""The page of proofs says what was measured, marks a partial run, and invents nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.proofs.__main__ import all_of, figures_of, here, main, ran
from tests.proofs.harnesses import HARNESSES, Harness
from tests.proofs.page import (
    PAGE,
    ROOT,
    Place,
    Ran,
    kept,
    page,
    track_record,
    write_kept,
)

PLACE = Place("abc", False, "2026-01-02 03:04 UTC", "a machine")


def all_ran(**figures: Any) -> list[Ran]:
    return [Ran(harness, PLACE, True, True, 12.3, figures) for harness in HARNESSES]


def test_a_whole_run_is_not_marked_and_shows_every_figure() -> None:
    faults = {"kill": 3, "lost_answer": 4}
    text = page(all_ran(lost=0, faults=faults, figures=["one: a=1"]), track_record())
    assert "partial" not in text
    assert "On a machine." in text
    assert "lost 0" in text
    assert "faults: kill 3, lost answer 4" in text
    assert "- one: a=1" in text
    for harness in HARNESSES:
        name = f"{harness.name} (by name only)" if harness.outside else harness.name
        told = f"| {name} | {harness.layer} | nothing found | 12 | {PLACE.when} | `abc` |"
        assert told in text
        assert harness.not_covered in text


def test_a_run_without_some_or_with_one_that_broke_off_is_partial() -> None:
    first, second, *others = all_ran(tests=1)
    second = replace(second, place=replace(PLACE, changed=True))
    text = page([replace(first, complete=False), second], [])
    assert "**This page is partial.**" in text
    assert f"Not run: {', '.join(each.harness.name for each in others)}." in text
    assert f"Not completed: {first.harness.name}." in text
    assert f"## {first.harness.name}\n" not in text, "what broke off has no figures"
    assert "| `abc` with changes not committed |" in text
    assert f"- {others[0].harness.name} ({others[0].harness.layer}) was not run." in text


def test_what_failed_is_said() -> None:
    first, *others = all_ran()
    text = page([replace(first, sound=False), *others], [])
    assert f"| {first.harness.name} | {first.harness.layer} | FAILED | 12 |" in text


def test_a_result_takes_the_place_of_the_last_one_and_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "proofs.json"
    first, second, *_ = all_ran(figures=["one: a=1"])
    assert kept(path) == []
    write_kept(first, path)
    write_kept(second, path)
    later = replace(first, place=replace(PLACE, commit="def"), figures={"lost": 2})
    write_kept(later, path)
    assert kept(path) == [later, second]


def test_the_page_is_what_the_kept_results_say() -> None:
    assert PAGE.read_text("utf-8") == page(kept(), track_record())


def test_harnesses_run_beside_each_other_or_alone_and_none_is_left_out() -> None:
    quick = harness('print("{}")')
    mixed = [replace(quick, name="a"), replace(quick, name="b", beside=True)]
    assert [each.harness.name for each in all_of(mixed)] == ["b", "a"]


def test_rows_of_a_harness_become_a_table() -> None:
    rows = [{"name": "01-a|b", "caught": True}, {"name": "02", "caught": False}]
    text = page([Ran(HARNESSES[0], PLACE, True, True, 1.0, {"bugs": rows})], [])
    assert "| name | caught |\n|---|---|\n| 01-a\\|b | yes |\n| 02 | no |" in text


def test_the_track_record_is_told_of_real_commits() -> None:
    bugs = track_record()
    assert bugs
    assert all(bug.what and bug.found_by and bug.repeat and bug.mended for bug in bugs)
    assert bugs[0].mended in page([], bugs)


def harness(code: str, told: Any = "json", seconds_max: int = 60) -> Harness:
    command = f"{sys.executable} -c '{code}'"
    return Harness("trial", "L0", "A trial.", command, told, "Everything.", seconds_max)


def test_a_harness_says_what_it_counted_in_its_last_line_or_in_a_file() -> None:
    found = ran(harness('print("begins"); print("{\\"lost\\": 0}")'))
    assert (found.complete, found.sound, found.figures) == (True, True, {"lost": 0})
    writes = (
        'import pathlib; pathlib.Path("{out}").write_text("{\\"lost\\": 2}"); raise SystemExit(1)'
    )
    found = ran(harness(writes))
    assert (found.complete, found.sound, found.figures) == (True, False, {"lost": 2})


@pytest.mark.parametrize("code", ['print("nothing to read")', "", "raise SystemExit(3)"])
def test_a_harness_that_counted_nothing_was_not_completed(code: str) -> None:
    assert ran(harness(code)).verdict == "not completed"


def test_a_harness_that_does_not_end_is_ended_and_not_completed() -> None:
    found = ran(harness("import time; time.sleep(600)", seconds_max=1))
    assert found.verdict == "not completed"


def test_what_pytest_counts_is_read_with_the_figures_of_the_tests(tmp_path: Path) -> None:
    told = (
        '<testsuites><testsuite tests="3" failures="1" errors="0" skipped="0">'
        '<testcase name="t"><properties><property name="figures" value="lost=0"/></properties>'
        '</testcase><testcase name="u"><failure message="assert 1&#10;  == 2">more</failure>'
        "</testcase></testsuite></testsuites>"
    )
    (tmp_path / "out").write_text(told)
    counted = figures_of(harness("", "junit"), tmp_path / "out", "")
    assert counted == {
        "tests": 3, "failures": 1, "errors": 0, "skipped": 0, "figures": ["t: lost=0"],
        "failed": ["u: assert 1 == 2"],
    }  # fmt: skip


def test_each_harness_is_there_and_has_a_name_of_its_own() -> None:
    names = [each.name for each in HARNESSES]
    assert len(set(names)) == len(names)
    for each in HARNESSES:
        paths = [word for word in each.command.split() if word.startswith("tests/")]
        assert all((ROOT / path).exists() for path in paths), each.command


def test_where_it_runs_is_told() -> None:
    place = here()
    assert "SQLite" in place.machine and place.when.endswith("UTC")


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "nothing-of-that-name"])
    assert "there is no harness" in capsys.readouterr().err
