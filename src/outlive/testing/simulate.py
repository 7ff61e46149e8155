"""Deterministic simulation of whole clusters: same seed, same run, whatever goes wrong in it.

    python -m outlive.testing.simulate                      a minute of seeds, and what came of them
    python -m outlive.testing.simulate --seeds 1-500        these seeds
    python -m outlive.testing.simulate --seed 17            one of them again, with its story

Nodes, clients and the dice of the faults run in one thread on virtual time (turns.py): the runtime
and the SQLite store of production, on a real file; what is simulated is the clock, the threads, the
order of turns, and death. Faults (faults.py) come while clients (workload.py, or your own) use the
cluster; then all is healed, what was begun comes to its end, and every oracle is asked.

A seed that finds a violation is made smaller (`shrunk`): fewer faults, fewer nodes, less time, as
long as something is still found. What is left is printed as one command that repeats it.

Word it as it is: a run shows no violation that *this search* found.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from outlive import ids, steps
from outlive.clock import Clock
from outlive.kinds.processes import limits
from outlive.runtime import node, ownership
from outlive.stores import sqlite
from outlive.testing.asked import faults_of, minutes_of, seconds_of, seeds_of
from outlive.testing.cluster import Cluster
from outlive.testing.faults import Fault, drawn
from outlive.testing.oracles import (
    Facts,
    facts_of,
    p1_acknowledged_is_durable,
    p4_one_effective_holder,
    p5_one_answer_per_key,
    p6_work_ends_once,
    p7_journal_grammar,
    p8_nothing_is_stuck,
    p9_tails_are_dense,
    p10_chain_verifies,
)
from outlive.testing.promises import (
    PROMISES,
    p9_readers_saw_the_journal,
    p12_nothing_is_left,
)
from outlive.testing.turns import NothingLeft, Turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outlive.app import Outlive

NODES = 3
SECONDS = 60.0
"""How long faults come, in simulated seconds at the pace of production."""
PACES = (1.0, 40.0, 5.0, 40.0, 5.0, 40.0, 40.0, 40.0)
"""The pace of each seed, by its last digit to base eight."""
SETTLE_SECONDS = 1200.0
"""Simulated seconds within which everything has ended once no fault lasts any longer."""
REST_SECONDS = 15.0
SECONDS_MIN = 5.0
"""A failing case is not made shorter than this."""
FLAWS_MAX = 20
TRIES_OF_USERS = 30
QUICK = Path("/dev/shm")
"""Where a file costs no disk; power loss is another search."""
LEFT_MAX = {"batches that wait": 0, "commands under way": 0, "loads": 0, "processes in memory": 0}

Work = Callable[[Cluster], Awaitable[Any]]
Check = Callable[[Cluster, Facts], Awaitable[list[str]]]


class Case(Struct, frozen=True):
    """One run: everything in it follows from these."""

    seed: int
    nodes: int = NODES
    seconds: float = 0.0
    """How long faults come; 0: as long as the seed's pace says."""
    faults: tuple[int, ...] | None = None
    """The numbers of the faults that are let happen; None: all that the seed draws."""

    @property
    def pace(self) -> float:
        """How many times as rarely as in production the nodes look around: most seeds run through
        more hours, some are exactly as quick."""
        return PACES[self.seed % len(PACES)]

    @property
    def stretch(self) -> float:
        """How many times as long leases, faults and thoughts are: a lease has ten looks or more."""
        return max(1.0, self.pace / 5)

    @property
    def lasts(self) -> float:
        """How long faults come."""
        return self.seconds or SECONDS * self.pace

    def drawn(self) -> list[Fault]:
        """The faults that happen in it."""
        dice = ids.seeded(f"faults {self.seed}")
        chosen = self.faults
        found = drawn(dice, self.lasts, self.nodes, self.stretch)
        return [one for one in found if chosen is None or one.number in chosen]

    @property
    def options(self) -> str:
        """How the command line says it."""
        said = f"--seed {self.seed}"
        said += f" --nodes {self.nodes}" if self.nodes != NODES else ""
        said += f" --seconds {self.seconds:g}" if self.seconds else ""
        if self.faults is not None:
            said += f" --faults {','.join(map(str, self.faults)) or '-'}"
        return said


class Found(Struct, frozen=True):
    """What came of one case."""

    case: Case
    violations: list[str]
    faults: dict[str, int]
    counts: dict[str, int]
    simulated_seconds: float
    turns: int
    digest: str


class Report(Struct, frozen=True):
    """What came of many."""

    seeds: int
    simulated_hours: float
    """Of clusters; times the nodes it is hours of nodes."""
    nodes: int
    faults: dict[str, int]
    counts: dict[str, int]
    turns: int
    seconds: float
    violations: dict[str, list[str]]
    """By the options that repeat it."""


# --- one run --------------------------------------------------------------------------------------


def run_case(
    case: Case, app: Outlive | None = None, clients: Work | None = None, check: Check | None = None
) -> Found:
    """Run one case to its end, and ask every oracle.

    `app`: your application, whose declarations every node runs; `clients(cluster)` uses the cluster
    until `cluster.over` and comes to its end; `check(cluster, facts)` gives what it finds wrong
    afterwards, as sentences. Without them it is the service of `workload.py`. Raises `ValueError`
    for a case that cannot be. Not to be called inside of a running event loop.
    """
    if not 1 <= case.nodes <= 16 or not 0 <= case.seconds < math.inf:
        raise ValueError("a case has 1 to 16 nodes and lasts some seconds")
    threaded = [made.name for made in (app._all.values() if app else ()) if not made.is_async]
    if threaded:
        raise ValueError(f"{threaded[0]} has a synchronous body, whose thread no seed can deal")
    loop = Turns(ids.seeded(f"turns {case.seed}"))
    base = QUICK if os.access(QUICK, os.W_OK) else None
    unexpected = _Unexpected()
    loop.set_exception_handler(unexpected.in_loop)
    log = logging.getLogger("outlive")
    kept = log.level, log.propagate
    log.addHandler(unexpected)
    log.propagate = False
    try:
        with (
            tempfile.TemporaryDirectory(prefix="outlive-", dir=base) as folder,
            ids.drawn_from(ids.seeded(f"ids {case.seed}")),
        ):
            run = _Run(case, loop, Path(folder), unexpected)
            try:
                return loop.run_until_complete(run.all(app, clients, check))
            except NothingLeft as error:
                return run.found([f"P8: {error}"])
            finally:
                run.end()
                loop.close()
    finally:
        log.removeHandler(unexpected)
        log.setLevel(kept[0])
        log.propagate = kept[1]


class _Unexpected(logging.Handler):
    """What the program itself holds for a fault of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.flaws: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._add(record.getMessage(), error)

    def in_loop(self, _loop: Any, context: dict[str, Any]) -> None:
        """Told of what a callback raised. What nobody retrieved is told when memory is freed, so
        at no certain time: it is left out."""
        if "handle" in context:
            self._add(str(context.get("message")), context.get("exception"))

    def _add(self, said: str, error: BaseException | None) -> None:
        self.flaws.append(f"unexpected: {said}: {error!r}{_place(error)}")


def _place(error: BaseException | None) -> str:
    trace = error.__traceback__ if error is not None else None
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


class _Run:
    """One run under way."""

    def __init__(self, case: Case, loop: Turns, folder: Path, unexpected: _Unexpected) -> None:
        self.case, self.loop, self.folder = case, loop, folder
        self.unexpected = unexpected
        self.cluster: Cluster | None = None
        self.faults = case.drawn()

    async def all(self, app: Outlive | None, clients: Work | None, check: Check | None) -> Found:
        """From the first start to the last question."""
        case, loop = self.case, self.loop
        if app is None or clients is None:
            from outlive.testing import workload

            app = workload.app
        dice = ids.seeded(f"clients {case.seed}")
        cluster = self.cluster = Cluster(
            app, self.folder / "store.db", loop, dice, case.nodes, stretch=case.stretch
        )
        if clients is None:
            users = workload.Clients(cluster)
            clients, check = (lambda _: users.work()), (lambda _, facts: users.check(facts))
        await self._use(cluster, clients)
        flaws = list(cluster.flaws)
        if not flaws:
            flaws = await self._ask(cluster, check)
        return self.found([*flaws, *self.unexpected.flaws])

    async def _use(self, cluster: Cluster, clients: Work) -> None:
        loop = self.loop
        with _one_program(cluster, self.case.pace):
            await cluster.open()
            watching = loop.create_task(cluster.watch())
            using = loop.create_task(_as_task(clients(cluster)))
            for fault in self.faults:
                await asyncio.sleep(max(0.0, fault.at - loop.seconds))
                cluster.strike(fault)
            await asyncio.sleep(max(0.0, self.case.lasts - loop.seconds))
            cluster.heal()
            done, _ = await asyncio.wait({using}, timeout=SETTLE_SECONDS * cluster.stretch)
            if not done:
                cluster.flaws.append("P8: what clients began has not come to its end")
                cluster.flaws += p8_nothing_is_stuck(await facts_of(cluster.eye))
            elif (error := using.exception()) is not None:
                cluster.flaws.append(f"a client failed: {_why(error)}")
            await asyncio.sleep(REST_SECONDS * cluster.stretch)
            watching.cancel()
            await cluster.read_on()

    async def _ask(self, cluster: Cluster, check: Check | None) -> list[str]:
        """Every oracle that there is."""
        facts = await facts_of(cluster.eye)
        known = {id for ids in cluster.acknowledged.values() for id in ids}
        children = {id for id, found in facts.processes.items() if found.head.parent}
        theirs = Facts(
            facts.shards, facts.holds, facts.tails,
            {id: found for id, found in facts.processes.items() if id not in children},
        )  # fmt: skip
        flaws = [
            *p1_acknowledged_is_durable(facts, known),
            *p4_one_effective_holder(facts),
            *p5_one_answer_per_key(theirs, cluster.acknowledged),
            *p6_work_ends_once(facts, known | children),
            *p7_journal_grammar(facts),
            *p8_nothing_is_stuck(facts),
            *p9_tails_are_dense(facts),
            *p9_readers_saw_the_journal(facts, cluster.tails),
            *p10_chain_verifies(facts),
        ]
        for id, status in cluster.seen.items():
            found = facts.processes.get(id)
            if found is None or found.head.status != status:
                flaws.append(f"P1: a client was told that {id} is {status}, and it is not")
        for seat in cluster.seats:
            flaws += seat.weather.flaws
            flaws += _left(seat)
        if check is not None:
            flaws += await check(cluster, facts)
        return flaws

    def found(self, flaws: Sequence[str]) -> Found:
        """What came of it."""
        cluster = self.cluster
        assert cluster is not None
        faults = Counter(fault.kind for fault in self.faults)
        hits: Counter[str] = Counter()
        for seat in cluster.seats:
            hits.update(seat.weather.hits)
        counts = dict(cluster.counts) | {f"calls hit by {kind}": n for kind, n in hits.items()}
        counts["lives"] = sum(seat.lives for seat in cluster.seats)
        counts["processes"] = sum(map(len, cluster.acknowledged.values()))
        return Found(
            self.case, list(flaws)[:FLAWS_MAX], dict(sorted(faults.items())),
            dict(sorted(counts.items())), self.loop.micros / 1e6, self.loop.turns, cluster.digest,
        )  # fmt: skip

    def end(self) -> None:
        """Leave nothing behind."""
        if self.cluster is not None:
            self.cluster.end()


async def _as_task(work: Awaitable[Any]) -> Any:
    return await work


def _why(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{error!r}{_place(error)}"


def _left(seat: Any) -> list[str]:
    """What a node still holds although nothing is under way."""
    runtime = seat.app._runtime if seat.app is not None else None
    if runtime is None or not seat.ready:
        return []
    activations = runtime.activations
    counted = {
        "batches that wait": runtime.committer.pending,
        "commands under way": len(activations.obeying),
        "loads": len(activations._loading),
        "processes in memory": len(activations.live),
    }
    return p12_nothing_is_left(f"node {seat.number}", counted, LEFT_MAX)


@contextmanager
def _one_program(cluster: Cluster, pace: float) -> Iterator[None]:
    """While it is open the cluster is told of each call of a step, and the nodes do not see that
    they are one program: what the kernel says of its pid is true of none of them. What is done
    again and again by the clock is done `pace` times as rarely."""
    set_attempt = steps.set_attempt

    def seen(attempt: steps.Attempt) -> object:
        cluster.step_begins(attempt)
        return set_attempt(attempt)

    changed: list[tuple[Any, str, Any]] = [
        (steps, "set_attempt", seen),
        (limits, "_coming", itertools.count()),
        (ownership, "home", lambda: ""),
        (ownership, "start_time", lambda _: 0),
        (ownership, "TICK_SECONDS", ownership.TICK_SECONDS * pace),
        (ownership, "QUICK_TICK_SECONDS", ownership.QUICK_TICK_SECONDS * pace),
        (sqlite, "POLL_SECONDS", sqlite.POLL_SECONDS * pace),
        (node, "PUMP_SECONDS_MAX", node.PUMP_SECONDS_MAX * pace),
    ]
    kept = [(module, name, getattr(module, name)) for module, name, _ in changed]
    for module, name, value in changed:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


# --- making it smaller ----------------------------------------------------------------------------


def shrunk(case: Case, fails: Callable[[Case], bool], tries_max: int = 60) -> Case:
    """The smallest case near `case` of which `fails` is still true, in at most `tries_max` runs:
    less time, fewer nodes, fewer faults. `case` itself when it does not fail again."""
    tries = 0

    def still(trial: Case) -> bool:
        nonlocal tries
        tries += 1
        return tries <= tries_max and fails(trial)

    best = msgspec.structs.replace(case, faults=tuple(one.number for one in case.drawn()))
    if not still(best):
        return case
    while best.lasts >= 2 * SECONDS_MIN:
        less = msgspec.structs.replace(best, seconds=float(round(best.lasts / 2)))
        less = msgspec.structs.replace(less, faults=tuple(one.number for one in less.drawn()))
        if not still(less):
            break
        best = less
    for nodes in range(1, best.nodes):
        fewer = msgspec.structs.replace(best, nodes=nodes)
        if still(fewer):
            best = fewer
            break
    size = len(best.faults or ())
    while size and tries < tries_max:
        first = 0
        while first < len(best.faults or ()):
            kept = best.faults or ()
            fewer = msgspec.structs.replace(best, faults=kept[:first] + kept[first + size :])
            if still(fewer):
                best = fewer
            else:
                first += size
        size = min(size // 2, len(best.faults or ()))
    return best


# --- of your own application ----------------------------------------------------------------------


def run(
    app: Outlive,
    clients: Work,
    check: Check | None = None,
    *,
    seeds: Iterable[int] = range(1, 11),
    nodes: int = NODES,
    seconds: float = 0.0,
) -> Report:
    """Simulate clusters of `app`, one for each of `seeds`; gives what happened in them.

    `clients(cluster)`: uses the cluster until `cluster.over`, then comes to its end; it begins with
    an outside that is new. `check(cluster, facts)`: gives what is wrong afterwards, as sentences,
    beside what the oracles of outlive find. `nodes`: 1 to 16. `seconds`: how long faults come
    (virtual; 0: 60 to 2400, as the seed says). Raises `AssertionError` at the first seed that finds
    a violation, with the smallest case that still does, for `run_case`; `ValueError`: no seeds.
    """

    def of_app(case: Case) -> Found:
        return run_case(case, app, clients, check)

    def told(found: Found) -> None:
        if found.violations:
            small = shrunk(found.case, lambda case: bool(of_app(case).violations), TRIES_OF_USERS)
            flaws = "\n".join(of_app(small).violations)
            again = f"run_case(repeated({small.options!r}), app, clients, check)"
            raise AssertionError(f"{flaws}\nrepeat it by simulate.{again}")

    report = search((Case(seed, nodes, seconds) for seed in seeds), run=of_app, told=told)
    if not report.seeds:
        raise ValueError("no seeds were given, so nothing was simulated")
    return report


# --- many runs ------------------------------------------------------------------------------------


def repeated(options: str) -> Case:
    """The case that `options` name, as `Case.options` says them. Raises `ValueError`."""
    words = options.split()
    said = dict(zip(words[::2], words[1::2], strict=True))
    if "--seed" not in said or said.keys() - _OPTIONS:
        raise ValueError(f"{options!r} names no case: write it like --seed 17 --nodes 2")
    faults = said.get("--faults")
    return Case(
        int(said["--seed"]),
        int(said.get("--nodes", NODES)),
        float(said.get("--seconds", 0)),
        None if faults is None else faults_of(faults),
    )


_OPTIONS = frozenset(("--seed", "--nodes", "--seconds", "--faults"))


def search(
    cases: Iterable[Case],
    *,
    minutes: float | None = None,
    run: Callable[[Case], Found] = run_case,
    told: Callable[[Found], None] | None = None,
) -> Report:
    """Run `cases` one after the other, at most for so many real `minutes`; gives what came of them.

    `told` is called with what came of each. The whole is as repeatable as each case, but for how
    many there was time for.
    """
    clock = Clock()
    began = clock.boot()
    faults: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    violations: dict[str, list[str]] = {}
    seeds, seconds, turns, nodes = 0, 0.0, 0, 0
    for case in cases:
        if minutes is not None and clock.boot() - began >= minutes * 60:
            break
        found = run(case)
        seeds, nodes = seeds + 1, case.nodes
        seconds, turns = seconds + found.simulated_seconds, turns + found.turns
        faults.update(found.faults)
        counts.update(found.counts)
        if found.violations:
            violations[case.options] = found.violations
        if told is not None:
            told(found)
    return Report(
        seeds, seconds / 3600, nodes, dict(sorted(faults.items())), dict(sorted(counts.items())),
        turns, clock.boot() - began, violations,
    )  # fmt: skip


def lines_of(report: Report) -> list[str]:
    """A report for people."""
    hours = report.simulated_hours
    found = [
        f"{report.seeds} seeds, {hours:.1f} simulated hours of {report.nodes} nodes in"
        f" {report.seconds:.0f} s; {report.turns:,} turns",
        "faults: " + ", ".join(f"{count} {kind}" for kind, count in report.faults.items()),
        "seen: " + ", ".join(f"{count} {what}" for what, count in report.counts.items()),
        "not looked for: "
        + "; ".join(f"{name}: {why}" for name, why in PROMISES.items() if isinstance(why, str)),
        f"violations: {len(report.violations)}",
    ]
    for options, flaws in report.violations.items():
        found += [f"  python -m outlive.testing.simulate {options}", *(f"    {f}" for f in flaws)]
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m outlive.testing.simulate", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seeds", type=seeds_of, help="from-to, both included")
    which.add_argument("--seed", type=int, help="one seed, with its faults as they come")
    parser.add_argument("--minutes", type=minutes_of, help="at most so long (1 without any seeds)")
    parser.add_argument("--nodes", type=int, choices=range(1, 17), default=NODES)
    parser.add_argument("--seconds", type=seconds_of, default=0.0, help="how long faults come")
    parser.add_argument("--faults", type=faults_of, help="only these, with commas; - for none")
    parser.add_argument("--keep", action="store_true", help="do not make a failing seed smaller")
    parser.add_argument("--report", choices=("text", "json"), default="text")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives 1 when a violation was found."""
    given = (parser := _parser()).parse_args(arguments)
    if given.faults is not None and given.seed is None:
        parser.error("--faults are those of one --seed")
    seeds = given.seeds or (range(1, 1_000_001) if given.seed is None else [given.seed])
    cases = (Case(seed, given.nodes, given.seconds, given.faults) for seed in seeds)
    minutes = given.minutes
    if minutes is None and given.seeds is None and given.seed is None:
        minutes = 1.0
    text = given.report == "text"
    if given.seed is not None and text:
        for fault in Case(given.seed, given.nodes, given.seconds, given.faults).drawn():
            print(fault)

    def told(found: Found) -> None:
        if text and found.violations:
            print(f"{found.case.options}: {found.violations[0]}", flush=True)
            if not given.keep:
                small = shrunk(found.case, lambda case: bool(run_case(case).violations))
                print(f"  smaller: python -m outlive.testing.simulate {small.options}", flush=True)
        if text and given.seed is not None:
            print(f"digest {found.digest}")

    report = search(cases, minutes=minutes, told=told)
    print("\n".join(lines_of(report)) if text else msgspec.json.encode(report).decode())
    return int(bool(report.violations))


def _same_everywhere() -> None:
    """Begin again with sets in one order for every run of this program: Python draws it anew."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]])


if __name__ == "__main__":
    _same_everywhere()
    sys.exit(main())
