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
import sys
import tempfile
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import apsw
from msgspec import Struct

from outlive.clock import Clock
from outlive.testing.disk import Call, Watch, WatchedFiles, watched
from outlive.testing.witness import PLAN, Do, Verdict, Witness, judge

SECTOR_BYTES = 512
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder in memory: a state is written, read, thrown away
FLAWS_MAX = 20
"""Flawed states that are described; all are counted."""


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

    def bytes(self) -> bytes:
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
        return blake2b(self.bytes(), digest_size=16).digest()


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
        self.base = _Content(self.base, calls, tuple(map(_Piece, self.pending))).bytes()
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
            target.write_bytes(content.bytes())


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
        for path, data in (before or {}).items():
            file = _File()
            file.base = data
            self._names[path] = self._now[path] = file

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
        elif call.what != "folder":  # a folder is there when anything in it is
            if call.what == "create":
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
        return self._calls[at].what in ("create", "delete", "rename")

    def _rename(self, names: dict[str, _File], at: int) -> None:
        call, file = self._calls[at], self._file_of[at]
        if call.what == "create":
            names[call.path] = file
            return
        if names.get(call.path) is file:
            del names[call.path]
        if call.what == "rename":
            names[call.target] = file

    def states(self, position: int) -> Iterator[State]:
        """Every state that the disk may be in now; `position` calls were made."""
        pending = [_Piece(at) for at in self._pending]
        yield self._state(position, "flushed only", ())
        yield self._state(position, "everything", pending)
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
        whole = blake2b(digest_size=16)
        files = []
        for path in sorted(names):
            file = names[path]
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
    """A run of a witness on a watched disk."""

    root: str
    log: Log
    witness: Witness
    before: dict[str, bytes] = {}


async def record(
    folder: Path, plan: Sequence[Do] = PLAN, *, lazy: type[WatchedFiles] | None = None
) -> Recording:
    """Let a witness work in `folder`, which is empty, and write everything down.

    `lazy`: the files of its blobs are these (to plant a bug). The store is closed at the end.
    """
    log = Log(folder)
    with watched(log) as disk:
        files = disk.files if lazy is None else lazy(log)
        witness = Witness(folder / "store.db", log.position, files)
        await witness.work(plan)
        await witness.close()
    return Recording(log.root, log, witness)


def states_of(recording: Recording) -> Iterator[State]:
    """Every state that the disk could have been in, at every call of `recording`."""
    calls = recording.log.calls
    disk = Disk(calls, recording.before)
    yield from disk.states(0)
    for at in range(len(calls)):
        disk.apply(at)
        yield from disk.states(at + 1)


async def lose_power(
    recording: Recording, folder: Path, *, judge_max: int | None = None
) -> Powerless:
    """Judge every distinct state of `recording`, or about `judge_max` of them, evenly spread.

    `folder` is empty; states are written into it, one at a time. Raises nothing that a state may
    bring about: it is in what comes back.
    """
    clock = Clock()
    began = clock.boot()
    kinds: dict[str, int] = {}
    distinct: dict[bytes, State] = {}
    for state in states_of(recording):
        kinds[state.kind] = kinds.get(state.kind, 0) + 1
        distinct[state.digest] = state  # the last one: by then the most was told
    wanted = list(distinct.values())
    if judge_max is not None:
        wanted = wanted[:: max(1, len(wanted) // judge_max)]
    lost = corrupt = relaxed = 0
    flaws: list[Flaw] = []
    for state in wanted:
        verdict = await _judged(state, recording, folder)
        lost += bool(verdict.lost)
        corrupt += bool(verdict.corrupt)
        relaxed += bool(verdict.relaxed_gone)
        if (verdict.lost or verdict.corrupt) and len(flaws) < FLAWS_MAX:
            last = recording.log.calls[state.position - 1] if state.position else "nothing"
            flaws.append(Flaw(state.position, state.kind, str(last), verdict))
    return Powerless(
        calls=len(recording.log.calls),
        words=len(recording.witness.words),
        states=sum(kinds.values()),
        distinct=len(distinct),
        judged=len(wanted),
        lost=lost,
        corrupt=corrupt,
        relaxed=relaxed,
        seconds=clock.boot() - began,
        engine=apsw.sqlite_lib_version(),
        faults=kinds,
        flaws=tuple(flaws),
    )


async def _judged(state: State, recording: Recording, folder: Path) -> Verdict:
    place = folder / "state"
    place.mkdir()
    try:
        state.write(recording.root, place)
        return await judge(place / "store.db", recording.witness, state.position)
    finally:
        shutil.rmtree(place)
