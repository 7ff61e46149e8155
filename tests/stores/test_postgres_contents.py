"""The contents of a PostgreSQL schema: one snapshot of a live store, and every corruption found."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.stores.filling import everything, facts, fill, sound
from tests.stores.later import release_to_come
from tests.stores.servers import note, session_at, store_at

from outlive import ids
from outlive.errors import (
    SchemaBehind,
    StoreCorrupt,
    StoreMoved,
    StoreNotEmpty,
    StoreRefused,
)
from outlive.model import Batch, Put, Ref
from outlive.stores import sql
from outlive.stores.contents import SECTIONS
from outlive.stores.moving import check, place_at
from outlive.stores.postgres import PostgresStore
from outlive.stores.postgres_contents import PostgresPlace


def silent(*_: object) -> None:
    """Nobody watches the progress."""


@asynccontextmanager
async def place_of(postgres: str, schema: str) -> AsyncIterator[PostgresPlace]:
    place = PostgresPlace(f"{postgres}?schema={schema}")
    try:
        yield place
    finally:
        await place.close()


@pytest.fixture
async def live(postgres: str) -> AsyncIterator[PostgresStore]:
    async with store_at(postgres, shards=4) as store:
        await fill(store, 7)
        yield store


async def faults_of(postgres: str, schema: str) -> tuple[str, ...]:
    async with place_at(f"{postgres}?schema={schema}") as place:
        return (await check(place, silent)).faults


async def test_a_sound_store_has_no_faults(postgres: str, live: PostgresStore) -> None:
    assert await faults_of(postgres, live.schema) == ()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE {}.event SET data = 'x' || data WHERE n = 1", "chain broken"),
        ("UPDATE {}.event SET n = n + 100 WHERE n = 0", "numbered"),
        ("DELETE FROM {}.event WHERE n = 1", "is missing"),
        ("UPDATE {}.shard SET head = head + 1 WHERE head > 0", "its head is"),
        ("DELETE FROM {}.shard WHERE id = 3", "shards: 3 rows, and the store counts 4"),
        ("DELETE FROM {}.mark WHERE value = 'a'", "=a is missing"),
        ("INSERT INTO {}.mark VALUES ('state', 'zz', 'proc', 'k')", "does not have it"),
        ("UPDATE {}.cell SET marks = '[[' WHERE marks <> '[]'", "could not be done"),
        ("UPDATE {}.cell SET version = version + 100000000", "was never drawn"),
        ("SELECT setval('{}.version_block', 1)", "was never drawn"),
        ("UPDATE {}.blob SET data = substr(data, 2)", "is not what was put"),
        ("DELETE FROM {}.blob", "is named by a cell"),
        ("UPDATE {}.hold SET epoch = epoch + 1", "in its ledger is above its own"),
    ],
)
async def test_every_planted_corruption_is_found(
    postgres: str, live: PostgresStore, statement: str, said: str
) -> None:
    async with session_at(postgres) as session:
        await session.execute(statement.format(live.schema))
    found = await faults_of(postgres, live.schema)
    assert any(said in fault for fault in found), found


async def test_contents_are_of_one_moment_whatever_is_written_meanwhile(
    postgres: str, live: PostgresStore
) -> None:
    (lease, *_) = [await live.take(shard.id, shard.epoch, "n") for shard in await live.owners()]
    async with place_of(postgres, live.schema) as place:
        before = await everything(place)
        source = await place.source()
        pages: dict[str, list[Any]] = {}
        for section in SECTIONS:
            for n in range(10):
                await live.commit(note(lease, f"later-{section}", n, key=f"{section}{n}"))
            await live.blobs.put(b"later")
            pages[section] = [tuple(row) async for page in source.pages(section) for row in page]
        assert pages == before


async def test_pages_are_bounded_in_bytes_and_lose_nothing(
    postgres: str, live: PostgresStore
) -> None:
    puts = tuple(Put(Ref("big", f"{n}"), bytes(400_000)) for n in range(9))
    await live.commit(Batch(put=puts))
    async with place_of(postgres, live.schema) as place:
        source = await place.source()
        pages = [page async for page in source.pages("cells", ("big", ""))]
    assert sum(row[0] == "big" for page in pages for row in page) == 9
    assert max(sum(len(row[5]) for row in page) for page in pages) <= 1_500_000
    assert len(pages) >= 4


async def test_a_frozen_store_takes_no_write_from_who_has_it_open(
    postgres: str, live: PostgresStore
) -> None:
    shards = await live.owners()
    lease = await live.take(0, shards[0].epoch, "n")
    put = Put(Ref("a", "b"), b"c")
    async with place_of(postgres, live.schema) as place:
        for reason in ("moving", "moved"):
            await place.freeze(reason, "sqlite:////srv/app.db", "token")
        before = await everything(place)
        for batch in (Batch(put=(put,)), note(lease, "stream", 0)):
            with pytest.raises(StoreMoved):
                await live.commit(batch)
        with pytest.raises(StoreMoved):
            await live.take(1, shards[1].epoch, "n")
        with pytest.raises(StoreMoved):
            await live.release(lease)
        with pytest.raises(StoreMoved):
            await live.claim(["proc"], 10, 5)
        with pytest.raises(StoreMoved):
            await live.blobs.put(b"late")
        with pytest.raises(StoreMoved, match="was moved to sqlite:////srv/app"):
            await PostgresStore(postgres, schema=live.schema).open()
        assert await everything(place) == before
        await place.thaw("token")
        await live.commit(Batch(put=(put,)))


async def test_a_node_that_had_another_store_open_writes_nothing_to_its_successor(
    postgres: str,
) -> None:
    """Dropped and made anew under a running node, as a restore in its place would do it."""
    async with store_at(postgres, shards=2) as old, session_at(postgres) as session:
        put = Put(Ref("a", "b"), b"c")
        await old.commit(Batch(put=(put,)))
        await session.execute(f"DROP SCHEMA {old.schema} CASCADE")
        async with store_at(postgres, schema=old.schema, shards=2) as new:
            with pytest.raises(StoreCorrupt, match="another store"):
                await old.commit(Batch(put=(put,)))
            assert await new.read([Ref("a", "b")]) == [None]


async def test_a_text_that_postgres_cannot_keep_is_refused_and_named(postgres: str) -> None:
    schema = f"store_{ids.token(40)}"
    rows = sound()
    async with place_of(postgres, schema) as place:
        await place.prepare(facts(rows), "there", "token")
        for key, marks in (("1\0", "[]"), ("1", '[["x","\\u0000"]]')):
            with pytest.raises(StoreRefused, match="NUL"):
                await place.write("cells", [("a", key, 1, None, marks, b"")])
        await place.write("cells", [("a", "1", 1, None, '[["x","\\\\u0000"]]', b"\0")])
        assert await place.reached("cells") == ("a", "1")


async def test_only_a_place_that_was_never_used_is_filled(
    postgres: str, live: PostgresStore
) -> None:
    async with place_of(postgres, live.schema) as place:
        with pytest.raises(StoreNotEmpty, match="has been used"):
            await place.prepare(facts(sound()), "there", "token")
    async with store_at(postgres, shards=9) as unused:
        schema = unused.schema
    async with place_of(postgres, schema) as place:
        with pytest.raises(StoreRefused, match="blob of 99000000 bytes"):
            await place.prepare(facts(sound(), blob_bytes=99_000_000), "there", "token")
        await place.prepare(facts(sound()), "there", "token")
        await place.prepare(facts(sound()), "there", "token")
        with pytest.raises(StoreNotEmpty, match="already being filled from there"):
            await place.prepare(facts(sound()), "there", "another")
        assert [shard.id for shard in (await place.source()).facts.shards] == [0, 1, 2]


async def test_a_place_without_a_store_lacks_every_migration(postgres: str) -> None:
    async with place_of(postgres, f"store_{ids.token(40)}") as place:
        assert await place.pending() == sql.migrations("postgres")
        assert await place.halt() is None
        with pytest.raises(StoreRefused, match="no store"):
            await place.source()


async def test_a_role_that_may_not_migrate_is_told_who_must_and_one_that_was_granted_serves(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role, schema = f"app_{ids.token(40)}", f"store_{ids.token(40)}"
    as_role = postgres.replace("postgres@", f"{role}@")
    async with session_at(postgres) as session:
        await session.execute(f"CREATE ROLE {role} LOGIN")
    with pytest.raises(SchemaBehind, match=r"migrations 1 \(kernel\).*, and this role"):
        await PostgresStore(as_role, schema=schema).open()
    async with store_at(postgres, schema=schema, shards=2), place_of(postgres, schema) as place:
        await place.grant(role)
    async with store_at(as_role, schema=schema) as served:
        lease = await served.take(0, 0, "n")
        await served.commit(note(lease, "s", 0, key="k"))
        await served.claim(["noted"], 1, 1)
        await served.blobs.drop(await served.blobs.put(b"x"))
        assert {item.name: item.level for item in await served.doctor()}["access"] == "ok"
    monkeypatch.setattr(sql, "FOLDER", release_to_come(tmp_path))
    with pytest.raises(SchemaBehind, match=r"migrations \d \(later\), and this role may not"):
        await PostgresStore(as_role, schema=schema).open()
    async with place_of(postgres, schema) as place:
        with pytest.raises(SchemaBehind, match=r"lacks the migrations \d \(later\)"):
            await place.source()
