"""What goes to the server and comes back in one text: any key, any JSON, one version a cell."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from tests.stores.servers import session_at, store_at

from outlive.model import Batch, Put, Ref, Require
from outlive.stores.postgres_carry import carried_of, packed, sight_of

TEXT = '{"a":"\\u0000\\ud83d\\ude00 \' $1 %s ; -- ü","n":9007199254740993}'


def put(key: str, value: str = "1") -> Put:
    return Put(Ref("s", key), value.encode())


async def test_any_json_arrives_byte_by_byte(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        key = "k'\"\\ ü %s $1"
        marked = Put(Ref("s", key), TEXT.encode(), 7, (("m", "v'\"\\"), ("m", "w")))
        row = await session.fetchrow(store.sql["carry"], packed((marked, put("other"))))
        assert carried_of(row) is None
        cell, other = await store.read((marked.ref, Ref("s", "other")))
        assert cell is not None and other is not None
        assert (cell.value, cell.due, other.due) == (TEXT.encode(), 7, None)
        assert [value for value, _ in await store.select(("s",), "m", "", "~")] == ["v'\"\\", "w"]
        row = await session.fetchrow(store.sql["carry_look"], None, "s", key)
        sight = sight_of(row)
        assert (sight.value, sight.shards) == (TEXT.encode(), store.shards)
        assert sight.incarnation == store.incarnation
        assert abs(sight.time - await store.now()) < 60_000_000
        assert carried_of(await session.fetchrow(store.sql["carry"], packed((marked,)))) == (
            TEXT.encode()
        )


async def test_versions_are_new_and_each_cell_has_its_own(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        before = (await store.commit(Batch(put=(put("before"),)))).versions[0]
        async with session.transaction():
            await session.fetchrow(store.sql["carry"], packed((put("a"), put("b"))))
            between = (await store.commit(Batch(put=(put("between"),)))).versions[0]
        found = await store.read((Ref("s", "a"), Ref("s", "b")))
        versions = {cell.version for cell in found if cell is not None}
        assert len(versions | {before, between}) == 4 and min(versions) > before
        require = tuple(Require(cell.ref, cell.version) for cell in found if cell is not None)
        await store.commit(Batch(require=require, drop=(Ref("s", "a"), Ref("s", "b"))))


async def test_the_second_with_a_key_waits_for_the_first(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as a, session_at(postgres) as b:
        for fate in ("committed", "rolled back"):
            cells = packed((put(f"key {fate}", '"theirs"'), put(f"rest {fate}")))
            first = a.transaction()
            await first.start()
            assert carried_of(await a.fetchrow(store.sql["carry"], cells)) is None
            asked = asyncio.create_task(b.fetchrow(store.sql["carry"], cells))
            async with asyncio.timeout(20), session_at(postgres) as session:
                while not await session.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type ="
                    " 'Lock'",
                    b.get_server_pid(),
                ):
                    await asyncio.sleep(0.01)
            await store.commit(Batch(put=(put(f"a node goes on {fate}"),)))
            await (first.commit() if fate == "committed" else first.rollback())
            found = carried_of(await asked)
            assert found == (b'"theirs"' if fate == "committed" else None)
            assert (await store.read((Ref("s", f"rest {fate}"),)))[0] is not None


async def test_a_later_cell_that_is_there_is_an_error_and_no_half(postgres: str) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        await store.commit(Batch(put=(put("there"),)))
        with pytest.raises(asyncpg.UniqueViolationError):
            await session.fetchrow(store.sql["carry"], packed((put("new"), put("there"))))
        assert await store.read((Ref("s", "new"),)) == [None]
