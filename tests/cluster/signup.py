"""The sign-up that a newcomer reads first, on PostgreSQL: the very same code.

Its three statements are written for SQLite (`?`); PostgreSQL counts its places (`$1`).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from examples.signup.app import app, service

from outlive.stores.postgres_tables import Tables

_execute = Tables.execute


def execute(self: Tables, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Run one statement that was written for either database."""
    numbers = itertools.count(1)
    return _execute(self, re.sub(r"\?", lambda _: f"${next(numbers)}", statement), values)


Tables.execute = execute  # type: ignore[method-assign]

__all__ = ["app", "service"]
