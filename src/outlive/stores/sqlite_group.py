"""One group commit on SQLite: many batches, one transaction, one fsync.

    lock ─> BEGIN IMMEDIATE ─> clock and versions ─> each batch: check, then stage ─> fences ─>
    rows ─> COMMIT

Batches are checked in order against an overlay of the cells touched so far, so each sees the ones
before it, and what is written is each cell's last state, once. A batch that fails a check is
refused alone before anything of it is written. Three things are only seen while writing: a fence
that gives no row (another owner), a stream that is not as long as expected, and a cell that is not
as this process believes. Then the transaction is rolled back and repeated: without the batches of
that lease, or with each batch in a savepoint of its own and nothing believed about cells. Either
way there is one COMMIT, so a group that fails as a whole left nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import apsw
import msgspec
from msgspec import Struct

from outlive.errors import (
    OutliveError,
    Refused,
    StoreCorrupt,
)
from outlive.model import ABSENT, Append, Batch, Committed, Lease, Ref
from outlive.store import VALUE_BYTES_MAX
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
CELLS_KEPT_MAX = 10_000
"""Cells whose version and marks a process remembers, so that replacing them needs no read."""

NO_MARKS = "[]"
UNFIT = (OverflowError, TypeError, UnicodeError, apsw.ConstraintError)
"""What is raised for a batch that no file can keep: half a surrogate, a float for a deadline."""

_encode_marks = msgspec.json.Encoder().encode
_decode_marks = msgspec.json.Decoder(Marks).decode


class Again(Exception):
    """The transaction must be rolled back and tried again; what is settled is in the results."""


class _Cell(Struct, gc=False):
    """A cell touched by the group: what the file says, and what the group makes of it."""

    was: int
    """The version in the file; `ABSENT` when it has none."""
    old_marks: Marks
    version: int
    value: bytes | None = None
    due: int | None = None
    marks: Marks = ()
    dirty: bool = False
    unseen: bool = False
    """Whether it is taken for absent, which only its insertion would prove."""


class Group:
    """The work of one group commit; `settle` runs inside an open write transaction."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.batches = batches
        self.results: list[Committed | OutliveError | None] = [None] * len(batches)
        self._believing = True
        self._untouched = True
        """Whether nothing is settled yet."""
        self._puts = 0
        durable = False
        for at, batch in enumerate(batches):
            append = batch.append
            if batch.storage == "durable":
                durable = True
                # One event and nothing else, of which little can be wrong: most batches are.
                small = len(append) == 1 and not batch.put and batch.lease is not None
                if small and len(append[0].data) <= VALUE_BYTES_MAX:
                    continue
            self._puts += len(batch.put)
            flawed = flaw(batch, "SQLite")
            if flawed is not None:
                self.results[at], self._untouched = flawed, False
        self.durable = durable

    def open_batches(self) -> Sequence[int]:
        """The places of the batches that are not settled yet."""
        if self._untouched:
            return range(len(self.batches))
        return [at for at, result in enumerate(self.results) if result is None]

    def versions_wanted(self, which: Sequence[int]) -> int:
        if self._untouched and len(which) == len(self.batches):
            return self._puts
        wanted, batches = 0, self.batches
        for at in which:
            wanted += len(batches[at].put)
        return wanted

    def write(self, file: SQLiteFile) -> list[Committed | OutliveError]:
        """Commit all batches in one transaction; gives a receipt or refusal for each."""
        settle = self.settle
        while which := self.open_batches():
            try:
                settled = file.transaction(self._work(file, settle, which), durable=self.durable)
            except Again:
                if len(self.open_batches()) < len(which):  # a fence
                    continue
                if self._believing:  # a cell was not as it was believed to be: look at them all
                    self._believing = False
                else:
                    settle = self.settle_alone
                continue
            self._note(settled)
        return self._answers()

    def try_prepare(self, file: SQLiteFile) -> bool:
        """Do all but COMMIT, on the event loop; `finish` must follow in the writing lane.

        False when somebody else writes, or one of the batches must be refused while it is written:
        then nothing was done, and `write` does it.
        """
        work = self._work(file, self.settle, self.open_batches())
        try:
            prepared = file.try_prepare(work, durable=self.durable)
        except Again:
            self._believing = False
            return False
        if prepared is None:
            return False
        self._note(prepared[0])
        return True

    def finish(self, file: SQLiteFile) -> list[Committed | OutliveError]:
        """COMMIT what was prepared; gives a receipt or refusal for each batch."""
        file.finish()
        return self._answers()

    def _work(
        self, file: SQLiteFile, settle: Settle, which: Sequence[int]
    ) -> Callable[[apsw.Connection], Settled]:
        def work(connection: apsw.Connection) -> Settled:
            version, now = file.move(connection, self.versions_wanted(which))
            try:
                return settle(file, connection, which, version, now)
            except UNFIT as error:  # one of them; the others are not to suffer for it
                raise Again from error

        return work

    def _note(self, settled: Settled) -> None:
        results, self._untouched = self.results, False
        for at, result in settled:
            results[at] = result

    def _answers(self) -> list[Committed | OutliveError]:
        """The receipt or the refusal of each batch: all of them are settled."""
        return cast("list[Committed | OutliveError]", self.results)

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
        batches, kept = self.batches, file.lengths
        lease: Lease | None = None
        staged: list[Append] = []
        for at in which:
            batch = batches[at]
            if batch.lease is not lease and (lease := batch.lease) is not None:
                staged = appends.setdefault(lease, [])
            new = batch.append
            place = len(staged) + 1 if new else 0
            if place and len(new) == 1 and not (batch.put or batch.require or batch.drop):
                append = new[0]
                stream, n = append.stream, append.n
                if n == (lengths.get(stream) or kept.get(stream)):  # a step's record: most are
                    lengths[stream] = n + 1
                    staged.append(append)
                    receipts.append((at, lease, place, ()))
                    continue
            refused = self._check(file, connection, batch, cells, lengths)
            if refused is not None:
                refusals.append((at, refused))
                continue
            drawn = self._stage(file, connection, batch, cells, version)
            version += len(drawn)
            for append in new:
                staged.append(append)
                lengths[append.stream] = append.n + 1
            receipts.append((at, lease, place, drawn))
        heads = self._fence(connection, file.sql, appends, which)
        _write_events(file, connection, appends, heads, now)
        if cells:  # a group of steps' records has none
            _write_cells(file, connection, cells)
        _remember(file, cells, lengths)
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
        self._believing = False
        for at in which:
            connection.execute("SAVEPOINT outlive_batch")
            try:
                settled += self.settle(file, connection, (at,), version, now)
            except (Again, *UNFIT) as error:
                file.forget_written()
                connection.execute("ROLLBACK TO outlive_batch")
                settled.append((at, self.results[at] or self._refusal(at, error)))
            connection.execute("RELEASE outlive_batch")
            version += len(self.batches[at].put)
        return settled

    def _refusal(self, at: int, error: Exception) -> OutliveError:
        """Why the batch `at`, which is written alone and believes nothing, could not be written."""
        append = self.batches[at].append
        if isinstance(error, Again) and append:
            return stream_conflict(append[0], None)
        why = error.__cause__ or error
        return Refused(f"SQLite cannot keep what the batch says ({why}); nothing was written.")

    def _check(
        self,
        file: SQLiteFile,
        connection: apsw.Connection,
        batch: Batch,
        cells: dict[Key, _Cell],
        lengths: dict[str, int],
    ) -> OutliveError | None:
        for require in batch.require:
            ref, wanted = require.ref, require.version
            if self._believing and self._believes(file, batch, ref, wanted, cells):
                continue
            found = _cell(file, connection, cells, (ref.space, ref.key)).version
            if found != wanted:
                return conflict(ref, wanted, found)
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

    def _believes(
        self, file: SQLiteFile, batch: Batch, ref: Ref, wanted: int, cells: dict[Key, _Cell]
    ) -> bool:
        """Whether a cell that `batch` writes is taken, unseen, for what is wanted: its writing
        proves it, or raises `Again`.

        As this process wrote it last, if nothing of this group has touched it. Or absent: who
        requires that has looked a moment ago, or starts what has a name of its own.
        """
        key = (ref.space, ref.key)
        if key in cells:
            return False
        known = file.cells.get(key)
        if wanted != (ABSENT if known is None else known[0]):
            return False
        for put in batch.put:
            if put.ref == ref:
                if known is None:
                    cells[key] = _Cell(ABSENT, (), ABSENT, unseen=True)
                return True
        return False

    def _stage(
        self,
        file: SQLiteFile,
        connection: apsw.Connection,
        batch: Batch,
        cells: dict[Key, _Cell],
        version: int,
    ) -> tuple[int, ...]:
        """Put what `batch` makes of its cells into the overlay; gives the versions drawn."""
        for ref in batch.drop:
            cell = _cell(file, connection, cells, (ref.space, ref.key), self._believing)
            cell.value, cell.version, cell.marks, cell.dirty = None, ABSENT, (), True
        for number, put in enumerate(batch.put, version):
            ref = put.ref
            cell = _cell(file, connection, cells, (ref.space, ref.key), self._believing)
            cell.value, cell.due, cell.version, cell.dirty = put.value, put.due, number, True
            cell.marks = put.marks
        return tuple(range(version, version + len(batch.put)))

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
        leases = list(appends)
        if len(leases) > 1:
            leases.sort(key=lambda lease: (lease.shard, lease.epoch, lease.owner))
        for lease in leases:
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
                    self.results[at], self._untouched = fenced(lease_of), False
            raise Again
        return heads


def _cell(
    file: SQLiteFile,
    connection: apsw.Connection,
    cells: dict[Key, _Cell],
    key: Key,
    believing: bool = False,
) -> _Cell:
    """A cell in the overlay: as touched before, as this process wrote it last if it is `believing`
    (it is about to be replaced, and that is checked), or as it is in the file."""
    found = cells.get(key)
    if found is None:
        known = file.cells.get(key) if believing else None
        if known is None:
            row = connection.execute(file.sql["cell_state"], key).fetchone()
            if row is not None:
                known = row[0], _decode_marks(row[1]) if row[1] != NO_MARKS else ()
        was, marks = known or (ABSENT, ())
        found = cells[key] = _Cell(was, marks, was)
    return found


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


def _write_events(
    file: SQLiteFile,
    connection: apsw.Connection,
    appends: dict[Lease, list[Append]],
    heads: dict[Lease, int],
    now: int,
) -> None:
    """Insert what is appended behind each shard's head. Raises `Again` when a stream has one of the
    events already."""
    values: list[Any] = []
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
            values += (base | seq, stream, n, kind, now, data, chain)
        file.chains[shard] = (seq, chain)
    try:
        file.inserts["event_write"].write(connection, values)
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


def _write_cells(file: SQLiteFile, connection: apsw.Connection, cells: dict[Key, _Cell]) -> None:
    """Write each cell's last state. Raises `Again` when one is not as it was believed to be."""
    drops: list[tuple[str, str, int]] = []
    made: list[Any] = []
    puts: list[tuple[Any, ...]] = []
    marked: list[str] = []
    unmarked: list[tuple[str, str, str, str]] = []
    written = 0
    for key, cell in cells.items():
        if cell.unseen and cell.value is None:  # refused, or dropped again: nothing proves it
            raise Again
        if not cell.dirty:
            continue
        space, name = key
        new, old = cell.marks, cell.old_marks
        if cell.value is None:
            if cell.was != ABSENT:
                drops.append((space, name, cell.was))
        else:
            marks = _encode_marks(new).decode() if new else NO_MARKS
            row = (cell.value, cell.version, cell.due, marks, space, name)
            written += 1
            if cell.was == ABSENT:
                made += row
            else:
                puts.append((*row, cell.was))
        if new != old:
            for mark in old:
                if mark not in new:
                    unmarked.append((*mark, space, name))
            for mark in new:
                if mark not in old:
                    marked += (*mark, space, name)
    before, sql, inserts = connection.total_changes(), file.sql, file.inserts
    try:
        if drops:
            connection.executemany(sql["cell_drop"], drops)
        inserts["cell_make"].write(connection, made)
    except apsw.ConstraintError as error:
        raise Again from error
    if puts:
        connection.executemany(sql["cell_write"], puts)
    if connection.total_changes() - before != len(drops) + written:
        raise Again
    if unmarked:
        connection.executemany(sql["mark_drop"], unmarked)
    inserts["mark_write"].write(connection, marked)


def _remember(file: SQLiteFile, cells: dict[Key, _Cell], lengths: dict[str, int]) -> None:
    """Keep what was written, so that it need not be read; forgotten if it is not committed."""
    if len(file.lengths) > LENGTHS_KEPT_MAX:
        file.lengths.clear()
    file.lengths.update(lengths)
    kept = file.cells
    if len(kept) > CELLS_KEPT_MAX:
        kept.clear()
    for key, cell in cells.items():
        if cell.dirty:
            if cell.value is None:
                kept.pop(key, None)
            else:
                kept[key] = (cell.version, cell.marks)
