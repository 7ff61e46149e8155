"""The service's own tables, made at each opening, perhaps by several nodes at one moment.

PostgreSQL lets two sessions find that a table does not exist and lets only one of them make it,
`IF NOT EXISTS` or not. The function is written so that it may run again, so it is run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from outlive import ids
from outlive.model import Batch
from outlive.store import Store

TRIES_MAX = 5
WAIT_SECONDS, WAIT_SECONDS_MAX = 0.05, 0.5


async def make_tables(store: Store, schema: Callable[[Any], Any]) -> None:
    """Run `schema(tables)` as a transaction of `store`, up to `TRIES_MAX` times.

    Raises what it raised at last; then nothing of it was written.
    """

    def work(tables: Any) -> Batch:
        schema(tables)
        return Batch()

    for attempt in range(1, TRIES_MAX):
        try:
            await store.transact(work)
            return
        except Exception:
            await asyncio.sleep(ids.full_jitter(WAIT_SECONDS, WAIT_SECONDS_MAX, attempt))
    await store.transact(work)
