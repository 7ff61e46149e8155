"""docs/proofs.md: written from what the harnesses counted, and from nothing else.

What they counted stands in docs/proofs.json, a result for each harness: its last. Each tells at
which commit it came to be, so that a page of several runs claims no more than they found.
"""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, convert, to_builtins
from tests.proofs.harnesses import HARNESSES, Harness

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "proofs.md"
KEPT = ROOT / "docs" / "proofs.json"
TRACK_RECORD = ROOT / "docs" / "track-record.toml"


class Place(Struct, frozen=True):
    """Where and when a run was made."""

    commit: str
    changed: bool
    when: str
    machine: str


class Ran(Struct, frozen=True):
    """What came of one harness."""

    harness: Harness
    place: Place
    complete: bool
    """It came to its end, and said what it counted."""
    sound: bool
    seconds: float
    figures: dict[str, Any]

    @property
    def verdict(self) -> str:
        if not self.complete:
            return "not completed"
        return "nothing found" if self.sound else "FAILED"


class Bug(Struct, frozen=True, forbid_unknown_fields=True):
    """A bug of ours that a harness found."""

    what: str
    found_by: str
    repeat: str
    mended: str


def track_record() -> list[Bug]:
    """Every bug that is told of in docs/track-record.toml."""
    told = tomllib.loads(TRACK_RECORD.read_text("utf-8"))
    return convert(told["bug"], list[Bug])


def kept(path: Path = KEPT) -> list[Ran]:
    """The last result of each harness that there still is."""
    told = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return [
        convert({**told[harness.name], "harness": to_builtins(harness)}, Ran)
        for harness in HARNESSES
        if harness.name in told
    ]


def write_kept(ran: Ran, path: Path = KEPT) -> None:
    """Put a result in the place of that harness's last."""
    told = json.loads(path.read_text("utf-8")) if path.exists() else {}
    result = to_builtins(ran)
    del result["harness"]
    told[ran.harness.name] = result
    path.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", "utf-8")


def page(found: Sequence[Ran], bugs: Sequence[Bug]) -> str:
    """The page of these results."""
    parts = [head(found), table(found)]
    parts += [section(ran) for ran in found if ran.complete]
    parts += [uncovered(found), record(bugs)]
    return "\n\n".join(parts) + "\n"


def head(found: Sequence[Ran]) -> str:
    names = {ran.harness.name for ran in found}
    left = [h.name for h in HARNESSES if h.name not in names]
    broken = [ran.harness.name for ran in found if not ran.complete]
    lines = [
        "# Proofs",
        "",
        "Written by `make prove-kernel`, not by hand. A harness that found nothing shows no"
        " violation *found by this search*; it shows no safety. What is promised, and what is not,"
        " stands in [promises.md](promises.md).",
        "",
        "`make prove-kernel` repeats all but what is marked; `make prove-kernel ONLY=…` repeats one"
        " or some by name. The table says when each was run last, and at which commit.",
    ]
    lines += ["", *sorted({f"On {ran.place.machine}." for ran in found})]
    if left or broken:
        lines += ["", "**This page is partial.**"]
        lines += [f"Not run: {', '.join(left)}."] if left else []
        lines += [f"Not completed: {', '.join(broken)}."] if broken else []
    return "\n".join(lines)


def table(found: Sequence[Ran]) -> str:
    rows = [
        "| harness | layer | outcome | seconds | begun at | commit |",
        "|---|---|---|---|---|---|",
    ]
    for ran in found:
        harness, place = ran.harness, ran.place
        name = f"{harness.name} (by name only)" if harness.outside else harness.name
        commit = f"`{place.commit}`" + (" with changes not committed" if place.changed else "")
        rows.append(
            f"| {name} | {harness.layer} | {ran.verdict} | {ran.seconds:.0f} | {place.when}"
            f" | {commit} |"
        )
    return "\n".join(rows)


def section(ran: Ran) -> str:
    """What one harness counted: plain numbers in a line, lists and tables below it."""
    harness = ran.harness
    command = " ".join(word for word in shlex.split(harness.command) if "{out}" not in word)
    command = command.removesuffix(" --json")
    lines = [f"## {harness.name}", "", harness.says, "", f"`{command}`", ""]
    plain = {k: v for k, v in ran.figures.items() if not isinstance(v, dict | list)}
    lines.append(" · ".join(f"{shown(name)} {value}" for name, value in plain.items()))
    for name, value in ran.figures.items():
        if isinstance(value, dict) and value:
            counts = ", ".join(f"{shown(key)} {count}" for key, count in sorted(value.items()))
            lines += ["", f"{shown(name)}: {counts}"]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines += ["", *rows_of(value)]
        elif isinstance(value, list) and value:
            lines += ["", *(f"- {each}" for each in value)]
    return "\n".join(lines)


def rows_of(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = list(rows[0])
    lines = ["| " + " | ".join(map(shown, names)) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = ("yes" if v is True else "no" if v is False else str(v) for v in row.values())
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def uncovered(found: Sequence[Ran]) -> str:
    lines = ["## What was not covered", ""]
    lines += [f"- {ran.harness.name}: {ran.harness.not_covered}" for ran in found]
    names = {ran.harness.name for ran in found}
    lines += [
        f"- {harness.name} ({harness.layer}) was not run."
        for harness in HARNESSES
        if harness.name not in names
    ]
    return "\n".join(lines)


def record(bugs: Sequence[Bug]) -> str:
    """The table of what the harnesses found in us; kept by hand."""
    lines = ["## Track record", "", "Bugs of ours that a harness found, and that are mended.", ""]
    lines += ["| what | found by | repeat it | mended in |", "|---|---|---|---|"]
    lines += [f"| {b.what} | {b.found_by} | `{b.repeat}` | `{b.mended}` |" for b in bugs]
    return "\n".join(lines)


def shown(name: str) -> str:
    return name.replace("_", " ")
