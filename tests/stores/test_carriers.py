"""Whatever connection carries, the cells are the same (tests/doors/test_within.py tries each)."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from tests.stores.servers import session_at, store_at

from outlive.clock import Clock, ManualClock
from outlive.errors import NotAllowed
from outlive.model import Put, Ref
from outlive.store import AsyncCarrier, Carrier
from outlive.stores.carriers import carrier_of
from outlive.stores.memory import MemoryStore

CELL = Put(Ref("s", "k"), b'"100 %s of $1"')


async def test_an_asynchronous_carrier_looks_and_carries(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        async with session.transaction():
            carrier: Any = carrier_of(session, store, Clock())
            assert (await carrier.look(CELL.ref)).value is None
            assert await carrier.carry((CELL,)) is None
            assert await carrier.carry((CELL,)) == CELL.value
            assert (await carrier.look(CELL.ref)).value == CELL.value
            assert await store.read((CELL.ref,)) == [None]
        assert (await store.read((CELL.ref,)))[0] is not None


async def test_a_plain_carrier_looks_and_carries(postgres: str) -> None:
    async with store_at(postgres) as store:

        def carry() -> None:
            with psycopg.connect(postgres) as connection:
                carrier: Any = carrier_of(connection, store, Clock())
                assert carrier.carry((CELL,)) is None
                assert carrier.look(CELL.ref).value == CELL.value
                assert carrier.look(CELL.ref).incarnation == store.incarnation

        await asyncio.to_thread(carry)
        assert (await store.read((CELL.ref,)))[0] is not None


async def test_a_tests_clock_takes_the_place_of_the_servers(postgres: str) -> None:
    clock = ManualClock()
    async with store_at(postgres, clock=clock) as store, session_at(postgres) as session:
        async with session.transaction():
            carrier: Any = carrier_of(session, store, clock)
            assert (await carrier.look(CELL.ref)).time == clock.wall()


async def test_no_carrier_without_a_transaction_or_for_another_kind_of_store(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        with pytest.raises(NotAllowed, match="No transaction is open"):
            carrier_of(session, store, Clock())
        async with session.transaction():
            with pytest.raises(NotAllowed, match="MemoryStore"):
                carrier_of(session, MemoryStore(), Clock())
        with pytest.raises(NotAllowed, match="is no connection"):
            carrier_of("postgresql://", store, Clock())


@pytest.mark.parametrize("told", ["engine", "options"])
def test_a_session_that_commits_each_statement_by_itself_carries_nothing(told: str) -> None:
    if told == "engine":
        engine = create_engine("postgresql+psycopg://u@h/db", isolation_level="AUTOCOMMIT")
    else:
        engine = create_engine("postgresql+psycopg://u@h/db")
        engine = engine.execution_options(isolation_level="AUTOCOMMIT")
    with Session(engine) as session, pytest.raises(NotAllowed, match="No transaction is open"):
        carrier_of(session, "postgresql://u@h/db", Clock())
    again = engine.execution_options(isolation_level="READ COMMITTED")
    with Session(again) as session:
        assert isinstance(carrier_of(session, "postgresql://u@h/db", Clock()), Carrier)


async def test_a_session_that_was_told_so_for_this_once_carries_nothing(postgres: str) -> None:
    alone = {"isolation_level": "AUTOCOMMIT"}
    engine = create_engine(postgres.replace("postgresql:", "postgresql+psycopg:"))
    with Session(engine) as session:
        session.connection(execution_options=alone)
        with pytest.raises(NotAllowed, match="No transaction is open"):
            carrier_of(session, "postgresql://u@h/db", Clock())
    engine.dispose()
    awaited = create_async_engine(postgres.replace("postgresql:", "postgresql+psycopg:"))
    async with store_at(postgres) as store, AsyncSession(awaited) as later:
        carrier = carrier_of(later, store, Clock())
        assert isinstance(carrier, AsyncCarrier)
        await carrier.look(Ref("process", ""))
        await later.rollback()
        await later.connection(execution_options=alone)
        with pytest.raises(NotAllowed, match="No transaction is open"):
            await carrier.look(Ref("process", ""))
    await awaited.dispose()


def test_no_driver_is_imported_to_tell_them_apart() -> None:
    import subprocess

    code = """
import sys
import outlive.stores.carriers
print(*sorted({"asyncpg", "psycopg", "sqlalchemy", "django"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""
