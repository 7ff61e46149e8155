"""The connection to Redis when it is cut, deaf or forgetful: a commit is done once, or not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis
from tests.cell_servers import CellServer
from tests.stores.servers import Line, line_to

from outlive import ids
from outlive.errors import OutcomeUnknown, StoreUnavailable
from outlive.model import Batch, Committed, Put, Ref
from outlive.stores import redis_line
from outlive.stores.lua import script
from outlive.stores.redis import RedisStore


def put(key: str, value: bytes = b"v") -> Batch:
    return Batch(put=(Put(Ref("cut", key), value, 17),), storage="volatile")


@asynccontextmanager
async def cut_off(server: CellServer) -> AsyncIterator[tuple[RedisStore, RedisStore, Line]]:
    """A store behind a line that can be cut, and one that is not."""
    prefix = ids.token(40)
    direct = RedisStore(server.address, prefix=prefix)
    await direct.open()
    async with line_to(server.address) as line:
        store = RedisStore(f"redis://127.0.0.1:{line.port}", prefix=prefix)
        await store.open()
        yield store, direct, line
        await store.close()
    await direct.close()


async def test_a_commit_whose_answer_is_lost_is_looked_up(valkey: CellServer) -> None:
    async with cut_off(valkey) as (store, direct, line):
        line.cut_once("deafen", script("commit")[0])
        first, second = await store.commit_group([put("a", b"1"), put("a", b"2")])
        assert line.cuts == ["deafen"]
        assert isinstance(first, Committed) and isinstance(second, Committed)
        (cell,) = await direct.read([Ref("cut", "a")])
        assert cell is not None and (cell.value, cell.version) == (b"2", second.versions[0])
        assert first.versions < second.versions


async def test_a_commit_that_did_not_arrive_never_will(valkey: CellServer) -> None:
    async with cut_off(valkey) as (store, direct, line):
        line.cut_once("drop", script("commit")[0])
        with pytest.raises(StoreUnavailable, match="nothing was written, and nothing will be"):
            await store.commit(put("a"))
        late = (store._line._writer, store._line._number, "", 0, [([], [], [("cut", "a", "", [])])])
        call = (redis_line._pack(late), b"late")
        assert await direct._line.ask("commit", *call) is None
        assert await direct.read([Ref("cut", "a")]) == [None]
        await store.commit(put("a"))


async def test_a_look_up_whose_own_answer_is_lost_is_made_again(valkey: CellServer) -> None:
    async with cut_off(valkey) as (store, direct, line):
        resolve = script("resolve")[0]

        def rule(data: bytes) -> str:
            if script("commit")[0] in data:
                return "drop"
            return "deafen" if resolve in data and "deafen" not in line.cuts else "pass"

        line.rule = rule
        async with asyncio.timeout(30):
            with pytest.raises(StoreUnavailable, match="nothing was written, and nothing will be"):
                await store.commit(put("a"))
        assert line.cuts == ["drop", "deafen"]
        line.rule = lambda data: "pass"
        await store.commit(put("a"))
        assert await direct.read([Ref("cut", "a")]) != [None]


async def test_a_commit_that_cannot_be_looked_up_is_unknown(
    valkey: CellServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_line, "RESOLVE_SECONDS", 0.3)
    async with cut_off(valkey) as (store, direct, line):

        def rule(data: bytes) -> str:
            if script("commit")[0] in data:
                line.is_open = False
                return "deafen"
            return "pass"

        line.rule = rule
        with pytest.raises(OutcomeUnknown):
            await store.commit(put("a"))
        (cell,) = await direct.read([Ref("cut", "a")])
        assert cell is not None, "it was done, and only the answer was lost"
        line.rule, line.is_open = lambda data: "pass", True
        await store.commit(put("b"))


async def test_a_lost_claim_is_unknown_and_a_lost_look_is_not(valkey: CellServer) -> None:
    async with cut_off(valkey) as (store, _, line):
        await store.commit(put("a"))
        line.cut_once("drop", script("read")[0])
        with pytest.raises(StoreUnavailable):
            await store.read([Ref("cut", "a")])
        line.cut_once("drop", script("claim")[0])
        with pytest.raises(OutcomeUnknown):
            await store.claim(["cut"], 10, 60)
        assert len(await store.claim(["cut"], 10, 60)) == 1


async def test_a_server_that_is_not_there_has_done_nothing(valkey: CellServer) -> None:
    async with cut_off(valkey) as (store, _, line):
        line.is_open = False
        line.cut_once("drop", script("clock")[0])
        with pytest.raises(StoreUnavailable):
            await store.now()
        with pytest.raises(StoreUnavailable, match="nothing was written"):
            await store.commit(put("a"))
        line.is_open = True
        await store.commit(put("a"))


async def test_a_name_that_is_no_text_is_refused_and_concerns_nobody_else(
    valkey: CellServer,
) -> None:
    async with cut_off(valkey) as (store, _, _):
        bad, link = Ref("cut", "\udc80"), store._line._link
        async with asyncio.timeout(30):
            results = await asyncio.gather(
                store.commit(put(bad.key)), store.read([bad]), store.scan("cut", bad.key),
                store.select(["cut"], "mark", "", bad.key), store.claim([bad.key], 1, 1),
                store.next_due([bad.key]), store.commit(put("a")), store.read([Ref("cut", "b")]),
                return_exceptions=True,
            )  # fmt: skip
        assert [type(result) for result in results[:6]] == [UnicodeEncodeError] * 6
        assert isinstance(results[6], Committed) and results[7] == [None]
        assert store._line._link is link, "nobody was hung up on"


async def test_a_mistake_in_one_trip_does_not_hold_up_the_next(
    valkey: CellServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cut_off(valkey) as (store, _, _):
        line = store._line

        def mistaken(answer: bytes) -> redis_line.Results:
            assert line._asked, "somebody waits for the next trip"
            monkeypatch.undo()
            raise ValueError(answer)

        monkeypatch.setattr(redis_line, "_read_results", mistaken)
        writing = asyncio.create_task(store.commit(put("a")))
        async with asyncio.timeout(30):
            while line._task is None or line._offered:
                await asyncio.sleep(0)
            assert await store.read([Ref("cut", "b")]) == [None]
            with pytest.raises(OutcomeUnknown):
                await writing


async def test_what_is_asked_in_one_turn_is_one_trip(valkey: CellServer) -> None:
    store = RedisStore(valkey.address, prefix=ids.token(40))
    await store.open()
    before = store._line.trips
    await asyncio.gather(
        *(store.commit(put(str(number))) for number in range(50)),
        *(store.read([Ref("cut", str(number))]) for number in range(50)),
        store.now(),
    )
    assert store._line.trips == before + 1
    assert len(await store.scan("cut")) == 50
    await store.close()


async def test_a_server_that_forgot_the_scripts_is_told_them_again(valkey: CellServer) -> None:
    store = RedisStore(valkey.address, prefix=ids.token(40))
    await store.open()
    for number in range(3):
        async with Redis.from_url(valkey.address) as shell:
            await shell.script_flush()
        results = await asyncio.gather(store.commit(put(str(number))), store.now())
        assert results[0].versions
    assert len(await store.scan("cut")) == 3
    await store.close()


def test_names_keep_their_order_and_come_back_as_they_were() -> None:
    names = ["", "\0", "\0\0", "\0a", "\1", "\1\0", "\1\1", "a", "a\0b", "a\1", "a\2", "é"]
    escaped = [redis_line.escaped(name).encode() for name in sorted(names)]
    assert escaped == sorted(escaped)
    assert not any(b"\0" in name for name in escaped)
    assert [redis_line.plain(name) for name in escaped] == sorted(names)
