"""What is believed saves look-ups; what is believed wrongly is found out, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from tests.stores.servers import note, session_at, store_at

from outlive.errors import Conflict, Fenced, OutliveError, StreamConflict
from outlive.model import ABSENT, Append, Batch, Cell, Committed, Lease, Put, Ref, Require
from outlive.stores import postgres_beliefs
from outlive.stores.chain import GENESIS, verify
from outlive.stores.postgres import PostgresStore
from outlive.stores.postgres_beliefs import Beliefs
from outlive.stores.postgres_group import Group

LEASE = Lease(3, "n", 7)
REF = Ref("s", "k")


class Asked:
    """Which statements a store's writing lane sends, by name."""

    def __init__(self, store: PostgresStore) -> None:
        self.names: list[str] = []
        names = {text: name for name, text in store.sql.items()}
        fetch = store._writing.fetch

        async def listen(link: Any, statement: str, *values: Any) -> list[Any]:
            self.names.append(names[statement])
            return await fetch(link, statement, *values)

        store._writing.fetch = listen  # type: ignore[method-assign]

    def since(self) -> list[str]:
        found, self.names = self.names, []
        return found


def beliefs() -> Beliefs:
    found = Beliefs()
    found.chains[3] = (10, bytes(16))
    return found


def call(found: Beliefs, *batches: Batch) -> list[Any] | None:
    """What the call for `batches` is given, after its times and whether it is relaxed."""
    made = found.call(Group(batches).plan(1, found.chains), None, relaxed=False)
    return None if made is None else made[1][3:] if made[0] == "commit_believed" else made[1]


def test_a_stream_is_believed_only_by_who_wrote_its_last_event() -> None:
    found = beliefs()
    assert call(found, note(LEASE, "s", 1)) is None
    assert call(found, note(LEASE, "s", 0), note(LEASE, "s", 1)) is not None
    plan = Group([note(LEASE, "s", 0)]).plan(1, found.chains)
    assert found.call(plan, None, False) is not None
    found.learn(plan, 0)
    assert call(found, note(LEASE, "s", 1)) is not None
    assert call(found, note(LEASE, "s", 2)) is None
    found.doubt(plan)
    assert call(found, note(LEASE, "s", 1)) is None


def test_a_cell_is_believed_only_at_the_version_that_was_written() -> None:
    found, marks = beliefs(), (("mark", "a"), ("mark", "b"))
    put = Batch(put=(Put(REF, b"1", None, marks),))
    new = Batch(require=(Require(REF, ABSENT),), put=put.put)
    assert call(found, put) is None
    assert call(found, Batch(drop=(REF,))) is None
    assert call(found, Batch(require=(Require(REF, 5),))) is None
    plan = Group([new]).plan(1, found.chains)
    assert found.call(plan, None, False) is not None
    found.learn(plan, 70)
    assert call(found, new) is None
    at = Batch(require=(Require(REF, 70),), put=(Put(REF, b"2", None, (("mark", "b"),)),))
    given = call(found, at)
    assert given is not None
    assert given[5:12] == [["s"], ["k"], [70], [b"2"], [None], ['[["mark","b"]]'], [0]]
    assert given[12:17] == [[False], ["mark"], ["a"], ["s"], ["k"]]
    assert call(found, Batch(require=(Require(REF, 71),), drop=(REF,))) is None
    found.claimed([Cell("s", "k", b"1", 80), Cell("s", "unknown", b"", 81)], [70, 71])
    assert call(found, at) is None
    assert found.cells == {("s", "k"): (80, marks)}
    found.claimed([Cell("s", "k", b"1", 70)], [60])
    assert found.cells == {("s", "k"): (80, marks)}
    found.claimed([Cell("s", "k", b"1", 90)], [85])
    assert found.cells == {}


async def test_marks_that_another_node_gave_a_cell_before_it_was_claimed_are_replaced(
    postgres: str,
) -> None:
    async with store_at(postgres) as store, store_at(postgres, schema=store.schema) as other:

        def marked(value: str) -> Batch:
            return Batch(put=(Put(REF, b"", 1, (("mark", value),)),))

        await store.commit(marked("mine"))
        await other.commit(marked("theirs"))
        assert [cell.key for cell in await store.claim(["s"], 1, 60)] == ["k"]
        await store.commit(marked("mine"))
        found = await store.select(["s"], "mark", "", "~")
        assert [value for value, _ in found] == ["mine"]


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_beliefs, "LENGTHS_KEPT_MAX", 10)
    monkeypatch.setattr(postgres_beliefs, "CELLS_KEPT_MAX", 10)
    found = beliefs()
    for at in range(100):
        batch = Batch(
            LEASE, put=(Put(Ref("s", f"{at}"), b""),), append=(Append(f"{at}", 0, "d", b""),)
        )
        found.learn(Group([batch]).plan(1, found.chains), at)
    assert len(found.lengths) <= 11 and len(found.cells) <= 11


async def test_the_whole_life_of_a_process_is_one_believing_call_a_commit(postgres: str) -> None:
    async with store_at(postgres) as store:
        lease, cell = await store.take(0, 0, "n"), Ref("process", "p")
        asked = Asked(store)
        running, ended = (("status", "running"),), (("status", "ended"),)
        start = Append("p", 0, "started", b"")
        await store.commit(
            Batch(lease, (Require(cell, ABSENT),), (Put(cell, b"1", None, running),), (), (start,))
        )
        await store.commit(Batch(lease, append=(Append("p", 1, "step", b""),)))
        end = Append("p", 2, "ended", b"")
        await store.commit(Batch(lease, put=(Put(cell, b"2", 1, ended),), append=(end,)))
        (claimed,) = await store.claim(["process"], 10, 60.0)
        need = (Require(cell, claimed.version),)
        await store.commit(Batch(lease, need, drop=(cell,)))
        believed = "commit_believed"
        assert asked.since() == [believed, "commit_event", believed, believed]
        assert [event.n for event in await store.events("p")] == [0, 1, 2]
        assert await store.select(["process"], "status", "", "~") == []
        assert await store.read([cell]) == [None]


async def test_every_wrong_belief_is_found_out(postgres: str) -> None:
    """Another store takes the shard, writes to the stream and the cells, and gives all back."""
    async with store_at(postgres) as store, store_at(postgres, schema=store.schema) as other:
        lease = await store.take(0, 0, "n")
        keys = ("put", "dropped", "gone")
        for n, key in enumerate(keys):
            await store.commit(note(lease, "s", n, key))
        theirs = await other.take(0, lease.epoch, "o")
        await other.commit(note(theirs, "s", 3, "put"))
        await other.commit(Batch(drop=(Ref("noted", "gone"),)))
        asked = Asked(store)
        with pytest.raises(Fenced):
            await store.commit(note(lease, "s", 3))
        lease = await store.take(0, theirs.epoch, "n")
        results = await store.commit_group(
            [
                note(lease, "s", 3),
                note(lease, "new", 0, "put"),
                Batch(drop=(Ref("noted", "dropped"), Ref("noted", "gone"))),
                Batch(require=(Require(Ref("noted", "put"), 1),)),
                note(lease, "s", 4, "gone"),
            ]
        )
        kinds = [StreamConflict, Committed, Committed, Conflict, Committed]
        assert [type(result) for result in results] == kinds
        assert "commit_event" in asked.since()
        assert [event.n for event in await store.events("s")] == [0, 1, 2, 3, 4]
        assert [cell.key for cell in await store.scan("noted")] == ["gone", "put"]
        assert verify(await store.tail(0, 0), GENESIS) is None


async def test_one_event_alone_is_refused_like_any_other(postgres: str) -> None:
    async with store_at(postgres) as store, store_at(postgres, schema=store.schema) as other:
        lease = await store.take(0, 0, "n")
        asked = Asked(store)
        await store.commit(note(lease, "s", 0))
        store._beliefs.chains[0] = (0, GENESIS)
        assert (await store.commit(note(lease, "s", 1))).seq == 2
        store._beliefs.lengths["s"] = 1
        with pytest.raises(StreamConflict):
            await store.commit(note(lease, "s", 1))
        relaxed = replace(note(lease, "s", 2), storage="relaxed")
        await store.commit(relaxed)
        await store.commit(note(lease, "s", 3))
        await other.take(0, lease.epoch, "o")
        with pytest.raises(Fenced):
            await store.commit(note(lease, "s", 4))
        asked_for = ["commit_event"] * 3 + ["commit_group", "commit_event", "commit_event"]
        assert asked.since() == asked_for
        assert [event.n for event in await store.events("s")] == [0, 1, 2, 3]
        assert verify(await store.tail(0, 0), GENESIS) is None


@pytest.mark.parametrize("wrong", ["head", "length", "version", "absent", "gone"])
async def test_one_wrong_belief_costs_one_more_try(postgres: str, wrong: str) -> None:
    async with store_at(postgres) as store:
        lease, cell = await store.take(0, 0, "n"), Ref("noted", "k")
        await store.commit(note(lease, "s", 0, "k"))
        found, key = store._beliefs, ("noted", "k")
        batch = note(lease, "s", 1, "k")
        wanted: type[OutliveError] | None = None
        if wrong == "head":
            found.chains[0] = (0, GENESIS)
        elif wrong == "length":
            found.lengths["s"], batch, wanted = 0, note(lease, "s", 0, "k"), StreamConflict
        elif wrong == "version":
            found.cells[key] = (1, (("no", "such mark"),))
        elif wrong == "absent":
            del found.cells[key]
            batch = Batch(require=(Require(cell, ABSENT),), put=(Put(cell, b""),))
            wanted = Conflict
        else:
            found.cells["noted", "never"] = (5, ())
            batch = Batch(lease, put=(Put(Ref("noted", "never"), b""),))
        asked = Asked(store)
        if wanted is None:
            await store.commit(batch)
        else:
            with pytest.raises(wanted):
                await store.commit(batch)
        assert asked.since() == ["commit_believed"]
        length = (await store.lengths(["s"]))["s"]
        for n in (length, length + 1):
            await store.commit(note(lease, "s", n, "k"))
        assert asked.since()[-1] == "commit_believed"
        assert verify(await store.tail(0, 0), GENESIS) is None


async def test_a_new_cell_is_newer_than_one_that_was_dropped_while_it_waited(postgres: str) -> None:
    """The insert waits, and the block of versions that it drew may be older than the cell's."""
    async with store_at(postgres) as store, session_at(postgres) as session:
        schema, cell = store.schema, Ref("s", "k")
        await session.execute("BEGIN")
        await session.execute(f"INSERT INTO {schema}.cell VALUES ('s', 'k', 1, NULL, '[]', '')")
        new = Batch(require=(Require(cell, ABSENT),), put=(Put(cell, b""), Put(Ref("s", "l"), b"")))
        making = asyncio.create_task(store.commit(new))
        waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock')"
        async with asyncio.timeout(20), session_at(postgres) as looking:
            while not await looking.fetchval(waits):
                await asyncio.sleep(0.01)
        drawn = await session.fetchval(f"SELECT nextval('{schema}.version_block') * 65536")
        await session.execute("ROLLBACK")
        receipt = await making
        assert all(version > drawn for version in receipt.versions)
        found = await store.read([cell, Ref("s", "l")])
        assert tuple(one.version for one in found if one is not None) == receipt.versions


@pytest.mark.parametrize("statement", ["commit_event", "commit_believed"])
async def test_a_believing_call_that_comes_after_its_look_up_writes_nothing(
    postgres: str, statement: str
) -> None:
    async with store_at(postgres) as store, session_at(postgres) as session:
        lease, lane = await store.take(0, 0, "n"), store._lane
        plan = Group([note(lease, "s", 0)]).plan(await store.now(), store._beliefs.chains)
        made = store._beliefs.call(plan, None, relaxed=statement == "commit_believed")
        assert made is not None and made[0] == statement
        number = lane.next_number()
        assert await lane.look_up(number, OSError("cut")) is None
        with pytest.raises(Exception, match="was given up"):
            await session.fetch(store.sql[statement], lane.name, number, *made[1])
        assert await store.events("s") == []
        assert (await store.commit(note(lease, "s", 0))).seq == 1
