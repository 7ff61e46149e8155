"""Group commit: each batch is refused alone, and the group is one transaction in every case."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.stores.faults import FaultyDisk, faulty_disk, note, opened

from outlive.errors import Conflict, Fenced, Refused, StoreCorrupt, StoreUnavailable, StreamConflict
from outlive.model import ABSENT, Batch, Committed, Lease, Put, Ref, Require
from outlive.stores.sqlite import SQLiteStore


@pytest.fixture
def disk() -> Iterator[FaultyDisk]:
    with faulty_disk() as made:
        yield made


@pytest.fixture
async def store(disk: FaultyDisk, tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    made = await opened(tmp_path / "store.db")
    yield made
    await made.close()


async def test_a_wrong_stream_is_refused_alone_with_one_sync_for_all_others(
    store: SQLiteStore, disk: FaultyDisk
) -> None:
    lease = await store.take(0, 0, "n")
    await store.commit(note(lease, "a", 0))
    disk.calls.clear()
    results = await store.commit_group(
        [
            note(lease, "b", 0, key="b"),
            note(lease, "a", 0, key="twice"),
            note(lease, "a", 1, key="a"),
            note(lease, "c", 3, key="hole"),
            note(lease, "b", 1, key="b"),
        ]
    )
    assert [type(result) for result in results] == [
        Committed,
        StreamConflict,
        Committed,
        StreamConflict,
        Committed,
    ]
    assert [event.stream for event in await store.tail(0, 0)] == ["a", "b", "a", "b"]
    assert [cell.key for cell in await store.scan("noted")] == ["a", "b"]
    assert [result.seq for result in results if isinstance(result, Committed)] == [2, 3, 4]
    assert disk.calls.count("sync") == 1


async def test_a_group_with_a_wrong_stream_that_fails_as_a_whole_left_nothing(
    store: SQLiteStore, disk: FaultyDisk
) -> None:
    lease = await store.take(0, 0, "n")
    disk.calls.clear()
    left = disk.fails_once("sync")
    with pytest.raises(StoreUnavailable):
        await store.commit_group(
            [note(lease, "a", 0), note(lease, "b", 7), note(lease, "c", 0), note(lease, "d", 0)]
        )
    assert not left
    assert await store.tail(0, 0) == []


async def test_a_stale_lease_is_refused_for_its_batches_only(store: SQLiteStore) -> None:
    old = await store.take(0, 0, "old")
    other = await store.take(1, 0, "old")
    new = await store.take(0, 1, "new")
    results = await store.commit_group(
        [note(old, "a", 0), note(other, "b", 0), note(new, "a", 0), Batch(lease=old)]
    )
    assert [type(result) for result in results] == [Fenced, Committed, Committed, Fenced]


async def test_a_stale_owner_learns_that_it_is_fenced_before_it_hears_of_a_conflict(
    store: SQLiteStore,
) -> None:
    await store.take(0, 0, "n")
    stale = Lease(0, "n", 0)
    batch = Batch(lease=stale, require=(Require(Ref("s", "k"), 5),))
    assert [type(result) for result in await store.commit_group([batch])] == [Fenced]


async def test_a_batch_refused_against_a_fenced_one_is_judged_again_without_it(
    store: SQLiteStore,
) -> None:
    await store.take(0, 0, "n")
    make = Put(Ref("s", "k"), b"stale")
    mine = Put(Ref("s", "k"), b"mine")
    results = await store.commit_group(
        [
            Batch(lease=Lease(0, "n", 0), put=(make,)),
            Batch(require=(Require(Ref("s", "k"), ABSENT),), put=(mine,)),
            Batch(require=(Require(Ref("s", "k"), ABSENT),), put=(make,)),
        ]
    )
    assert [type(result) for result in results] == [Fenced, Committed, Conflict]
    assert [cell.value for cell in await store.scan("s")] == [b"mine"]


async def test_every_mistake_at_once_leaves_the_right_ones(store: SQLiteStore) -> None:
    lease = await store.take(3, 0, "n")
    stale = Lease(2, "nobody", 9)
    results = await store.commit_group(
        [
            note(lease, "a", 0),
            note(stale, "x", 0),
            note(lease, "b", 1),
            Batch(storage="volatile"),
            Batch(require=(Require(Ref("s", "k"), 1),)),
            note(lease, "a", 1),
        ]
    )
    assert [type(result) for result in results] == [
        Committed,
        Fenced,
        StreamConflict,
        Refused,
        Conflict,
        Committed,
    ]
    assert [event.n for event in await store.events("a")] == [0, 1]


async def test_events_of_many_shards_in_one_group_are_dense_in_each(store: SQLiteStore) -> None:
    leases = [await store.take(shard, 0, "n") for shard in range(16)]
    for turn in range(3):
        await store.commit_group(
            [note(leases[at % 16], f"s{at}", turn) for at in range(0, 160, turn + 1) if turn == 0]
            or [note(leases[at % 16], f"t{turn}-{at}", 0) for at in range(100)]
        )
    for shard in range(16):
        events = await store.tail(shard, 0)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))


async def test_a_shard_whose_last_event_is_missing_is_said_to_be_damaged(
    store: SQLiteStore,
) -> None:
    lease = await store.take(0, 0, "n")
    await store.commit(note(lease, "s", 0))
    store._file.writer.execute("DELETE FROM outlive_event")
    store._file.chains.clear()
    with pytest.raises(StoreCorrupt, match="Shard 0"):
        await store.commit(note(lease, "t", 0))


# --- what is believed about cells -----------------------------------------------------------------


@pytest.fixture
async def other(store: SQLiteStore) -> AsyncIterator[SQLiteStore]:
    """Another process's store in the same file."""
    made = await opened(store.path)
    yield made
    await made.close()


def cell(key: str, mark: str = "", due: int | None = None) -> Put:
    return Put(Ref("noted", key), b"", due, (("word", mark),) if mark else ())


async def marked(store: SQLiteStore) -> list[tuple[str, str]]:
    return [(mark, cell.key) for mark, cell in await store.select(["noted"], "word", "", "~")]


async def test_a_cell_that_another_process_has_changed_meanwhile_is_replaced_whole(
    store: SQLiteStore, other: SQLiteStore
) -> None:
    await store.commit(Batch(put=(cell("a", "one"),)))
    theirs = await other.commit(Batch(put=(cell("a", "two"),)))
    results = await store.commit_group(
        [Batch(put=(cell("b", "beside"),)), Batch(put=(cell("a", "three"),))]
    )
    assert isinstance(results[1], Committed)
    assert results[1].versions > theirs.versions
    assert await marked(other) == [("beside", "b"), ("three", "a")]


async def test_a_cell_that_another_process_has_dropped_meanwhile_is_made_again(
    store: SQLiteStore, other: SQLiteStore
) -> None:
    first = await store.commit(Batch(put=(cell("a", "one"),)))
    await other.commit(Batch(drop=(Ref("noted", "a"),)))
    again = await store.commit(Batch(put=(cell("a", "one"),)))
    assert again.versions > first.versions
    assert await marked(other) == [("one", "a")]
    await other.commit(Batch(drop=(Ref("noted", "a"),)))
    await store.commit(Batch(drop=(Ref("noted", "a"),)))
    assert await store.scan("noted") == []


async def test_a_start_with_a_key_that_another_process_has_used_is_refused_alone(
    store: SQLiteStore, other: SQLiteStore, disk: FaultyDisk
) -> None:
    lease = await store.take(0, 0, "n")
    await other.commit(Batch(put=(cell("key", "theirs"),)))
    absent = (Require(Ref("noted", "key"), ABSENT),)
    disk.calls.clear()
    results = await store.commit_group(
        [
            note(lease, "a", 0),
            Batch(lease, absent, (cell("key", "ours"),), (), note(lease, "b", 0).append),
            note(lease, "c", 0),
        ]
    )
    assert [type(result) for result in results] == [Committed, Conflict, Committed]
    assert disk.calls.count("sync") == 1
    assert [event.stream for event in await store.tail(0, 0)] == ["a", "c"]
    assert await marked(store) == [("theirs", "key")]


def claimed(key: str, *more: Require, value: bytes = b"mine") -> Batch:
    """A batch that makes a cell nobody has, without a lease."""
    ref = Ref("once", key)
    return Batch(require=(Require(ref, ABSENT), *more), put=(Put(ref, value),))


async def test_of_many_claims_the_ones_that_another_process_has_are_refused_alone(
    store: SQLiteStore, other: SQLiteStore, disk: FaultyDisk
) -> None:
    for number in (3, 7):
        await other.commit(claimed(f"k{number}", value=b"theirs"))
    disk.calls.clear()
    results = await store.commit_group([claimed(f"k{number}") for number in range(10)])
    refused = [at for at, result in enumerate(results) if isinstance(result, Conflict)]
    assert refused == [3, 7] and disk.calls.count("sync") == 1
    cells = await store.scan("once")
    assert [cell.value for cell in cells if cell.key in ("k3", "k7")] == [b"theirs"] * 2
    versions = [result.versions[0] for result in results if isinstance(result, Committed)]
    assert versions == [cell.version for cell in cells if cell.value == b"mine"]


async def test_a_claim_is_made_once_however_often_one_group_makes_it(store: SQLiteStore) -> None:
    results = await store.commit_group([claimed("k", value=b"%d" % n) for n in range(3)])
    assert [type(result) for result in results] == [Committed, Conflict, Conflict]
    assert [cell.value for cell in await store.scan("once")] == [b"0"]


async def test_a_claim_that_is_dropped_in_its_own_group_is_refused_where_another_has_it(
    store: SQLiteStore, other: SQLiteStore
) -> None:
    await other.commit(claimed("k", value=b"theirs"))
    results = await store.commit_group([claimed("k"), Batch(drop=(Ref("once", "k"),))])
    assert [type(result) for result in results] == [Conflict, Committed]
    assert await store.scan("once") == []


async def test_what_a_refused_claim_took_for_absent_is_no_proof_for_those_behind_it(
    store: SQLiteStore, other: SQLiteStore
) -> None:
    await other.commit(claimed("k", value=b"theirs"))
    wrong = Require(Ref("once", "nobody"), 17)
    relying = Batch(require=(Require(Ref("once", "k"), ABSENT),), put=(Put(Ref("once", "z"), b""),))
    results = await store.commit_group([claimed("k", wrong), relying])
    assert [type(result) for result in results] == [Conflict, Conflict]
    assert [cell.key for cell in await store.scan("once")] == ["k"]


async def test_a_requirement_is_judged_by_the_file_and_not_by_what_is_believed(
    store: SQLiteStore, other: SQLiteStore
) -> None:
    (ours,) = (await store.commit(Batch(put=(cell("a"),)))).versions
    (theirs,) = (await other.commit(Batch(put=(cell("a"),)))).versions
    old, new = Require(Ref("noted", "a"), ours), Require(Ref("noted", "a"), theirs)
    refused, done = await store.commit_group(
        [Batch(require=(old,), put=(cell("a"),)), Batch(require=(new,), put=(cell("a"),))]
    )
    assert isinstance(refused, Conflict)
    assert isinstance(done, Committed)


async def test_what_this_process_wrote_last_is_replaced_without_a_look(store: SQLiteStore) -> None:
    (kept,) = (await store.commit(Batch(put=(cell("a"),)))).versions
    file, read = store._file, list[str]()

    def note_statement(_cursor: object, statement: str, _bound: object) -> bool:
        read.extend([statement] if statement == file.sql["cell_state"] else [])
        return True

    file.writer.exec_trace = note_statement
    again = Batch(require=(Require(Ref("noted", "a"), kept),), put=(cell("a"),))
    await store.commit(again)
    assert read == []
    with pytest.raises(Conflict):  # and what is not so is looked at
        await store.commit(again)
    assert read


async def test_a_claimed_cell_is_replaced_by_who_claimed_it(store: SQLiteStore) -> None:
    await store.commit(Batch(put=(cell("a", "one", due=1),)))
    (claimed,) = await store.claim(["noted"], 1, 60.0)
    done = await store.commit(
        Batch(require=(Require(claimed.ref, claimed.version),), put=(cell("a", "two"),))
    )
    assert done.versions > (claimed.version,)
    assert await marked(store) == [("two", "a")]
