"""Whole clusters under every fault: kept seeds, new seeds, and bugs that must be found.

Each run is a program of its own, with the order of Python's sets fixed: so a seed says everything.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outlive.testing.faults import KINDS
from outlive.testing.simulate import repeated

ROOT = Path(__file__).resolve().parents[2]
KEPT = [
    line.partition("#")[0].strip()
    for line in (ROOT / "tests/simulation/seeds.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
]
RUN_SECONDS_MAX = 240.0


def program(*arguments: str, hashes: str = "0") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": hashes}
    return subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, cwd=ROOT, capture_output=True,
        text=True, timeout=RUN_SECONDS_MAX, check=False,
    )  # fmt: skip


def reported(*arguments: str) -> Any:
    ran = program("outlive.testing.simulate", *arguments, "--report", "json")
    assert ran.stdout, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("options", KEPT)
def test_what_a_seed_once_found_is_not_there_any_more(options: str) -> None:
    assert repeated(options).options == options, "written as it is printed"
    assert reported(*options.split())["violations"] == {}


def test_new_seeds_find_nothing_and_every_fault_is_among_them() -> None:
    """The first seed is at the pace of production; each of the others is 40 simulated minutes."""
    report = reported("--seeds", "8-12")
    assert report["violations"] == {}
    assert report["seeds"] == 5 and report["simulated_hours"] > 1.5
    assert report["faults"].keys() == set(KINDS)
    assert report["counts"]["commits"] > 1000 and report["counts"]["take-overs"] > 20
    print(f"\n{report['simulated_hours']:.1f} simulated hours in {report['seconds']:.0f} s")


def test_the_same_seed_is_the_same_run_in_another_program() -> None:
    said = [
        program("outlive.testing.simulate", "--seed", "16", hashes=hashes).stdout
        for hashes in ("0", "7", "random")
    ]
    digests = [line for one in said for line in one.splitlines() if line.startswith("digest")]
    assert len(digests) == 3 and len(set(digests)) == 1, said
    assert reported("--seed", "16") != reported("--seed", "24")


@pytest.mark.parametrize(
    ("bug", "promise"), [("early", "P1"), ("fence", "P4")], ids=["early", "fence"]
)
def test_a_planted_bug_is_found_and_made_smaller(bug: str, promise: str) -> None:
    ran = program("tests.simulation.planted", bug, "--seed", "8")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    (small,) = [line for line in ran.stdout.splitlines() if line.startswith("  smaller: ")]
    _, _, options = small.partition("outlive.testing.simulate ")
    case = repeated(options)
    assert case.faults is not None and len(case.faults) <= 3
    again = program("tests.simulation.planted", bug, *options.split(), "--keep")
    assert again.returncode == 1 and f"    {promise}: " in again.stdout
