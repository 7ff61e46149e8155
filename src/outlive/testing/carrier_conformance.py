"""What every store's transaction must do for the cells that go with it: part of `StoreConformance`.

What `transact` hands out is a `Carrier`: it sees the store from inside, and takes new cells along.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from outlive.clock import ManualClock
from outlive.errors import OutliveError
from outlive.model import ABSENT, Batch, Put
from outlive.store import Store
from outlive.testing.cell_conformance import SPACE, puts, ref, version


class CarrierConformance:
    """Cells carried by a function that was given to `transact`."""

    clock: ManualClock

    def write_row(self, connection: Any, key: str, value: str) -> None:
        """Write a row of the caller's own inside `transact`."""
        raise NotImplementedError

    async def test_carried_cells_come_with_the_commit_or_not_at_all(self, store: Store) -> None:
        put = Put(ref("a"), b'"carried"', due=self.clock.wall(), marks=(("colour", "red"),))

        def work(carrier: Any, fail: bool = False) -> Batch:
            self.write_row(carrier, "k", "new")
            assert carrier.carry((put, Put(ref("b"), b"2"))) is None
            assert carrier.look(ref("a")).value == b'"carried"', "it sees its own"
            if fail:
                raise LookupError("no such seat")
            return puts("beside")

        with pytest.raises(LookupError):
            await store.transact(lambda carrier: work(carrier, fail=True))
        assert await store.read((ref("a"), ref("beside"))) == [None, None]
        await store.transact(work)
        first, second = await store.read((ref("a"), ref("b")))
        assert first is not None and (first.value, first.due) == (put.value, put.due)
        assert second is not None and first.version != second.version
        found = await store.select((SPACE,), "colour", "red", "red")
        assert [cell.key for _, cell in found] == ["a"]
        assert [cell.key for cell in await store.claim((SPACE,), 9, 1.0)] == ["a"]
        assert await version(store, "beside") != ABSENT

    async def test_what_is_there_is_given_back_and_nothing_is_written(self, store: Store) -> None:
        await store.commit(puts("a"))
        there = (await store.read((ref("a"),)))[0]
        assert there is not None

        def work(carrier: Any) -> Batch:
            assert carrier.look(ref("a")).value == there.value
            assert carrier.look(ref("b")).value is None
            assert carrier.look(ref("b")).shards == store.shards
            assert carrier.carry((Put(ref("a"), b"1"), Put(ref("b"), b"2"))) == there.value
            assert carrier.carry((Put(ref("c"), b"3"),)) is None
            assert carrier.carry((Put(ref("c"), b"4"), Put(ref("d"), b"5"))) == b"3"
            return Batch()

        await store.transact(work)
        found = await store.read((ref("a"), ref("b"), ref("c"), ref("d")))
        assert [cell and cell.value for cell in found] == [there.value, None, b"3", None]

    async def test_a_carried_cell_is_new_or_the_whole_is_refused(self, store: Store) -> None:
        (kept,) = (await store.commit(puts("b"))).versions

        def work(carrier: Any) -> Batch:
            assert carrier.carry((Put(ref("a"), b"1"), Put(ref("b"), b"2"))) is None
            return puts("beside")

        (refusal,) = await asyncio.gather(store.transact(work), return_exceptions=True)
        assert isinstance(refusal, Exception), "the other cell was written over"
        assert await version(store, "b") == kept
        assert await store.read((ref("a"), ref("beside"))) == [None, None]

    async def test_a_carrier_is_of_no_use_after_its_transaction(self, store: Store) -> None:
        kept: list[Any] = []

        def work(carrier: Any) -> Batch:
            kept.append(carrier)
            return Batch()

        await store.transact(work)
        with suppress(OutliveError):
            kept[0].carry((Put(ref("late"), b"1"),))
        assert await version(store, "late") == ABSENT
