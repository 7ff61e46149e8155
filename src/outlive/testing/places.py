"""Where the state of one test lies: in memory, in a new SQLite file, or in a PostgreSQL schema.

    memory://            made in microseconds, gone with the test; the default
    sqlite://            a new file in the test's own folder
    postgresql://…       a schema of its own in that database, dropped afterwards

A place is written to by one store at a time and may be opened again and again: what a killed
application had committed is there for the next.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from outlive import ids
from outlive.errors import BadAddress

if TYPE_CHECKING:
    from outlive.store import Store
    from outlive.stores.memory import MemoryStore
    from outlive.testing.virtual import VirtualClock

_POSTGRES = ("postgresql", "postgres")
SHARDS = 4
"""Of the stores made here: few, so that a round over all of them costs little."""


class Place:
    """One place. `folder` is where a file may be made; it exists. Raises `BadAddress`."""

    def __init__(self, address: str, folder: Path) -> None:
        self._kind = address.partition(":")[0].lower()
        if self._kind not in ("memory", "sqlite", *_POSTGRES):
            raise BadAddress(f"{address!r} is no place for a test's store.")
        self._address = address
        self._name = f"trial_{ids.token(60).lower()}"
        self._folder = folder
        self._kept: MemoryStore | None = None

    def store(self, clock: VirtualClock) -> Store:
        """A store on this place, not opened yet; what an earlier one committed is in it."""
        if self._kind == "memory":
            from outlive.stores.memory import MemoryStore

            self._kept = self._kept or MemoryStore(SHARDS, clock)
            return self._kept
        if self._kind == "sqlite":
            from outlive.stores.sqlite import SQLiteStore

            return SQLiteStore(self._folder / f"{self._name}.db", shards=SHARDS, clock=clock)
        from outlive.stores.address import store_at

        return store_at(self._in_schema(), clock)

    def _in_schema(self) -> str:
        joined = "&" if "?" in self._address else "?"
        return f"{self._address}{joined}schema={self._name}&shards={SHARDS}"

    def remove(self) -> None:
        """Drop the schema, if one was made; files are left to the folder's owner."""
        if self._kind in _POSTGRES:
            from outlive.stores.postgres_schema import drop_schema

            drop_schema(self._in_schema())
