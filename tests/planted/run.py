"""Plant each bug in a copy of the tree, run the tests that must notice it, and say who did.

    python -m tests.planted.run [--only 03,07] [--jobs 2] [--json FILE]

A bug is caught when a test *fails*: a run that cannot even begin (an import that breaks) counts as
not caught, and one that does not end within its time is said to hang, and counts as caught by that.
Before any bug is planted the same tests must pass on the copy as it is.

Exit: 0 when all were caught, 1 when one was not, 2 when the tests fail without a bug.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import msgspec
from msgspec import Struct
from tests.planted.bugs import ROOT, Bug, all_bugs

SECONDS_MAX = 150
"""For the tests of one bug."""
COPIED = ("src", "tests", "examples", "docs", "pyproject.toml", "README.md", "Makefile")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


class Found(Struct, frozen=True):
    """What became of one planted bug."""

    name: str
    layer: str
    why: str
    caught: bool
    by: str
    seconds: float


class Tree:
    """A copy of the project, with at most one bug in it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", ".*")
                shutil.copytree(source, folder / name, ignore=ignored)
            elif source.exists():
                shutil.copy(source, folder / name)

    def tried(self, bug: Bug) -> Found:
        """Plant `bug`, run its tests until one fails, and take it out again."""
        place = self.root / "src" / "outlive" / bug.file
        whole = place.read_text("utf-8")
        place.write_text(bug.applied(whole), "utf-8")
        began = time.monotonic()
        try:
            for tests in bug.tests:
                code, by = self.ran(tests)
                if code == 1 and by:
                    return self._found(bug, True, by, began)
                if code not in (0, 1):
                    return self._found(bug, False, f"{tests} did not run: {by}", began)
            return self._found(bug, False, "nobody", began)
        except subprocess.TimeoutExpired:
            return self._found(bug, True, f"{bug.tests[0]} hangs", began)
        finally:
            place.write_text(whole, "utf-8")

    def _found(self, bug: Bug, caught: bool, by: str, began: float) -> Found:
        seconds = round(time.monotonic() - began, 1)
        return Found(bug.name, bug.layer, bug.why, caught, by, seconds)

    def ran(self, tests: str, *options: str) -> tuple[int, str]:
        """Run some tests here; gives the exit code and the first test that failed."""
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *options]
        source = os.pathsep.join((str(self.root / "src"), str(self.root)))
        environment = {**os.environ, "PYTHONPATH": source}
        environment["PYTHONPYCACHEPREFIX"] = str(self.root / ".compiled")
        process = subprocess.Popen(
            [*command, *shlex.split(tests)],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(timeout=SECONDS_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            raise
        first = _FAILED.search(out)
        return process.returncode, first[1] if first else out.strip().splitlines()[-1]


def run(bugs: Sequence[Bug], jobs: int = 1) -> tuple[list[str], list[Found]]:
    """Try `bugs`, `jobs` at a time; gives which tests fail without a bug, and what was found."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        trees: SimpleQueue[Tree] = SimpleQueue()
        for number in range(jobs):
            (Path(folder) / str(number)).mkdir()
            trees.put(Tree(Path(folder) / str(number)))

        def sound(tests: str) -> str:
            tree = trees.get()
            try:
                code, by = tree.ran(tests)
                return "" if code == 0 else f"{tests}: {by}"
            except subprocess.TimeoutExpired:
                return f"{tests}: did not end within {SECONDS_MAX} s"
            finally:
                trees.put(tree)

        def tried(bug: Bug) -> Found:
            tree = trees.get()
            try:
                found = tree.tried(bug)
            finally:
                trees.put(tree)
            print(line(found), flush=True)
            return found

        with ThreadPoolExecutor(jobs) as pool:
            broken = list(filter(None, pool.map(sound, sorted({t for b in bugs for t in b.tests}))))
            return broken, [] if broken else list(pool.map(tried, bugs))


def line(found: Found) -> str:
    said = "caught" if found.caught else "MISSED"
    return f"{said}  {found.seconds:6.1f} s  {found.layer}  {found.name:<34} {found.by}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="numbers, with commas between")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    numbers = {number.zfill(2) for number in given.only.split(",") if number}
    bugs = [bug for bug in all_bugs() if not numbers or bug.name[:2] in numbers]
    if unknown := numbers - {bug.name[:2] for bug in bugs}:
        parser.error(f"there is no planted bug {', '.join(sorted(unknown))}")
    if given.jobs < 1:
        parser.error("--jobs is at least 1")
    began = time.monotonic()
    broken, found = run(bugs, given.jobs)
    for tests in broken:
        print(f"fails without a bug: {tests}")
    caught = sum(each.caught for each in found)
    seconds = time.monotonic() - began
    print(f"planted={len(bugs)} caught={caught} seconds={seconds:.0f}")
    if given.json:
        told = {"planted": len(bugs), "caught": caught, "seconds": round(seconds), "bugs": found}
        given.json.write_bytes(msgspec.json.encode(told))
    return 2 if broken else 0 if caught == len(bugs) else 1


if __name__ == "__main__":
    sys.exit(main())
