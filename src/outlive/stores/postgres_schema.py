"""A schema that was made for one test is dropped with everything in it.

It runs in a thread with an event loop of its own, because a test's own loop may be gone by then.
"""

from __future__ import annotations

import asyncio
import threading

import asyncpg

from outlive.stores.address import postgres_place
from outlive.stores.postgres_links import mapped, schema_checked, statements


def drop_schema(address: str) -> None:
    """Drop the schema that `address` names, if it is there; nobody may have it open. Raises
    `StoreUnavailable` and its kin."""
    dsn, schema = postgres_place(address)
    failed: list[BaseException] = []

    async def drop() -> None:
        link = await asyncpg.connect(dsn)
        try:
            await link.execute(statements(schema_checked(schema))["schema_drop"])
        finally:
            await link.close()

    def work() -> None:
        try:
            asyncio.run(drop())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="outlive-drop")
    thread.start()
    thread.join()
    if failed:
        raise mapped(failed[0]) from failed[0]
