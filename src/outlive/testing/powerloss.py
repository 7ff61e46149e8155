"""Power loss at every write: each state a disk may be in afterwards, opened and judged.

    witness ── SQLiteStore ── VFS and files ── Log      what was called, and what was told when
    Log ──at each call──> States ──each──> a new folder ──> SQLiteStore opens it ──> judge

A disk keeps what was flushed. Of what was not, it may have kept anything: nothing, everything, each
call alone, all but one, and of the last write some sectors of 512 bytes and not the others. Names
(a new file, a deleted or renamed one) are kept when their folder was flushed, and may be kept or
not before. Equal states are judged once, with the most that was told while the disk could be so.

Lost must be 0: what was acknowledged is there. Corrupt must be 0: the rest is a prefix, whole, and
the store works on. Batches of the class `relaxed` may go, from the end.

Not covered: a disk that says it has flushed and has not; sectors that come back as neither old nor
new; more than one unflushed call missing from the middle; a file system that loses what was
flushed, or its own order of names within one folder beyond the ways above.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
from msgspec import Struct

from outlive.clock import Clock
from outlive.stores.blobs import FileBlobs
from outlive.stores.files import Files
from outlive.testing.disk import Call, Watch, watched
from outlive.testing.witness import PLAN, Do, Verdict, Witness, judge

SECTOR_BYTES = 512
MEMORY = Path("/dev/shm")
"""A folder in memory: a state is written, opened and thrown away, thousands of times."""
FLAWS_MAX = 20
"""Flawed states that are described; all are counted."""
MakeBlobs = Callable[[Files, Path], FileBlobs]


class Log(Watch):
    """Every call that changes what lies in `root`, in order."""

    def __init__(self, root: Path) -> None:
        self.root = f"{root}{os.sep}"
        self.calls: list[Call] = []

    def after(self, call: Call) -> None:
        changes = call.what not in ("access", "lock", "open", "read", "size")
        if changes and f"{call.path}{os.sep}".startswith(self.root):
            self.calls.append(call)

    def position(self) -> int:
        return len(self.calls)


# --- from the log to what may be on the disk ------------------------------------------------------


class _Piece(Struct, frozen=True):
    """A call on a file's bytes, or a part of it: the call number `at`, bytes [`begin`, `end`)."""

    at: int
    begin: int = 0
    end: int = -1


class _Content:
    """Bytes of a file that may be on the disk: what was flushed, and some calls since."""

    def __init__(self, base: bytes, calls: Sequence[Call], pieces: tuple[_Piece, ...]) -> None:
        self._base, self._calls, self._pieces = base, calls, pieces

    def made(self) -> bytes:
        made = bytearray(self._base)
        for piece in self._pieces:
            call = self._calls[piece.at]
            if call.what == "truncate":
                del made[call.at :]
                made.extend(bytes(call.at - len(made)))
                continue
            end = len(call.data) if piece.end < 0 else piece.end
            start = call.at + piece.begin
            made.extend(bytes(max(0, start - len(made))))
            made[start : call.at + end] = call.data[piece.begin : end]
        return bytes(made)

    def digest(self) -> bytes:
        return sha256(self.made()).digest()


class _File:
    """One file, whatever it is called: its bytes when it was flushed last, and calls since."""

    def __init__(self) -> None:
        self.base = b""
        self.pending: list[int] = []
        self.known: dict[tuple[_Piece, ...], tuple[bytes, _Content]] = {}

    def content(self, calls: Sequence[Call], pieces: tuple[_Piece, ...]) -> tuple[bytes, _Content]:
        found = self.known.get(pieces)
        if found is None:
            content = _Content(self.base, calls, pieces)
            found = self.known[pieces] = (content.digest(), content)
        return found

    def flush(self, calls: Sequence[Call]) -> None:
        self.base = _Content(self.base, calls, tuple(map(_Piece, self.pending))).made()
        self.pending, self.known = [], {}


class State(Struct, frozen=True):
    """What may lie on the disk after `position` calls: paths and bytes, and how it came about."""

    position: int
    kind: str
    digest: bytes
    files: tuple[tuple[str, _Content], ...]

    def write(self, root: str, folder: Path) -> None:
        """Put it into `folder`, which is empty, in place of `root`."""
        for path, content in self.files:
            target = folder / path.removeprefix(root)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(content.made())


class Disk:
    """What is certain after the calls so far, and the states that may be found."""

    def __init__(self, calls: Sequence[Call], before: dict[str, bytes] | None = None) -> None:
        self._calls = calls
        self._names: dict[str, _File] = {}
        """Names as they are flushed."""
        self._now: dict[str, _File] = {}
        """Names as a process sees them."""
        self._pending: list[int] = []
        """Calls that are not flushed, of bytes and of names, in order."""
        self._file_of: dict[int, _File] = {}
        self._folders: dict[str, _File] = {}
        """Those that are not the root; what lies in one is there when its own name is."""
        for path, data in (before or {}).items():
            file = _File()
            file.base = data
            self._names[path] = self._now[path] = file
            folder = os.path.dirname(path)
            self._names[folder] = self._now[folder] = self._folders.setdefault(folder, _File())

    def apply(self, at: int) -> None:
        """The call number `at` was made."""
        call = self._calls[at]
        if call.what == "sync":
            file = self._now[call.path]
            file.flush(self._calls)
            self._pending = [
                one
                for one in self._pending
                if self._file_of.get(one) is not file or self._is_of_names(one)
            ]
        elif call.what == "sync folder":
            for one in self._pending:
                if self._is_of_names(one) and os.path.dirname(self._calls[one].path) == call.path:
                    self._rename(self._names, one)
            self._pending = [
                one
                for one in self._pending
                if not self._is_of_names(one) or os.path.dirname(self._calls[one].path) != call.path
            ]
        else:
            if call.what == "folder" and call.path in self._now:
                return  # it was there already
            if call.what in ("create", "folder"):
                self._file_of[at] = _File()
            elif call.path not in self._now:
                return  # the removal of what was never there
            else:
                self._file_of[at] = self._now[call.path]
            if self._is_of_names(at):
                self._rename(self._now, at)
            else:
                self._file_of[at].pending.append(at)
            self._pending.append(at)

    def _is_of_names(self, at: int) -> bool:
        return self._calls[at].what in ("create", "delete", "folder", "rename")

    def _rename(self, names: dict[str, _File], at: int) -> None:
        call, file = self._calls[at], self._file_of[at]
        if call.what == "folder":
            self._folders[call.path] = file
        if call.what in ("create", "folder"):
            names[call.path] = file
            return
        if names.get(call.path) is file:
            del names[call.path]
        if call.what == "rename":
            names[call.target] = file

    def states(self, position: int) -> Iterator[State]:
        """Every state that the disk may be in now; `position` calls were made."""
        yield from self.extremes(position)
        pending = [_Piece(at) for at in self._pending]
        for number, piece in enumerate(pending):
            yield self._state(position, "one alone", (piece,))
            others = (*pending[:number], *pending[number + 1 :])
            yield self._state(position, "all but one", others)
        if not pending or self._calls[pending[-1].at].what != "write":
            return
        last = pending[-1].at
        for kept, said in ((pending[:-1], "behind the others"), (self._names_only(), "alone")):
            for piece in _torn(last, self._calls[last]):
                yield self._state(position, f"torn {said}", (*kept, piece))

    def extremes(self, position: int) -> Iterator[State]:
        """Nothing is kept that was not flushed; all of it is."""
        yield self._state(position, "flushed only", ())
        yield self._state(position, "everything", [_Piece(at) for at in self._pending])

    def _names_only(self) -> list[_Piece]:
        return [_Piece(at) for at in self._pending if self._is_of_names(at)]

    def _state(self, position: int, kind: str, kept: Sequence[_Piece]) -> State:
        names = dict(self._names)
        pieces: dict[_File, list[_Piece]] = {}
        for piece in kept:
            if self._is_of_names(piece.at):
                self._rename(names, piece.at)
            else:
                pieces.setdefault(self._file_of[piece.at], []).append(piece)
        whole = sha256()
        files = []
        for path in sorted(names.keys() - self._folders.keys()):
            folder, file = os.path.dirname(path), names[path]
            if folder in self._folders and folder not in names:
                continue
            digest, content = file.content(self._calls, tuple(pieces.get(file, ())))
            whole.update(path.encode() + b"\0" + digest)
            files.append((path, content))
        return State(position, kind, whole.digest(), tuple(files))


def _torn(at: int, call: Call) -> Iterator[_Piece]:
    """The parts of a write that a disk may have kept: up to a sector's end, and a sector alone."""
    first = SECTOR_BYTES - call.at % SECTOR_BYTES
    ends = [*range(first, len(call.data), SECTOR_BYTES), len(call.data)]
    for number, end in enumerate(ends[:-1]):
        yield _Piece(at, 0, end)
        if number:
            yield _Piece(at, ends[number - 1], end)
    if len(ends) > 1:
        yield _Piece(at, ends[-2], ends[-1])


# --- running it -----------------------------------------------------------------------------------


class Flaw(Struct, frozen=True):
    """A state that the store did not come out of as it promised."""

    position: int
    kind: str
    before: str
    """The last call that was made."""
    verdict: Verdict


class Powerless(Struct, frozen=True):
    """What came of losing power everywhere."""

    calls: int
    """Calls that changed the disk: between any two of them the power went."""
    words: int
    """Answers that the witness was given."""
    states: int
    distinct: int
    judged: int
    """All distinct states, or the part of them that was asked for."""
    lost: int
    """States that lack something acknowledged."""
    corrupt: int
    """States that are wrong in another way, or could not be opened."""
    relaxed: int
    """States that lack relaxed batches that were acknowledged: this is allowed."""
    seconds: float
    engine: str
    faults: dict[str, int]
    """How many states of each kind."""
    flaws: tuple[Flaw, ...] = ()


class Recording(Struct, frozen=True):
    """A run on a watched disk, and the witness whose words must hold afterwards."""

    root: str
    log: Log
    witness: Witness
    before: dict[str, bytes] = {}
    """What lay there when the run began."""
    told: int | None = None
    """Up to which position the words hold; None: up to that of the state."""


async def record(
    folder: Path, plan: Sequence[Do] = PLAN, *, blobs: MakeBlobs | None = None
) -> Recording:
    """Let a witness work in `folder`, which is empty, and write everything down.

    `blobs` makes other blobs than those of the store, on files that are watched. The store is
    closed at the end. Raises `AssertionError` when it did not take what it was given.
    """
    log = Log(folder)
    with watched(log) as disk:
        path = folder / "store.db"
        make = None if blobs is None else partial(blobs, disk.files)
        witness = Witness(path, log.position, disk.files, make)
        await witness.work(plan)
        await witness.close()
    witness.demand_written()
    return Recording(log.root, log, witness)


async def record_recovery(recording: Recording, state: State, folder: Path) -> Recording:
    """Open `state` in `folder`, which is empty, and judge it, on a disk that is watched."""
    state.write(recording.root, folder)
    log = Log(folder)
    before = {
        f"{log.root}{path.removeprefix(recording.root)}": content.made()
        for path, content in state.files
    }
    with watched(log):
        await judge(folder / "store.db", recording.witness, state.position)
    return Recording(log.root, log, recording.witness, before, state.position)


def states_of(recording: Recording) -> Iterator[State]:
    """Every state that the disk could have been in, at every call of `recording`."""
    calls = recording.log.calls
    disk = Disk(calls, recording.before)
    yield from disk.states(0)
    for at in range(len(calls)):
        disk.apply(at)
        yield from disk.states(at + 1)


def extremes_at(recording: Recording, positions: set[int]) -> list[State]:
    """The two extreme states of the disk at each of `positions`."""
    calls, states = recording.log.calls, list[State]()
    disk = Disk(calls, recording.before)
    for at in range(max(positions, default=-1) + 1):
        if at in positions:
            states += disk.extremes(at)
        if at < len(calls):
            disk.apply(at)
    return states


def distinct_states(recording: Recording) -> tuple[dict[str, int], list[State]]:
    """How many states of each kind there are, and those that differ, each at its last position."""
    kinds: dict[str, int] = {}
    distinct: dict[bytes, State] = {}
    for state in states_of(recording):
        kinds[state.kind] = kinds.get(state.kind, 0) + 1
        distinct[state.digest] = state  # the last one: by then the most was told
    return kinds, list(distinct.values())


def spread(states: Sequence[State], count: int) -> list[State]:
    """`count` of `states`, evenly spread; all when there are not more."""
    if len(states) <= count:
        return list(states)
    return [states[at * len(states) // count] for at in range(count)]


async def lose_power(
    recording: Recording, folder: Path, *, judge_max: int | None = None
) -> Powerless:
    """Judge every distinct state of `recording`, or `judge_max` of them, evenly spread.

    `folder` is empty; states are written into it, one at a time. Raises nothing that a state may
    bring about: it is in what comes back.
    """
    clock = Clock()
    began = clock.boot()
    kinds, distinct = distinct_states(recording)
    wanted = distinct if judge_max is None else spread(distinct, judge_max)
    tally = await judged(recording, wanted, folder)
    return _powerless(recording, kinds, len(distinct), [tally], clock.boot() - began)


def lose_power_in_turns(recording: Recording, folder: Path, jobs: int) -> Powerless:
    """The same for every distinct state, in `jobs` processes, forked here; blocks.

    No event loop may run, and nothing may be open.
    """
    clock = Clock()
    began = clock.boot()
    kinds, distinct = distinct_states(recording)
    with ProcessPoolExecutor(jobs, get_context("fork")) as pool:
        _shares.extend((recording, distinct[at::jobs], folder / str(at)) for at in range(jobs))
        tallies = list(pool.map(_judge_share, range(jobs)))
        _shares.clear()
    return _powerless(recording, kinds, len(distinct), tallies, clock.boot() - began)


_shares: list[tuple[Recording, list[State], Path]] = []
"""What a forked process finds in its memory: nothing of it need be sent."""


def _judge_share(at: int) -> Tally:
    recording, states, folder = _shares[at]
    folder.mkdir()
    return asyncio.run(judged(recording, states, folder))


class Tally(Struct, frozen=True):
    """What a judge found in some states."""

    judged: int
    lost: int
    corrupt: int
    relaxed: int
    flaws: tuple[Flaw, ...]


async def judged(
    recording: Recording, states: Sequence[State], folder: Path, *, in_order: bool = True
) -> Tally:
    """Open each of `states` in `folder`, one after the other, and count what is wrong."""
    lost = corrupt = relaxed = 0
    flaws: list[Flaw] = []
    for state in states:
        verdict = await _verdict(state, recording, folder, in_order)
        lost += bool(verdict.lost)
        corrupt += bool(verdict.corrupt)
        relaxed += bool(verdict.relaxed_gone)
        if (verdict.lost or verdict.corrupt) and len(flaws) < FLAWS_MAX:
            last = recording.log.calls[state.position - 1] if state.position else "nothing"
            flaws.append(Flaw(state.position, state.kind, str(last), verdict))
    return Tally(len(states), lost, corrupt, relaxed, tuple(flaws))


async def _verdict(state: State, recording: Recording, folder: Path, in_order: bool) -> Verdict:
    place = folder / "state"
    place.mkdir()
    try:
        state.write(recording.root, place)
        told = state.position if recording.told is None else recording.told
        return await judge(place / "store.db", recording.witness, told, in_order=in_order)
    finally:
        shutil.rmtree(place)


def _powerless(
    recording: Recording,
    kinds: dict[str, int],
    distinct: int,
    tallies: Sequence[Tally],
    seconds: float,
) -> Powerless:
    return Powerless(
        calls=len(recording.log.calls),
        words=len(recording.witness.words),
        states=sum(kinds.values()),
        distinct=distinct,
        judged=sum(tally.judged for tally in tallies),
        lost=sum(tally.lost for tally in tallies),
        corrupt=sum(tally.corrupt for tally in tallies),
        relaxed=sum(tally.relaxed for tally in tallies),
        seconds=seconds,
        engine=apsw.sqlite_lib_version(),
        faults=kinds,
        flaws=tuple(flaw for tally in tallies for flaw in tally.flaws)[:FLAWS_MAX],
    )


# --- make powerloss -------------------------------------------------------------------------------


def lose_power_everywhere(jobs: int = 1) -> Powerless:
    """The whole plan of a witness, every distinct state judged; blocks for minutes."""
    with _folders() as (run, states):
        return lose_power_in_turns(asyncio.run(record(run)), states, jobs)


async def lose_power_twice(first_max: int = 60, second_max: int = 60) -> Powerless:
    """Power loss, and again while the store recovers from it and is written to once more.

    `first_max` states of the whole plan, evenly spread, and of the recovery of each `second_max`.
    """
    clock = Clock()
    began = clock.boot()
    found: list[Powerless] = []
    with _folders() as (run, states):
        recording = await record(run)
        _, distinct = distinct_states(recording)
        for number, state in enumerate(spread(distinct, first_max)):
            place = run / f"again-{number}"
            place.mkdir()
            again = await record_recovery(recording, state, place)
            found.append(await lose_power(again, states, judge_max=second_max))
            shutil.rmtree(place)
    return Powerless(
        calls=sum(one.calls for one in found),
        words=len(recording.witness.words),
        states=sum(one.states for one in found),
        distinct=sum(one.distinct for one in found),
        judged=sum(one.judged for one in found),
        lost=sum(one.lost for one in found),
        corrupt=sum(one.corrupt for one in found),
        relaxed=sum(one.relaxed for one in found),
        seconds=clock.boot() - began,
        engine=apsw.sqlite_lib_version(),
        faults=dict(sum((Counter(one.faults) for one in found), Counter[str]())),
        flaws=tuple(flaw for one in found for flaw in one.flaws)[:FLAWS_MAX],
    )


@contextmanager
def _folders() -> Iterator[tuple[Path, Path]]:
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as place:
        run, states = Path(place, "run"), Path(place, "states")
        run.mkdir()
        states.mkdir()
        yield run, states


def line_of(name: str, found: Powerless) -> str:
    """What `make powerloss` says of a run."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in found.faults.items())
    return (
        f"{name}: {found.states} states ({kinds}), {found.distinct} distinct, {found.judged} "
        f"judged; lost {found.lost}, corrupt {found.corrupt}, relaxed batches gone in "
        f"{found.relaxed} (allowed); SQLite {found.engine}, {found.seconds:.0f} s"
    )


def main() -> int:
    """Print what was found; 1 when something was lost or is corrupt."""
    code = 0
    runs: dict[str, Callable[[], Powerless]] = {
        "power loss": lambda: lose_power_everywhere(os.cpu_count() or 1),
        "again while it recovers": lambda: asyncio.run(lose_power_twice()),
    }
    for name, run in runs.items():
        found = run()
        print(line_of(name, found), flush=True)
        for flaw in found.flaws:
            wrong = "; ".join((*flaw.verdict.lost, *flaw.verdict.corrupt))
            print(f"  {flaw.kind}, behind call {flaw.position} ({flaw.before}): {wrong}")
        code |= bool(found.lost or found.corrupt)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
