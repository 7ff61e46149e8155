"""A schema that was made for a test is gone afterwards, and dropping it again does no harm."""

from __future__ import annotations

from outlive.stores.address import store_at
from outlive.stores.postgres_schema import drop_schema


async def test_a_schema_is_dropped_with_everything_in_it(postgres: str) -> None:
    joined = "&" if "?" in postgres else "?"
    address = f"{postgres}{joined}schema=passing"
    first = store_at(address)
    await first.open()
    incarnation = getattr(first, "incarnation", "")
    await first.close()
    drop_schema(address)
    drop_schema(address)
    again = store_at(address)
    await again.open()
    assert incarnation and getattr(again, "incarnation", "") != incarnation
    await again.close()
    drop_schema(address)
