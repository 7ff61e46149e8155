"""The part of the conformance suite that is about cells: all there is for a store of cells only.

    whole     a batch is written whole or refused whole, alone in its group, after those before it
    version   rises with every write, is never used twice, and fences who claimed earlier
    due       is judged by the store's clock, which the tests move and set back
    found     scans page by key, marks are found by value, and both follow every write

How to use it is said in `conformance`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from msgspec.structs import replace

from outlive.clock import MICROS, ManualClock
from outlive.errors import Conflict, OutliveError, Refused, StoreUnavailable, TooLarge
from outlive.ids import seeded
from outlive.model import ABSENT, Batch, Cell, Committed, Put, Ref, Require, Storage
from outlive.store import CLAIM_CELLS_MAX, GROUP_BATCHES_MAX, VALUE_BYTES_MAX, CellStore
from outlive.stores.memory import MemoryStore
from outlive.testing.lockstep import CellLockstep

SPACE = "conformance"
SEEDS = range(10)
OPERATIONS = 300
"""Random operations for each seed, unless a subclass with a slow line to its store says fewer."""
DEADLINE_SECONDS = 20.0
NOT_DURABLE = "this store does not promise anything after it was closed (durable = False)"


def ref(key: str, space: str = SPACE) -> Ref:
    return Ref(space, key)


def puts(*keys: str, value: bytes = b"v", due: int | None = None, space: str = SPACE) -> Batch:
    """A batch that writes `value` under each of `keys`."""
    return Batch(put=tuple(Put(Ref(space, key), value, due) for key in keys))


def marked(key: str, *marks: tuple[str, str]) -> Put:
    return Put(ref(key), b"", None, marks)


async def version(store: CellStore, key: str) -> int:
    (cell,) = await store.read([ref(key)])
    return ABSENT if cell is None else cell.version


async def keys(store: CellStore, space: str = SPACE) -> list[str]:
    return [cell.key for cell in await store.scan(space)]


def kinds(results: Sequence[Committed | OutliveError]) -> list[type]:
    return [type(result) for result in results]


class InClass:
    """`store`, whose batches are all of one class; everything else is its own."""

    def __init__(self, store: CellStore, storage: Storage) -> None:
        self._store, self._storage = store, storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, batch: Batch) -> Committed:
        return await self._store.commit(replace(batch, storage=self._storage))

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        return await self._store.commit_group(
            [replace(batch, storage=self._storage) for batch in batches]
        )


class CellConformance:
    """What every store of cells must do. Subclass it in a test module; see `conformance`."""

    pytestmark = pytest.mark.asyncio
    durable: ClassVar[bool] = False
    storage: ClassVar[Storage] = "durable"
    """The class in which the suite writes: the strongest that the store keeps."""
    operations: ClassVar[int] = OPERATIONS
    clock: ManualClock

    async def open_store(self) -> Any:
        """A new, empty, opened store whose clock is `self.clock`."""
        raise NotImplementedError("a subclass says how its store is opened")

    async def reopen(self, store: Any) -> Any:
        """Close `store` and open what it left behind; None when nothing outlives a close."""
        return None

    @pytest.fixture(autouse=True)
    def _own_clock(self) -> None:
        self.clock = ManualClock()

    @pytest_asyncio.fixture
    async def store(self) -> AsyncIterator[Any]:
        opened = self._in_class(await self.open_store())
        yield opened
        await opened.close()

    def _in_class(self, store: Any) -> Any:
        return store if self.storage == "durable" else InClass(store, self.storage)

    @asynccontextmanager
    async def reopened(self, store: Any) -> AsyncIterator[Any]:
        again = await self.reopen(store) if self.durable else None
        if again is None:
            assert not self.durable, "a durable store must come back from reopen"
            pytest.skip(NOT_DURABLE)
        again = self._in_class(again)
        yield again
        await again.close()

    # --- batches: whole or nothing -------------------------------------------------------------

    async def test_a_class_that_is_not_kept_is_refused(self) -> None:
        store = await self.open_store()
        kept = set(store.keeps)
        assert kept and kept <= {"volatile", "relaxed", "durable"}
        every: tuple[Storage, ...] = ("volatile", "relaxed", "durable")
        results = [
            (await store.commit_group([replace(puts(name), storage=name)]))[0] for name in every
        ]
        assert {n for n, r in zip(every, results, strict=True) if isinstance(r, Committed)} == kept
        assert {type(r) for r in results if not isinstance(r, Committed)} <= {Refused}
        assert await keys(store) == sorted(kept)
        await store.close()

    async def test_what_was_committed_can_be_read(self, store: CellStore) -> None:
        receipt = await store.commit(Batch(put=(Put(ref("a"), b"\x00\xff", 7),)))
        assert receipt.time == self.clock.wall()
        assert receipt.seq == 0
        expected = Cell(SPACE, "a", b"\x00\xff", receipt.versions[0], 7)
        assert await store.read([ref("a")]) == [expected]

    async def test_cells_are_read_in_the_order_asked(self, store: CellStore) -> None:
        await store.commit(puts("a", "b"))
        cells = await store.read([ref("b"), ref("none"), ref("a"), ref("b"), ref("a", "other")])
        assert [cell and cell.key for cell in cells] == ["b", None, "a", "b", None]
        assert await store.read([]) == []

    async def test_a_refused_batch_writes_nothing(self, store: CellStore) -> None:
        await store.commit(puts("old", "both", value=b"before"))
        batch = replace(puts("new", "both"), drop=(ref("old"),), require=(Require(ref("x"), 9),))
        with pytest.raises(Conflict):
            await store.commit(batch)
        assert [(c.key, c.value) for c in await store.scan(SPACE)] == [
            ("both", b"before"),
            ("old", b"before"),
        ]

    async def test_a_refusal_names_the_first_failed_require(self, store: CellStore) -> None:
        one, two = (await store.commit(puts("a", "b"))).versions
        requires = (Require(ref("a"), one), Require(ref("b"), ABSENT), Require(ref("c"), 5))
        with pytest.raises(Conflict) as refusal:
            await store.commit(Batch(require=requires))
        assert refusal.value.facts == {"ref": ref("b"), "wanted": ABSENT, "found": two}

    async def test_an_absent_cell_is_at_no_version(self, store: CellStore) -> None:
        with pytest.raises(Conflict) as refusal:
            await store.commit(Batch(require=(Require(ref("a"), 1),)))
        assert refusal.value.facts["found"] == ABSENT

    async def test_requires_look_at_what_was_before_the_batch(self, store: CellStore) -> None:
        new = replace(puts("a"), require=(Require(ref("a"), ABSENT),))
        await store.commit(new)
        with pytest.raises(Conflict):
            await store.commit(new)
        await store.commit(
            Batch(drop=(ref("a"),), require=(Require(ref("a"), await version(store, "a")),))
        )
        await store.commit(new)

    async def test_within_a_batch_a_drop_comes_before_a_put(self, store: CellStore) -> None:
        await store.commit(puts("a", value=b"old"))
        await store.commit(replace(puts("a", value=b"new"), drop=(ref("a"),)))
        assert [cell.value for cell in await store.scan(SPACE)] == [b"new"]

    async def test_dropping_an_absent_cell_is_no_error(self, store: CellStore) -> None:
        assert (await store.commit(Batch(drop=(ref("none"),)))).versions == ()

    async def test_an_empty_batch_is_committed(self, store: CellStore) -> None:
        assert await store.commit(Batch()) == Committed(self.clock.wall())

    async def test_a_batch_of_a_group_is_refused_alone(self, store: CellStore) -> None:
        impossible = replace(puts("b"), require=(Require(ref("b"), 99),))
        results = await store.commit_group([puts("a"), impossible, puts("c")])
        assert kinds(results) == [Committed, Conflict, Committed]
        assert await keys(store) == ["a", "c"]

    async def test_a_batch_of_a_group_sees_the_earlier_ones(self, store: CellStore) -> None:
        new = replace(puts("a"), require=(Require(ref("a"), ABSENT),))
        results = await store.commit_group([new, new, Batch(drop=(ref("a"),)), new])
        assert kinds(results) == [Committed, Conflict, Committed, Committed]
        last = results[-1]
        assert isinstance(last, Committed)
        assert last.versions == (await version(store, "a"),)

    async def test_a_group_of_the_largest_size_is_written(self, store: CellStore) -> None:
        names = [f"{number:04}" for number in range(GROUP_BATCHES_MAX)]
        results = await store.commit_group([puts(name) for name in names])
        assert kinds(results) == [Committed] * GROUP_BATCHES_MAX
        assert await keys(store) == names
        assert await store.commit_group([]) == []

    async def test_concurrent_writers_lose_no_update(self, store: CellStore) -> None:
        async def add_one() -> None:
            for _ in range(1000):
                (cell,) = await store.read([ref("sum")])
                value, seen = (b"0", ABSENT) if cell is None else (cell.value, cell.version)
                batch = puts("sum", value=b"%d" % (int(value) + 1))
                try:
                    await store.commit(replace(batch, require=(Require(ref("sum"), seen),)))
                    return
                except Conflict:
                    await asyncio.sleep(0)
            raise AssertionError("refused a thousand times")

        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.gather(*(add_one() for _ in range(20)))
        (cell,) = await store.read([ref("sum")])
        assert cell is not None
        assert cell.value == b"20"

    async def test_a_reader_never_sees_half_a_batch(self, store: CellStore) -> None:
        async def write() -> None:
            for number in range(30):
                await store.commit(puts("left", "right", value=b"%d" % number))

        async with asyncio.timeout(DEADLINE_SECONDS):
            writer = asyncio.create_task(write())
            while not writer.done():
                left, right = await store.read([ref("left"), ref("right")])
                assert (left and left.value) == (right and right.value)
                await asyncio.sleep(0)
            await writer

    # --- versions and values -------------------------------------------------------------------

    async def test_every_put_moves_the_version_on(self, store: CellStore) -> None:
        seen = [(await store.commit(puts("a"))).versions[0] for _ in range(5)]
        assert seen == sorted(set(seen))
        assert seen[0] > ABSENT
        assert await version(store, "a") == seen[-1]

    async def test_a_version_is_never_reused_after_a_drop(self, store: CellStore) -> None:
        first = (await store.commit(puts("a", "b"))).versions
        await store.commit(Batch(drop=(ref("a"), ref("b"))))
        again = (await store.commit(puts("a", "b"))).versions
        assert min(again) > max(first)

    async def test_the_largest_value_is_kept_and_a_larger_one_refused(
        self, store: CellStore
    ) -> None:
        largest = bytes(VALUE_BYTES_MAX)
        await store.commit(puts("a", value=largest))
        (cell,) = await store.read([ref("a")])
        assert cell is not None
        assert cell.value == largest
        with pytest.raises(TooLarge):
            await store.commit(Batch(put=(Put(ref("b"), b""), Put(ref("a"), largest + b"\0"))))
        assert await version(store, "b") == ABSENT
        assert await version(store, "a") == cell.version

    async def test_any_text_is_a_key_and_empty_values_are_values(self, store: CellStore) -> None:
        names = ["a b", "A", "%_'\"\\", "ä", "e\u0301", "é", "漢字", "🦀", "x" * 200]
        await store.commit(puts(*names, value=b"", space="ünï/😀"))
        cells = await store.scan("ünï/😀")
        assert sorted(cell.key for cell in cells) == sorted(names)
        assert {cell.value for cell in cells} == {b""}

    # --- looking through a space ---------------------------------------------------------------

    async def test_a_scan_goes_by_code_point(self, store: CellStore) -> None:
        names = ["Z", "a", "a0", "aa", "z", "é", "\uffee", "🦀"]
        await store.commit(puts(*reversed(names)))
        assert await keys(store) == names

    async def test_a_scan_pages_and_stays_in_its_space(self, store: CellStore) -> None:
        names = [f"{number:02}" for number in range(10)]
        await store.commit_group([puts(*names), puts("05x", space="other")])
        seen: list[str] = []
        for size in (3, 3, 3, 1, 0):
            page = await store.scan(SPACE, seen[-1] if seen else "", 3)
            assert len(page) == size
            seen.extend(cell.key for cell in page)
        assert seen == names

    async def test_marks_are_replaced_as_a_whole(self, store: CellStore) -> None:
        await store.commit(Batch(put=(marked("a", ("state", "new"), ("user", "1")),)))
        await store.commit(Batch(put=(marked("a", ("state", "old")),)))
        assert await store.select((SPACE,), "state", "new", "new") == []
        assert await store.select((SPACE,), "user", "", "9") == []
        ((value, cell),) = await store.select((SPACE,), "state", "old", "old")
        assert (value, [cell]) == ("old", await store.read([ref("a")]))
        await store.commit(puts("a"))
        assert await store.select((SPACE,), "state", "", "z") == []

    async def test_marks_of_the_same_words_are_told_apart(self, store: CellStore) -> None:
        await store.commit(Batch(put=(marked("a", ("x", "x"), ("y", "x")),)))
        await store.commit(Batch(put=(marked("a", ("x", "y")),)))
        assert await store.select([SPACE], "x", "x", "x") == []
        assert await store.select([SPACE], "y", "x", "x") == []
        assert len(await store.select([SPACE], "x", "y", "y")) == 1

    async def test_marks_go_with_their_cell(self, store: CellStore) -> None:
        await store.commit(Batch(put=(marked("a", ("state", "x")),)))
        await store.commit(Batch(drop=(ref("a"),)))
        assert await store.select((SPACE,), "state", "", "z") == []
        await store.commit(puts("a"))
        assert await store.select((SPACE,), "state", "", "z") == []

    async def test_a_select_is_ordered_by_value_then_key(self, store: CellStore) -> None:
        marks = [("c", "2"), ("a", "2"), ("b", "1"), ("d", "3"), ("e", "0"), ("f", "4")]
        await store.commit(Batch(put=tuple(marked(key, ("at", value)) for key, value in marks)))
        await store.commit(Batch(put=(Put(ref("other", "other"), b"", None, (("at", "2"),)),)))

        async def found(**options: Any) -> str:
            pairs = await store.select((SPACE,), "at", "1", "3", **options)
            return " ".join(cell.key + value for value, cell in pairs)

        assert await found() == "b1 a2 c2 d3"
        assert await found(limit=2) == "b1 a2"
        assert await found(newest=True) == "d3 c2 a2 b1"
        assert await found(newest=True, limit=3) == "d3 c2 a2"

    async def test_two_marks_of_one_name_are_both_found(self, store: CellStore) -> None:
        await store.commit(Batch(put=(marked("a", ("tag", "x"), ("tag", "y"), ("tag", "x")),)))
        assert [value for value, _ in await store.select((SPACE,), "tag", "", "z")] == ["x", "y"]

    # --- claims and the clock ------------------------------------------------------------------

    async def test_only_due_cells_are_claimed(self, store: CellStore) -> None:
        now = await store.now()
        await store.commit(puts("past", due=now - 1))
        await store.commit(puts("exact", due=now))
        await store.commit(puts("future", due=now + 1))
        await store.commit(puts("never"))
        claimed = await store.claim([SPACE], 10, 60)
        assert [cell.key for cell in claimed] == ["past", "exact"]
        assert await store.claim([], 10, 60) == []

    async def test_the_longest_overdue_is_claimed_first(self, store: CellStore) -> None:
        now = await store.now()
        await store.commit_group([puts(key, due=now - int(key)) for key in ("2", "4", "1", "3")])
        await store.commit(puts("5", due=now - 5, space="other"))
        await store.commit(puts("6", due=now - 6, space="unasked"))
        first = await store.claim([SPACE, "other"], 2, 60)
        rest = await store.claim([SPACE, "other"], 9, 60)
        assert [cell.key for cell in first] == ["5", "4"]
        assert [cell.key for cell in rest] == ["3", "2", "1"]

    async def test_a_claim_is_never_of_more_than_its_limit_allows(self, store: CellStore) -> None:
        names = [f"{number:04}" for number in range(CLAIM_CELLS_MAX + 1)]
        await store.commit(puts(*names, due=await store.now()))
        assert len(await store.claim([SPACE], 3, 60)) == 3
        self.clock.advance(61)
        claimed = await store.claim([SPACE], 10 * CLAIM_CELLS_MAX, 60)
        assert len({cell.key for cell in claimed}) == CLAIM_CELLS_MAX
        assert len(await store.claim([SPACE], 10, 60)) == 1

    async def test_a_cell_written_again_as_it_was_is_due_and_found_as_it_was(
        self, store: CellStore
    ) -> None:
        due, kept = await store.now(), ABSENT
        marks = () if "select" in store.lacks else (("who", "ada"),)
        for value in (b"1", b"2"):
            again = Batch(None, (Require(ref("a"), kept),), (Put(ref("a"), value, due, marks),))
            (kept,) = (await store.commit(again)).versions
        (claimed,) = await store.claim([SPACE], 10, 60)
        assert claimed.value == b"2"
        if "select" not in store.lacks:
            found = await store.select((SPACE,), "who", "ada", "ada")
            assert [cell.key for _, cell in found] == ["a"]

    async def test_a_space_named_twice_gives_its_cells_once(self, store: CellStore) -> None:
        await store.commit(puts("a", "b", due=await store.now()))
        claimed = await store.claim([SPACE, SPACE], 10, 60)
        assert sorted(cell.key for cell in claimed) == ["a", "b"]

    async def test_a_claimed_cell_comes_again_only_after_the_hold(self, store: CellStore) -> None:
        await store.commit(puts("a", due=await store.now()))
        (first,) = await store.claim([SPACE], 10, 30)
        assert await store.claim([SPACE], 10, 30) == []
        self.clock.advance(29.999)
        assert await store.claim([SPACE], 10, 30) == []
        self.clock.advance(0.001)
        (again,) = await store.claim([SPACE], 10, 30)
        assert again.version > first.version

    async def test_a_claim_moves_due_and_version_and_nothing_else(self, store: CellStore) -> None:
        now = await store.now()
        put = Put(ref("a"), b"value", now - 5, (("state", "new"),))
        (before,) = (await store.commit(Batch(put=(put,)))).versions
        (cell,) = await store.claim([SPACE], 1, 1.5)
        assert cell.version > before
        assert cell == Cell(SPACE, "a", b"value", cell.version, now + 1_500_000)
        assert await store.read([ref("a")]) == [cell]
        assert await store.select((SPACE,), "state", "new", "new") == [("new", cell)]

    async def test_the_version_of_a_claim_is_the_fencing_token(self, store: CellStore) -> None:
        (made,) = (await store.commit(puts("a", due=await store.now()))).versions
        (first,) = await store.claim([SPACE], 1, 10)
        self.clock.advance(11)
        (second,) = await store.claim([SPACE], 1, 10)
        for token in (made, first.version):
            with pytest.raises(Conflict):
                await store.commit(Batch(require=(Require(ref("a"), token),), drop=(ref("a"),)))
        await store.commit(Batch(require=(Require(ref("a"), second.version),), drop=(ref("a"),)))
        assert await store.read([ref("a")]) == [None]

    async def test_two_claimers_never_get_the_same_cell(self, store: CellStore) -> None:
        names = [f"{number:03}" for number in range(60)]
        await store.commit(puts(*names, due=await store.now()))
        shares = await asyncio.gather(*(store.claim([SPACE], 7, 60) for _ in range(10)))
        assert sorted(cell.key for share in shares for cell in share) == names

    async def test_a_clock_set_back_does_not_go_back(self, store: CellStore) -> None:
        before = await store.now()
        self.clock.advance(-3600)
        assert await store.now() >= before
        assert (await store.commit(puts("a"))).time >= before
        self.clock.advance(3601)
        assert await store.now() == before + MICROS

    async def test_a_clock_set_back_does_not_undo_a_deadline(self, store: CellStore) -> None:
        now = await store.now()
        await store.commit(puts("a", due=now))
        self.clock.advance(-3600)
        assert [cell.key for cell in await store.claim([SPACE], 1, 10)] == ["a"]
        assert await store.next_due([SPACE]) == now + 10 * MICROS

    async def test_the_next_due_is_the_earliest_passed_or_not(self, store: CellStore) -> None:
        now = await store.now()
        assert await store.next_due([SPACE]) is None
        await store.commit(puts("never"))
        assert await store.next_due([SPACE]) is None
        await store.commit_group([puts("b", due=now + 9), puts("c", due=now + 5, space="other")])
        assert await store.next_due([SPACE]) == now + 9
        assert await store.next_due([SPACE, "other"]) == now + 5
        await store.commit(puts("a", due=now - 5))
        assert await store.next_due([SPACE]) == now - 5
        await store.commit(puts("a", due=0))
        assert await store.next_due([SPACE]) == 0
        await store.commit(puts("a", "b"))
        assert await store.next_due([SPACE]) is None

    async def test_a_cell_past_its_deadline_is_still_there(self, store: CellStore) -> None:
        await store.commit(puts("a", due=await store.now() - MICROS))
        assert await version(store, "a") != ABSENT
        assert await keys(store) == ["a"]

    # --- hints, closing, coming back -----------------------------------------------------------

    async def test_a_commit_wakes_who_waits_for_a_change(self, store: CellStore) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            seen = await store.changed(-1, DEADLINE_SECONDS)
            waiting = asyncio.create_task(store.changed(seen, DEADLINE_SECONDS * 2))
            await asyncio.sleep(0)
            await store.commit(puts("a"))
            count = await waiting
            assert count != seen
            assert await store.changed(seen, DEADLINE_SECONDS * 2) != seen

    async def test_a_wait_for_a_change_ends_with_its_time(self, store: CellStore) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            seen = await store.changed(-1, DEADLINE_SECONDS)
            for _ in range(3):  # a hint may come for nothing, but not always
                seen = await store.changed(before := seen, 0.02)
            assert seen == before

    async def test_a_closed_store_says_so(self, store: CellStore) -> None:
        await store.close()
        await store.close()
        calls: list[Callable[[], Awaitable[Any]]] = [
            store.now,
            lambda: store.commit(puts("a")),
            lambda: store.commit_group([puts("a")]),
            lambda: store.claim([SPACE], 1, 1),
            lambda: store.next_due([SPACE]),
            lambda: store.read([ref("a")]),
            lambda: store.scan(SPACE),
            lambda: store.select((SPACE,), "m", "", "z"),
            lambda: store.changed(-1, 1),
        ]
        for call in calls:
            with pytest.raises(StoreUnavailable):
                await call()

    async def test_cells_are_there_after_a_restart(self, store: CellStore) -> None:
        now = await store.now()
        await store.commit(Batch(put=(Put(ref("a"), b"1", now, (("state", "x"),)),)))
        await store.commit(puts("b", "c"))
        await store.commit(Batch(drop=(ref("c"),)))
        await store.claim([SPACE], 1, 60)
        before = await store.scan(SPACE)
        async with self.reopened(store) as again:
            assert await again.scan(SPACE) == before
            assert await again.select((SPACE,), "state", "x", "x") == [("x", before[0])]
            assert await again.claim([SPACE], 1, 60) == []
            (later,) = (await again.commit(puts("c"))).versions
            assert later > max(cell.version for cell in before)

    async def test_the_clock_does_not_go_back_over_a_restart(self, store: CellStore) -> None:
        before = (await store.commit(puts("a"))).time
        self.clock.advance(-3600)
        async with self.reopened(store) as again:
            assert await again.now() >= before

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_random_cells_go_as_the_specification_goes(
        self, store: CellStore, seed: int
    ) -> None:
        model = MemoryStore(clock=self.clock)
        await model.open()
        lockstep = CellLockstep(store, model, self.clock, seeded(f"cells {seed}"))
        await lockstep.run(self.operations)
