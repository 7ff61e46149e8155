"""The part of the conformance suite that a store of single cells passes too.

    one cell   a batch about it is written whole or refused whole, at the version required
    version    rises with every write while the cell lives
    lacks      what is not promised is named, refused where it is asked, and is no verb

A store that looks through its cells passes `CellConformance`, which asks all of this and more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from msgspec.structs import replace

from outlive.clock import MICROS, ManualClock
from outlive.errors import Conflict, Refused, StoreUnavailable
from outlive.ids import seeded
from outlive.model import ABSENT, Batch, Cell, Committed, Put, Ref, Require, Storage
from outlive.store import GROUP_BATCHES_MAX, LACKS, KeyedCells
from outlive.stores.memory import MemoryStore

SPACE = "conformance"
SEEDS = range(5)
OPERATIONS = 150
DEADLINE_SECONDS = 20.0
VERBS = {"claim": ("claim", "next_due"), "scan": ("scan",), "select": ("select",)}
Store = Any


def ref(key: str) -> Ref:
    return Ref(SPACE, key)


class KeyedConformance:
    """What every store of cells must do by key. Subclass it in a test module."""

    pytestmark = pytest.mark.asyncio
    storage: ClassVar[Storage] = "volatile"
    clock: ManualClock

    async def open_store(self) -> KeyedCells:
        """A new, empty, opened store whose clock is `self.clock`."""
        raise NotImplementedError("a subclass says how its store is opened")

    @pytest.fixture(autouse=True)
    def _own_clock(self) -> None:
        self.clock = ManualClock()

    @pytest_asyncio.fixture
    async def store(self) -> AsyncIterator[Store]:
        opened = await self.open_store()
        yield opened
        await opened.close()

    def put(self, key: str, value: bytes = b"v", due: int | None = None) -> Batch:
        return Batch(put=(Put(ref(key), value, due),), storage=self.storage)

    def require(self, batch: Batch, version: int) -> Batch:
        (one,) = (put.ref for put in batch.put) if batch.put else batch.drop
        return replace(batch, require=(Require(one, version),))

    async def version(self, store: KeyedCells, key: str) -> int:
        (cell,) = await store.read([ref(key)])
        return ABSENT if cell is None else cell.version

    # --- one cell ------------------------------------------------------------------------------

    async def test_what_was_committed_can_be_read(self, store: KeyedCells) -> None:
        due = self.clock.wall() + 60 * MICROS
        receipt = await store.commit(self.put("a", b"\x00\xff\r\n", due))
        assert receipt.time == self.clock.wall()
        expected = Cell(SPACE, "a", b"\x00\xff\r\n", receipt.versions[0], due)
        cells = await store.read([ref("none"), ref("a"), ref("none"), Ref("other", "a")])
        assert cells == [None, expected, None, None]
        assert await store.read([]) == []

    async def test_a_write_at_another_version_is_refused(self, store: KeyedCells) -> None:
        (first,) = (await store.commit(self.put("a", b"1"))).versions
        (second,) = (await store.commit(self.require(self.put("a", b"2"), first))).versions
        for late in (self.put("a", b"3"), replace(self.put("a"), put=(), drop=(ref("a"),))):
            for wrong in (first, ABSENT, second + 1):
                with pytest.raises(Conflict) as refusal:
                    await store.commit(self.require(late, wrong))
                facts = {"ref": ref("a"), "wanted": wrong, "found": second}
                assert refusal.value.facts == facts
        (cell,) = await store.read([ref("a")])
        assert cell is not None and cell.value == b"2"

    async def test_an_absent_cell_is_at_no_version(self, store: KeyedCells) -> None:
        with pytest.raises(Conflict) as refusal:
            await store.commit(self.require(self.put("a"), 1))
        assert refusal.value.facts["found"] == ABSENT
        await store.commit(self.require(self.put("a"), ABSENT))
        with pytest.raises(Conflict):
            await store.commit(self.require(self.put("a"), ABSENT))

    async def test_every_put_moves_the_version_on(self, store: KeyedCells) -> None:
        seen = [(await store.commit(self.put("a"))).versions[0] for _ in range(5)]
        assert seen == sorted(set(seen)) and seen[0] > ABSENT
        assert await self.version(store, "a") == seen[-1]
        self.clock.advance(-3600)
        assert (await store.commit(self.put("a"))).versions[0] > seen[-1]

    async def test_a_dropped_cell_is_gone_and_has_a_higher_version_later(
        self, store: KeyedCells
    ) -> None:
        (first,) = (await store.commit(self.put("a"))).versions
        drop = Batch(drop=(ref("a"),), storage=self.storage)
        await store.commit(self.require(drop, first))
        assert await store.read([ref("a")]) == [None]
        await store.commit(drop)
        self.clock.advance(0.001)
        assert (await store.commit(self.put("a"))).versions[0] > first

    async def test_the_batches_of_a_group_are_refused_alone_and_see_the_earlier_ones(
        self, store: KeyedCells
    ) -> None:
        new = self.require(self.put("a"), ABSENT)
        group = [new, new, self.put("b"), Batch(storage=self.storage)]
        results = await store.commit_group(group)
        assert [type(one) for one in results] == [Committed, Conflict, Committed, Committed]
        names = [f"{number:04}" for number in range(GROUP_BATCHES_MAX)]
        results = await store.commit_group([self.put(name) for name in names])
        assert {type(one) for one in results} == {Committed}
        assert None not in await store.read([ref(name) for name in names])

    async def test_concurrent_writers_lose_no_update(self, store: KeyedCells) -> None:
        async def add_one() -> None:
            for _ in range(1000):
                (cell,) = await store.read([ref("sum")])
                value, seen = (b"0", ABSENT) if cell is None else (cell.value, cell.version)
                batch = self.put("sum", b"%d" % (int(value) + 1))
                try:
                    await store.commit(self.require(batch, seen))
                    return
                except Conflict:
                    await asyncio.sleep(0)
            raise AssertionError("refused a thousand times")

        async with asyncio.timeout(DEADLINE_SECONDS):
            await asyncio.gather(*(add_one() for _ in range(20)))
        (cell,) = await store.read([ref("sum")])
        assert cell is not None and cell.value == b"20"

    async def test_any_text_is_a_key_and_empty_values_are_values(self, store: KeyedCells) -> None:
        names = ["a b", "A", "%_'\"\\\r\n", "ä", "e\u0301", "é", "漢字", "🦀", "x" * 500]
        for name in names:
            await store.commit(self.put(name, name.encode()))
        cells = await store.read([ref(name) for name in names])
        assert [cell and cell.value.decode() for cell in cells] == names
        await store.commit(self.put("empty", b""))
        (cell,) = await store.read([ref("empty")])
        assert cell is not None and cell.value == b""

    # --- the clock, the end, and what is not promised ------------------------------------------

    async def test_a_clock_set_back_does_not_go_back(self, store: KeyedCells) -> None:
        before = await store.now()
        self.clock.advance(-3600)
        assert await store.now() >= before
        self.clock.advance(3601)
        assert await store.now() == before + MICROS

    async def test_a_closed_store_says_so(self, store: KeyedCells) -> None:
        await store.close()
        await store.close()
        for call in (
            store.now,
            lambda: store.commit(self.put("a")),
            lambda: store.commit_group([self.put("a")]),
            lambda: store.read([ref("a")]),
        ):
            with pytest.raises(StoreUnavailable):
                await call()

    async def test_what_is_not_promised_is_named_and_not_there(self, store: KeyedCells) -> None:
        assert set(store.lacks) <= set(LACKS) and all(store.lacks.values())
        for name, verbs in VERBS.items():
            for verb in verbs:
                assert hasattr(store, verb) == (name not in store.lacks)
        kept: set[Storage] = set(store.keeps)
        assert kept
        for storage in ("volatile", "relaxed", "durable"):
            (result,) = await store.commit_group([replace(self.put("a"), storage=storage)])
            assert isinstance(result, Committed) == (storage in kept)

    async def test_what_is_not_promised_of_a_batch_is_refused_whole(
        self, store: KeyedCells
    ) -> None:
        two = Batch(put=(Put(ref("a"), b""), Put(ref("b"), b"")), storage=self.storage)
        other = replace(self.put("a"), require=(Require(ref("c"), ABSENT),))
        marked = Batch(put=(Put(ref("a"), b"", None, (("m", "1"),)),), storage=self.storage)
        for batch, needed in ((two, "batches"), (other, "batches"), (marked, "select")):
            (result,) = await store.commit_group([batch])
            assert isinstance(result, Refused) == (needed in store.lacks)
            if isinstance(result, Refused):
                assert store.lacks[needed] in result.detail
        if "batches" in store.lacks:
            assert await store.read([ref("a"), ref("b")]) == [None, None]

    @pytest.mark.parametrize("seed", SEEDS)
    async def test_random_cells_go_as_the_specification_goes(
        self, store: KeyedCells, seed: int
    ) -> None:
        model, dice = MemoryStore(clock=self.clock), seeded(f"keyed {seed}")
        await model.open()
        known: dict[tuple[str, int], int] = {}
        for _ in range(OPERATIONS):
            self.clock.advance(0.001)
            key, value = dice.choice("abc"), dice.randbytes(dice.randint(0, 9))
            due = dice.choice((None, self.clock.wall() + 3600 * MICROS))
            batch = self.put(key, value, due)
            if dice.random() < 0.3:
                batch = replace(batch, put=(), drop=(ref(key),))
            theirs = batch
            if dice.random() < 0.6:
                seen = [pair for pair in known if pair[0] == key]
                wanted = dice.choice([ABSENT, *(pair[1] for pair in seen[-2:])])
                theirs = self.require(batch, wanted)
                batch = self.require(batch, known.get((key, wanted), wanted))
            (ours,), (model_s,) = (
                await store.commit_group([batch]),
                await model.commit_group([theirs]),
            )
            assert type(ours) is type(model_s), (batch, ours, model_s)
            if isinstance(ours, Committed) and isinstance(model_s, Committed) and batch.put:
                known[key, model_s.versions[0]] = ours.versions[0]
            (cell,), (wanted_cell,) = await store.read([ref(key)]), await model.read([ref(key)])
            assert (cell is None) == (wanted_cell is None)
            if cell is not None and wanted_cell is not None:
                assert replace(cell, version=0) == replace(wanted_cell, version=0)
                assert known[key, wanted_cell.version] == cell.version
