"""Durable processes side by side: outlive, DBOS and what is written by hand, in one run.

A machine is noisy from minute to minute, so the peers take turns in every round and at every
concurrency, a ratio is taken within a round, and what is shown is the median over the rounds. Work:
processes of five trivial steps, each step durable before the next begins. Much of such a
process's work is its start and its end, so the steps have a figure of their own: processes of a
hundred steps, as many at a time as the greatest concurrency.

    processes/s        count by wall seconds of the work alone (the interpreter's start is left out)
    CPU ms             user and system time of the peer's interpreter, all threads, a process
    server CPU ms      the same of the database's server with all its sessions, where there is one
    steps/s            of the long processes
    recovery           N processes wait in their third step; kill -9; seconds from the restart of
                       the interpreter until all have ended

What else is counted is the ground's: see grounds.py.

    make bench                                 measure on SQLite and print
    make bench WRITE=1                         … and put the table into docs/benchmarks.md
    make bench-postgres                        the same on PostgreSQL
    bench/processes.py --quick                 one short round: does it run at all?
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from subprocess import PIPE
from threading import Timer
from typing import Any

from grounds import Databases, Files, Ground, running_databases
from page import BENCH, measured, say, short, table, write

CONCURRENCIES = (1, 16, 128)
LONG_STEPS = 100
RUN_SECONDS_MAX = 300
QUICKER = 10
COUNTED_PROCESSES = 200


@dataclass(frozen=True)
class Peer:
    """One contestant: which interpreter runs it, and how many processes are enough for a figure.

    `counts` is for each concurrency, and `long` for the processes of `LONG_STEPS` steps.
    """

    name: str
    script: str
    python: Path
    counts: tuple[int, ...]
    long: int
    options: tuple[str, ...] = ()
    recovers: bool = True

    def command(self, store: str, *options: object) -> list[str]:
        script = str(BENCH / "peers" / self.script)
        return [str(self.python), script, "--store", store, *self.options, *map(str, options)]

    def run(self, store: str, *options: object, under: tuple[str, ...] = ()) -> str:
        """What the peer prints. Ends the benchmark when the peer fails."""
        ran = subprocess.run(
            [*under, *self.command(store, *options)],
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS_MAX,
        )
        if ran.returncode:
            raise SystemExit(f"{self.name} failed; nothing was written:\n{ran.stderr[-4000:]}")
        return ran.stdout


@dataclass
class Figures:
    """What was measured of one peer, round by round."""

    title: str = ""
    engine: str = ""
    rates: dict[int, list[float]] = field(default_factory=dict)
    cpu_ms: dict[int, list[float]] = field(default_factory=dict)
    server_cpu_ms: dict[int, list[float]] = field(default_factory=dict)
    steps: list[float] = field(default_factory=list)
    counts: dict[int, dict[str, float | None]] = field(default_factory=dict)
    recovery_seconds: float | None = None

    def add(self, line: dict[str, Any]) -> None:
        c, count = line["c"], line["processes"]
        self.title, self.engine = line["peer"], line["engine"]
        if line["steps"] == LONG_STEPS:
            self.steps.append(count * LONG_STEPS / line["seconds"])
            return
        self.rates.setdefault(c, []).append(count / line["seconds"])
        self.cpu_ms.setdefault(c, []).append(1000 * line["cpu_seconds"] / count)
        self.server_cpu_ms.setdefault(c, []).append(1000 * line["server_cpu_seconds"] / count)


def contestants(store: str) -> list[Peer]:
    """Who takes part on SQLite or PostgreSQL."""
    ours = Path(sys.executable)
    dbos = BENCH / ".venv-dbos" / "bin" / "python"
    peers = [
        Peer("outlive", "outlive_peer.py", ours, (2000, 4000, 10_000), 500),
        Peer("dbos", "dbos_peer.py", dbos, (200, 100, 150), 12),
    ]
    if store == "postgres":
        naive = Peer("naive", "naive_postgres.py", ours, (200, 1000, 1000), 60, recovers=False)
        return [*peers, naive]
    wal = Peer("dbos-wal", "dbos_peer.py", dbos, (200, 100, 150), 12, ("--wal",), recovers=False)
    naive = Peer("naive", "naive_sqlite.py", ours, (2000, 1000, 1000), 60, recovers=False)
    return [*peers, wal, naive]


@contextmanager
def standing(ground: Ground, peer: Peer) -> Iterator[str]:
    """The address of an empty place for one run of `peer`."""
    try:
        yield ground.make(peer.name)
    finally:
        ground.forget(peer.name)


def measure(peer: Peer, ground: Ground, figures: Figures, *options: object) -> None:
    with standing(ground, peer) as store:
        peer.run(store, "--processes", 0)
        printed = peer.run(store, *options, *ground.server())
        figures.add(json.loads(printed))


def recover(peer: Peer, ground: Ground, count: int, gate: Path) -> float:
    """Seconds from the restart after kill -9 until `count` processes in flight have ended."""
    phase = ("--processes", count, "--gate", gate, "--phase")
    with standing(ground, peer) as store:
        with subprocess.Popen(peer.command(store, *phase, "start"), stdout=PIPE) as first:
            hear(first, "ready")
            first.send_signal(signal.SIGKILL)
        gate.touch()
        began = time.perf_counter()
        with subprocess.Popen(peer.command(store, *phase, "finish"), stdout=PIPE) as second:
            hear(second, "done")
            seconds = time.perf_counter() - began
    gate.unlink()
    return seconds


def hear(process: subprocess.Popen[bytes], word: str) -> None:
    """Wait until the peer prints `word`; end the benchmark when it does not in time."""
    assert process.stdout is not None
    watchdog = Timer(RUN_SECONDS_MAX, process.kill)
    watchdog.start()
    try:
        said = process.stdout.readline().decode().strip()
    finally:
        watchdog.cancel()
    if said != word:
        process.kill()
        raise SystemExit(f"{process.args!r} did not say {word!r} but {said!r}; nothing was written")


def compare(given: argparse.Namespace, ground: Ground, folder: Path) -> dict[str, Figures]:
    peers = [peer for peer in contestants(given.store) if peer.name in given.peers.split(",")]
    shrink = QUICKER if given.quick else 1
    found = {peer.name: Figures() for peer in peers}
    for turn in range(1 if given.quick else given.rounds):
        for place, c in enumerate(CONCURRENCIES):
            for peer in peers:
                say(f"round {turn + 1}, c={c}: {peer.name}")
                count = max(peer.counts[place] // shrink, 10)
                options = ("--processes", count, "--concurrency", c)
                measure(peer, ground, found[peer.name], *options)
        for peer in peers:
            say(f"round {turn + 1}, long: {peer.name}")
            count = max(peer.long // shrink, 2)
            options = ("--processes", count, "--concurrency", CONCURRENCIES[-1])
            measure(peer, ground, found[peer.name], *options, "--steps", LONG_STEPS)
    for place, c in enumerate(CONCURRENCIES):
        for peer in peers:
            say(f"counters, c={c}: {peer.name}")
            count = max(min(peer.counts[place], COUNTED_PROCESSES * c) // shrink, 10)
            found[peer.name].counts[c] = count_costs(peer, ground, c, count)
    for peer in peers:
        if peer.recovers and given.recover:
            say(f"recovery of {given.recover // shrink}: {peer.name}")
            seconds = recover(peer, ground, given.recover // shrink, folder / "gate")
            found[peer.name].recovery_seconds = seconds
    say("")
    return found


def count_costs(peer: Peer, ground: Ground, c: int, count: int) -> dict[str, float | None]:
    """What the ground counts, in a run of its own."""
    with standing(ground, peer) as store:

        def run(processes: int, under: tuple[str, ...] = ()) -> str:
            return peer.run(store, "--processes", processes, "--concurrency", c, under=under)

        return ground.count(peer.name, store, run, count)


# --- showing it ---------------------------------------------------------------------------------


def series(values: dict[int, list[float]]) -> str:
    return " · ".join(short(median(values[c])) for c in CONCURRENCIES)


def ratio(ours: list[float], theirs: list[float]) -> str:
    """How many times as much a second, taken within each round."""
    pairs = zip(ours, theirs, strict=True)
    return f"× {short(median(mine / other for mine, other in pairs))}"


def rows_of(found: dict[str, Figures], ground: Ground, recovered: int) -> list[list[str]]:
    heads = ["processes/s", *(f"c={c}" for c in CONCURRENCIES), "steps/s", "CPU ms"]
    heads += ["server CPU ms"] if ground.server() else []
    heads += [*ground.counters, f"{recovered} in flight, kill -9, all done"]
    rows = [heads]
    for figures in found.values():
        row = [figures.title, *(short(median(figures.rates[c])) for c in CONCURRENCIES)]
        row += [short(median(figures.steps)), series(figures.cpu_ms)]
        row += [series(figures.server_cpu_ms)] if ground.server() else []
        for name in ground.counters:
            row.append(" · ".join(short(figures.counts[c][name]) for c in CONCURRENCIES))
        seconds = figures.recovery_seconds
        row.append("–" if seconds is None else f"{short(seconds)} s")
        rows.append(row)
    ours = found.get("outlive")
    for name, theirs in found.items():
        if ours is None or name == "outlive":
            continue
        row = [f"outlive ÷ {theirs.title}"]
        row += [ratio(ours.rates[c], theirs.rates[c]) for c in CONCURRENCIES]
        row.append(ratio(ours.steps, theirs.steps))
        row += [""] * (len(heads) - len(row) - 1)
        both = ours.recovery_seconds and theirs.recovery_seconds
        row.append(f"× {short(theirs.recovery_seconds / ours.recovery_seconds)}" if both else "–")
        rows.append(row)
    return rows


def setting(found: dict[str, Figures], ground: Ground, given: argparse.Namespace) -> str:
    if isinstance(ground, Databases):
        kept = f"PostgreSQL {ground.version()} with its own defaults (every commit flushed)"
    else:
        kept = ", ".join(f"{figures.title}: {figures.engine}" for figures in found.values())
    counted = ", ".join(["CPU", *ground.counters])
    return (
        f"{measured()}; {kept}. Median of {1 if given.quick else given.rounds} rounds in which the"
        f" peers take turns, ratios taken within a round. {counted} are a process, at c = "
        + " · ".join(map(str, CONCURRENCIES))
        + ". A process is five trivial steps, each durable before the next begins; steps/s is of"
        f" processes of {LONG_STEPS} steps, up to {CONCURRENCIES[-1]} at a time."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Durable processes, side by side.")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--peers", default="outlive,dbos,dbos-wal,naive")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--recover", type=int, default=1000, help="processes in flight; 0: leave out"
    )
    parser.add_argument("--folder", type=Path, default=BENCH, help="the disk that is measured")
    parser.add_argument("--quick", action="store_true", help="one round, a tenth of the work")
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".stores-", dir=given.folder) as made:
        folder = Path(made)
        if given.store == "postgres":
            with running_databases(folder) as databases:
                report(given, databases, folder)
        else:
            report(given, Files(folder), folder)


def report(given: argparse.Namespace, ground: Ground, folder: Path) -> None:
    found = compare(given, ground, folder)
    recovered = given.recover // (QUICKER if given.quick else 1)
    rows = rows_of(found, ground, recovered)
    text = setting(found, ground, given) + "\n\n" + table(rows)
    print(text)
    if given.write:
        name = "processes" if given.store == "sqlite" else "processes-postgres"
        write(name, f"Durable processes on {ground.title}", text)


if __name__ == "__main__":
    main()
