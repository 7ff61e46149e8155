"""docs/benchmarks.md: how a figure is written, and how a script puts its section into the page.

A section lies between two comments with its name. Writing one leaves all others as they are, so
that each benchmark is run, and written, by itself.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

BENCH = Path(__file__).resolve().parent
PAGE = BENCH.parent / "docs" / "benchmarks.md"


def short(number: float | None) -> str:
    """Three significant figures, with a comma for thousands; – for what was not measured."""
    if number is None:
        return "–"
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def table(rows: list[list[str]]) -> str:
    """Rows as Markdown, the first of them as the heads."""
    ruled = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def times() -> tuple[int, int]:
    """Ticks since boot of all cores: those in use, and those wanted that the host gave to others.
    Zeros where no Linux kernel counts them."""
    try:
        counted = Path("/proc/stat").read_text("ascii").split("\n")[0].split()[1:9]
    except OSError:
        return 0, 0
    user, nice, system, _, _, interrupts, soft, stolen = map(int, counted)
    return user + nice + system + interrupts + soft, stolen


BEGAN = times()


def stolen() -> str:
    """The part of the CPU time since the start of the script that other machines had."""
    used, lost = (now - then for now, then in zip(times(), BEGAN, strict=True))
    return f"{100 * lost / max(1, used + lost):.0f} % stolen"


def measured() -> str:
    """When, at which commit, with which command and on what machine."""
    command = " ".join([f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    load = os.getloadavg()[1]
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} at commit {commit()} with `{command}`:"
        f" {os.cpu_count()} cores (load {load:.1f} at the end, {stolen()}),"
        f" {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def commit() -> str:
    """The short id of the commit that was measured; with a + when files differ from it."""
    git = ["git", "-C", str(BENCH.parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return "(none)"
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def write(name: str, title: str, text: str) -> None:
    """Put the section into the page, in the place of the one before; a new one goes to the end."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n## {title}\n\n{text}\n{end}\n"
    page = PAGE.read_text("utf-8") if PAGE.exists() else "# Benchmarks\n"
    before, found, rest = page.partition(begin)
    if found:
        after = rest.partition(end + "\n")[2]
    else:
        before, after = before.rstrip("\n") + "\n\n", ""
    PAGE.write_text(before + section + after, "utf-8")


def say(line: str) -> None:
    """What is under way, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
