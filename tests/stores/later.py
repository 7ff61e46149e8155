"""A release to come: the SQL that is shipped, and one migration more for each database."""

from __future__ import annotations

import shutil
from pathlib import Path

from outlive.stores import sql

TABLE = {"postgres": "outlive.later", "sqlite": "outlive_later"}


def release_to_come(folder: Path) -> Path:
    """Make it in `folder`; what is given is to stand in for `sql.FOLDER`."""
    made = folder / "sql"
    shutil.copytree(sql.FOLDER, made)
    for database, table in TABLE.items():
        number = len(sql.migrations(database)) + 1
        file = made / database / "migrations" / f"{number:04}_later.sql"
        file.write_text(f"CREATE TABLE {table} (id integer PRIMARY KEY);\n")
    return made
