"""The one suite that every store passes: subclass it, say how to open your store, run pytest.

    class TestMyStore(StoreConformance):
        async def open_store(self) -> Store:
            store = MyStore(clock=self.clock)
            await store.open()
            return store

`KeyedConformance` is for stores that find cells by key alone, and name what they do not promise;
`CellConformance` is for stores that keep cells only; `StoreConformance` adds the journal, shards,
`transact` and blobs. Tests move `self.clock`, never wait for it. A store that outlives its process
sets `durable = True` and gives itself back from `reopen`; without it those cases are skipped, and
the skip names what is not promised. The last case of each class does random work in lockstep with
the memory store, the specification; a failing seed is in the test's name and replays exactly.

Needs pytest and pytest-asyncio. Not covered: power loss, kill -9, full disks, broken networks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from outlive.clock import MICROS, Clock
from outlive.errors import (
    Conflict,
    Fenced,
    OutliveError,
    StoreUnavailable,
    StreamConflict,
    TooLarge,
)
from outlive.ids import seeded
from outlive.model import ABSENT, Append, Batch, Committed, Event, Hold, Lease, Require, Shard
from outlive.store import GROUP_BATCHES_MAX, VALUE_BYTES_MAX, Store
from outlive.stores.chain import GENESIS, verify
from outlive.stores.memory import MemoryStore
from outlive.testing.carrier_conformance import CarrierConformance
from outlive.testing.cell_conformance import (
    DEADLINE_SECONDS,
    SEEDS,
    SPACE,
    CellConformance,
    keys,
    kinds,
    puts,
    ref,
    version,
)
from outlive.testing.erase_conformance import EraseConformance
from outlive.testing.keyed_conformance import KeyedConformance
from outlive.testing.lockstep import StoreLockstep

__all__ = ["CellConformance", "KeyedConformance", "StoreConformance"]


def adds(lease: Lease | None, *places: tuple[str, int], data: bytes = b"") -> Batch:
    """A batch that appends to each (stream, n) of `places`."""
    return Batch(lease, append=tuple(Append(stream, n, "did", data) for stream, n in places))


async def take(store: Store, shard: int = 0, owner: str = "a") -> Lease:
    """Become the owner of `shard` at whatever epoch it is."""
    return await store.take(shard, (await row_of(store, shard)).epoch, owner)


async def row_of(store: Store, shard: int) -> Shard:
    return {row.id: row for row in await store.owners()}[shard]


async def places(store: Store, shard: int = 0, after: int = 0) -> list[tuple[int, str, int]]:
    return [(event.seq, event.stream, event.n) for event in await store.tail(shard, after)]


class StoreConformance(CarrierConformance, EraseConformance):
    """What every store must do: cells, the journal, who may append to it, `transact` and blobs.

    The store of `open_store` has at least two shards.
    """

    async def open_store(self) -> Store:
        """A new, empty, opened store whose clock is `self.clock`."""
        raise NotImplementedError("a subclass says how its store is opened")

    def write_row(self, connection: Any, key: str, value: str) -> None:
        """Write a row of the caller's own inside `transact`; called with what `work` was given."""
        raise NotImplementedError("a subclass says how a row is written")

    async def read_row(self, store: Any, key: str) -> str | None:
        """The committed row, or None."""
        raise NotImplementedError("a subclass says how a row is read")

    # --- shards and leases ---------------------------------------------------------------------

    async def test_a_new_store_has_all_its_shards_free_and_empty(self, store: Store) -> None:
        rows = await store.owners()
        assert [row.id for row in rows] == list(range(store.shards))
        assert {(row.owner, row.head) for row in rows} == {("", 0)}
        assert await store.ledger() == []

    async def test_a_take_raises_the_epoch_of_one_shard(self, store: Store) -> None:
        before = await store.owners()
        lease = await store.take(1, before[1].epoch, "node-1")
        assert (lease.shard, lease.owner) == (1, "node-1")
        assert lease.epoch > before[1].epoch
        after = await store.owners()
        assert after[1] == Shard(1, "node-1", lease.epoch, 0)
        assert after[:1] + after[2:] == before[:1] + before[2:]

    async def test_a_take_at_the_wrong_epoch_is_refused(self, store: Store) -> None:
        lease = await take(store)
        for epoch in (lease.epoch - 1, lease.epoch + 1):
            with pytest.raises(Fenced):
                await store.take(0, epoch, "b")
        assert await row_of(store, 0) == Shard(0, "a", lease.epoch, 0)
        assert len(await store.ledger()) == 1

    async def test_only_one_of_many_takers_wins(self, store: Store) -> None:
        epoch = (await row_of(store, 0)).epoch
        results = await asyncio.gather(
            *(store.take(0, epoch, f"node-{number}") for number in range(8)),
            return_exceptions=True,
        )
        (won,) = [result for result in results if isinstance(result, Lease)]
        assert sum(isinstance(result, Fenced) for result in results) == 7
        assert await row_of(store, 0) == Shard(0, won.owner, won.epoch, 0)

    async def test_a_stale_epoch_cannot_append(self, store: Store) -> None:
        old = await take(store)
        await store.commit(adds(old, ("s", 0)))
        new = await take(store, owner="b")
        with pytest.raises(Fenced):
            await store.commit(adds(old, ("s", 1)))
        await store.commit(adds(new, ("s", 1)))
        assert await places(store) == [(1, "s", 0), (2, "s", 1)]

    async def test_the_same_owner_cannot_use_its_older_lease(self, store: Store) -> None:
        old = await take(store)
        await take(store)
        with pytest.raises(Fenced):
            await store.commit(adds(old, ("s", 0)))

    async def test_an_epoch_is_of_no_use_to_another_owner(self, store: Store) -> None:
        lease = await take(store)
        for stolen in (
            replace(lease, owner="b"),
            replace(lease, owner=""),
            replace(lease, shard=1),
        ):
            with pytest.raises(Fenced):
                await store.commit(adds(stolen, ("s", 0)))
        assert await places(store) == []

    async def test_a_stale_epoch_cannot_write_cells_under_its_lease(self, store: Store) -> None:
        old = await take(store)
        await store.commit(replace(puts("a"), lease=old))
        before = await version(store, "a")
        await take(store, owner="b")
        for batch in (puts("a"), Batch(drop=(ref("a"),)), Batch()):
            with pytest.raises(Fenced):
                await store.commit(replace(batch, lease=old))
        assert await version(store, "a") == before

    async def test_what_a_fenced_batch_would_have_written_is_not_seen(self, store: Store) -> None:
        old, new = await take(store), await take(store, owner="b")
        fresh = replace(puts("a"), require=(Require(ref("a"), ABSENT),))
        results = await store.commit_group(
            [
                replace(fresh, lease=old, append=adds(old, ("s", 0)).append),
                fresh,
                adds(new, ("s", 0)),
                fresh,
            ]
        )
        assert kinds(results) == [Fenced, Committed, Committed, Conflict]
        assert await places(store) == [(1, "s", 0)]

    async def test_an_append_without_a_lease_is_a_mistake(self, store: Store) -> None:
        await take(store)
        with pytest.raises(ValueError, match="lease"):
            await store.commit(replace(adds(None, ("s", 0)), put=puts("a").put))
        assert await places(store) == []
        assert await version(store, "a") == ABSENT

    async def test_a_released_shard_is_free_and_can_be_taken(self, store: Store) -> None:
        lease = await take(store)
        await store.commit(adds(lease, ("s", 0)))
        await store.release(lease)
        row = await row_of(store, 0)
        assert (row.owner, row.head) == ("", 1)
        assert row.epoch > lease.epoch
        again = await store.take(0, row.epoch, "b")
        await store.commit(adds(again, ("s", 1)))

    async def test_who_released_a_shard_cannot_append(self, store: Store) -> None:
        lease = await take(store)
        await store.release(lease)
        for stale in (lease, replace(lease, owner="")):
            with pytest.raises(Fenced):
                await store.commit(adds(stale, ("s", 0)))

    async def test_releasing_a_lost_shard_leaves_it_to_its_owner(self, store: Store) -> None:
        old, new = await take(store), await take(store, owner="b")
        await store.release(old)
        await store.release(replace(new, owner="a"))
        assert await row_of(store, 0) == Shard(0, "b", new.epoch, 0)
        await store.commit(adds(new, ("s", 0)))
        await store.release(new)
        await store.release(new)

    async def test_the_ledger_has_a_line_for_every_take(self, store: Store) -> None:
        one = await take(store, owner="a")
        await store.commit(adds(one, ("s", 0), ("s", 1)))
        start = await store.now()
        self.clock.advance(1)
        two = await take(store, owner="b")
        self.clock.advance(1)
        await store.release(two)
        other = await take(store, shard=1, owner="c")
        self.clock.advance(1)
        three = await take(store, owner="a")
        lines = [
            Hold(0, three.epoch, "a", 2, start + 3 * MICROS, ""),
            Hold(1, other.epoch, "c", 0, start + 2 * MICROS, ""),
            Hold(0, two.epoch, "b", 2, start + MICROS, "a"),
            Hold(0, one.epoch, "a", 0, start, ""),
        ]
        assert await store.ledger() == lines
        assert await store.ledger(limit=2) == lines[:2]
        assert await store.ledger(0) == [lines[0], lines[2], lines[3]]
        assert await store.ledger(0, 1) == lines[:1]

    async def test_what_is_read_after_a_take_is_all_there_will_be(self, store: Store) -> None:
        old = await take(store)
        late = [store.commit(adds(old, (f"s{number}", 0))) for number in range(10)]
        tasks = [asyncio.ensure_future(commit) for commit in late]
        new = await take(store, owner="b")
        read = await store.tail(0, 0)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        kept = [result.seq for result in results if isinstance(result, Committed)]
        assert sorted(kept) == [event.seq for event in read]
        assert all(isinstance(result, (Committed, Fenced)) for result in results)
        assert (await store.commit(adds(new, ("after", 0)))).seq == len(read) + 1

    # --- streams and their order ---------------------------------------------------------------

    async def test_an_event_keeps_what_was_appended(self, store: Store) -> None:
        lease = await take(store, shard=1)
        append = Append("strøm/🦀", 0, "ärt", b"\x00\xff")
        receipt = await store.commit(Batch(lease, append=(append,)))
        (event,) = await store.events("strøm/🦀")
        assert receipt == Committed(self.clock.wall(), (), 1)
        assert replace(event, chain=b"") == Event(
            1, 1, "strøm/🦀", 0, "ärt", b"\x00\xff", receipt.time, b""
        )
        assert await store.tail(1, 0) == [event]

    async def test_a_gap_or_a_double_in_a_stream_is_refused(self, store: Store) -> None:
        lease = await take(store)
        await store.commit(adds(lease, ("s", 0), ("s", 1)))
        for stream, n in (("s", 0), ("s", 1), ("s", 3), ("new", 1)):
            with pytest.raises(StreamConflict):
                await store.commit(replace(adds(lease, (stream, n)), put=puts("a").put))
        assert await version(store, "a") == ABSENT
        assert await places(store) == [(1, "s", 0), (2, "s", 1)]
        assert (await row_of(store, 0)).head == 2

    async def test_two_appends_in_a_batch_follow_each_other(self, store: Store) -> None:
        lease = await take(store)
        for wrong in (("s", 1), ("s", 0)), (("s", 0), ("s", 0)), (("s", 0), ("s", 2)):
            with pytest.raises(StreamConflict):
                await store.commit(adds(lease, *wrong))
        assert (await store.commit(adds(lease, ("s", 0), ("s", 1)))).seq == 1
        assert (await store.commit(adds(lease, ("s", 2), ("s", 3)))).seq == 3

    async def test_a_batch_appends_to_several_streams_in_order(self, store: Store) -> None:
        lease = await take(store)
        await store.commit(adds(lease, ("x", 0), ("y", 0), ("x", 1), ("z", 0), ("y", 1)))
        assert await places(store) == [
            (1, "x", 0),
            (2, "y", 0),
            (3, "x", 1),
            (4, "z", 0),
            (5, "y", 1),
        ]

    async def test_a_later_batch_of_a_group_sees_the_longer_stream(self, store: Store) -> None:
        lease = await take(store)
        results = await store.commit_group(
            [adds(lease, ("s", 0)), adds(lease, ("s", 0)), adds(lease, ("s", 1), ("s", 2))]
        )
        assert kinds(results) == [Committed, StreamConflict, Committed]

    async def test_refused_batches_leave_no_hole_in_a_shard(self, store: Store) -> None:
        lease, stale = await take(store), replace(await take(store, 1), epoch=0)
        receipts: list[int] = []
        for turn in range(4):
            impossible = replace(adds(lease, ("c", 0)), require=(Require(ref("none"), 9),))
            results = await store.commit_group(
                [
                    adds(lease, ("a", 2 * turn), ("a", 2 * turn + 1)),
                    adds(lease, ("b", 77)),
                    impossible,
                    adds(stale, ("d", 0)),
                    adds(lease, ("b", turn)),
                ]
            )
            assert kinds(results) == [Committed, StreamConflict, Conflict, Fenced, Committed]
            receipts.extend(done.seq for done in results if isinstance(done, Committed))
        assert receipts == [1, 3, 4, 6, 7, 9, 10, 12]
        assert [seq for seq, _, _ in await places(store)] == list(range(1, 13))
        assert (await row_of(store, 0)).head == 12

    async def test_each_shard_counts_for_itself(self, store: Store) -> None:
        left, right = await take(store, 0), await take(store, 1)
        await store.commit_group(
            [adds(left, ("l", 0)), adds(right, ("r", 0)), adds(left, ("l", 1))]
        )
        assert await places(store, 0) == [(1, "l", 0), (2, "l", 1)]
        assert await places(store, 1) == [(1, "r", 0)]

    async def test_a_batch_that_appends_nothing_has_no_place(self, store: Store) -> None:
        lease = await take(store)
        await store.commit(adds(lease, ("s", 0)))
        assert (await store.commit(replace(puts("a"), lease=lease))).seq == 0
        assert (await row_of(store, 0)).head == 1

    async def test_concurrent_appends_are_numbered_without_a_hole(self, store: Store) -> None:
        lease = await take(store)
        async with asyncio.timeout(DEADLINE_SECONDS):
            receipts = await asyncio.gather(
                *(store.commit(adds(lease, (f"s{number}", 0))) for number in range(100))
            )
        assert sorted(receipt.seq for receipt in receipts) == list(range(1, 101))
        by_seq = {seq: stream for seq, stream, _ in await places(store)}
        assert [by_seq[receipt.seq] for receipt in receipts] == [f"s{n}" for n in range(100)]

    async def test_a_group_of_the_largest_size_appends_in_order(self, store: Store) -> None:
        lease = await take(store)
        results = await store.commit_group(
            [adds(lease, ("s", number)) for number in range(GROUP_BATCHES_MAX)]
        )
        assert kinds(results) == [Committed] * GROUP_BATCHES_MAX
        assert [n for _, _, n in await places(store)] == list(range(GROUP_BATCHES_MAX))

    async def test_a_tail_starts_anywhere_and_ends_quietly(self, store: Store) -> None:
        lease = await take(store)
        await store.commit(adds(lease, *(("s", n) for n in range(10))))
        assert [event.seq for event in await store.tail(0, 4, 3)] == [5, 6, 7]
        assert [event.seq for event in await store.tail(0, 8)] == [9, 10]
        assert await store.tail(0, 10) == []
        assert await store.tail(0, 99) == []
        assert await store.tail(1, 0) == []

    async def test_a_start_before_the_beginning_is_the_beginning(self, store: Store) -> None:
        left, right = await take(store, 0), await take(store, 1)
        await store.commit_group([adds(left, ("l", 0)), adds(right, ("r", 0), ("r", 1))])
        assert await places(store, 1, -1) == [(1, "r", 0), (2, "r", 1)]
        assert [event.n for event in await store.events("r", -9)] == [0, 1]

    async def test_events_of_a_stream_start_after_a_place(self, store: Store) -> None:
        lease = await take(store)
        await store.commit(adds(lease, *(("s", n) for n in range(6)), ("t", 0)))
        assert [event.n for event in await store.events("s")] == list(range(6))
        assert [event.n for event in await store.events("s", 3)] == [4, 5]
        assert [event.n for event in await store.events("s", 0, 2)] == [1, 2]
        assert await store.events("s", 5) == []
        assert await store.events("none") == []

    async def test_histories_are_whole_or_left_out(self, store: Store) -> None:
        lease = await take(store)
        for n in range(3):
            await store.commit(adds(lease, ("s", n), ("t", n), ("u", n)))
        found = await store.histories(["u", "none", "s", "u"])
        assert {name: [event.n for event in events] for name, events in found.items()} == {
            "u": [0, 1, 2], "none": [], "s": [0, 1, 2]
        }  # fmt: skip
        assert found["s"] == await store.events("s")
        for limit, whole in ((9, "tsu"), (8, "ts"), (6, "ts"), (5, "t"), (3, "t"), (2, "")):
            assert list(await store.histories(["t", "s", "u"], limit)) == list(whole)
        assert list(await store.histories(["none", "t"], 1)) == ["none"]
        assert await store.histories([]) == {}

    async def test_lengths_leave_out_what_has_no_events(self, store: Store) -> None:
        lease = await take(store)
        await store.commit(adds(lease, ("s", 0), ("s", 1), ("t", 0)))
        with pytest.raises(StreamConflict):
            await store.commit(adds(lease, ("u", 1)))
        assert await store.lengths(["s", "u", "t"]) == {"s": 2, "t": 1}
        assert await store.lengths([]) == {}

    async def test_events_and_cells_of_a_batch_stand_or_fall_together(self, store: Store) -> None:
        lease = await take(store)
        both = replace(adds(lease, ("s", 0)), put=puts("a").put)
        with pytest.raises(Conflict):
            await store.commit(replace(both, require=(Require(ref("a"), 5),)))
        assert (await places(store), await keys(store)) == ([], [])
        receipt = await store.commit(both)
        assert (receipt.seq, len(receipt.versions)) == (1, 1)
        assert (await places(store), await keys(store)) == ([(1, "s", 0)], ["a"])

    async def test_the_largest_event_is_kept_and_a_larger_one_refused(self, store: Store) -> None:
        lease, largest = await take(store), bytes(VALUE_BYTES_MAX)
        await store.commit(adds(lease, ("s", 0), data=largest))
        with pytest.raises(TooLarge):
            await store.commit(adds(lease, ("s", 1), data=largest + b"\0"))
        assert [event.data for event in await store.events("s")] == [largest]

    async def test_the_chain_of_a_shard_verifies(self, store: Store) -> None:
        lease = await take(store)
        for number in range(5):
            await store.commit_group([adds(lease, ("s", number)), adds(lease, ("t", number))])
        events = await store.tail(0, 0)
        assert len(events) == 10
        assert verify(events, GENESIS) is None
        assert verify(events[4:], events[3].chain) is None

    async def test_a_flipped_byte_is_found_where_it_is(self, store: Store) -> None:
        lease = await take(store)
        await store.commit(adds(lease, *(("s", n) for n in range(5)), data=b"payload"))
        events = await store.tail(0, 0)
        events[2] = replace(events[2], data=b"pAyload")
        assert verify(events, GENESIS) == 3

    # --- transact ------------------------------------------------------------------------------

    async def test_rows_and_batch_are_committed_together(self, store: Store) -> None:
        lease = await take(store)

        def work(connection: Any) -> Batch:
            self.write_row(connection, "k", "new")
            return replace(adds(lease, ("s", 0)), put=puts("a").put)

        receipt = await store.transact(work)
        assert (receipt.seq, receipt.versions) == (1, (await version(store, "a"),))
        assert await self.read_row(store, "k") == "new"
        assert await places(store) == [(1, "s", 0)]

    async def test_work_that_raises_writes_nothing(self, store: Store) -> None:
        def work(connection: Any) -> Batch:
            self.write_row(connection, "k", "new")
            raise LookupError("no such seat")

        with pytest.raises(LookupError, match="no such seat"):
            await store.transact(work)
        assert await self.read_row(store, "k") is None
        await store.commit(puts("a"))

    async def test_rows_are_taken_back_when_the_batch_is_refused(self, store: Store) -> None:
        old, new = await take(store), await take(store, owner="b")
        refused: list[tuple[type[OutliveError], Batch]] = [
            (Fenced, adds(old, ("s", 0))),
            (Conflict, Batch(require=(Require(ref("a"), 9),))),
            (StreamConflict, adds(new, ("s", 1))),
        ]
        for error, batch in refused:

            def work(connection: Any, batch: Batch = batch) -> Batch:
                self.write_row(connection, "k", "new")
                return batch

            with pytest.raises(error):
                await store.transact(work)
            assert await self.read_row(store, "k") is None
        assert await places(store) == []

    async def test_works_at_one_time_are_each_written_whole_or_not_at_all(
        self, store: Store
    ) -> None:
        lease, count = await take(store), 30
        await self._write_one(store, "k", "first")

        def work(number: int) -> Callable[[Any], Batch]:
            def write(connection: Any) -> Batch:
                self.write_row(connection, f"k{number}", "new")
                if number % 3 == 1:
                    raise LookupError(f"no seat {number}")
                stream, n = f"s{number}", int(number % 3 == 2)  # of the last, a 0 is missing
                return replace(adds(lease, (stream, n)), put=puts(f"c{number}").put)

            return write

        works = (store.transact(work(number)) for number in range(count))
        results = await asyncio.gather(*works, return_exceptions=True)
        kinds = [Committed, LookupError, StreamConflict]
        assert [type(result) for result in results] == kinds * (count // 3)
        for number, result in enumerate(results):
            kept = isinstance(result, Committed)
            assert await self.read_row(store, f"k{number}") == ("new" if kept else None)
            versions = result.versions if isinstance(result, Committed) else (ABSENT,)
            assert versions == (await version(store, f"c{number}"),)
        events = await store.tail(0, 0)
        assert [event.seq for event in events] == list(range(1, count // 3 + 1))
        assert {event.stream for event in events} == {f"s{n}" for n in range(0, count, 3)}
        assert verify(events, GENESIS) is None

    async def test_work_that_runs_too_long_writes_nothing(self, store: Store) -> None:
        def work(connection: Any) -> Batch:
            self.write_row(connection, "k", "new")
            self.overrun(0.1)
            return puts("a")

        with pytest.raises((TimeoutError, OutliveError)):
            await store.transact(work, limit_seconds=0.05)
        assert await self.read_row(store, "k") is None
        assert await version(store, "a") == ABSENT

    def overrun(self, seconds: float) -> None:
        """Let `seconds` pass on the test's clock and on the real one: a store uses either."""
        self.clock.advance(seconds)
        machine = Clock()
        stop = machine.boot() + seconds
        while machine.boot() < stop:
            pass

    # --- blobs ---------------------------------------------------------------------------------

    async def test_a_blob_comes_back_as_it_went(self, store: Store) -> None:
        for data in (b"", b"\x00\xff" * 1000, bytes(1 << 20)):
            assert await store.blobs.get(await store.blobs.put(data)) == data

    async def test_equal_blobs_do_not_share_a_fate(self, store: Store) -> None:
        one, two = await store.blobs.put(b"same"), await store.blobs.put(b"same")
        assert one != two
        await store.blobs.drop(one)
        await store.blobs.drop(one)
        with pytest.raises(KeyError):
            await store.blobs.get(one)
        assert await store.blobs.get(two) == b"same"

    async def test_a_name_that_is_not_a_blobs_is_unknown(self, store: Store) -> None:
        name = await store.blobs.put(b"x")
        for other in ("", ".", "..", "/etc/passwd", f"../{name}", f"x/../{name}", name[:-1], "é\0"):
            with pytest.raises(KeyError):
                await store.blobs.get(other)
            await store.blobs.drop(other)
        assert await store.blobs.get(name) == b"x"

    # --- closing, coming back, all of it at random ---------------------------------------------

    async def test_a_closed_journal_says_so(self, store: Store) -> None:
        lease = await take(store)
        await store.close()
        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: store.commit(adds(lease, ("s", 0))),
            lambda: store.transact(lambda connection: Batch()),
            lambda: store.erase(["s"], Batch()),
            lambda: store.events("s"),
            lambda: store.lengths(["s"]),
            lambda: store.tail(0, 0),
            store.owners,
            lambda: store.take(0, lease.epoch, "b"),
            lambda: store.release(lease),
            store.ledger,
        ]
        for call in calls:
            with pytest.raises(StoreUnavailable):
                await call()

    async def test_the_journal_goes_on_after_a_restart(self, store: Store) -> None:
        lease = await take(store)
        await store.commit_group([adds(lease, ("s", n)) for n in range(5)])
        name = await store.blobs.put(b"blob")
        events, owners, ledger = await store.tail(0, 0), await store.owners(), await store.ledger()
        async with self.reopened(store) as again:
            assert await again.tail(0, 0) == events
            assert (await again.owners(), await again.ledger()) == (owners, ledger)
            assert await again.blobs.get(name) == b"blob"
            assert (await again.commit(adds(lease, ("s", 5)))).seq == 6
            assert verify(await again.tail(0, 0), GENESIS) is None

    async def _write_one(self, store: Store, key: str, value: str) -> None:
        """A row and a cell of that name, in one transaction."""

        def work(connection: Any) -> Batch:
            self.write_row(connection, key, value)
            return puts("a")

        await store.transact(work)

    async def test_rows_and_batch_of_a_transaction_outlive_a_restart(self, store: Store) -> None:
        await self._write_one(store, "k", "kept")
        async with self.reopened(store) as again:
            assert await self.read_row(again, "k") == "kept"
            assert [cell.key for cell in await again.scan(SPACE)] == ["a"]

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_random_work_goes_as_the_specification_goes(
        self, store: Store, seed: int
    ) -> None:
        model = MemoryStore(store.shards, self.clock)
        await model.open()
        lockstep = StoreLockstep(store, model, self.clock, seeded(f"store {seed}"))
        await lockstep.run(self.operations)
        for shard in (0, 1):
            assert verify(await store.tail(shard, 0, 100_000), GENESIS) is None
