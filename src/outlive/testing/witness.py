"""A client that remembers every word it was told, and a judge who asks the store for each.

The witness works on a store in every way there is (groups of batches, blobs, claims, transactions,
erased journals, a log moved into the file, a store closed and opened again) and notes what came
back, and at which position of a log it came. What it writes can be recognised: the batch number 7
has one event, one cell in the space `left` and one in `right`, and nothing else has a 7.

    told      the batch is there, from this position on       acknowledged
    refused   "nothing was written": it must never be found   P13
    unknown   either

The judge is given a store that was opened again after a misfortune. `lost` is what was told and is
gone: a batch, a blob, a claim, the highest version and the latest time that were given out.
`corrupt` is everything else that must not be: half a batch, a hole, a broken chain, a head that is
no count, a cell that names a blob that is not there.

Not promised: anything of batches of the class `relaxed` but that they go from the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from outlive.clock import ManualClock
from outlive.errors import Conflict, OutcomeUnknown, OutliveError
from outlive.model import ERASED, Append, Batch, Committed, Event, Lease, Put, Ref, Require
from outlive.stores.blobs import FileBlobs
from outlive.stores.chain import verify
from outlive.stores.files import Files
from outlive.stores.sqlite import SQLiteStore
from outlive.stores.sqlite_file import CHECKPOINT_PAGES

SHARDS = 2
TRIES_MAX = 3
"""How often a step is tried again that must succeed for the others to mean anything."""
HOLD_SECONDS = 30.0
REFUSED_FROM = 1_000_000
"""Numbers from here on are of batches that cannot be committed."""
PAGE = 100_000
_STREAMS = 3
_JUDGES = "judge"

Do = Literal["group", "relaxed", "blob", "transact", "claim", "erase", "checkpoint", "reopen"]
PLAN: tuple[Do, ...] = (
    "group", "blob", "claim", "group", "relaxed", "relaxed", "group", "transact", "erase",
    "checkpoint", "group", "blob", "group", "relaxed", "transact", "claim", "checkpoint", "relaxed",
    "group", "reopen", "group", "blob", "relaxed", "erase", "claim", "relaxed",
)  # fmt: skip
"""What a witness does, in this order; again from the beginning when more is asked for."""
SHORT_PLAN: tuple[Do, ...] = (
    "group", "blob", "claim", "relaxed", "transact", "checkpoint", "group", "erase", "reopen",
    "group",
)  # fmt: skip
"""Each of it once or twice: for those who do it thousands of times."""


class Word(Struct, frozen=True):
    """Something the witness was told when the log was `position` calls long."""

    position: int
    what: Literal["batch", "relaxed", "version", "time", "epoch", "blob", "claim"]
    number: int
    name: str = ""
    data: bytes = b""


class Verdict(Struct, frozen=True):
    """What is wrong with a store, one sentence each, and how many relaxed batches are gone."""

    lost: tuple[str, ...] = ()
    corrupt: tuple[str, ...] = ()
    relaxed_gone: int = 0


def text_of(number: int, bytes_wanted: int) -> bytes:
    """What the event and the cells of a batch say: recognisable, and some of it long."""
    return (b"%d " % number) * (bytes_wanted // len(b"%d " % number) + 1)


def size_of(number: int) -> int:
    """Bytes of the texts of a batch: most are small, every fifth is more than a page."""
    return 6000 if number % 5 == 0 else 40


def blob_of(number: int) -> bytes:
    return text_of(number, 1500)


class Witness:
    """Works on the file at `path`; `position` says how long the log of the disk is.

    `files`: how blobs are written. `blobs`: makes those of the folder given, if they are to be
    others. It raises nothing that a store may answer.
    """

    def __init__(
        self,
        path: Path,
        position: Callable[[], int],
        files: Files | None = None,
        blobs: Callable[[Path], FileBlobs] | None = None,
    ) -> None:
        self.path = path
        self.words: list[Word] = []
        self.refused: dict[int, int] = {}
        """Which batches were said not to be written, and at which position that was."""
        self.unknown: set[int] = set()
        self.errors: list[OutliveError] = []
        self.sent = 0
        self._position = position
        self._clock = ManualClock()
        self._files = files
        self._blobs = blobs
        self._leases: dict[int, Lease] = {}
        self._lengths: dict[str, int] = {}
        self._opens = 0
        self._store: SQLiteStore | None = None

    async def work(self, plan: Sequence[Do] = PLAN) -> None:
        """Do all of `plan`, and leave the store open."""
        await self._reopen()
        for number, do in enumerate(plan):
            if len(self._leases) < SHARDS:
                await self._take()
            if do == "group":
                await self._group(1 + number % 3)
            else:
                await getattr(self, f"_{do}")()
            self._clock.advance(1.0)

    async def close(self) -> None:
        """Close the store, if it is open."""
        store, self._store = self._store, None
        if store is not None:
            with suppress(OutliveError):
                await store.close()

    def demand_written(self) -> None:
        """Raise `AssertionError` unless all that should be was written, as on a sound disk: of a
        store that takes nothing, nothing can be lost."""
        denied = sorted(number for number in self.refused if number < REFUSED_FROM)
        wrong = [error for error in self.errors if not isinstance(error, Conflict)]
        if denied or wrong or self.unknown or not self.sent:
            raise AssertionError(
                f"without a fault {self.sent} batches were sent, {len(denied)} refused and "
                f"{len(self.unknown)} unknown: {wrong[:3]}"
            )

    # --- one of each ------------------------------------------------------------------------------

    async def _reopen(self) -> None:
        await self.close()
        store = SQLiteStore(self.path, shards=SHARDS, clock=self._clock)
        folder = self.path.with_name(self.path.name + "-blobs")
        if self._blobs is not None:
            store.blobs = self._blobs(folder)
        else:
            store.blobs = FileBlobs(folder, self._clock, files=self._files)
        for _ in range(TRIES_MAX):
            try:
                await store.open()
            except OutliveError as error:
                self.errors.append(error)
            else:
                self._store = store
                self._opens += 1
                self._leases.clear()
                await self._take()
                return

    async def _take(self) -> None:
        store = self._store
        if store is None:
            return
        for shard in range(SHARDS):
            try:
                row = (await store.owners())[shard]
                lease = await store.take(shard, row.epoch, f"node-{self._opens}")
            except OutliveError as error:
                self.errors.append(error)
            else:
                self._leases[shard] = lease
                self._hear("epoch", lease.epoch, str(shard))

    async def _group(self, count: int, storage: Literal["durable", "relaxed"] = "durable") -> None:
        """`count` batches in one group, and one more that is refused alone."""
        batches: dict[int, Batch] = {}
        if not await self._sure():
            return
        for _ in range(count):
            number = self._next()
            batches[number] = self._batch(number, f"{number % _STREAMS}", storage)
        wrong = REFUSED_FROM + self.sent
        batches[wrong] = Batch(
            require=(Require(Ref("left", "never"), 7),),
            put=(Put(Ref("left", str(wrong)), b""), Put(Ref("right", str(wrong)), b"")),
            storage=storage,
        )
        await self._commit(batches)

    async def _relaxed(self) -> None:
        await self._group(1, "relaxed")

    async def _blob(self) -> None:
        """A blob, then the commit that names it."""
        if self._store is None or not await self._sure():
            return
        number = self._next()
        data = blob_of(number)
        try:
            name = await self._store.blobs.put(data)
        except OutliveError as error:
            self.errors.append(error)
            self._deny(number)
            return
        self._hear("blob", number, name, data)
        batch = self._batch(number, "0", "durable", Put(Ref("named", str(number)), name.encode()))
        await self._commit({number: batch})

    async def _transact(self) -> None:
        """A commit through the door of a user's own transaction; one of its cells is carried."""
        store = self._store
        if store is None or not await self._sure():
            return
        number = self._next()
        batch = self._batch(number, "1", "durable")
        left, right, *rest = batch.put

        def inside(tables: Any) -> Batch:
            tables.carry((right,))
            return Batch(lease=batch.lease, put=(left, *rest), append=batch.append)

        try:
            committed = await store.transact(inside)
        except OutliveError as error:
            self._note(number, error, batch)
        else:
            self._note(number, committed, batch)

    async def _erase(self) -> None:
        """A journal of one event, emptied by another commit."""
        store = self._store
        if store is None or not await self._sure():
            return
        first = self._next()
        gone = self._batch(first, f"gone-{first}", "durable")
        await self._commit({first: gone})
        if first in self.refused or first in self.unknown:
            return
        second = self._next()
        stream = gone.append[0].stream
        named = Put(Ref("erases", str(second)), stream.encode())
        batch = self._batch(second, "", "durable", named)
        batch = Batch(lease=batch.lease, put=batch.put)  # a batch that erases appends nothing
        try:
            committed = await store.erase([stream], batch)
        except OutliveError as error:
            self._note(second, error, batch)
        else:
            self._note(second, committed, batch)

    async def _claim(self) -> None:
        """Cells whose time has come are handed out; those of the last time are due again."""
        self._clock.advance(HOLD_SECONDS + 1)
        if self._store is None:
            return
        try:
            claimed = await self._store.claim(["due"], 3, HOLD_SECONDS)
        except OutliveError as error:
            self.errors.append(error)
            return
        for cell in claimed:
            self._hear("claim", cell.version, cell.key)
            self._hear("version", cell.version)

    async def _checkpoint(self) -> None:
        """What the writing lane does when the log is long, now."""
        if self._store is not None:
            self._store._file.wal_pages = CHECKPOINT_PAGES
            await self._store._writing.do(self._store._file.checkpoint)

    # --- committing, and what comes back ----------------------------------------------------------

    def _next(self) -> int:
        self.sent += 1
        return self.sent

    def _batch(
        self, number: int, stream: str, storage: Literal["durable", "relaxed"], *more: Put
    ) -> Batch:
        shard, text = number % SHARDS, text_of(number, size_of(number))
        stream = f"{shard}-{stream}"
        n = self._lengths.get(stream, 0)
        self._lengths[stream] = n + 1
        puts = [Put(Ref(space, str(number)), text) for space in ("left", "right")]
        puts.append(Put(Ref("latest", str(shard)), b"%d" % number, marks=(("of", str(number)),)))
        if number % 4 == 1:
            puts.append(Put(Ref("due", str(number)), b"", self._clock.wall()))
        append = (Append(stream, n, "witnessed", text),)
        lease = self._leases.get(shard)
        return Batch(lease=lease, put=(*puts, *more), append=append, storage=storage)

    async def _commit(self, batches: dict[int, Batch]) -> None:
        assert self._store is not None
        answers: Sequence[Committed | OutliveError]
        try:
            answers = await self._store.commit_group(list(batches.values()))
        except OutliveError as error:
            answers = [error] * len(batches)
        for (number, batch), answer in zip(batches.items(), answers, strict=True):
            self._note(number, answer, batch)

    def _note(self, number: int, answer: Committed | OutliveError, batch: Batch) -> None:
        if isinstance(answer, Committed):
            self._hear("relaxed" if batch.storage == "relaxed" else "batch", number)
            if batch.storage == "durable":
                self._hear("time", answer.time)
                for version in answer.versions:
                    self._hear("version", version)
            return
        self.errors.append(answer)
        if number < REFUSED_FROM:
            self._lengths.clear()
        if isinstance(answer, OutcomeUnknown):
            self.unknown.add(number)
        else:
            self._deny(number)

    def _deny(self, number: int) -> None:
        self.refused[number] = self._position()

    def _hear(self, what: Any, number: int, name: str = "", data: bytes = b"") -> None:
        self.words.append(Word(self._position(), what, number, name, data))

    async def _sure(self) -> bool:
        """Whether there is a store, a lease of each shard, and the lengths of streams are known."""
        if self._store is None or len(self._leases) < SHARDS:
            return False
        if self._lengths:
            return True
        streams = [f"{shard}-{n}" for shard in range(SHARDS) for n in range(_STREAMS)]
        for _ in range(TRIES_MAX):
            try:
                self._lengths = await self._store.lengths(streams) or {"nothing yet": 0}
            except OutliveError as error:
                self.errors.append(error)
            else:
                return True
        return False


# --- the judge ------------------------------------------------------------------------------------


async def judge(
    path: Path, witness: Witness, position: int, *, in_order: bool = True, examined: bool = False
) -> Verdict:
    """Open what lies at `path` and hold it against what `witness` was told up to `position`.

    `in_order`: what is stored must be a prefix of what was sent, as after a power loss. `examined`:
    the store looks at itself too. What cannot be opened is `corrupt`. The store is closed again.
    """
    store = SQLiteStore(path, shards=SHARDS, clock=ManualClock(0))
    try:
        await store.open()
    except OutliveError as error:
        return Verdict(corrupt=(f"it cannot be opened: {error}",))
    try:
        words = [word for word in witness.words if word.position <= position]
        found = _Found(store, words)
        try:
            await found.read()
            denied = {number for number, at in witness.refused.items() if at <= position}
            found.hold(denied, in_order)
            await found.look_for_blobs()
            await found.write()
            if examined:
                for finding in await store.doctor():
                    if finding.level == "fail":
                        found.corrupt.append(f"doctor, {finding.name}: {finding.text}")
        except OutliveError as error:
            found.corrupt.append(f"it cannot be used: {error}")
        except Exception as error:  # a judge that falls over something has found something
            found.corrupt.append(f"it cannot be judged: {error!r}")
        return Verdict(tuple(found.lost), tuple(found.corrupt), found.relaxed_gone)
    finally:
        await store.close()


class _Found:
    """What is in a store, held against `words`."""

    def __init__(self, store: SQLiteStore, words: Sequence[Word]) -> None:
        self.store, self.words = store, words
        self.lost: list[str] = []
        self.corrupt: list[str] = []
        self.relaxed_gone = 0
        self.tails: dict[int, list[Event]] = {}
        self.cells: dict[str, dict[str, Any]] = {}

    def told(self, what: str) -> list[Word]:
        return [word for word in self.words if word.what == what]

    async def read(self) -> None:
        store = self.store
        for row in await store.owners():
            tail = await store.tail(row.id, 0, PAGE)
            self.tails[row.id] = tail
            if [event.seq for event in tail] != list(range(1, row.head + 1)):
                self.corrupt.append(f"shard {row.id}: {len(tail)} events, its head is {row.head}")
            if (at := verify(tail)) is not None:
                self.corrupt.append(f"shard {row.id}: its chain is broken at {at}")
            for word in self.told("epoch"):
                if word.name == str(row.id) and word.number > row.epoch:
                    self.lost.append(f"shard {row.id}: epoch {word.number} was given")
        for space in ("left", "right", "named", "latest", "due", "erases"):
            self.cells[space] = {cell.key: cell for cell in await store.scan(space, limit=PAGE)}

    def hold(self, denied: set[int], in_order: bool) -> None:
        """Batches: what was told is there, whole, in order, and says what it said."""
        events = [event for tail in self.tails.values() for event in tail]
        stored = self._numbers_of(events)
        for space in ("left", "right"):
            other = {int(key) for key in self.cells[space]}
            for number in sorted(stored ^ other):
                self.corrupt.append(f"batch {number}: its event and its {space} cell differ")
            for number in stored & other:
                wanted = text_of(number, size_of(number))
                if self.cells[space][str(number)].value != wanted:
                    self.corrupt.append(f"batch {number}: its {space} cell is altered")
        self._hold_streams(events)
        for shard in self.tails:
            mine = max((number for number in stored if number % SHARDS == shard), default=None)
            cell = self.cells["latest"].get(str(shard))
            if (None if cell is None else int(cell.value)) != mine:
                self.corrupt.append(f"shard {shard}: the latest batch is {mine}, not {cell}")
        durable = {word.number for word in self.told("batch")}
        self.lost += [f"batch {number} was acknowledged" for number in sorted(durable - stored)]
        if in_order and stored != set(range(1, len(stored) + 1)):
            self.corrupt.append(f"stored are {sorted(stored)}: no prefix of what was sent")
        self.relaxed_gone = len({word.number for word in self.told("relaxed")} - stored)
        for number in sorted(stored & denied):
            self.corrupt.append(f"batch {number}: 'nothing was written' was said, and it is there")
        for word in self.told("claim"):
            cell = self.cells["due"].get(word.name)
            if cell is None or cell.version < word.number:
                self.lost.append(f"the claim of {word.name} at version {word.number}")

    def _numbers_of(self, events: list[Event]) -> set[int]:
        """Which batches have an event; one that was erased is known by its stream."""
        numbers: list[int] = []
        erased = {event.stream for event in events if event.kind == ERASED}
        for event in events:
            if event.stream == _JUDGES:
                continue
            if event.kind == ERASED:
                numbers.append(int(event.stream.rpartition("gone-")[2]))
            else:
                number = int(event.data.split(b" ", 1)[0])
                numbers.append(number)
                if event.data != text_of(number, size_of(number)):
                    self.corrupt.append(f"batch {number}: its event is altered")
        by = {cell.value.decode() for cell in self.cells["erases"].values()}
        if erased != by:
            self.corrupt.append(f"erased are {sorted(erased)}, and should be {sorted(by)}")
        numbers += [int(key) for key in self.cells["erases"]]
        if len(set(numbers)) != len(numbers):
            self.corrupt.append("a batch has two events")
        return set(numbers)

    def _hold_streams(self, events: list[Event]) -> None:
        lengths: dict[str, int] = {}
        for event in events:
            if event.n != lengths.get(event.stream, 0):
                self.corrupt.append(f"stream {event.stream}: event {event.n} is out of place")
            lengths[event.stream] = event.n + 1

    async def look_for_blobs(self) -> None:
        """Every blob that was put, and every one that a cell names, is there and verifies."""
        for word in self.told("blob"):
            await self._look_for(word.name, word.number, self.lost)
        for key, cell in self.cells["named"].items():
            await self._look_for(cell.value.decode(), int(key), self.corrupt)

    async def _look_for(self, name: str, number: int, flaws: list[str]) -> None:
        try:
            if await self.store.blobs.get(name) != blob_of(number):
                flaws.append(f"the blob of batch {number} is another")
        except KeyError:
            flaws.append(f"the blob of batch {number} is gone")
        except OutliveError as error:
            flaws.append(f"the blob of batch {number}: {error}")

    async def write(self) -> None:
        """It takes a commit; versions were not given before, and the clock has not gone back."""
        shard = (await self.store.owners())[0]
        lease = await self.store.take(0, shard.epoch, "judge")
        n = (await self.store.lengths([_JUDGES])).get(_JUDGES, 0)
        batch = Batch(
            lease=lease,
            put=(Put(Ref(_JUDGES, "was here"), b""),),
            append=(Append(_JUDGES, n, "judged", b""),),
        )
        committed = await self.store.commit(batch)
        highest = max((word.number for word in self.told("version")), default=0)
        if committed.versions[0] <= highest:
            self.lost.append(f"version {committed.versions[0]} was given; {highest} was before")
        latest = max((word.number for word in self.told("time")), default=0)
        if committed.time < latest:
            self.lost.append(f"the clock went back from {latest} to {committed.time}")
