"""Whole clusters under every fault: kept seeds, new seeds, and bugs that must be found.

Each run is a program of its own, with the order of Python's sets fixed: so a seed says everything.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from outlive.testing.faults import KINDS
from outlive.testing.simulate import QUICK, repeated

ROOT = Path(__file__).resolve().parents[2]
KEPT = [
    line.partition("#")[0].strip()
    for line in (ROOT / "tests/simulation/seeds.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
]
RUN_SECONDS_MAX = 240.0


def program(
    *arguments: str, hashes: str = "0", root: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(root / "src"), str(root)))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": hashes}
    return subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, cwd=root, capture_output=True,
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
    """One at the pace of production, one forty times as rare, one in between."""
    report = reported("--seeds", "8-10")
    assert report["violations"] == {}
    assert report["seeds"] == 3 and report["simulated_hours"] > 0.75
    assert report["faults"].keys() == set(KINDS)
    assert report["counts"]["commits"] > 1000 and report["counts"]["take-overs"] > 20


def test_the_same_seed_is_the_same_run_in_another_program() -> None:
    options = ("outlive.testing.simulate", "--seed", "16", "--seconds", "30")
    said = [program(*options, hashes=hashes).stdout for hashes in ("0", "random")]
    digests = [line for one in said for line in one.splitlines() if line.startswith("digest")]
    assert len(digests) == 2 and len(set(digests)) == 1, said
    other = program(*options[:2], "24", *options[3:]).stdout
    assert digests[0] not in other and "digest" in other


def test_the_same_seed_is_the_same_run_in_another_folder(tmp_path: Path) -> None:
    """Another copy of the source, another file system for the store, other sets, other memory."""
    far = tmp_path / ("a-folder-with-a-long-name-" * 6)
    for name in ("src/outlive", "tests/simulation"):
        shutil.copytree(ROOT / name, far / name, ignore=shutil.ignore_patterns("__pycache__"))
    near = Path(tempfile.mkdtemp(dir=QUICK if os.access(QUICK, os.W_OK) else None))
    try:
        asked = ("tests.simulation.elsewhere", "{}", "20", "8", "11", "16")
        here = program(*(word.format(near) for word in asked))
        there = program(*(word.format(far) for word in asked), hashes="77", root=far)
    finally:
        shutil.rmtree(near)
    assert len(set(here.stdout.split())) == 3, here.stderr
    assert here.stdout == there.stdout, there.stderr


def test_a_planted_bug_is_found_and_made_smaller() -> None:
    """The gate opens before the commit: clients are told of what is not there."""
    ran = program("tests.simulation.planted", "early", "--seed", "8", "--seconds", "20")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    (small,) = [line for line in ran.stdout.splitlines() if line.startswith("  smaller: ")]
    options = small.partition("outlive.testing.simulate ")[2]
    assert len(repeated(options).faults or ()) <= 3
    again = program("tests.simulation.planted", "early", *options.split(), "--keep")
    assert again.returncode == 1 and "    P1: " in again.stdout


def test_two_writers_of_one_shard_are_found_without_the_fence() -> None:
    """By about every second seed; which ones changes with whatever a run does."""
    for seed in range(1, 9):
        ran = program("tests.simulation.planted", "fence", "--seed", str(seed), "--keep")
        if "    P4: stale write" in ran.stdout:
            assert ran.returncode == 1
            return
    pytest.fail(f"eight seeds found no stale write:\n{ran.stdout}{ran.stderr}")
