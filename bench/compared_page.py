"""docs/comparison.md: its words stand there, its tables are written by `bench/comparison.py`.

A table lies between two comments with the name of its group, with the line that says when and on
what it was counted, so that each group is counted, and written, by itself. What a count means is
said beside it, by hand: read it again when a count has changed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from page import measured, table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "comparison.md"
PINNED = ROOT / "bench" / "peers" / "compared.txt"

Row = dict[str, Any]

NAMES = {
    "starsessions-rolling": "starsessions, `rolling=True`",
    "outlive-sessions": "**outlive**",
    "outlive-breaker": "**outlive**",
    "slowapi": "slowapi (memory)",
    "limits-fixed": "limits, fixed window",
    "limits-moving": "limits, moving window",
    "outlive-gcra": "**outlive**, `gcra`",
    "outlive-sliding": "**outlive**, `sliding`",
    "outlive-elsewhere": "**outlive**, `at-most-once`",
    "outlive-own-tables": "**outlive**, `transactional`",
}


def write(found: dict[str, dict[str, Row]]) -> None:
    """Put every table of `found` into the page. Raises `ValueError` where it has no place."""
    text = PAGE.read_text("utf-8")
    for group, rows in found.items():
        heads = ["", *next(iter(rows.values()))]
        lines = [[NAMES.get(name, name), *map(str, row.values())] for name, row in rows.items()]
        peers = versions([name for name in rows if not name.startswith("outlive")])
        text = put(text, group, f"{table([heads, *lines])}\n\n{measured()}; {peers}.")
    PAGE.write_text(text, "utf-8")


def put(page: str, name: str, text: str) -> str:
    """`page` with `text` between the comments of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    if not found or end not in rest:
        raise ValueError(f"{PAGE} has no place for {name}")
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def versions(names: list[str]) -> str:
    """The packages that these services are made of, with their versions."""
    pinned = re.findall(r"^(\S+)==(\S+)$", PINNED.read_text("utf-8"), re.MULTILINE)
    return ", ".join(
        f"{package} {version}"
        for package, version in pinned
        if package != "fastapi" and any(f"{name}-".startswith(f"{package}-") for name in names)
    )
