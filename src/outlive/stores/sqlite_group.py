"""One group commit on SQLite: many batches, one transaction, one fsync.

    lock ─> BEGIN IMMEDIATE ─> clock and versions ─> each batch: check, then stage ─> fences ─>
    rows ─> COMMIT

Batches are checked in order against an overlay of the cells touched so far, so each sees the ones
before it, and what is written is each cell's last state, once. A batch that fails a check is
refused alone before anything of it is written. Two things are only seen while writing: a fence
that gives no row (another owner) and a stream that is not as long as expected. Then the
transaction is rolled back and repeated: without the batches of that lease, or with each batch in a
savepoint of its own. Either way there is one COMMIT, so a group that fails as a whole left
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import apsw
import msgspec
from msgspec import Struct

from outlive.errors import (
    Conflict,
    Fenced,
    OutliveError,
    Refused,
    StoreCorrupt,
    StreamConflict,
    TooLarge,
)
from outlive.model import ABSENT, Append, Batch, Committed, Lease
from outlive.store import VALUE_BYTES_MAX
from outlive.stores.chain import GENESIS, link

if TYPE_CHECKING:
    from outlive.stores.sqlite_file import SQLiteFile

Key = tuple[str, str]
Marks = tuple[tuple[str, str], ...]
EventRow = tuple[int, str, int, str, int, bytes, bytes]
Settled = list[tuple[int, Committed | OutliveError]]
Settle = Callable[..., Settled]
PLACE_BITS = 48

NO_MARKS = "[]"

_encode_marks = msgspec.json.Encoder().encode
_decode_marks = msgspec.json.Decoder(Marks).decode


class Again(Exception):
    """The transaction must be rolled back and tried again; what is settled is in the results."""


class _Cell(Struct):
    """A cell touched by the group: what the file says, and what the group makes of it."""

    version: int
    old_marks: Marks
    value: bytes | None = None
    due: int | None = None
    marks: Marks = ()
    dirty: bool = False


class Group:
    """The work of one group commit; `settle` runs inside an open write transaction."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches
        self.results: list[Committed | OutliveError | None] = [flaw(batch) for batch in batches]
        self.durable = any(batch.storage == "durable" for batch in batches)

    def open_batches(self) -> list[int]:
        """The places of the batches that are not settled yet."""
        return [at for at, result in enumerate(self.results) if result is None]

    def versions_wanted(self, which: Sequence[int]) -> int:
        return sum(len(self.batches[at].put) for at in which)

    def write(self, file: SQLiteFile) -> list[Committed | OutliveError]:
        """Commit all batches in one transaction; gives a receipt or refusal for each."""
        settle = self.settle
        while which := self.open_batches():

            def work(
                connection: apsw.Connection, settle: Settle = settle, which: list[int] = which
            ) -> Settled:
                version, now = file.move(connection, self.versions_wanted(which))
                return settle(connection, file.sql, file.chains, which, version, now)

            try:
                settled = file.transaction(work, durable=self.durable)
            except Again:
                if len(self.open_batches()) == len(which):  # not a fence: a stream
                    settle = self.settle_alone
                continue
            for at, result in settled:
                self.results[at] = result
        return [result for result in self.results if result is not None]

    def settle(
        self,
        connection: apsw.Connection,
        sql: dict[str, str],
        chains: dict[int, tuple[int, bytes]],
        which: Sequence[int],
        version: int,
        now: int,
    ) -> Settled:
        """Write the batches `which`; gives their receipts and refusals, valid once the transaction
        is committed.

        `version` is the first free version. Raises `Again`: then only a stale fence is in
        `results`, because what else was refused in this round may have been refused against a
        batch that is not written.
        """
        cells: dict[Key, _Cell] = {}
        lengths: dict[str, int] = {}
        appends: dict[Lease, list[Append]] = {}
        receipts: list[tuple[int, Lease | None, int, tuple[int, ...]]] = []
        refusals: Settled = []
        for at in which:
            batch = self.batches[at]
            if batch.lease is not None:
                staged = appends.setdefault(batch.lease, [])
            refused = self._check(connection, sql, batch, cells, lengths)
            if refused is not None:
                refusals.append((at, refused))
                continue
            for ref in batch.drop:
                cell = _cell(connection, sql, cells, (ref.space, ref.key))
                cell.value, cell.version, cell.marks, cell.dirty = None, ABSENT, (), True
            first = version
            for put in batch.put:
                cell = _cell(connection, sql, cells, (put.ref.space, put.ref.key))
                cell.value, cell.due, cell.version, cell.dirty = put.value, put.due, version, True
                cell.marks = put.marks
                version += 1
            drawn = tuple(range(first, version)) if batch.put else ()
            place = 0
            if batch.lease is not None:
                place = len(staged) + 1 if batch.append else 0
                staged.extend(batch.append)
                for append in batch.append:
                    lengths[append.stream] = append.n + 1
            receipts.append((at, batch.lease, place, drawn))
        heads = self._fence(connection, sql, appends, which)
        rows: list[EventRow] = []
        for lease in heads:
            if staged := appends[lease]:
                _chain_events(connection, sql, chains, lease.shard, heads[lease], staged, now, rows)
        if rows:
            _write_events(connection, sql, rows)
        _write_cells(connection, sql, cells)
        return refusals + [
            (at, Committed(now, drawn, heads[lease] + place if lease and place else 0))
            for at, lease, place, drawn in receipts
        ]

    def settle_alone(
        self,
        connection: apsw.Connection,
        sql: dict[str, str],
        chains: dict[int, tuple[int, bytes]],
        which: Sequence[int],
        version: int,
        now: int,
    ) -> Settled:
        """The same with each batch in a savepoint of its own, so that a batch that only fails
        while it is written is refused alone. Never raises `Again`."""
        settled: Settled = []
        for at in which:
            connection.execute("SAVEPOINT outlive_batch")
            try:
                settled += self.settle(connection, sql, chains, (at,), version, now)
            except Again:
                chains.clear()
                connection.execute("ROLLBACK TO outlive_batch")
                refused = self.results[at] or stream_conflict(self.batches[at].append[0], None)
                settled.append((at, refused))
            connection.execute("RELEASE outlive_batch")
            version += len(self.batches[at].put)
        return settled

    def _check(
        self,
        connection: apsw.Connection,
        sql: dict[str, str],
        batch: Batch,
        cells: dict[Key, _Cell],
        lengths: dict[str, int],
    ) -> OutliveError | None:
        for require in batch.require:
            ref = require.ref
            found = _cell(connection, sql, cells, (ref.space, ref.key)).version
            if found != require.version:
                return Conflict(
                    f"Cell {ref.space}/{ref.key} is at version {found}, not {require.version}; "
                    "nothing was written.",
                    ref=ref,
                    wanted=require.version,
                    found=found,
                )
        expected: dict[str, int] = {}
        for append in batch.append:
            length = expected.get(append.stream, lengths.get(append.stream))
            if length is not None and length != append.n:
                return stream_conflict(append, length)
            expected[append.stream] = append.n + 1
        return None

    def _fence(
        self,
        connection: apsw.Connection,
        sql: dict[str, str],
        appends: dict[Lease, list[Append]],
        which: Sequence[int],
    ) -> dict[Lease, int]:
        """Lock, check and count each shard; gives the head before the group. Raises `Again` on a
        stale lease."""
        heads: dict[Lease, int] = {}
        stale: set[Lease] = set()
        for lease in sorted(appends, key=lambda lease: (lease.shard, lease.epoch, lease.owner)):
            count = len(appends[lease])
            row = connection.execute(
                sql["fence"], (count, lease.shard, lease.epoch, lease.owner)
            ).fetchone()
            if row is None:
                stale.add(lease)
            else:
                heads[lease] = row[0] - count
        if stale:
            for at in which:
                lease_of = self.batches[at].lease
                if lease_of in stale and self.results[at] is None:
                    self.results[at] = fenced(lease_of)
            raise Again
        return heads


def flaw(batch: Batch) -> OutliveError | None:
    """What is wrong with `batch` by itself, before any state is looked at."""
    if batch.storage == "volatile":
        return Refused("SQLite keeps no volatile cells; nothing was written.")
    if batch.append and batch.lease is None:
        raise ValueError("a batch that appends needs a lease")
    for put in batch.put:
        if len(put.value) > VALUE_BYTES_MAX:
            return too_large(f"cell {put.ref.space}/{put.ref.key}", len(put.value))
    for append in batch.append:
        if len(append.data) > VALUE_BYTES_MAX:
            return too_large(f"event {append.n} of a stream", len(append.data))
    return None


def too_large(what: str, size: int) -> TooLarge:
    return TooLarge(f"The value of {what} has {size} bytes; at most {VALUE_BYTES_MAX} are kept.")


def fenced(lease: Lease) -> Fenced:
    return Fenced(
        f"Shard {lease.shard} is no longer held by {lease.owner} at epoch {lease.epoch}; "
        "nothing was written.",
        shard=lease.shard,
        epoch=lease.epoch,
    )


def stream_conflict(append: Append, length: int | None) -> StreamConflict:
    found = "is not that long" if length is None else f"has {length} events"
    return StreamConflict(
        f"Event {append.n} was expected to be next, but the stream {found}; nothing was written.",
        wanted=append.n,
        found=length,
    )


def _cell(
    connection: apsw.Connection, sql: dict[str, str], cells: dict[Key, _Cell], key: Key
) -> _Cell:
    found = cells.get(key)
    if found is None:
        row = connection.execute(sql["cell_state"], key).fetchone()
        if row is None:
            found = _Cell(ABSENT, ())
        else:
            found = _Cell(row[0], _decode_marks(row[1]) if row[1] != NO_MARKS else ())
        cells[key] = found
    return found


def _chain_events(
    connection: apsw.Connection,
    sql: dict[str, str],
    chains: dict[int, tuple[int, bytes]],
    shard: int,
    head: int,
    appends: list[Append],
    now: int,
    rows: list[EventRow],
) -> None:
    """Add the rows of `appends` after `head` to `rows`."""
    base = shard << PLACE_BITS
    known = chains.get(shard)
    if known is not None and known[0] == head:
        chain = known[1]
    elif head == 0:
        chain = GENESIS
    else:
        row = connection.execute(sql["chain_at"], (base | head,)).fetchone()
        if row is None:
            raise StoreCorrupt(f"Shard {shard} counts {head} events, and the last is missing.")
        chain = row[0]
    seq = head
    for append in appends:
        seq += 1
        stream, n, kind, data = append.stream, append.n, append.kind, append.data
        chain = link(chain, shard, seq, stream, n, kind, now, data)
        rows.append((base | seq, stream, n, kind, now, data, chain))
    chains[shard] = (seq, chain)


def _write_events(connection: apsw.Connection, sql: dict[str, str], rows: list[EventRow]) -> None:
    """Insert events. Raises `Again` when a stream is not exactly as long as expected."""
    before = connection.total_changes()
    try:
        connection.executemany(sql["event_write"], rows)
    except apsw.ConstraintError as error:
        raise Again from error
    if connection.total_changes() - before != len(rows):
        raise Again


def _write_cells(connection: apsw.Connection, sql: dict[str, str], cells: dict[Key, _Cell]) -> None:
    puts: list[tuple[Any, ...]] = []
    drops: list[Key] = []
    marked: list[tuple[str, str, str, str]] = []
    unmarked: list[tuple[str, str, str, str]] = []
    for (space, key), cell in cells.items():
        if not cell.dirty:
            continue
        if cell.value is None:
            drops.append((space, key))
        else:
            marks = _encode_marks(cell.marks).decode() if cell.marks else NO_MARKS
            puts.append((space, key, cell.value, cell.version, cell.due, marks))
        if cell.marks != cell.old_marks:
            old, new = set(cell.old_marks), set(cell.marks)
            unmarked.extend((name, value, space, key) for name, value in old - new)
            marked.extend((name, value, space, key) for name, value in new - old)
    work: tuple[tuple[str, Sequence[Any]], ...] = (
        ("cell_drop", drops),
        ("cell_write", puts),
        ("mark_drop", unmarked),
        ("mark_write", marked),
    )
    for name, rows in work:
        if rows:
            connection.executemany(sql[name], rows)
