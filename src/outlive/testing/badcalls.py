"""A disk that fails at its N-th call, for every N there is; the store says the truth or "unknown".

    count     one run undisturbed: how many calls of each sort a witness makes
    fail      for each of them a run of its own, in which that call fails
    judge     the store is opened again on a sound disk, and held against the witness's words; and
              so is what lies on the disk if the power goes too, just when an error was answered

    error     the call is refused with an I/O error, once
    full      the write is refused because the disk is full, once
    short     the read or write of the operating system does half of what was asked for, once
    broken    this call and every later one is refused, until the store is closed

What must hold: what was acknowledged is there; what was answered with "nothing was written" is not
there, ever (P13); `OutcomeUnknown` may be either; nothing is half there; the file takes a write.

Not covered: calls on the shared memory and the unlocking of locks (SQLite cannot be told that they
failed), errors that a disk reports later than at the next flush, and memory that runs out.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import apsw
from msgspec import Struct

from outlive.clock import Clock
from outlive.testing.disk import Call, Watch, watched
from outlive.testing.powerloss import MEMORY, Log, Recording, Tally, extremes_at, judged
from outlive.testing.shortcalls import ShortCalls
from outlive.testing.witness import REFUSED_FROM, SHORT_PLAN, Do, Verdict, Witness, judge

Fault = Literal["error", "full", "short", "broken"]
FAULTS: tuple[Fault, ...] = ("error", "full", "short", "broken")
FLAWS_MAX = 20
"""Runs with a flaw that are described; all are counted."""
_EXTENDED = {
    "access": apsw.SQLITE_IOERR_ACCESS,
    "delete": apsw.SQLITE_IOERR_DELETE,
    "lock": apsw.SQLITE_IOERR_LOCK,
    "read": apsw.SQLITE_IOERR_READ,
    "size": apsw.SQLITE_IOERR_FSTAT,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "write": apsw.SQLITE_IOERR_WRITE,
}


class BadDisk(Watch):
    """Lets the call number `at` (from 1) fail as `fault` says; 0: none.

    Counts the calls that the fault could strike, and writes down in `log` what was done.
    """

    def __init__(self, folder: Path, fault: Fault, at: int = 0) -> None:
        self.fault, self.at = fault, at
        self.log = Log(folder)
        self.met = 0
        self.whats: list[str] = []
        """What each call was that could have failed."""
        self.failed: Call | None = None
        self.sound = False

    def before(self, call: Call) -> None:
        if self.fault == "short" or (self.fault == "full" and call.what != "write"):
            return
        if self._is_bad(call):
            raise _error_of(self.fault, call)

    def after(self, call: Call) -> None:
        self.log.after(call)

    def _is_bad(self, call: Call) -> bool:
        if self.sound:
            return False
        self.met += 1
        self.whats.append(call.what)
        bad = self.met == self.at or (self.fault == "broken" and 0 < self.at <= self.met)
        if bad and self.failed is None:
            self.failed = call
        return bad


def _error_of(fault: Fault, call: Call) -> apsw.Error:
    if fault == "full":
        return apsw.FullError(f"{os.strerror(errno.ENOSPC)} at {call}")
    if call.what in ("create", "open"):
        return apsw.CantOpenError(f"the disk failed at {call}")
    error: Any = apsw.IOError(f"the disk failed at {call}")
    error.extendedresult = _EXTENDED.get(call.what, apsw.SQLITE_IOERR)
    failed: apsw.Error = error
    return failed


class Mishap(Struct, frozen=True):
    """A run in which something was answered that is not so."""

    fault: str
    at: int
    call: str
    state: str
    """When it is so: afterwards, or after a power loss too."""
    verdict: Verdict


class BadCalls(Struct, frozen=True):
    """What came of failing calls."""

    runs: int
    """Runs in which the call that was to fail was met."""
    power_losses: int
    """States of the disk after a power loss on top of it, all judged."""
    lost: int
    """Runs after which something acknowledged was missing."""
    corrupt: int
    """Runs after which something else was wrong, a false "nothing was written" among it."""
    errors: int
    """Answers that were errors, over all runs."""
    unknown: int
    """Answers that were `OutcomeUnknown`."""
    seconds: float
    engine: str
    faults: dict[str, int]
    """How many runs of each fault, by the call that it struck, such as `error at sync`."""
    flaws: tuple[Mishap, ...] = ()


class Run(Struct, frozen=True):
    """One run on a bad disk."""

    bad: BadDisk
    witness: Witness
    verdict: Verdict
    """Afterwards, on a sound disk."""
    power: Tally
    """After power losses when errors were answered."""


async def fail_at(folder: Path, fault: Fault, at: int, plan: Sequence[Do] = SHORT_PLAN) -> Run:
    """One run in `folder`, which is empty, with that fault; then the judge, on a sound disk."""
    run, states = folder / "run", folder / "states"
    run.mkdir()
    states.mkdir()
    bad = BadDisk(run, fault, at)
    log = bad.log
    short = ShortCalls(at) if fault == "short" else nullcontext()
    with short as calls, watched(bad) as disk:
        witness = Witness(run / "store.db", log.position, disk.files)
        await witness.work(plan)
        await witness.close()
        bad.sound = True
    if calls is not None:
        bad.whats = calls.names
        if 0 < at <= len(calls.names):
            bad.failed = Call("read" if calls.names[at - 1] == "pread64" else "write", "")
    verdict = await judge(run / "store.db", witness, log.position(), in_order=False)
    recording = Recording(log.root, log, witness)
    when = {position for number, position in witness.refused.items() if number < REFUSED_FROM}
    power = await judged(recording, extremes_at(recording, when), states, in_order=False)
    return Run(bad, witness, verdict, power)


async def count_calls(folder: Path, fault: Fault, plan: Sequence[Do] = SHORT_PLAN) -> list[str]:
    """What each call is that this fault could strike, in order. `folder` is empty."""
    run = await fail_at(folder, fault, 0, plan)
    if run.verdict.lost or run.verdict.corrupt:
        raise AssertionError(f"it is wrong without a fault: {run.verdict}")
    run.witness.demand_written()
    if not run.bad.whats:
        raise AssertionError(f"there is no call that {fault!r} could strike")
    return run.bad.whats


async def fail_each(
    folder: Path, fault: Fault, wanted: Sequence[int], plan: Sequence[Do] = SHORT_PLAN
) -> BadCalls:
    """A run for each number in `wanted`, in an empty `folder`."""
    clock = Clock()
    began = clock.boot()
    faults: Counter[str] = Counter()
    runs: list[Run] = []
    flaws: list[Mishap] = []
    for at in wanted:
        place = folder / f"{fault}-{at}"
        place.mkdir()
        run = await fail_at(place, fault, at, plan)
        shutil.rmtree(place)
        if (failed := run.bad.failed) is None:
            continue
        runs.append(run)
        faults[f"{fault} at {failed.what}"] += 1
        if run.verdict.lost or run.verdict.corrupt:
            flaws.append(Mishap(fault, at, str(failed), "afterwards", run.verdict))
        for flaw in run.power.flaws:
            said = f"power lost behind call {flaw.position}, {flaw.kind}"
            flaws.append(Mishap(fault, at, str(failed), said, flaw.verdict))
    return BadCalls(
        runs=len(runs),
        power_losses=sum(run.power.judged for run in runs),
        lost=sum(bool(run.verdict.lost or run.power.lost) for run in runs),
        corrupt=sum(bool(run.verdict.corrupt or run.power.corrupt) for run in runs),
        errors=sum(len(run.witness.errors) for run in runs),
        unknown=sum(len(run.witness.unknown) for run in runs),
        seconds=clock.boot() - began,
        engine=apsw.sqlite_lib_version(),
        faults=dict(faults),
        flaws=tuple(flaws[:FLAWS_MAX]),
    )


# --- make powerloss -------------------------------------------------------------------------------


def fail_everywhere(jobs: int = 1) -> BadCalls:
    """Every fault at every call it can strike, in `jobs` processes; blocks for minutes."""
    clock = Clock()
    began = clock.boot()
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as place:
        shares: list[tuple[str, Fault, list[int]]] = []
        for fault in FAULTS:
            folder = Path(place, fault)
            folder.mkdir()
            whats = asyncio.run(count_calls(folder, fault))
            numbers = list(range(1, len(whats) + 1))
            for job in range(jobs):
                part = Path(place, f"{fault}-part-{job}")
                part.mkdir()
                shares.append((str(part), fault, numbers[job::jobs]))
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            found = list(pool.map(_fail_share, *zip(*shares, strict=True)))
    return BadCalls(
        runs=sum(one.runs for one in found),
        power_losses=sum(one.power_losses for one in found),
        lost=sum(one.lost for one in found),
        corrupt=sum(one.corrupt for one in found),
        errors=sum(one.errors for one in found),
        unknown=sum(one.unknown for one in found),
        seconds=clock.boot() - began,
        engine=apsw.sqlite_lib_version(),
        faults=dict(sum((Counter(one.faults) for one in found), Counter[str]())),
        flaws=tuple(flaw for one in found for flaw in one.flaws)[:FLAWS_MAX],
    )


def _fail_share(place: str, fault: Fault, wanted: list[int]) -> BadCalls:
    return asyncio.run(fail_each(Path(place), fault, wanted))


def main() -> int:
    """Print what was found; 1 when something was lost, or an answer was false."""
    found = fail_everywhere(os.cpu_count() or 1)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(found.faults.items()))
    print(
        f"failing calls: {found.runs} runs ({kinds}), {found.power_losses} power losses on top; "
        f"{found.errors} errors answered, {found.unknown} of them unknown; "
        f"lost {found.lost}, corrupt or falsely denied {found.corrupt}; "
        f"SQLite {found.engine}, {found.seconds:.0f} s"
    )
    for flaw in found.flaws:
        wrong = "; ".join((*flaw.verdict.lost, *flaw.verdict.corrupt))
        print(f"  {flaw.fault} at call {flaw.at} ({flaw.call}), {flaw.state}: {wrong}")
    return int(bool(found.lost or found.corrupt))


if __name__ == "__main__":
    raise SystemExit(main())
