"""A store that went back in time is noticed by whoever was told what is missing, and done with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.stores.servers import DEADLINE_SECONDS, line_to, note, session_at, store_at

from outlive.clock import ManualClock
from outlive.errors import StoreUnavailable, StoreWentBack
from outlive.model import Batch, Put, Ref
from outlive.stores.postgres import PostgresStore
from outlive.stores.postgres_group import Group, Plan
from outlive.stores.postgres_recall import MARK_SECONDS, Recall

TABLES = ("cell", "event", "hold", "mark", "shard", "store", "writer")
PUT = Batch(put=(Put(Ref("s", "k"), b"x"),))


class Back:
    """Keeps a store's tables as they are, and puts them back later, as a backup does."""

    def __init__(self, store: PostgresStore, session: Any) -> None:
        self._session, self._schema = session, store.schema

    async def keep(self) -> None:
        for table in TABLES:
            await self._session.execute(
                f'CREATE TABLE "{self._schema}".kept_{table} AS TABLE "{self._schema}".{table}'
            )

    async def put(self, *, cut: bool = True) -> None:
        """Put them back; `cut` all sessions first, as a fail-over does."""
        for table in TABLES:
            name = f'"{self._schema}"'
            await self._session.execute(
                f"DELETE FROM {name}.{table};"
                f"INSERT INTO {name}.{table} SELECT * FROM {name}.kept_{table}"
            )
        if cut:
            await self.cut_all()

    async def cut_all(self) -> None:
        """End every session of a store's."""
        await self._session.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'outlive%' AND datname = current_database()"
        )


@pytest.fixture
async def kept(postgres: str) -> AsyncIterator[tuple[PostgresStore, Back]]:
    async with store_at(postgres) as store, session_at(postgres) as session:
        yield store, Back(store, session)


async def refused(store: PostgresStore) -> StoreWentBack:
    """What everything on the store says, from now on."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        with pytest.raises(StoreWentBack) as caught:
            await store.owners()
    for work in (store.now(), store.commit(PUT), store.take(1, 0, "n"), store.read([])):
        with pytest.raises(StoreWentBack):
            await work
    return caught.value


async def test_lost_events_are_noticed_and_the_store_is_done_with(
    kept: tuple[PostgresStore, Back], caplog: pytest.LogCaptureFixture
) -> None:
    store, back = kept
    lease = await store.take(0, 0, "n")
    await store.commit(note(lease, "s", 0))
    await back.keep()
    await store.commit(note(lease, "s", 1))
    assert store.lost is None
    await back.put()
    error = await refused(store)
    assert "event of shard 0" in error.detail
    assert error is store.lost
    said = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert len(said) == 1 and "OL1115" in said[0].getMessage()


async def test_a_gap_that_another_node_has_written_over_is_noticed(
    kept: tuple[PostgresStore, Back],
) -> None:
    store, back = kept
    lease = await store.take(0, 0, "n")
    await back.keep()
    await store.commit(note(lease, "s", 0))
    await back.put(cut=False)
    async with store_at(store._dsn, schema=store.schema) as other:
        theirs = await other.take(0, lease.epoch, "b")
        for n in range(3):
            await other.commit(note(theirs, "t", n))
        await back.cut_all()
        assert "event of shard 0" in (await refused(store)).detail
        assert other.lost is None
        assert len(await other.events("t")) == 3


async def test_a_lost_cell_is_noticed(kept: tuple[PostgresStore, Back]) -> None:
    store, back = kept
    await store.commit(PUT)
    await back.keep()
    await store.commit(PUT)
    await back.put()
    assert f"commit of {store._lane.name}" in (await refused(store)).detail


async def test_a_lost_transaction_is_noticed(kept: tuple[PostgresStore, Back]) -> None:
    store, back = kept
    await back.keep()
    await store.transact(lambda tables: PUT)
    await back.put()
    assert "commit of" in (await refused(store)).detail


async def test_what_was_only_relaxed_may_be_lost(kept: tuple[PostgresStore, Back]) -> None:
    store, back = kept
    await back.keep()
    await store.commit(Batch(put=PUT.put, storage="relaxed"))
    await back.put()
    async with asyncio.timeout(DEADLINE_SECONDS):
        await store.owners()
    assert store.lost is None


async def test_nothing_is_missing_after_sessions_were_ended(
    kept: tuple[PostgresStore, Back],
) -> None:
    store, back = kept
    lease = await store.take(0, 0, "n")
    await store.commit(note(lease, "s", 0, "k"))
    await store.transact(lambda tables: PUT)
    await back.cut_all()
    await store.commit(note(lease, "s", 1))
    assert store.lost is None


async def test_what_was_found_by_a_look_up_was_told_too(postgres: str) -> None:
    async with line_to(postgres) as line, store_at(line.address) as store:
        async with session_at(postgres) as session:
            back = Back(store, session)
            lease = await store.take(0, 0, "n")
            await back.keep()
            line.cut_once("deafen", b"noted")
            await store.commit(note(lease, "s", 0))
            assert line.cuts == ["deafen"]
            await back.put()
            assert "event of shard 0" in (await refused(store)).detail


async def test_a_loss_is_kept_for_the_doctor(kept: tuple[PostgresStore, Back]) -> None:
    store, back = kept
    await back.keep()
    await store.commit(PUT)
    await back.put()
    await refused(store)
    async with store_at(store._dsn, schema=store.schema) as other:
        assert other.lost is None
        (found,) = [found for found in await other.doctor() if found.name == "losses"]
        assert found.level == "warn" and "1 process" in found.text and found.remedy


# --- the memory alone -----------------------------------------------------------------------------


def told(recall: Recall, number: int = 1, storage: str = "durable") -> None:
    group = Group((Batch(put=PUT.put, storage=storage),))  # type: ignore[arg-type]
    recall.told("w", number, group, Plan(0, chains={3: (number, b"c%d" % number)}))


def test_the_last_event_and_mark_are_remembered() -> None:
    clock = ManualClock()
    recall = Recall("here", clock)
    assert recall.question() == ([], [], [], [], [])
    told(recall, 2)
    told(recall, 5)
    told(recall, 9, "relaxed")
    assert recall.question() == ([3], [5], [b"c5"], ["w"], [5])
    clock.advance(MARK_SECONDS)
    assert recall.question() == ([3], [5], [b"c5"], [], []), "the store forgets old marks itself"


def test_an_old_primary_and_a_standby_are_not_used() -> None:
    recall = Recall("here", ManualClock())
    assert not recall.rose(3)
    assert not recall.rose(3)
    assert recall.rose(4)
    with pytest.raises(StoreUnavailable, match=r"old primary \(timeline 3, and 4 was seen\)"):
        recall.rose(3)
    with pytest.raises(StoreUnavailable, match="standby"):
        recall.rose(0)
    assert recall.timeline == 4


def test_the_first_loss_is_said_again_and_again() -> None:
    recall = Recall("here", ManualClock())
    recall.demand([], [])
    with pytest.raises(StoreWentBack, match=r"shard 1, .* of shard 2, .* 2 and 2 more") as caught:
        recall.demand([2, 1], ["2", "3", "4"])
    with pytest.raises(StoreWentBack) as again:
        recall.demand([7], [])
    assert again.value is caught.value
