"""The SQL of the stores: one folder a database, statements by name, migrations by number.

`statements.sql` holds every statement under a line `-- name: …`; `migrations/` holds what made the
schema, forward only. Python code names a statement and never spells one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from msgspec import Struct

FOLDER = Path(__file__).parent


class Migration(Struct, frozen=True):
    """One step of the schema, as shipped."""

    number: int
    name: str
    checksum: str
    text: str


def statements(database: str) -> dict[str, str]:
    """The named statements of `database`, comments stripped."""
    return named(FOLDER / database / "statements.sql")


def named(file: Path) -> dict[str, str]:
    """The named statements in `file`, comments stripped."""
    found: dict[str, str] = {}
    name = ""
    for line in file.read_text("utf-8").splitlines():
        if line.startswith("-- name: "):
            name = line.removeprefix("-- name: ").strip()
            found[name] = ""
        elif name and not line.startswith("--"):
            found[name] += line.strip() + "\n"
    return {name: text.strip().rstrip(";") for name, text in found.items()}


def migrations(database: str) -> list[Migration]:
    """The migrations this release ships for `database`, by number."""
    found = []
    for file in sorted((FOLDER / database / "migrations").glob("*.sql")):
        number, _, name = file.stem.partition("_")
        text = file.read_text("utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        found.append(Migration(int(number), name, digest, text))
    return found
