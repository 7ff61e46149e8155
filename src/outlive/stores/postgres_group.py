"""One group commit on PostgreSQL: many batches, one function call, one transaction.

    at once     plan on what is believed (heads known, every require and length as the batches
                say) ─> one call, which checks everything and writes; which call it is depends on
                how much is believed (postgres_beliefs.py)
    surely      only when that was refused: BEGIN ─> the facts, under locks that stay ─> plan on
                the facts, refusing batches alone ─> the same call ─> COMMIT

A plan goes through the batches in order over an overlay of what the group touches, so each sees
the ones before it, and a cell is written once, in its last state. The chain of the events is made
here: the owner of a shard knows its head, and the call is refused when the head is another.

Refusals of the first way are valid only when its call went through, because then all that was
believed was true. Versions are drawn by the call, as one block for the group.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from outlive.errors import (
    OutliveError,
    Refused,
    StoreCorrupt,
)
from outlive.model import ABSENT, Append, Batch, Committed, Lease, Ref
from outlive.store import VALUE_BYTES_MAX
from outlive.stores import refusals
from outlive.stores.chain import GENESIS, link
from outlive.stores.refusals import conflict, fenced, stream_conflict

Key = tuple[str, str]
Chains = dict[int, tuple[int, bytes]]
Marks = tuple[tuple[str, str], ...]
PUTS_MAX = 65_536
"""Cells put by one group: the size of a block of versions."""
NO_MARKS = "[]"
ANY, PUT, DROP = 0, 1, 2
"""What a group makes of a cell: it only looks at it, puts it, drops it."""

_encode_marks = msgspec.json.Encoder().encode
_decode = msgspec.json.decode
_LONE = re.compile("[\ud800-\udfff]")


class ShardFact(Struct, frozen=True):
    """A shard's row, locked."""

    owner: str
    epoch: int
    head: int
    time: int
    chain: bytes


class Facts(Struct, frozen=True):
    """What the store says about everything a group touches, under locks that are still held."""

    clock: int
    shards: dict[int, ShardFact]
    versions: dict[Key, int]
    lengths: dict[str, int]


class _Cell(Struct):
    """A cell touched by the group, and what the group makes of it."""

    need: int | None = None
    action: int = ANY
    value: bytes | None = None
    due: int | None = None
    marks: Marks = ()
    draw: int | None = None


_Receipt = tuple[int, Lease | None, int, int, int]
"""A batch, its lease, the place of its first event in what the lease appends (0: it appends none),
the first draw of its puts, and how many there are."""


class Plan(Struct):
    """What one call shall check and write, and what the batches are told when it did."""

    now: int
    cells: dict[Key, _Cell] = {}
    streams: dict[str, int] = {}
    appends: dict[Lease, list[Append]] = {}
    lengths: dict[str, int] = {}
    receipts: list[_Receipt] = []
    refusals: dict[int, OutliveError] = {}
    unread: list[tuple[int, Ref, int, int]] = []
    """Conflicts with a put of the same group: batch, cell, version wanted, which draw it is at."""
    heads: dict[Lease, tuple[int, bytes]] = {}
    chains: Chains = {}
    draws: int = 0

    def cell(self, key: Key) -> _Cell:
        found = self.cells.get(key)
        if found is None:
            found = self.cells[key] = _Cell()
        return found

    def results(self, base: int) -> dict[int, Committed | OutliveError]:
        """What each batch is told, once the call went through with versions from `base` on."""
        told: dict[int, Committed | OutliveError] = dict(self.refusals)
        for at, ref, wanted, draw in self.unread:
            told[at] = conflict(ref, wanted, base + draw)
        now = self.now
        for at, lease, place, first, puts in self.receipts:
            versions = tuple(range(base + first, base + first + puts)) if puts else ()
            seq = self.heads[lease][0] + place if lease and place else 0
            told[at] = Committed(now, versions, seq)
        return told


class Unsure(Exception):
    """The group cannot be planned without knowing what the store says."""


class Group:
    """The work of one group commit. Raises `ValueError` when a batch appends without a lease."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches
        self.flaws: dict[int, OutliveError] = {}
        for at, batch in enumerate(batches):
            if not _is_sound_event(batch) and (found := flaw(batch)) is not None:
                self.flaws[at] = found
        self.open = [at for at in range(len(batches)) if at not in self.flaws]
        self.relaxed = all(batch.storage == "relaxed" for batch in batches)
        if sum(len(batches[at].put) for at in self.open) > PUTS_MAX:
            raise ValueError(f"a group puts at most {PUTS_MAX} cells")

    def plan(self, now: int, chains: Chains, facts: Facts | None = None) -> Plan:
        """What to write, on the `facts` or on belief. Raises `Unsure` when belief does not do."""
        plan = Plan(now)
        for at in self.open:
            batch = self.batches[at]
            lease = batch.lease
            if facts is None and self._is_next(plan, at, batch):
                continue
            if lease is not None and facts is not None:
                row = facts.shards.get(lease.shard)
                if row is None or (row.owner, row.epoch) != (lease.owner, lease.epoch):
                    plan.refusals[at] = fenced(lease)
                    continue
            if self._refused(plan, at, facts):
                continue
            self._stage(plan, at)
        shards = [lease.shard for lease in plan.appends]
        if len(set(shards)) < len(shards):
            raise Unsure  # two leases of one shard: one of them is stale
        for lease, appends in plan.appends.items():
            if appends:
                plan.heads[lease] = _head(lease, chains, facts)
        return plan

    def _is_next(self, plan: Plan, at: int, batch: Batch) -> bool:
        """Stage `batch` if it is one event, as most are, for which belief does."""
        new, lease = batch.append, batch.lease
        if len(new) != 1 or lease is None or batch.put or batch.require or batch.drop:
            return False
        stream, n = new[0].stream, new[0].n
        length = plan.lengths.get(stream)
        if length is None:
            plan.streams[stream] = n
        elif length != n:
            return False
        plan.lengths[stream] = n + 1
        staged = plan.appends.get(lease)
        if staged is None:
            staged = plan.appends[lease] = []
        staged.append(new[0])
        plan.receipts.append((at, lease, len(staged), 0, 0))
        return True

    def _refused(self, plan: Plan, at: int, facts: Facts | None) -> bool:
        """Check batch `at` against the overlay and the facts; notes what is believed."""
        batch = self.batches[at]
        for require in batch.require:
            ref, wanted = require.ref, require.version
            cell = plan.cell((ref.space, ref.key))
            if cell.action == PUT:
                assert cell.draw is not None
                plan.unread.append((at, ref, wanted, cell.draw))
                return True
            if cell.action == DROP:
                found = ABSENT
            elif facts is not None:
                found = cell.need = facts.versions[ref.space, ref.key]
            elif cell.need in (None, wanted):
                found = cell.need = wanted
            else:
                raise Unsure
            if found != wanted:
                plan.refusals[at] = conflict(ref, wanted, found)
                return True
        expected: dict[str, int] = {}
        for append in batch.append:
            stream = append.stream
            length = expected.get(stream, plan.lengths.get(stream))
            if length is None:
                length = append.n if facts is None else facts.lengths[stream]
                plan.streams[stream] = length
            if length != append.n:
                plan.refusals[at] = stream_conflict(append, length)
                return True
            expected[stream] = append.n + 1
        plan.lengths.update(expected)
        return False

    def _stage(self, plan: Plan, at: int) -> None:
        batch = self.batches[at]
        for ref in batch.drop:
            cell = plan.cell((ref.space, ref.key))
            cell.action, cell.value, cell.due, cell.marks, cell.draw = DROP, None, None, (), None
        first = plan.draws
        for put in batch.put:
            cell = plan.cell((put.ref.space, put.ref.key))
            cell.action, cell.value, cell.due, cell.draw = PUT, put.value, put.due, plan.draws
            cell.marks = put.marks
            plan.draws += 1
        place = 0
        if batch.lease is not None:
            staged = plan.appends.setdefault(batch.lease, [])
            place = len(staged) + 1 if batch.append else 0
            staged.extend(batch.append)
        plan.receipts.append((at, batch.lease, place, first, len(batch.put)))

    def question(self, now: int) -> Plan:
        """A plan that writes nothing and touches all there is, to get and lock the facts."""
        plan = Plan(now)
        for at in self.open:
            batch = self.batches[at]
            refs = [require.ref for require in batch.require]
            for ref in (*refs, *batch.drop, *(put.ref for put in batch.put)):
                plan.cell((ref.space, ref.key))
            if batch.lease is not None:
                plan.appends.setdefault(batch.lease, [])
            for append in batch.append:
                plan.streams[append.stream] = 0
        return plan


class Events(Struct):
    """What a plan appends, as columns."""

    shards: list[int]
    seqs: list[int]
    added: list[Append]
    links: list[bytes]


def chained(plan: Plan) -> tuple[list[Lease], Events]:
    """The leases of `plan` in the order of their shards, and its events; completes its chains."""
    leases = list(plan.appends)
    if len(leases) > 1:
        leases.sort(key=lambda lease: (lease.shard, lease.epoch, lease.owner))
    events, now = Events([], [], [], []), plan.now
    for lease in leases:
        appends = plan.appends[lease]
        if not appends:
            continue
        shard, (head, chain) = lease.shard, plan.heads[lease]
        links = events.links
        for seq, add in enumerate(appends, head + 1):
            chain = link(chain, shard, seq, add.stream, add.n, add.kind, now, add.data)
            links.append(chain)
        events.shards.extend([shard] * len(appends))
        events.seqs.extend(range(head + 1, head + 1 + len(appends)))
        events.added.extend(appends)
        plan.chains[shard] = (head + len(appends), chain)
    return leases, events


def arguments(plan: Plan) -> list[Any]:
    """The arrays of `commit_group` for `plan`, in order; completes its chains."""
    leases, events = chained(plan)
    keys = in_order_of_bytes(plan.cells)
    cells = [plan.cells[key] for key in keys]
    return [
        [lease.shard for lease in leases],
        [lease.epoch for lease in leases],
        [lease.owner for lease in leases],
        [plan.heads[lease][0] if plan.appends[lease] else None for lease in leases],
        [len(plan.appends[lease]) for lease in leases],
        [key[0] for key in keys],
        [key[1] for key in keys],
        [cell.need for cell in cells],
        [cell.action for cell in cells],
        [cell.value for cell in cells],
        [cell.due for cell in cells],
        [None if cell.action == ANY else encoded_marks(cell.marks) for cell in cells],
        [cell.draw for cell in cells],
        list(plan.streams),
        list(plan.streams.values()),
        events.shards,
        events.seqs,
        [add.stream for add in events.added],
        [add.n for add in events.added],
        [add.kind for add in events.added],
        [add.data for add in events.added],
        events.links,
    ]


def facts_of(plan: Plan, row: Any) -> Facts:
    """The facts in the answer to `plan`, which was not carried out."""
    rows = row["shards"] or []
    if isinstance(rows, str):  # a driver may have read the JSON already
        rows = _decode(rows)
    keys = in_order_of_bytes(plan.cells)
    return Facts(
        row["clock"],
        {
            shard: ShardFact(owner, epoch, head, time, bytes.fromhex(chain))
            for shard, owner, epoch, head, time, chain in rows
        },
        dict(zip(keys, row["versions"] or (), strict=True)),
        dict(zip(plan.streams, row["lengths"] or (), strict=True)),
    )


def in_order_of_bytes(cells: Iterable[Key]) -> list[Key]:
    """The keys in the order in which the server locks them."""
    return sorted(cells, key=_utf8)


def _utf8(key: Key) -> tuple[bytes, bytes]:
    return key[0].encode(), key[1].encode()


def encoded_marks(marks: Marks) -> str:
    """Marks as they are kept beside their cell."""
    return _encode_marks(marks).decode() if marks else NO_MARKS


def _head(lease: Lease, chains: Chains, facts: Facts | None) -> tuple[int, bytes]:
    """The head of a shard before the group; a wrong belief is refused by the call."""
    known = chains.get(lease.shard)
    if facts is None:
        if known is None:
            raise Unsure
        return known
    row = facts.shards[lease.shard]
    if row.head == 0:
        return 0, GENESIS
    if not row.chain:
        raise StoreCorrupt(
            f"Shard {lease.shard} counts {row.head} events, and the last is missing."
        )
    return row.head, row.chain


def _is_sound_event(batch: Batch) -> bool:
    """One event and nothing else, of which nothing by itself can be wrong: most batches are."""
    if len(batch.append) != 1 or batch.lease is None or batch.put or batch.require or batch.drop:
        return False
    event = batch.append[0]
    return (
        len(event.data) <= VALUE_BYTES_MAX
        and batch.storage == "durable"
        and event.stream.isascii()
        and event.kind.isascii()
        and "\0" not in event.stream
        and "\0" not in event.kind
    )


def flaw(batch: Batch) -> OutliveError | None:
    """What is wrong with `batch` by itself, before any state is looked at."""
    found = refusals.flaw(batch, "PostgreSQL")
    if found is not None:
        return found
    text = "".join(_texts(batch))
    if "\0" in text:
        return Refused("PostgreSQL keeps no text with a NUL character; nothing was written.")
    if not text.isascii() and _LONE.search(text):
        return Refused("A text has half of a surrogate pair; nothing was written.")
    return None


def _texts(batch: Batch) -> list[str]:
    """All that `batch` writes or asks for as text; loops, because it is asked for every batch."""
    texts: list[str] = []
    for put in batch.put:
        texts += (put.ref.space, put.ref.key)
        for mark in put.marks:
            texts += mark
    for add in batch.append:
        texts += (add.stream, add.kind)
    for need in batch.require:
        texts += (need.ref.space, need.ref.key)
    for ref in batch.drop:
        texts += (ref.space, ref.key)
    return texts
