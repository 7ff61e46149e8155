"""docs/comparison.md: its words stand there, its tables are written by `bench/comparison.py`.

A table lies between two comments with the name of its group; so does the line that says when and on
what everything was counted. What a count means is said beside it, by hand: read it again when a
count has changed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from page import measured, table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "comparison.md"
PINNED = ROOT / "bench" / "peers" / "compared.txt"
CARRIERS = ("fastapi", "hiredis", "redis", "starlette", "uvicorn")
"""What is pinned because the peers stand on it."""

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
    text = put(PAGE.read_text("utf-8"), "run", f"{measured()}. {versions()}.")
    for group, rows in found.items():
        heads = ["", *next(iter(rows.values()))]
        lines = [[NAMES.get(name, name), *map(str, row.values())] for name, row in rows.items()]
        text = put(text, group, table([heads, *lines]))
    PAGE.write_text(text, "utf-8")


def put(page: str, name: str, text: str) -> str:
    """`page` with `text` between the comments of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    if not found or end not in rest:
        raise ValueError(f"{PAGE} has no place for {name}")
    return f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"


def versions() -> str:
    """The peers and their versions, without what only carries them."""
    pinned = re.findall(r"^(\S+)==(\S+)$", PINNED.read_text("utf-8"), re.MULTILINE)
    return ", ".join(f"{name} {version}" for name, version in pinned if name not in CARRIERS)
