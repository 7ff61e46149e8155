"""Random work done by two stores at once, compared after every operation.

The memory store is the specification; the other is the one under test. Versions and epochs are
promised to rise, not to have certain values, so each pair of them is written down when it is first
seen, and a pair that does not match later is a failure. Everything else must be equal: results,
refusals, cells, marks, deadlines, events with places, times and chain values, owners, the ledger.

All choices come from one seeded generator: the same seed does the same work again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from outlive.clock import MICROS, ManualClock
from outlive.errors import Fenced, OutliveError
from outlive.model import ABSENT, Append, Batch, Cell, Committed, Lease, Put, Ref, Require
from outlive.store import CLAIM_CELLS_MAX, CellStore, Store

if TYPE_CHECKING:
    from random import Random

_SPACES = ("red", "blue")
_KEYS = ("a", "b", "c", "d", "é", "🦀")
_MARKS = ("state", "user")
_STREAMS = 3
_SHARDS = 2


class CellLockstep:
    """Random batches, claims and clock moves on two stores of cells that share one clock."""

    def __init__(
        self, store: CellStore, model: CellStore, clock: ManualClock, dice: Random
    ) -> None:
        self._pair = (store, model)
        self._clock = clock
        self._dice = dice
        self._versions: dict[tuple[Ref, int], int] = {}
        self._used: dict[tuple[Ref, int], int] = {}
        """The same the other way round: no version of a cell is given twice."""

    async def run(self, operations: int) -> None:
        """Do and compare `operations` operations. Raises AssertionError at the first difference."""
        for _ in range(operations):
            await self._operate()
            await self._compare()

    async def _operate(self) -> None:
        roll = self._dice.random()
        if roll < 0.65:
            await self._commit()
        elif roll < 0.8:
            await self._claim()
        else:
            await self._move_clock(self._dice.choice((0.001, 0.3, 1.0, 5.0, 40.0, -2.0)))

    async def _commit(self) -> None:
        batches = [self._batch() for _ in range(self._dice.randint(1, 4))]
        ours, theirs = self._pair
        results = await ours.commit_group([self._translated(batch) for batch in batches])
        wanted = await theirs.commit_group(batches)
        assert len(results) == len(wanted)
        for batch, result, expected in zip(batches, results, wanted, strict=True):
            self._same_result(batch, result, expected)

    async def _claim(self) -> None:
        spaces = self._dice.sample(_SPACES, self._dice.randint(1, 2))
        limit, hold = self._dice.randint(1, 4), self._dice.choice((0.5, 2.0, 30.0))
        dues = [cell.due for space in spaces for cell in await self._pair[1].scan(space)]
        dated = [due for due in dues if due is not None]
        if len(set(dated)) < len(dated):  # among equals any may come first: take all
            limit = CLAIM_CELLS_MAX
        ours, theirs = [await store.claim(spaces, limit, hold) for store in self._pair]
        self._same_cells(
            sorted(ours, key=lambda cell: cell.ref), sorted(theirs, key=lambda cell: cell.ref)
        )

    async def _move_clock(self, seconds: float) -> None:
        """Move the clock and have both look at it, so that both have the same high-water mark."""
        self._clock.advance(seconds)
        ours, theirs = [await store.now() for store in self._pair]
        assert ours == theirs

    def _ref(self) -> Ref:
        return Ref(self._dice.choice(_SPACES), self._dice.choice(_KEYS))

    def _put(self) -> Put:
        dice = self._dice
        due = None
        if dice.random() < 0.6:
            due = self._clock.wall() + dice.randint(-3 * MICROS, 10 * MICROS)
        marks = tuple((dice.choice(_MARKS), dice.choice("abc")) for _ in range(dice.randint(0, 3)))
        return Put(self._ref(), dice.randbytes(dice.randint(0, 9)), due, marks)

    def _require(self) -> Require:
        """Sometimes what is true, sometimes what was true, sometimes what never was."""
        address = self._ref()
        known = [version for place, version in self._versions if place == address]
        return Require(address, self._dice.choice([ABSENT, *known[-2:], *known[-1:]]))

    def _batch(self) -> Batch:
        dice = self._dice
        return Batch(
            require=tuple(self._require() for _ in range(dice.choice((0, 0, 0, 1, 2)))),
            drop=tuple({self._ref() for _ in range(dice.choice((0, 0, 1, 2)))}),
            put=tuple({put.ref: put for put in self._puts()}.values()),
        )

    def _puts(self) -> list[Put]:
        return [self._put() for _ in range(self._dice.randint(0, 3))]

    def _translated(self, batch: Batch) -> Batch:
        """`batch` in the versions of the store under test."""
        requires = tuple(
            Require(need.ref, self._versions.get((need.ref, need.version), need.version))
            for need in batch.require
        )
        return replace(batch, require=requires)

    def _same_result(
        self, batch: Batch, ours: Committed | OutliveError, theirs: Committed | OutliveError
    ) -> None:
        assert type(ours) is type(theirs), (batch, ours, theirs)
        if isinstance(ours, Committed) and isinstance(theirs, Committed):
            assert (ours.time, ours.seq) == (theirs.time, theirs.seq)
            for put, mine, other in zip(batch.put, ours.versions, theirs.versions, strict=True):
                self._same_version(put.ref, mine, other)
        elif isinstance(ours, OutliveError) and isinstance(theirs, OutliveError):
            assert ours.facts.get("ref") == theirs.facts.get("ref")

    def _same_version(self, address: Ref, ours: int, theirs: int) -> None:
        assert self._versions.setdefault((address, theirs), ours) == ours
        assert self._used.setdefault((address, ours), theirs) == theirs, "a version is used again"

    def _same_cells(self, ours: Sequence[Cell], theirs: Sequence[Cell]) -> None:
        assert [replace(cell, version=0) for cell in ours] == [
            replace(cell, version=0) for cell in theirs
        ]
        for mine, other in zip(ours, theirs, strict=True):
            self._same_version(mine.ref, mine.version, other.version)

    async def _compare(self) -> None:
        """What can be seen of the cells: a random page, a random range, random addresses."""
        dice, (ours, theirs) = self._dice, self._pair
        space, after, limit = dice.choice(_SPACES), dice.choice(("", "b")), dice.choice((2, 99))
        self._same_cells(
            await ours.scan(space, after, limit), await theirs.scan(space, after, limit)
        )
        low, high = sorted(dice.choices("abc", k=2))
        mark, newest = dice.choice(_MARKS), dice.choice((True, False))
        mine = await ours.select((space,), mark, low, high, limit, newest=newest)
        other = await theirs.select((space,), mark, low, high, limit, newest=newest)
        assert [value for value, _ in mine] == [value for value, _ in other]
        self._same_cells([cell for _, cell in mine], [cell for _, cell in other])
        assert await ours.next_due(_SPACES) == await theirs.next_due(_SPACES)
        refs = [self._ref() for _ in range(4)]
        found, expected = await ours.read(refs), await theirs.read(refs)
        assert [cell is None for cell in found] == [cell is None for cell in expected]
        self._same_cells([c for c in found if c], [c for c in expected if c])


class StoreLockstep(CellLockstep):
    """The same with leases, events, takes and releases, some by owners that lost their shard."""

    def __init__(self, store: Store, model: Store, clock: ManualClock, dice: Random) -> None:
        super().__init__(store, model, clock, dice)
        self._ours, self._model = store, model
        self._leases: list[Lease] = []
        self._lease_of: dict[Lease, Lease] = {}
        self._lengths: dict[str, int] = {}

    async def _operate(self) -> None:
        roll = self._dice.random()
        if roll < 0.1 or not self._leases:
            await self._take()
        elif roll < 0.14:
            await self._release()
        elif roll < 0.18:
            await self._erase()
        else:
            self._lengths = await self._model.lengths(self._streams())
            await super()._operate()

    async def _take(self) -> None:
        dice, shard = self._dice, self._dice.randrange(_SHARDS)
        late = int(dice.random() < 0.2)  # somebody else was faster
        taken: list[Lease | None] = []
        owner = dice.choice("xyz")
        for store in (self._ours, self._model):
            epoch = next(row.epoch for row in await store.owners() if row.id == shard)
            try:
                taken.append(await store.take(shard, epoch - late, owner))
            except Fenced:
                taken.append(None)
        ours, theirs = taken
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert (ours.shard, ours.owner) == (theirs.shard, theirs.owner)
            self._leases.append(theirs)
            self._lease_of[theirs] = ours

    async def _release(self) -> None:
        lease = self._lease()
        await self._ours.release(self._lease_of[lease])
        await self._model.release(lease)

    async def _erase(self) -> None:
        batch = replace(super()._batch(), lease=self._lease())
        streams = self._dice.sample(self._streams(), self._dice.randint(0, 2))
        results: list[Committed | OutliveError] = []
        for store, asked in ((self._ours, self._translated(batch)), (self._model, batch)):
            try:
                results.append(await store.erase(streams, asked))
            except OutliveError as error:
                results.append(error)
        self._same_result(batch, *results)

    def _lease(self) -> Lease:
        """One of the last few: mostly a live one, sometimes one that was lost."""
        return self._dice.choice(self._leases[-3:])

    def _streams(self) -> list[str]:
        return [f"{shard}-{number}" for shard in range(_SHARDS) for number in range(_STREAMS)]

    def _batch(self) -> Batch:
        dice, batch = self._dice, super()._batch()
        if dice.random() < 0.3:
            return batch
        lease, appends = self._lease(), []
        for _ in range(dice.choice((0, 1, 1, 2, 3))):
            stream = f"{lease.shard}-{dice.randrange(_STREAMS)}"
            n = self._lengths.get(stream, 0)
            self._lengths[stream] = n + 1
            wrong = dice.choice((-1, 1)) if dice.random() < 0.05 else 0
            kind = dice.choice(("started", "ended"))
            appends.append(
                Append(stream, max(n + wrong, 0), kind, dice.randbytes(dice.randint(0, 9)))
            )
        if dice.random() < 0.7:  # a batch with two flaws may be refused for either
            batch = replace(batch, require=())
        return replace(batch, lease=lease, append=tuple(appends))

    def _translated(self, batch: Batch) -> Batch:
        batch = super()._translated(batch)
        return replace(batch, lease=self._lease_of[batch.lease]) if batch.lease else batch

    def _same_result(
        self, batch: Batch, ours: Committed | OutliveError, theirs: Committed | OutliveError
    ) -> None:
        if isinstance(ours, OutliveError) and batch.lease and (batch.require or batch.append):
            assert isinstance(theirs, OutliveError), (batch, ours, theirs)
            return
        super()._same_result(batch, ours, theirs)

    async def _compare(self) -> None:
        await super()._compare()
        dice, ours, model = self._dice, self._ours, self._model
        shard, after, limit = dice.randrange(_SHARDS), dice.randint(0, 20), dice.choice((3, 999))
        assert await ours.tail(shard, after, limit) == await model.tail(shard, after, limit)
        stream, place = dice.choice(self._streams()), dice.randint(-1, 5)
        assert await ours.events(stream, place, limit) == await model.events(stream, place, limit)
        assert await ours.lengths(self._streams()) == await model.lengths(self._streams())
        mine, other = await ours.owners(), await model.owners()
        assert [replace(row, epoch=0) for row in mine] == [replace(row, epoch=0) for row in other]
        held, wanted = await ours.ledger(shard, limit), await model.ledger(shard, limit)
        assert [replace(h, epoch=0) for h in held] == [replace(h, epoch=0) for h in wanted]
