"""Planted bugs: each a change of one place in the source, and the tests that must notice it.

why       what is wrong, in a sentence
layer     the layer of proof that must catch it, named in LAYERS
file      below src/outlive
find      what stands there, once
put       what is put in its place
tests     files of tests, tried in this order; a word behind `-k` picks some of them
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from msgspec import Struct, convert

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCE = ROOT / "src" / "outlive"

LAYERS = {
    "L0": "decisions and units",
    "L1": "conformance of every store",
    "L3": "deaths at every commit, and failing calls",
    "L5": "PostgreSQL",
    "L8": "judged histories",
}


class Bug(Struct, frozen=True, forbid_unknown_fields=True):
    """One planted bug."""

    name: str
    why: str
    layer: str
    file: str
    find: str
    put: str
    tests: tuple[str, ...]

    def applied(self, text: str) -> str:
        """`text` of its file with the bug in it. Raises `ValueError` when it does not apply."""
        count = text.count(self.find)
        if count != 1:
            raise ValueError(f"{self.name}: {self.file} has its place {count} times: plant it anew")
        changed = text.replace(self.find, self.put)
        if changed == text:
            raise ValueError(f"{self.name} changes nothing")
        return changed


def all_bugs() -> list[Bug]:
    """Every planted bug, by its number."""
    return [
        convert({"name": path.stem, **tomllib.loads(path.read_text("utf-8"))}, Bug)
        for path in sorted(HERE.glob("*.toml"))
    ]
