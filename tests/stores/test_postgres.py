"""The PostgreSQL store beyond what every store does: its schema, other nodes, its clock."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.postgres_server import server_of_its_own
from tests.stores.servers import line_to, note, session_at, store_at, until

from outlive.clock import MICROS
from outlive.errors import (
    NewerSchema,
    OutcomeUnknown,
    Refused,
    SchemaAltered,
    StoreRefused,
    StoreUnavailable,
)
from outlive.model import Batch, Cell, Committed, Lease, Put, Ref, Require
from outlive.store import GROUP_BATCHES_MAX
from outlive.stores.chain import GENESIS, verify
from outlive.stores.postgres import SHARDS_MAX, PostgresStore

SOON_SECONDS = 2.0
"""With room for a busy machine; who is not told waits for ten."""


async def settled(store: PostgresStore) -> int:
    """The count once hints of older commits have passed."""
    seen = await store.changed(-1, 0)
    while (later := await store.changed(seen, 0.2)) != seen:
        seen = later
    return seen


async def test_a_schema_of_a_newer_release_is_refused(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        own = store.schema
        await session.execute(f"INSERT INTO {own}.migration VALUES (9999, 'later', 'x', 0)")
        with pytest.raises(NewerSchema, match="9999"):
            await PostgresStore(postgres, schema=own).open()


async def test_an_altered_schema_is_refused(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        await session.execute(f"UPDATE {store.schema}.migration SET checksum = 'other'")
        with pytest.raises(SchemaAltered, match="kernel"):
            await PostgresStore(postgres, schema=store.schema).open()


async def test_many_nodes_may_open_a_new_store_at_once(postgres: str) -> None:
    stores = [PostgresStore(postgres, shards=3, schema="opened_by_many") for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    assert len({store.incarnation for store in stores}) == 1
    assert [row.id for row in await stores[3].owners()] == [0, 1, 2]
    for store in stores:
        await store.close()


async def test_an_existing_store_keeps_its_number_of_shards(postgres: str) -> None:
    async with store_at(postgres, shards=5) as store:
        async with store_at(postgres, schema=store.schema, shards=9) as again:
            assert again.shards == 5


async def test_a_store_that_is_cut_off_for_good_makes_no_connection_again(postgres: str) -> None:
    async with session_at(postgres) as session, store_at(postgres) as store:
        store.session.keep()

        async def is_made() -> bool:
            return store.session.is_made

        await until(is_made, "the session is made")
        link = store.session._link
        assert link is not None
        pid, lost = link.get_server_pid(), asyncio.Event()
        link.add_termination_listener(lambda _: lost.set())
        store.sever()
        await lost.wait()

        async def is_gone() -> bool:
            there = "SELECT 1 FROM pg_stat_activity WHERE pid = $1"
            return not await session.fetch(there, pid)

        await until(is_gone, "the server has seen the end")
        assert store.session._again is None or store.session._again.done()
        assert all(made.is_closed() for made in store._straight._made)
        assert not store.session.is_made


async def test_a_role_that_owns_only_its_schema_is_enough(postgres: str) -> None:
    async with session_at(postgres) as session:
        await session.execute("CREATE ROLE narrow LOGIN")
        await session.execute("CREATE SCHEMA narrow AUTHORIZATION narrow")
        address = postgres.replace("postgres@", "narrow@")
        async with store_at(address, schema="narrow") as store:
            lease = await store.take(0, 0, "n")
            await store.commit(note(lease, "s", 0, "k"))
            await store.announce("n")
        with pytest.raises(StoreRefused):
            await PostgresStore(address, schema="not_ours").open()


@pytest.mark.parametrize("schema", ["", "A", "a-b", 'a"b', "1a", "a" * 64])
def test_a_schema_has_a_plain_name(schema: str) -> None:
    with pytest.raises(ValueError, match="schema"):
        PostgresStore("postgresql:///x", schema=schema)


def test_the_number_of_shards_is_bounded() -> None:
    for shards in (0, SHARDS_MAX + 1):
        with pytest.raises(ValueError, match="shards"):
            PostgresStore("postgresql:///x", shards)


async def test_a_store_without_a_server_is_unavailable(postgres: str) -> None:
    async with line_to(postgres) as line:
        line.is_open = False
        with pytest.raises(StoreUnavailable):
            await PostgresStore(line.address, schema="none").open()
    with pytest.raises(StoreRefused):
        await PostgresStore(postgres.replace("/postgres", "/nowhere"), schema="none").open()


async def test_everything_goes_on_when_the_server_is_back(postgres: str) -> None:
    async with line_to(postgres) as line, store_at(line.address) as store:
        lease = await store.take(0, 0, "n")
        await store.commit(note(lease, "s", 0))
        line.is_open = False
        line.rule = lambda data: "drop"
        with pytest.raises(StoreUnavailable):
            await store.events("s")
        line.is_open, line.rule = True, lambda data: "pass"
        assert len(await store.events("s")) == 1
        assert (await store.commit(note(lease, "s", 1))).seq == 2


@pytest.mark.parametrize("where", ["drop", "deafen"])
async def test_a_take_whose_answer_was_lost_is_found_out(postgres: str, where: str) -> None:
    async with line_to(postgres) as line, store_at(line.address) as store:
        await store.take(1, 0, "n")
        line.cut_once(where, b"node-1")
        lease = await store.take(0, 0, "node-1")
        assert line.cuts == [where]
        assert (await store.owners())[0].owner == "node-1"
        assert (await store.commit(note(lease, "s", 0))).seq == 1
        assert len(await store.ledger(0)) == 1


async def test_another_nodes_commit_is_seen_soon(postgres: str) -> None:
    async with store_at(postgres) as one, store_at(postgres, schema=one.schema) as two:
        delays = []
        for number in range(5):
            seen = await settled(two)
            waiting = asyncio.create_task(two.changed(seen, 10))
            await asyncio.sleep(0)
            began = time.monotonic()
            await one.commit(Batch(drop=(Ref("s", str(number)),)))
            assert await waiting > seen
            delays.append(time.monotonic() - began)
        assert sorted(delays)[2] < SOON_SECONDS


async def test_who_waits_is_woken_when_the_store_closes(postgres: str) -> None:
    async with store_at(postgres) as store:
        seen = await settled(store)
        waiting = asyncio.create_task(store.changed(seen, 30))
        await asyncio.sleep(0)
        await store.close()
        assert await asyncio.wait_for(waiting, 20) > seen


async def test_a_cancelled_caller_does_not_cancel_its_commit(postgres: str) -> None:
    async with store_at(postgres) as store:
        lease = await store.take(0, 0, "n")
        waiting = asyncio.create_task(store.commit(note(lease, "s", 0)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await store.commit(note(lease, "s", 1))
        assert [event.n for event in await store.tail(0, 0)] == [0, 1]


async def test_no_plan_is_compiled_to_machine_code(older_postgres: str) -> None:
    """Where it is, a commit takes some eight times as long: servers before 18, as Debian ships."""
    settings = "SELECT proname, proconfig FROM pg_proc WHERE pronamespace = $1::regnamespace"
    async with store_at(older_postgres) as store, session_at(older_postgres) as session:
        assert await session.fetchval("SHOW jit") == "on"
        found = {row[0]: row[1] or [] for row in await session.fetch(settings, store.schema)}
        hinted = {name for name, config in found.items() if "enable_seqscan=off" in config}
        assert hinted == {"commit_group", "commit_believed", "commit_event", "claim_cells"}
        assert all("jit=off" in found[name] for name in hinted)


async def test_the_servers_clock_counts_and_not_the_hosts(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        ask = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        before = await session.fetchval(ask)
        receipt = await store.commit(Batch(put=(Put(Ref("s", "k"), b"", before),)))
        times = [await store.now() for _ in range(5)]
        after = await session.fetchval(ask)
        assert before - MICROS < receipt.time <= times[0] <= times[-1] <= after
        assert times == sorted(times)
        (cell,) = await store.claim(["s"], 1, 60)
        assert isinstance(cell, Cell) and cell.due is not None
        assert 59 * MICROS < cell.due - before < 90 * MICROS


async def test_what_the_server_cannot_hold_is_refused_and_not_an_outage(postgres: str) -> None:
    async with store_at(postgres) as store:
        for name in ("a\0b", "a\ud800b"):
            with pytest.raises(Refused):
                await store.read([Ref("s", name)])
            with pytest.raises(Refused):
                await store.events(name)
        with pytest.raises(Refused):
            await store.events("s", 2**63)
        with pytest.raises(Refused):
            await store.commit(Batch(require=(Require(Ref("s", "k"), 2**63),)))


async def test_behind_a_pooler_nothing_stays_in_a_session(postgres: str) -> None:
    async with store_at(postgres, statement_cache_size=0) as store:
        lease = await store.take(0, 0, "n")
        results = await store.commit_group(
            [note(lease, f"s{number}", 0, "k") for number in range(GROUP_BATCHES_MAX)]
        )
        assert {type(result) for result in results} == {Committed}
        await store.announce("n")
        assert await store.departed(["n"]) == set()
        assert (await store.transact(lambda tables: note(lease, "t", 0))).seq == 513
        async with session_at(postgres) as session:
            assert await session.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") == 0
        assert [cell.key for cell in await store.scan("noted")] == ["k"]


@pytest.mark.crash
async def test_a_killed_server_has_every_acknowledged_commit() -> None:
    with server_of_its_own() as server:
        await server.answering()
        async with store_at(server.address, schema="killed") as store:
            lease = await store.take(0, 0, "n")
            acknowledged: list[int] = []
            for _ in range(3):
                stop = asyncio.Event()
                working = asyncio.create_task(work_until(store, lease, stop, acknowledged))
                before = len(acknowledged)
                while len(acknowledged) < before + 20:
                    await asyncio.sleep(0.01)
                server.kill()
                await server.answering()
                stop.set()
                await working
                events = await store.tail(0, 0, 100_000)
                assert [event.seq for event in events] == list(range(1, len(events) + 1))
                assert {event.seq for event in events} >= set(acknowledged)
                assert verify(events, GENESIS) is None
            assert len(acknowledged) == len(set(acknowledged))


async def work_until(
    store: PostgresStore, lease: Lease, stop: asyncio.Event, acknowledged: list[int]
) -> None:
    """Commit one event after the other; what was refused or is unknown is looked up."""
    while not stop.is_set():
        try:
            n = (await store.lengths(["s"])).get("s", 0)
            while not stop.is_set():
                acknowledged.append((await store.commit(note(lease, "s", n))).seq)
                n += 1
        except (OutcomeUnknown, StoreUnavailable):
            await asyncio.sleep(0.01)


async def test_what_a_commit_reads_does_not_grow_with_the_marks_there_are(postgres: str) -> None:
    """A plan may look marks up by the end of their key, and read the whole index for each."""

    def marked(at: int, value: str) -> Put:
        long = ("test.mark", f"{value} {at:04} {'x' * 400}")
        return Put(Ref("marked", f"{at}"), b"", marks=(long, ("test.other", "same")))

    async with store_at(postgres) as store:
        for first in range(0, 2000, 100):
            puts = tuple(marked(at, "old") for at in range(first, first + 100))
            await store.commit(Batch(put=puts))
    many, replaced = await _pages_of_marks(postgres, store), 50
    async with store_at(postgres, schema=store.schema) as store:
        for at in range(replaced):
            cell = (await store.read([Ref("marked", f"{at}")]))[0]
            assert cell is not None
            await store.commit(Batch(put=(marked(at, "new"),)))
        assert len(await store.select(["marked"], "test.mark", "new", "new~")) == replaced
        kept = await store.select(["marked"], "test.mark", "old", "old~", 3000)
        assert len(kept) == 2000 - replaced
    pages = await _pages_of_marks(postgres, store) - many
    assert pages / replaced < 40  # the index has some 120 pages


async def _pages_of_marks(address: str, closed: PostgresStore) -> int:
    """Pages of the marks' index that were read, once the sessions of a store have ended."""
    gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1"
    read = (
        "SELECT idx_blks_hit + idx_blks_read FROM pg_statio_user_indexes"
        " WHERE schemaname = $1 AND indexrelname = 'mark_pkey'"
    )
    async with session_at(address) as session:
        name = closed._writing.way.name
        await until(lambda: session.fetchval(gone, name), "the store's sessions have ended")
        found: int = await session.fetchval(read, closed.schema)
        return found
