"""What every store must do when it takes away what events said: places and chain stay."""

from __future__ import annotations

import pytest

from outlive.errors import Conflict, Fenced, OutliveError
from outlive.model import ERASED, Append, Batch, Lease, Put, Ref, Require
from outlive.store import ERASE_STREAMS_MAX, Store
from outlive.stores.chain import GENESIS, verify
from outlive.testing.cell_conformance import CellConformance

SPACE = "erased"


async def _written(store: Store, *places: tuple[str, int]) -> Lease:
    """Shard 0 is owned, and `places` were appended to it, one commit each."""
    epoch = (await store.owners())[0].epoch
    lease = await store.take(0, epoch, "a")
    for stream, n in places:
        add = Append(stream, n, "did", f"{stream} {n}".encode())
        await store.commit(Batch(lease, append=(add,)))
    return lease


class EraseConformance(CellConformance):
    """The cases of `Store.erase`; a part of `StoreConformance`."""

    async def test_an_erased_stream_keeps_its_places_and_nothing_else(self, store: Store) -> None:
        lease = await _written(store, ("a", 0), ("b", 0), ("a", 1), ("c", 0))
        before = await store.tail(0, 0)
        put = Put(Ref(SPACE, "k"), b"gone")
        committed = await store.erase(["a", "never"], Batch(lease, put=(put,)))
        assert len(committed.versions) == 1 and committed.seq == 0
        after = await store.tail(0, 0)
        told = [(event.kind, event.data) for event in after]
        assert told == [(ERASED, b""), ("did", b"b 0"), (ERASED, b""), ("did", b"c 0")]
        for was, now in zip(before, after, strict=True):
            assert (was.seq, was.stream, was.n, was.time, was.chain) == (
                now.seq, now.stream, now.n, now.time, now.chain,
            )  # fmt: skip
        assert verify(after, GENESIS) is None
        assert await store.events("a") == [after[0], after[2]]
        assert await store.lengths(["a", "b"]) == {"a": 2, "b": 1}
        assert [cell.value for cell in await store.scan(SPACE)] == [b"gone"]

    async def test_what_comes_behind_hangs_on_the_chain_as_before(self, store: Store) -> None:
        lease = await _written(store, ("a", 0), ("a", 1))
        await store.erase(["a"], Batch(lease))
        add = Append("a", 2, "did", b"more")
        assert (await store.commit(Batch(lease, append=(add,)))).seq == 3
        assert verify(await store.tail(0, 0), GENESIS) is None

    async def test_a_refused_batch_erases_nothing(self, store: Store) -> None:
        lease = await _written(store, ("a", 0))
        other = await store.take(0, (await store.owners())[0].epoch, "b")
        refused: list[tuple[type[OutliveError], Batch]] = [
            (Fenced, Batch(lease)),
            (Conflict, Batch(other, require=(Require(Ref(SPACE, "k"), 7),))),
        ]
        for error, batch in refused:
            with pytest.raises(error):
                await store.erase(["a"], batch)
            assert [event.data for event in await store.events("a")] == [b"a 0"]

    async def test_erasing_again_does_no_harm(self, store: Store) -> None:
        lease = await _written(store, ("a", 0), ("b", 0))
        for _ in range(2):
            await store.erase(["a"], Batch(lease))
        await store.erase([], Batch(lease))
        assert [event.kind for event in await store.tail(0, 0)] == [ERASED, "did"]

    async def test_an_erasure_that_appends_is_a_mistake(self, store: Store) -> None:
        lease = await _written(store, ("a", 0))
        with pytest.raises(ValueError, match="appends nothing"):
            await store.erase(["a"], Batch(lease, append=(Append("a", 1, "did", b""),)))
        with pytest.raises(ValueError, match="split the erasure"):
            await store.erase(["s"] * (ERASE_STREAMS_MAX + 1), Batch(lease))

    async def test_what_was_erased_stays_so_over_a_restart(self, store: Store) -> None:
        lease = await _written(store, ("a", 0), ("b", 0))
        await store.erase(["a"], Batch(lease))
        before = await store.tail(0, 0)
        async with self.reopened(store) as again:
            assert await again.tail(0, 0) == before
            add = Append("b", 1, "did", b"")
            await again.commit(Batch(lease, append=(add,)))
            assert verify(await again.tail(0, 0), GENESIS) is None
