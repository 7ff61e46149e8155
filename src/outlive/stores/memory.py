"""The memory store: what every store means, in the shortest form it can be said in.

It is the specification: `outlive.testing.conformance` runs each other store in lockstep with it.
All state lies in plain dicts and lists, and no verb awaits before it is done, so each is one moment
of the event loop: no lock, and nothing to roll back, because a batch is checked whole first.

Not promised: anything after the process ended, use from two threads or event loops, speed with many
cells (`claim`, `scan` and `select` look at every one), or that memory is bounded.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from outlive import errors
from outlive.clock import MICROS, Clock
from outlive.errors import OutliveError
from outlive.model import (
    ABSENT,
    ERASED,
    Batch,
    Cell,
    Committed,
    Event,
    Hold,
    Lease,
    Put,
    Ref,
    Require,
    Shard,
    Storage,
)
from outlive.store import (
    CLAIM_CELLS_MAX,
    GROUP_BATCHES_MAX,
    VALUE_BYTES_MAX,
    Blobs,
    Carrier,
    Finding,
    Sight,
)
from outlive.stores.blobs import MemoryBlobs
from outlive.stores.chain import GENESIS, link
from outlive.stores.refusals import demand_erasable


class Rows(dict[Any, Any], Carrier):
    """The caller's rows inside `transact`, and the cells that go with them."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(copy.deepcopy(store.rows))
        self._store = store
        self._carried: dict[Ref, Put] = {}

    def look(self, ref: Ref) -> Sight:
        store, carried = self._store, self._carried.get(ref)
        cell = carried or store._cells.get(ref)
        value = None if cell is None else cell.value
        return Sight(store._tick(), store.shards, "memory", value)

    def carry(self, puts: Sequence[Put]) -> bytes | None:
        found = self.look(puts[0].ref).value
        if found is None:
            self._carried.update((put.ref, put) for put in puts)
        return found

    def with_carried(self, batch: Batch) -> Batch:
        """`batch` and the cells that were carried: all of them new."""
        new = self._carried
        require = (*batch.require, *(Require(ref, ABSENT) for ref in new))
        return replace(batch, require=require, put=(*batch.put, *new.values()))


class MemoryStore:
    """Keeps everything in this process, and nothing longer than it: `Store` as a specification.

    `shards` ≥ 1 is how many shards the journal has; `clock` is the host's unless a test brings
    its own. Accepts all three storage classes. `transact` hands out a dict for the caller's rows.
    """

    def __init__(self, shards: int = 16, clock: Clock | None = None) -> None:
        self.keeps: tuple[Storage, ...] = ("volatile", "relaxed", "durable")
        self.lacks: Mapping[str, str] = {}
        self.shards = shards
        self.rows: dict[Any, Any] = {}
        self._clock = clock or Clock()
        self.blobs: Blobs = MemoryBlobs(self._clock)
        self._open, self._version, self._time, self._generation = False, 0, 0, 0
        self._news = asyncio.Event()
        self._cells: dict[Ref, Cell] = {}
        self._marks: dict[Ref, set[tuple[str, str]]] = {}
        self._shards = {number: Shard(number, "", 0, 0) for number in range(shards)}
        self._journal: dict[int, list[Event]] = defaultdict(list)
        self._streams: dict[str, list[Event]] = defaultdict(list)
        self._ledger: list[Hold] = []

    async def open(self) -> None:
        self._open = True

    async def refresh(self) -> bool:
        return False

    async def close(self) -> None:
        self._open = False
        self._announce()

    async def now(self) -> int:
        return self._tick()

    async def commit(self, batch: Batch) -> Committed:
        (result,) = await self.commit_group([batch])
        if isinstance(result, OutliveError):
            raise result
        return result

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        now = self._tick()
        if len(batches) > GROUP_BATCHES_MAX:
            raise ValueError(f"{len(batches)} batches; split the group at {GROUP_BATCHES_MAX}")
        if any(batch.append and batch.lease is None for batch in batches):
            raise ValueError("a batch appends without a lease; take its shard first")
        results: list[Committed | OutliveError] = []
        for batch in batches:
            try:
                self._check(batch)
                results.append(self._apply(batch, now))
            except errors.Refused as refusal:
                results.append(refusal)
        return results

    async def transact(
        self, work: Callable[[Any], Batch], *, limit_seconds: float = 5.0
    ) -> Committed:
        self._tick()
        if inspect.iscoroutinefunction(work) or getattr(work, "manner", "tables") != "tables":
            raise errors.NotAllowed(
                "A function in a transaction in memory is plain and gets a dict."
            )
        rows, started = Rows(self), self._clock.boot()
        batch = rows.with_carried(work(rows))
        if self._clock.boot() - started > limit_seconds:
            raise TimeoutError(f"work ran longer than {limit_seconds} s; nothing was written")
        receipt = await self.commit(batch)
        self.rows = dict(rows)
        return receipt

    async def erase(self, streams: Sequence[str], batch: Batch) -> Committed:
        demand_erasable(streams, batch)
        receipt = await self.commit(batch)
        for stream in streams:
            for event in self._streams.get(stream, ()):
                empty = replace(event, kind=ERASED, data=b"")
                self._streams[stream][event.n] = self._journal[event.shard][event.seq - 1] = empty
        return receipt

    def _check(self, batch: Batch) -> None:
        if batch.lease is not None and not self._holds(batch.lease):
            raise errors.Fenced(f"{batch.lease} is not the owner any more", lease=batch.lease)
        for require in batch.require:
            ref, wanted = require.ref, require.version
            found = self._cells[ref].version if ref in self._cells else ABSENT
            if found != wanted:
                text = f"{ref} is at version {found}, not {wanted}"
                raise errors.Conflict(text, ref=ref, wanted=wanted, found=found)
        lengths: dict[str, int] = {}
        for stream, wanted in ((append.stream, append.n) for append in batch.append):
            found = lengths.get(stream, len(self._streams.get(stream, ())))
            if found != wanted:
                text = f"stream {stream} has {found} events, not {wanted}"
                raise errors.StreamConflict(text, stream=stream, wanted=wanted, found=found)
            lengths[stream] = found + 1
        for value in (*(put.value for put in batch.put), *(add.data for add in batch.append)):
            if len(value) > VALUE_BYTES_MAX:
                raise errors.TooLarge(f"{len(value)} bytes; the limit is {VALUE_BYTES_MAX}")

    def _apply(self, batch: Batch, now: int) -> Committed:
        versions, first = [], 0
        for ref in batch.drop:
            self._cells.pop(ref, None)
            self._marks.pop(ref, None)
        for put in batch.put:
            versions.append(self._write(put.ref, put.value, put.due).version)
            self._marks[put.ref] = set(put.marks)
        if batch.lease is not None and batch.append:
            shard, owner, epoch = batch.lease.shard, batch.lease.owner, batch.lease.epoch
            journal = self._journal[shard]
            first = len(journal) + 1
            for seq, add in enumerate(batch.append, first):
                previous = journal[-1].chain if journal else GENESIS
                chain = link(previous, shard, seq, add.stream, add.n, add.kind, now, add.data)
                event = Event(shard, seq, add.stream, add.n, add.kind, add.data, now, chain)
                journal.append(event)
                self._streams[add.stream].append(event)
            self._shards[shard] = Shard(shard, owner, epoch, len(journal))
        self._announce()
        return Committed(now, tuple(versions), first)

    def _write(self, ref: Ref, value: bytes, due: int | None) -> Cell:
        self._version += 1
        self._cells[ref] = Cell(ref.space, ref.key, value, self._version, due)
        return self._cells[ref]

    async def claim(self, spaces: Sequence[str], limit: int, hold_seconds: float) -> list[Cell]:
        now = self._tick()
        until = now + round(hold_seconds * MICROS)
        overdue = [(due, ref) for due, ref in self._dues(spaces) if due <= now]
        chosen = sorted(overdue)[: min(limit, CLAIM_CELLS_MAX)]
        self._announce()
        return [self._write(ref, self._cells[ref].value, until) for _, ref in chosen]

    async def next_due(self, spaces: Sequence[str]) -> int | None:
        self._tick()
        return min((due for due, _ in self._dues(spaces)), default=None)

    async def read(self, refs: Sequence[Ref]) -> list[Cell | None]:
        self._tick()
        return [self._cells.get(ref) for ref in refs]

    async def scan(self, space: str, after: str = "", limit: int = 1000) -> list[Cell]:
        self._tick()
        refs = sorted(ref for ref in self._cells if ref.space == space and ref.key > after)
        return [self._cells[ref] for ref in refs[:limit]]

    async def select(
        self,
        spaces: Sequence[str],
        mark: str,
        low: str,
        high: str,
        limit: int = 1000,
        *,
        newest: bool = False,
    ) -> list[tuple[str, Cell]]:
        self._tick()
        marks = ((ref, mark) for ref, marks in self._marks.items() for mark in marks)
        found = sorted(
            ((value, ref) for ref, (name, value) in marks if name == mark and ref.space in spaces),
            reverse=newest,
        )
        return [(value, self._cells[ref]) for value, ref in found if low <= value <= high][:limit]

    async def changed(self, seen: int, timeout_seconds: float) -> int:
        self._tick()
        if seen == self._generation:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._news.wait()
            self._tick()
        return self._generation

    async def events(self, stream: str, after: int = -1, limit: int = 100_000) -> list[Event]:
        self._tick()
        return self._streams.get(stream, [])[max(after + 1, 0) :][:limit]

    async def histories(
        self, streams: Sequence[str], limit: int = 100_000
    ) -> dict[str, list[Event]]:
        self._tick()
        found: dict[str, list[Event]] = {}
        for stream in dict.fromkeys(streams):
            events = self._streams.get(stream, [])
            limit -= len(events)
            if limit < 0:
                break
            found[stream] = list(events)
        return found

    async def lengths(self, streams: Sequence[str]) -> dict[str, int]:
        self._tick()
        return {name: len(self._streams[name]) for name in streams if name in self._streams}

    async def tail(self, shard: int, after: int, limit: int = 1000) -> list[Event]:
        self._tick()
        return self._journal[shard][max(after, 0) :][:limit]

    async def owners(self) -> list[Shard]:
        self._tick()
        return list(self._shards.values())

    async def take(self, shard: int, epoch: int, owner: str) -> Lease:
        now, held = self._tick(), self._shards.get(shard)
        if held is None or held.epoch != epoch:
            raise errors.Fenced(f"shard {shard} is not at epoch {epoch}: not taken", held=held)
        self._shards[shard] = Shard(shard, owner, epoch + 1, held.head)
        self._ledger.append(Hold(shard, epoch + 1, owner, held.head, now, held.owner))
        self._announce()
        return Lease(shard, owner, epoch + 1)

    async def release(self, lease: Lease) -> None:
        self._tick()
        if self._holds(lease):
            head = self._shards[lease.shard].head
            self._shards[lease.shard] = Shard(lease.shard, "", lease.epoch + 1, head)
            self._announce()

    async def announce(self, node: str, told: Callable[[bool], None] | None = None) -> None:
        self._tick()

    async def departed(self, nodes: Sequence[str]) -> set[str]:
        return set()

    async def ledger(self, shard: int | None = None, limit: int = 1000) -> list[Hold]:
        self._tick()
        return [hold for hold in reversed(self._ledger) if shard in (None, hold.shard)][:limit]

    async def doctor(self) -> list[Finding]:
        self._tick()
        text = "volatile: nothing outlives this process; every storage class means the same here"
        remedy = "use sqlite:///file.db for anything that must be kept"
        events = sum(map(len, self._journal.values()))
        return [
            Finding("durability", "warn", text, remedy),
            Finding("contents", "ok", f"{len(self._cells)} cells, {events} events"),
        ]

    def _tick(self) -> int:
        """The moment of one verb: never before an earlier one; none while the store is closed."""
        if not self._open:
            raise errors.StoreUnavailable("the store is not open; nothing was read or written")
        self._time = max(self._time, self._clock.wall())
        return self._time

    def _holds(self, lease: Lease) -> bool:
        held = self._shards.get(lease.shard)
        return held is not None and (held.owner, held.epoch) == (lease.owner, lease.epoch)

    def _dues(self, spaces: Sequence[str]) -> Iterator[tuple[int, Ref]]:
        cells = ((cell.due, ref) for ref, cell in self._cells.items() if ref.space in spaces)
        return ((due, ref) for due, ref in cells if due is not None)

    def _announce(self) -> None:
        self._generation += 1
        self._news.set()
        self._news = asyncio.Event()
