"""The service's own tables, made at each opening, perhaps by several nodes at one moment.

PostgreSQL lets two sessions find that a table does not exist and lets only one of them make it,
`IF NOT EXISTS` or not. The function is written so that it may run again, so it is run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from outlive import ids

TRIES_MAX = 5
WAIT_SECONDS, WAIT_SECONDS_MAX = 0.05, 0.5


async def make_tables(
    transact: Callable[[Callable[[Any], Any]], Awaitable[Any]], schema: Callable[[Any], Any]
) -> None:
    """Run `transact(schema)`, which makes it a transaction, up to `TRIES_MAX` times.

    Raises what it raised at last; then nothing of it was written.
    """

    for attempt in range(1, TRIES_MAX):
        try:
            await transact(schema)
            return
        except Exception:
            await asyncio.sleep(ids.full_jitter(WAIT_SECONDS, WAIT_SECONDS_MAX, attempt))
    await transact(schema)
