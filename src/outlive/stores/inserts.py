"""Many rows in few statements: what a group commit inserts, some rows to each execution.

A statement's execution costs as much as a row by itself: it is looked up, reset and begun anew. So
rows are inserted 16 at a time, what is left 4 at a time, and the rest one by one: few statements,
each prepared once. All rows of a call are inserted or, when an error is raised, those before the
failing statement are: the caller rolls its transaction back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

ROWS = (16, 4, 1)
"""How many rows one statement inserts; the last is 1, so that every number can be made."""


class Insert:
    """One `INSERT … VALUES (?, …)` in its sizes."""

    def __init__(self, statement: str) -> None:
        head, values, row = statement.rpartition("VALUES ")
        self._one, self._columns = statement, row.count("?")
        self._sizes = [
            (rows * self._columns, f"{head}{values}{', '.join([row] * rows)}") for rows in ROWS
        ]

    def write(self, connection: apsw.Connection, values: Sequence[Any]) -> None:
        """Insert the rows whose columns are `values`, one row behind the other; none is fine.

        Raises what SQLite raises.
        """
        at, end = 0, len(values)
        if end == self._columns:  # one row: what is not busy writes no more at a time
            connection.execute(self._one, values)
            return
        for size, statement in self._sizes:
            while end - at >= size:
                connection.execute(statement, values[at : at + size])
                at += size
