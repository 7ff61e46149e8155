"""A shard is taken from an owner that froze in a transaction, and nobody else is ended for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from tests.postgres_server import Pooler
from tests.stores.servers import DEADLINE_SECONDS, line_to, note, session_at, store_at, until

from outlive.errors import Fenced, StoreBusy, StoreUnavailable
from outlive.model import Lease
from outlive.stores import postgres_links
from outlive.stores.postgres import PostgresStore

LOCK = "SELECT FROM {0}.shard WHERE id = 0 FOR NO KEY UPDATE"
CUT = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the news of its end are just being read
    OSError,
)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server itself ends no frozen session before the deadline of these tests."""
    monkeypatch.setattr(postgres_links, "FROZEN_MILLISECONDS", round(DEADLINE_SECONDS * 2000))


@pytest.fixture(params=["straight", "pooled"])
def address(request: pytest.FixtureRequest, postgres: str, pooler: Pooler) -> str:
    return postgres if request.param == "straight" else pooler.address


async def owner_is(store: PostgresStore, owner: str) -> bool:
    return (await store.owners())[0].owner == owner


@asynccontextmanager
async def frozen(address: str, name: str, *statements: str) -> AsyncIterator[Any]:
    """A session called `name` that stands in a transaction and does nothing any more."""
    link = await asyncpg.connect(address, server_settings={"application_name": name})
    try:
        await link.execute("BEGIN")
        for statement in statements:
            await link.execute(statement)
        yield link
    finally:
        link.terminate()


@pytest.mark.usefixtures("patient")
async def test_an_owner_that_froze_in_its_commit_is_ended_by_who_takes_over(address: str) -> None:
    async with store_at(address) as old, store_at(address, schema=old.schema) as new:
        lease = await old.take(0, 0, "old")
        await old.commit(note(lease, "s", 0))
        is_frozen, settle = asyncio.Event(), old._lane.settle

        async def settle_and_freeze(*arguments: Any) -> Any:
            settled = await settle(*arguments)
            if not is_frozen.is_set():
                is_frozen.set()
                await until(lambda: owner_is(new, "new"), "the shard is taken")
            return settled

        old._lane.settle = settle_and_freeze  # type: ignore[method-assign]
        old._beliefs.chains.clear()
        committing = asyncio.create_task(old.commit(note(lease, "s", 1)))
        await is_frozen.wait()
        async with asyncio.timeout(DEADLINE_SECONDS):
            taken = await new.take(0, lease.epoch, "new")
        with pytest.raises(Fenced):
            await committing
        assert [event.n for event in await new.tail(0, 0)] == [0]
        assert (await new.commit(note(taken, "s", 1))).seq == 2


async def test_only_the_session_in_the_way_is_ended(postgres: str) -> None:
    async with store_at(postgres) as old, store_at(postgres, schema=old.schema) as new:
        lease = await old.take(0, 0, "old")
        name = old._working.way.name
        lock = LOCK.format(old.schema)
        async with (
            frozen(postgres, name, "SELECT 1") as beside,
            frozen(postgres, name, lock) as in_the_way,
        ):
            assert (await new.take(0, lease.epoch, "new")).epoch == lease.epoch + 1
            with pytest.raises(CUT):
                await in_the_way.execute("COMMIT")
            await beside.execute("COMMIT")
        await old.lengths(["s"])  # nor was any other session of the old owner's process


@pytest.mark.parametrize("who", ["a shell", "outlive n1-another", ""])
async def test_a_session_of_somebody_else_is_never_ended(
    postgres: str, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    monkeypatch.setitem(postgres_links.SESSION_SETTINGS, "lock_timeout", 900)
    async with store_at(postgres) as old, store_at(postgres, schema=old.schema) as new:
        lease = await old.take(0, 0, "old")
        async with frozen(postgres, who, LOCK.format(old.schema)) as innocent:
            with pytest.raises(StoreBusy):
                await new.take(0, lease.epoch, "new")
            await innocent.execute("COMMIT")
        assert await owner_is(new, "old")


async def test_an_owner_that_takes_its_own_shard_again_does_not_end_itself(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(postgres_links.SESSION_SETTINGS, "lock_timeout", 900)
    async with store_at(postgres) as store:
        lease = await store.take(0, 0, "n")
        name = store._working.way.name
        async with frozen(postgres, name, LOCK.format(store.schema)) as own:
            with pytest.raises(StoreBusy):
                await store.take(0, lease.epoch, "n")
            await own.execute("COMMIT")


async def test_a_session_that_is_at_work_is_waited_for(postgres: str) -> None:
    async with store_at(postgres) as old, store_at(postgres, schema=old.schema) as new:
        lease = await old.take(0, 0, "old")
        async with (
            session_at(postgres) as session,
            frozen(postgres, old._working.way.name, LOCK.format(old.schema)) as busy,
        ):
            await session.execute("SELECT pg_advisory_lock(4712)")
            working = asyncio.create_task(busy.execute("SELECT pg_advisory_xact_lock(4712)"))
            taking = asyncio.create_task(new.take(0, lease.epoch, "new"))
            done, _ = await asyncio.wait((taking, working), timeout=1.0)
            assert not done
            await session.execute("SELECT pg_advisory_unlock(4712)")
            await working
            await busy.execute("COMMIT")
            assert (await taking).epoch == lease.epoch + 1


async def test_who_cannot_look_who_is_in_the_way_waits_for_it(postgres: str) -> None:
    async with store_at(postgres) as old, store_at(postgres, schema=old.schema) as new:
        lease = await old.take(0, 0, "old")
        asked = asyncio.Event()

        @asynccontextmanager
        async def all_taken() -> AsyncIterator[Any]:
            asked.set()
            raise StoreUnavailable("every connection for reading is taken")
            yield

        new._takes._reading.borrow = all_taken  # type: ignore[method-assign]
        async with frozen(postgres, "a shell", LOCK.format(old.schema)) as in_the_way:
            taking = asyncio.create_task(new.take(0, lease.epoch, "new"))
            await asked.wait()
            await in_the_way.execute("COMMIT")
            assert (await taking).epoch == lease.epoch + 1


def _spied(store: PostgresStore) -> list[str]:
    """Which statements are sent for takes from here on."""
    names = {text: name for name, text in store.sql.items()}
    asked: list[str] = []
    fetch = store._working.fetch

    async def listen(link: Any, statement: str, *values: Any) -> list[Any]:
        asked.append(names[statement])
        return await fetch(link, statement, *values)

    store._working.fetch = listen  # type: ignore[method-assign]
    return asked


async def test_shards_that_are_taken_at_one_time_go_in_one_transaction(address: str) -> None:
    async with store_at(address, shards=8) as store:
        await store.take(3, 0, "other")
        asked = _spied(store)
        takes = [store.take(shard, 0, "n") for shard in (5, 3, 0, 5)]
        found = await asyncio.gather(*takes, return_exceptions=True)
        assert [type(one) for one in found] == [Lease, Fenced, Lease, Fenced]
        assert asked == ["take_all"]
        for number, lease in enumerate((found[0], found[2])):
            assert isinstance(lease, Lease) and lease.epoch == 1
            assert (await store.commit(note(lease, f"s{number}", 0))).seq == 1
        assert [row.owner for row in await store.owners()] == [
            "n",
            "",
            "",
            "other",
            "",
            "n",
            "",
            "",
        ]
        assert [hold.previous for hold in await store.ledger(5)] == [""]


@pytest.mark.usefixtures("patient")
async def test_a_shard_that_is_held_does_not_keep_the_others(address: str) -> None:
    async with store_at(address) as old, store_at(address, schema=old.schema) as new:
        lease = await old.take(0, 0, "old")
        async with frozen(address, "a shell", LOCK.format(old.schema)) as in_the_way:
            held = asyncio.create_task(new.take(0, lease.epoch, "new"))
            others = [new.take(shard, 0, "new") for shard in range(1, 6)]
            async with asyncio.timeout(DEADLINE_SECONDS):
                assert [taken.epoch for taken in await asyncio.gather(*others)] == [1] * 5
            assert not held.done()
            await in_the_way.execute("COMMIT")
        assert (await held).epoch == lease.epoch + 1


@pytest.mark.parametrize("where", ["drop", "deafen"])
async def test_takes_whose_answer_was_lost_are_taken_once(postgres: str, where: str) -> None:
    async with line_to(postgres) as line, store_at(line.address) as store:
        await store.take(9, 0, "n")  # the statement is prepared later, with a link of its own
        line.cut_once(where, b"taker")
        found = await asyncio.gather(*(store.take(shard, 0, "taker") for shard in range(3)))
        assert line.cuts == [where]
        assert [lease.epoch for lease in found] == [1, 1, 1]
        assert [len(await store.ledger(shard)) for shard in range(3)] == [1, 1, 1]
        for number, lease in enumerate(found):
            await store.commit(note(lease, f"s{number}", 0))
