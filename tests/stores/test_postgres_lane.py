"""A writing lane is certain of every outcome: a cut at COMMIT, a late statement, a lost backend."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.stores.servers import DEADLINE_SECONDS, line_to, note, session_at, store_at, until

from outlive.errors import (
    Conflict,
    Fenced,
    OutcomeUnknown,
    StoreBusy,
    StoreCorrupt,
    StoreUnavailable,
    StoreWentBack,
)
from outlive.model import ABSENT, Batch, Committed, Put, Ref, Require
from outlive.stores import postgres_lane, postgres_links
from outlive.stores.chain import GENESIS, verify
from outlive.stores.postgres import PostgresStore

COMMIT = b"COMMIT\0"
CALL = b"noted"  # what only the arrays of a commit contain


@pytest.mark.parametrize("where", ["drop", "deafen"])
async def test_a_commit_whose_answer_was_lost_is_done_once(postgres: str, where: str) -> None:
    async with line_to(postgres) as line, store_at(line.address) as store:
        lease = await store.take(0, 0, "n")
        await store.commit(note(lease, "s", 0, "k"))
        line.cut_once(where, CALL)
        receipt = await store.commit(note(lease, "s", 1, "k"))
        assert line.cuts == [where]
        assert receipt.seq == 2
        (cell,) = await store.read([Ref("noted", "k")])
        assert cell is not None and receipt.versions == (cell.version,)
        assert [event.n for event in await store.events("s")] == [0, 1]
        assert (await store.commit(note(lease, "s", 2))).seq == 3
        assert verify(await store.tail(0, 0), GENESIS) is None


@pytest.mark.parametrize("where", ["drop", "deafen"])
async def test_a_cut_at_the_commit_of_the_sure_way_is_looked_up(postgres: str, where: str) -> None:
    async with line_to(postgres) as line, store_at(line.address) as store:
        lease = await store.take(0, 0, "n")
        await store.commit(note(lease, "s", 0, "k"))
        line.cut_once(where, COMMIT)
        stale = Batch(require=(Require(Ref("noted", "k"), 1),))
        results = await store.commit_group([stale, note(lease, "s", 1, "k")])
        assert line.cuts == [where]
        assert [type(result) for result in results] == [Conflict, Committed]
        assert [event.n for event in await store.events("s")] == [0, 1]


@pytest.mark.parametrize("where", ["drop", "deafen"])
async def test_a_cut_at_the_commit_of_a_transaction_is_looked_up(postgres: str, where: str) -> None:
    async with line_to(postgres) as line, store_at(line.address) as store:
        lease = await store.take(0, 0, "n")
        line.cut_once(where, COMMIT)
        if where == "drop":
            with pytest.raises(StoreUnavailable, match="nothing was written"):
                await store.transact(lambda tables: note(lease, "s", 0))
            assert await store.events("s") == []
        else:
            assert (await store.transact(lambda tables: note(lease, "s", 0))).seq == 1
            assert len(await store.events("s")) == 1
        assert line.cuts == [where]


async def test_an_outcome_that_cannot_be_looked_up_is_unknown(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_lane, "LOOK_UP_TRIES", 1)
    async with line_to(postgres) as line, store_at(line.address) as store:
        lease = await store.take(0, 0, "n")
        await store.commit(note(lease, "s", 0))
        line.cut_once("deafen", CALL)
        line.is_open = False
        with pytest.raises(OutcomeUnknown):
            await store.commit(note(lease, "s", 1))
        line.is_open = True
        assert await store.lengths(["s"]) == {"s": 2}
        assert (await store.commit(note(lease, "s", 2))).seq == 3


async def test_a_look_up_waits_for_the_lost_backend(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        writer = f'"{store.schema}".writer'
        name = store._lane.name
        await session.execute("BEGIN")
        await session.execute(f"UPDATE {writer} SET last = 77, base = 5 WHERE id = $1", name)
        looking = asyncio.create_task(store._lane.look_up(77, OSError("cut")))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(looking), 0.2)
        await session.execute("COMMIT")
        assert await looking == 5


async def test_a_statement_that_comes_after_its_look_up_writes_nothing(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        lane = store._lane
        number = lane.next_number()
        assert await lane.look_up(number, OSError("cut")) is None
        empty: list[object] = [[] for _ in range(22)]
        with pytest.raises(Exception, match="was given up"):
            await session.fetch(
                store.sql["commit_group"], lane.name, number, 0, None, False, False, *empty
            )
        assert await lane.look_up(number, OSError("cut")) is None
        await store.commit(Batch())


async def test_a_killed_backend_is_replaced(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        lease = await store.take(0, 0, "n")
        for turn in range(3):
            await store.commit(note(lease, "s", turn))
            assert len(await store.events("s")) == turn + 1
            await session.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        assert verify(await store.tail(0, 0), GENESIS) is None


async def test_a_forgotten_mark_is_made_again(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        await session.execute(f'DELETE FROM "{store.schema}".writer')
        await store.commit(Batch(put=(Put(Ref("s", "k"), b"x"),)))
        with pytest.raises(StoreUnavailable):
            await store.transact(lambda tables: Batch())
        await store.transact(lambda tables: Batch())


async def test_a_session_frozen_in_a_transaction_is_ended_by_the_server(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_links, "FROZEN_MILLISECONDS", 1000)
    async with store_at(postgres) as store, store_at(postgres, schema=store.schema) as other:
        lease = await store.take(0, 0, "n")
        frozen = asyncio.Event()
        lane, settle = store._lane, store._lane.settle

        async def then_freeze(*arguments: object) -> object:
            settled = await settle(*arguments)  # type: ignore[arg-type]
            if not frozen.is_set():
                frozen.set()
                await asyncio.sleep(0.1)
                await until(lambda: owner_is("b"), "the shard is taken")
            return settled

        async def owner_is(owner: str) -> bool:
            return (await other.owners())[0].owner == owner

        lane.settle = then_freeze  # type: ignore[method-assign, assignment]
        store._beliefs.chains.clear()
        committing = asyncio.create_task(store.commit(note(lease, "s", 0)))
        await frozen.wait()
        await other.take(0, lease.epoch, "b")
        with pytest.raises(Fenced):
            await committing
        assert await other.tail(0, 0) == []


async def test_a_database_that_went_back_is_noticed(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        lease = await store.take(0, 0, "n")
        for n in range(3):
            await store.commit(note(lease, "s", n))
        await session.execute(f'DELETE FROM "{store.schema}".event WHERE seq = 3')
        await session.execute(f'UPDATE "{store.schema}".shard SET head = 2 WHERE id = 0')
        with pytest.raises(StoreWentBack, match="ends at event 2, and had 3"):
            await store.commit(note(lease, "s", 2))
        with pytest.raises(StoreWentBack):
            await store.now()


async def test_another_store_in_the_place_of_ours_is_noticed(postgres: str) -> None:
    async with line_to(postgres) as line, store_at(line.address) as store:
        lease = await store.take(0, 0, "n")
        async with session_at(postgres) as session:
            await session.execute(f"UPDATE {store.schema}.store SET incarnation = 'other'")
        line.cut_once("drop", CALL)
        with pytest.raises(StoreCorrupt, match="another store"):
            await store.commit(note(lease, "s", 0))
        with pytest.raises(StoreCorrupt):
            await store.commit(note(lease, "s", 0))


async def test_a_cancelled_wait_for_the_standby_is_not_a_success(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        commit = Batch(put=(Put(Ref("s", "k"), b"x"),))
        await store.commit(commit)
        await session.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await session.execute("SELECT pg_reload_conf()")
        try:
            await until(lambda: waits_for_a_standby(store), "the setting counts")
            committing = asyncio.create_task(store.commit(commit))
            cancel = (
                "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity"
                " WHERE wait_event = 'SyncRep' AND application_name = $1"
            )  # the server's own (autovacuum) wait for a standby too

            async def cancelled() -> bool:
                nonlocal committing
                if committing.done():  # the session that writes had not read the setting yet
                    committing = asyncio.create_task(store.commit(commit))
                return bool(await session.fetchval(cancel, store._writing.way.name))

            await until(cancelled, "the commit waits for its standby")
            with pytest.raises(OutcomeUnknown, match="standby"):
                await committing
        finally:
            await session.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await session.execute("SELECT pg_reload_conf()")
        (cell,) = await store.read([Ref("s", "k")])
        assert cell is not None
        await until(lambda: no_standby(store), "the setting is gone")
        await store.commit(commit)


async def waits_for_a_standby(store: PostgresStore) -> bool:
    rows = await store.read_rows("doctor_durability")
    return bool(rows[0][3])


async def no_standby(store: PostgresStore) -> bool:
    return not await waits_for_a_standby(store)


async def test_writers_of_two_nodes_lose_no_update_and_reuse_no_version(postgres: str) -> None:
    async with store_at(postgres) as one, store_at(postgres, schema=one.schema) as two:
        cell = Ref("s", "sum")
        versions: list[int] = []

        async def add(store: PostgresStore) -> None:
            for _ in range(1000):
                (found,) = await store.read([cell])
                value, seen = (0, ABSENT) if found is None else (int(found.value), found.version)
                put = Put(cell, b"%d" % (value + 1))
                try:
                    receipt = await store.commit(Batch(require=(Require(cell, seen),), put=(put,)))
                except Conflict:
                    continue
                versions.extend(receipt.versions)
                return
            raise AssertionError("refused a thousand times")

        await asyncio.gather(*(add(store) for store in (one, two) for _ in range(10)))
        (found,) = await one.read([cell])
        assert found is not None and found.value == b"20"
        assert len(set(versions)) == 20 and found.version == max(versions)


async def test_groups_of_two_nodes_that_cross_do_not_deadlock(postgres: str) -> None:
    async with store_at(postgres) as one, store_at(postgres, schema=one.schema) as two:
        keys = [f"{number:02}" for number in range(20)]
        forth = Batch(put=tuple(Put(Ref("s", key), b"f") for key in keys))
        back = Batch(put=tuple(Put(Ref("s", key), b"b") for key in reversed(keys)))
        drop = Batch(drop=tuple(Ref("s", key) for key in keys[::2]))
        await asyncio.gather(
            *(one.commit_group([forth, drop]) for _ in range(15)),
            *(two.commit_group([drop, back]) for _ in range(15)),
        )


async def test_two_that_require_each_others_cell_absent_are_not_both_written(
    postgres: str,
) -> None:
    async with store_at(postgres) as one, store_at(postgres, schema=one.schema) as two:
        for turn in range(10):
            a, b = Ref("s", f"a{turn}"), Ref("s", f"b{turn}")
            results = await asyncio.gather(
                one.commit(Batch(require=(Require(a, ABSENT),), put=(Put(b, b""),))),
                two.commit(Batch(require=(Require(b, ABSENT),), put=(Put(a, b""),))),
                return_exceptions=True,
            )
            assert sorted(type(result).__name__ for result in results) == ["Committed", "Conflict"]


@pytest.mark.parametrize("known", [True, False])
async def test_a_commit_that_waited_for_a_take_over_is_fenced(postgres: str, known: bool) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        lease = await store.take(0, 0, "n")
        if not known:
            store._beliefs.chains.clear()
        await session.execute("BEGIN")
        await session.fetch(store.sql["take"], 0, lease.epoch, "b", "", 0, None)
        committing = asyncio.create_task(store.commit(note(lease, "s", 0, "k")))
        await until(lambda: is_blocked(session), "the commit waits for the shard")
        await session.execute("COMMIT")
        with pytest.raises(Fenced):
            await committing
        assert await store.tail(0, 0) == []
        assert await store.read([Ref("noted", "k")]) == [None]


async def test_a_commit_does_not_wait_for_ever_for_a_cell(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_links, "LOCK_LIMIT_SECONDS", 0.05)
    monkeypatch.setitem(postgres_links.SESSION_SETTINGS, "lock_timeout", 50)
    async with store_at(postgres) as store, session_at(postgres) as session:
        put = Batch(put=(Put(Ref("s", "k"), b"x"),))
        await store.commit(put)
        await session.execute("BEGIN")
        await session.execute(f"SELECT FROM {store.schema}.cell FOR UPDATE")
        async with asyncio.timeout(DEADLINE_SECONDS):
            with pytest.raises(StoreBusy, match="lock"):
                await store.commit(put)
        await session.execute("COMMIT")
        await store.commit(put)


async def test_a_put_that_waited_for_a_drop_has_the_higher_version(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        cell = f"{store.schema}.cell"
        await session.execute("BEGIN")
        await session.execute(f"INSERT INTO {cell} VALUES ('s', 'k', 0, NULL, '[]', '')")
        putting = asyncio.create_task(store.commit(Batch(put=(Put(Ref("s", "k"), b""),))))
        await until(lambda: is_blocked(session), "the put waits for the key")
        dropped = await session.fetchval(
            f"UPDATE {cell} SET version = nextval('{store.schema}.version_block') * 65536"
            " RETURNING version"
        )
        await session.execute(f"DELETE FROM {cell}")
        await session.execute("COMMIT")
        receipt = await putting
        assert receipt.versions[0] > dropped
        (found,) = await store.read([Ref("s", "k")])
        assert found is not None and (found.version,) == receipt.versions


async def is_blocked(session: Any) -> bool:
    waiting = await session.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
    return bool(waiting)


async def test_relaxed_groups_do_not_wait_for_the_flush(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        empty: list[object] = [[] for _ in range(22)]
        for relaxed, level in ((True, "off"), (False, "on")):
            await session.execute("BEGIN")
            await session.fetch(
                store.sql["commit_group"],
                store._lane.name, store._lane.next_number(), 0, None, relaxed, False, *empty,
            )  # fmt: skip
            assert await session.fetchval("SHOW synchronous_commit") == level
            await session.execute("ROLLBACK")


async def test_a_line_cut_while_the_mark_is_made_again_leaves_an_error_of_ours(
    postgres: str,
) -> None:
    async with line_to(postgres) as line, store_at(line.address) as store:
        put = Batch(put=(Put(Ref("s", "k"), b""),), storage="relaxed")
        for write in (store.commit(put), store.transact(lambda tables: put)):
            async with session_at(postgres) as session:
                await session.execute(f"DELETE FROM {store.schema}.writer")
            store._writing.abandon()  # a new link has nothing prepared yet
            line.cut_once("drop", b".writer (id, last, time)")
            with pytest.raises(StoreUnavailable, match="othing was written"):
                await write
        await store.commit(put)


async def test_a_commit_whose_look_up_is_not_let_in_is_unknown_and_not_unwritten(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_lane, "LOOK_UP_TRIES", 2)
    async with line_to(postgres) as line, store_at(line.address) as store:
        lease = await store.take(0, 0, "n")
        await store.commit(note(lease, "s", 0, "k"))

        async def refused() -> None:
            raise asyncpg.InvalidPasswordError("the password was changed")

        monkeypatch.setattr(store._writing, "connect", refused)
        line.cut_once("deafen", CALL)
        with pytest.raises(OutcomeUnknown):
            await store.commit(note(lease, "s", 1, "k"))
        assert len(await store.events("s")) == 2
