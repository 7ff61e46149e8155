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
    OutliveError,
    StoreCorrupt,
)
from outlive.model import ABSENT, Append, Batch, Committed, Lease
from outlive.stores.chain import GENESIS, link
from outlive.stores.refusals import conflict, fenced, flaw, stream_conflict

if TYPE_CHECKING:
    from outlive.stores.sqlite_file import SQLiteFile

Key = tuple[str, str]
Marks = tuple[tuple[str, str], ...]
Settled = list[tuple[int, Committed | OutliveError]]
Settle = Callable[..., Settled]
PLACE_BITS = 48
LENGTHS_KEPT_MAX = 50_000
"""Streams whose length a process remembers, so that appending to them needs no read."""

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
        self.results: list[Committed | OutliveError | None] = [
            flaw(batch, "SQLite") for batch in batches
        ]
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
            try:
                settled = file.transaction(self._work(file, settle, which), durable=self.durable)
            except Again:
                if len(self.open_batches()) == len(which):  # not a fence: a stream
                    settle = self.settle_alone
                continue
            self._note(settled)
        return [result for result in self.results if result is not None]

    def try_prepare(self, file: SQLiteFile) -> bool:
        """Do all but COMMIT, on the event loop; `finish` must follow in the writing lane.

        False when somebody else writes, or one of the batches must be refused while it is written:
        then nothing was done, and `write` does it.
        """
        work = self._work(file, self.settle, self.open_batches())
        try:
            prepared = file.try_prepare(work, durable=self.durable)
        except Again:
            return False
        if prepared is None:
            return False
        self._note(prepared[0])
        return True

    def finish(self, file: SQLiteFile) -> list[Committed | OutliveError]:
        """COMMIT what was prepared; gives a receipt or refusal for each batch."""
        file.finish()
        return [result for result in self.results if result is not None]

    def _work(
        self, file: SQLiteFile, settle: Settle, which: list[int]
    ) -> Callable[[apsw.Connection], Settled]:
        def work(connection: apsw.Connection) -> Settled:
            version, now = file.move(connection, self.versions_wanted(which))
            return settle(file, connection, which, version, now)

        return work

    def _note(self, settled: Settled) -> None:
        for at, result in settled:
            self.results[at] = result

    def settle(
        self,
        file: SQLiteFile,
        connection: apsw.Connection,
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
        batches = self.batches
        for at in which:
            batch = batches[at]
            lease = batch.lease
            place = 0
            staged: list[Append] = []
            if lease is not None:
                staged = appends.setdefault(lease, staged)
                place = len(staged) + 1 if batch.append else 0
            if place and _is_step(file, batch, lengths):
                append = batch.append[0]
                lengths[append.stream] = append.n + 1
                staged.append(append)
                receipts.append((at, lease, place, ()))
                continue
            refused = self._check(file, connection, batch, cells, lengths)
            if refused is not None:
                refusals.append((at, refused))
                continue
            drawn: tuple[int, ...] = ()
            if batch.put or batch.drop:
                drawn = _stage(file, connection, batch, cells, version)
                version += len(drawn)
            if place:
                staged.extend(batch.append)
                for append in batch.append:
                    lengths[append.stream] = append.n + 1
            receipts.append((at, lease, place, drawn))
        heads = self._fence(connection, file.sql, appends, which)
        _write_events(file, connection, appends, heads, now)
        _write_cells(connection, file.sql, cells)
        if len(file.lengths) > LENGTHS_KEPT_MAX:
            file.lengths.clear()
        file.lengths.update(lengths)
        return refusals + [
            (at, Committed(now, drawn, heads[lease] + place if lease and place else 0))
            for at, lease, place, drawn in receipts
        ]

    def settle_alone(
        self,
        file: SQLiteFile,
        connection: apsw.Connection,
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
                settled += self.settle(file, connection, (at,), version, now)
            except Again:
                file.forget_written()
                connection.execute("ROLLBACK TO outlive_batch")
                refused = self.results[at] or stream_conflict(self.batches[at].append[0], None)
                settled.append((at, refused))
            connection.execute("RELEASE outlive_batch")
            version += len(self.batches[at].put)
        return settled

    def _check(
        self,
        file: SQLiteFile,
        connection: apsw.Connection,
        batch: Batch,
        cells: dict[Key, _Cell],
        lengths: dict[str, int],
    ) -> OutliveError | None:
        for require in batch.require:
            ref = require.ref
            found = _cell(connection, file.sql, cells, (ref.space, ref.key)).version
            if found != require.version:
                return conflict(ref, require.version, found)
        expected: dict[str, int] = {}
        for append in batch.append:
            stream = append.stream
            length = expected.get(stream)
            if length is None:
                length = lengths.get(stream)
            if length is None:
                length = _length(file, connection, stream, append.n)
            if length != append.n:
                return stream_conflict(append, length)
            expected[stream] = length + 1
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


def _is_step(file: SQLiteFile, batch: Batch, lengths: dict[str, int]) -> bool:
    """Whether `batch` is one event behind a stream of known length, and nothing else: most are."""
    if len(batch.append) != 1 or batch.put or batch.require or batch.drop:
        return False
    append = batch.append[0]
    known = lengths.get(append.stream)
    if known is None:
        known = file.lengths.get(append.stream)
    return known == append.n


def _length(file: SQLiteFile, connection: apsw.Connection, stream: str, n: int) -> int:
    """How long a stream is: known if this process wrote it last, which its lease makes the truth.

    A stream that is said to be new (`n` = 0) is believed: the index refuses it if it is not.
    """
    known = file.lengths.get(stream)
    if known is None:
        if n == 0:
            return 0
        row = connection.execute(file.sql["length"], (stream,)).fetchone()
        known = row[0] if row is not None and row[0] is not None else 0
    return known


def _stage(
    file: SQLiteFile,
    connection: apsw.Connection,
    batch: Batch,
    cells: dict[Key, _Cell],
    version: int,
) -> tuple[int, ...]:
    """Put what `batch` makes of its cells into the overlay; gives the versions drawn."""
    for ref in batch.drop:
        cell = _cell(connection, file.sql, cells, (ref.space, ref.key))
        cell.value, cell.version, cell.marks, cell.dirty = None, ABSENT, (), True
    for number, put in enumerate(batch.put, version):
        cell = _cell(connection, file.sql, cells, (put.ref.space, put.ref.key))
        cell.value, cell.due, cell.version, cell.dirty = put.value, put.due, number, True
        cell.marks = put.marks
    return tuple(range(version, version + len(batch.put)))


def _write_events(
    file: SQLiteFile,
    connection: apsw.Connection,
    appends: dict[Lease, list[Append]],
    heads: dict[Lease, int],
    now: int,
) -> None:
    """Insert what is appended behind each shard's head. Raises `Again` when a stream has one of the
    events already."""
    rows = []
    for lease, staged in appends.items():
        if not staged:
            continue
        shard, seq = lease.shard, heads[lease]
        base = shard << PLACE_BITS
        chain = _chain(file, connection, shard, seq)
        for append in staged:
            seq += 1
            stream, n, kind, data = append.stream, append.n, append.kind, append.data
            chain = link(chain, shard, seq, stream, n, kind, now, data)
            rows.append((base | seq, stream, n, kind, now, data, chain))
        file.chains[shard] = (seq, chain)
    if not rows:
        return
    try:
        connection.executemany(file.sql["event_write"], rows)
    except apsw.ConstraintError as error:
        raise Again from error


def _chain(file: SQLiteFile, connection: apsw.Connection, shard: int, head: int) -> bytes:
    """The chain value of the last event of a shard."""
    known = file.chains.get(shard)
    if known is not None and known[0] == head:
        return known[1]
    if head == 0:
        return GENESIS
    row = connection.execute(file.sql["chain_at"], (shard << PLACE_BITS | head,)).fetchone()
    if row is None:
        raise StoreCorrupt(f"Shard {shard} counts {head} events, and the last is missing.")
    found: bytes = row[0]
    return found


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
