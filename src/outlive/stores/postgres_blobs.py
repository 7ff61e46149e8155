"""Blobs in a table of the store's own schema: durable when the insert is committed.

The simplest thing that is as durable as the rest: one row a blob, kept out of line and not
compressed. Names, digests and orphans are those of `blobs.py`.

Not promised: speed with blobs of many megabytes; each is held in memory whole, here and there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from outlive.clock import MICROS
from outlive.stores.blobs import Kept, checked, is_kept, named, verified

if TYPE_CHECKING:
    from outlive.stores.postgres import PostgresStore

BLOB_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of one blob."""


class PostgresBlobs:
    """The blobs of `store`, which must be open. At most `bytes_max` for one blob."""

    def __init__(self, store: PostgresStore, *, bytes_max: int = BLOB_BYTES_MAX) -> None:
        self._store = store
        self._bytes_max = bytes_max

    async def put(self, data: bytes) -> str:
        """Keep `data`; its name comes back when it is committed.

        Raises `TooLarge`, `StoreFull` or `StoreUnavailable`: then no name was given, and what may
        be left is an orphan for `sweep`.
        """
        name = named(data, self._bytes_max)
        clock = self._store.clock
        await self._store.write_rows("blob_put", name, clock.high, clock.wall, bytes(data))
        return name

    async def get(self, name: str) -> bytes:
        """The bytes, verified.

        Raises `KeyError` when there are none of that name, `StoreCorrupt` when they were altered,
        `StoreUnavailable` when they could not be read.
        """
        rows = await self._store.read_rows("blob_get", checked(name))
        if not rows:
            raise KeyError(name)
        return verified(name, rows[0][0])

    async def drop(self, name: str) -> None:
        """Forget the bytes; no error when they are gone already."""
        try:
            known = checked(name)
        except KeyError:
            return
        await self._store.write_rows("blob_drop", known)

    async def sweep(self, kept: Kept, older_than_seconds: float) -> int:
        """Remove what is older than `older_than_seconds` and named by nobody; gives how many.

        Choose an age far above the longest time between a `put` and the commit that names it.
        """
        before = await self._store.now() - round(older_than_seconds * MICROS)
        removed, last = 0, (0, "")
        while rows := await self._store.read_rows("blobs_older", before, *last):
            last = tuple(rows[-1])
            for _, name in rows:
                if not await is_kept(kept, name):
                    await self.drop(name)
                    removed += 1
        return removed
