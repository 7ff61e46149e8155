"""Run the harnesses, and write what they found into docs/proofs.md.

    python -m tests.proofs [--only conformance,checkers] [--write]
    python -m tests.proofs --page          write the page anew, and run nothing

Without `--write` the page of this run is printed. With it the results go into docs/proofs.json,
each with its commit and its time, in the place of that harness's last; the page is written from all
that stand there. So harnesses may be run at different times, and the page says of each when, and at
which commit. What was not measured is not on the page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import apsw
from tests.proofs.harnesses import HARNESSES, Harness
from tests.proofs.page import KEPT, PAGE, ROOT, Place, Ran, kept, page, track_record, write_kept

SAID_MAX = 300
"""Characters of why a test failed."""
BESIDE = 2
"""How many of the harnesses that may run beside each other do."""


def ran(harness: Harness) -> Ran:
    """Run one harness to its end, or until its time is up."""
    place, began = here(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [sys.executable if word == "python" else word for word in words(harness, out)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            said, _ = process.communicate(timeout=harness.seconds_max)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return Ran(harness, place, False, False, time.monotonic() - began, {})
        figures = figures_of(harness, out, said)
    complete = figures is not None and process.returncode in (0, 1)
    seconds = time.monotonic() - began
    return Ran(harness, place, complete, process.returncode == 0, seconds, figures or {})


def all_of(harnesses: Sequence[Harness]) -> Iterator[Ran]:
    """Run them: those that may run beside each other first, then the others one by one."""
    beside = [harness for harness in harnesses if harness.beside]
    with ThreadPoolExecutor(BESIDE) as pool:
        yield from pool.map(ran, beside)
    yield from (ran(harness) for harness in harnesses if not harness.beside)


def words(harness: Harness, out: Path | str) -> list[str]:
    return shlex.split(harness.command.replace("{out}", str(out)))


def figures_of(harness: Harness, out: Path, said: str) -> dict[str, Any] | None:
    """What a harness counted; None when it did not get so far."""
    try:
        if harness.told == "junit":
            return of_junit(ElementTree.fromstring(out.read_text("utf-8")))
        told = out.read_text("utf-8") if out.exists() else said.strip().splitlines()[-1]
        found = json.loads(told)
        return found if isinstance(found, dict) else None
    except (OSError, ValueError, IndexError, ElementTree.ParseError):
        return None


def of_junit(tree: ElementTree.Element) -> dict[str, Any]:
    """Counts of pytest, the lines that tests recorded as their figures, and what failed."""
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in tree.iter("testsuite"):
        for name in counts:
            counts[name] += int(suite.get(name, 0))
    figures = [
        f"{case.get('name')}: {told.get('value')}"
        for case in tree.iter("testcase")
        for told in case.iter("property")
        if told.get("name") == "figures"
    ]
    failed = [
        f"{case.get('name')}: {' '.join((said.get('message') or '').split())[:SAID_MAX]}"
        for case in tree.iter("testcase")
        for said in case
        if said.tag in ("failure", "error")
    ]
    return {**counts, "figures": figures, **({"failed": failed} if failed else {})}


def here() -> Place:
    """At which commit, when, and on what this runs."""
    commit = git("rev-parse", "--short=12", "HEAD")
    written = [f":!{path.relative_to(ROOT)}" for path in (KEPT, PAGE)]
    changed = bool(git("status", "--porcelain", "--untracked-files=no", "--", ".", *written))
    return Place(
        commit,
        changed,
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        f"Python {platform.python_version()}, SQLite {apsw.sqlite_lib_version()},"
        f" {platform.system()} {platform.release()}, {os.cpu_count()} processors",
    )


def git(*arguments: str) -> str:
    found = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the harnesses.")
    parser.add_argument("--only", default="", help="names, with commas between")
    parser.add_argument("--write", action="store_true", help="into docs/proofs.json and proofs.md")
    parser.add_argument("--page", action="store_true", help="from docs/proofs.json, run nothing")
    given = parser.parse_args(arguments)
    if given.page:
        PAGE.write_text(page(kept(), track_record()), "utf-8")
        return 0
    names = [name for name in given.only.split(",") if name]
    unknown = set(names) - {harness.name for harness in HARNESSES}
    if unknown:
        parser.error(f"there is no harness {', '.join(sorted(unknown))}")
    wanted = [h for h in HARNESSES if (h.name in names if names else not h.outside)]
    found = list[Ran]()
    for each in all_of(wanted):
        found.append(each)
        print(f"{each.verdict}: {each.harness.name} {each.seconds:.0f} s", flush=True)
        if given.write:
            write_kept(each)
    if given.write:
        PAGE.write_text(page(kept(), track_record()), "utf-8")
    else:
        print(page(found, track_record()))
    return 0 if all(each.sound for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
