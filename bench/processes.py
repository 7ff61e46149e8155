"""Durable processes side by side: outlive, DBOS and hand-written sqlite3, on SQLite, in one run.

A machine is noisy from minute to minute, so the peers take turns in every round and at every
concurrency, a ratio is taken within a round, and what is shown is the median over the rounds. Work:
processes of five trivial steps, each step durable before the next begins.

    processes/s        count by wall seconds of the work alone (the interpreter's start is left out)
    CPU ms             user and system time of the peer's interpreter, all threads, a process
    fsyncs             a process, counted by strace in a run of its own; "–" when there is no strace
    bytes              growth of the store's files after a clean end, a process
    recovery           N processes wait in their third step; kill -9; seconds from the restart of
                       the interpreter until all have ended

    make bench                     measure and print
    make bench WRITE=1             … and put the table into docs/benchmarks.md
    bench/processes.py --quick     one short round: does it run at all?
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from threading import Timer
from typing import Any

BENCH = Path(__file__).resolve().parent
PAGE = BENCH.parent / "docs" / "benchmarks.md"
CONCURRENCIES = (1, 16, 128)
RUN_SECONDS_MAX = 300
QUICKER = 10
TRACED_PROCESSES = 200
SYNCED = re.compile(r"= 0$")
MARKED = re.compile(r"= -1 EINVAL")


@dataclass(frozen=True)
class Peer:
    """One contestant: which interpreter runs it, and how many processes are enough for a figure."""

    name: str
    script: str
    python: Path
    counts: tuple[int, ...]
    options: tuple[str, ...] = ()
    recovers: bool = True

    def command(self, store: Path, *options: object) -> list[str]:
        script = str(BENCH / "peers" / self.script)
        return [str(self.python), script, "--store", str(store), *self.options, *map(str, options)]

    def run(self, store: Path, *options: object, under: tuple[str, ...] = ()) -> str:
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
    bytes: dict[int, list[float]] = field(default_factory=dict)
    syncs: dict[int, float | None] = field(default_factory=dict)
    recovery_seconds: float | None = None

    def add(self, line: dict[str, Any], grown_bytes: int) -> None:
        c, count = line["c"], line["processes"]
        self.title, self.engine = line["peer"], line["engine"]
        self.rates.setdefault(c, []).append(count / line["seconds"])
        self.cpu_ms.setdefault(c, []).append(1000 * line["cpu_seconds"] / count)
        self.bytes.setdefault(c, []).append(grown_bytes / count)


def contestants() -> list[Peer]:
    ours = Path(sys.executable)
    dbos = BENCH / ".venv-dbos" / "bin" / "python"
    return [
        Peer("outlive", "outlive_sqlite.py", ours, (500, 4000, 10_000)),
        Peer("dbos", "dbos_sqlite.py", dbos, (60, 100, 150)),
        Peer("dbos-wal", "dbos_sqlite.py", dbos, (60, 100, 150), ("--wal",), recovers=False),
        Peer("naive", "naive_sqlite.py", ours, (500, 1000, 1000), recovers=False),
    ]


def size_bytes(store: Path) -> int:
    """The store with what belongs to it: `-wal`, `-journal`, blobs beside it."""
    return sum(
        path.stat().st_size
        for found in store.parent.glob(store.name + "*")
        for path in (found.rglob("*") if found.is_dir() else (found,))
        if path.is_file()
    )


def measure(peer: Peer, c: int, count: int, folder: Path, figures: Figures) -> None:
    store = folder / f"{peer.name}.db"
    peer.run(store, "--processes", 0)
    empty = size_bytes(store)
    line = json.loads(peer.run(store, "--processes", count, "--concurrency", c))
    figures.add(line, size_bytes(store) - empty)
    forget(store)


def count_syncs(peer: Peer, c: int, count: int, folder: Path) -> float | None:
    """fsync and fdatasync a process, between the two marks of the peer's meter."""
    if shutil.which("strace") is None:
        return None
    store, trace = folder / f"{peer.name}.db", folder / f"{peer.name}.trace"
    under = ("strace", "--seccomp-bpf", "-f", "-o", str(trace), "-e", "trace=fsync,fdatasync")
    peer.run(store, "--processes", count, "--concurrency", c, under=under)
    marks = synced = 0
    for line in trace.read_text().splitlines():
        marks += bool(MARKED.search(line))
        synced += marks == 1 and bool(SYNCED.search(line))
    forget(store)
    return synced / count if marks == 2 else None


def recover(peer: Peer, count: int, folder: Path) -> float:
    """Seconds from the restart after kill -9 until `count` processes in flight have ended."""
    store = folder / f"{peer.name}.db"
    phase = ("--processes", count, "--phase")
    with subprocess.Popen(peer.command(store, *phase, "start"), stdout=subprocess.PIPE) as first:
        hear(first, "ready")
        first.send_signal(signal.SIGKILL)
    store.with_name(store.name + ".gate").touch()
    began = time.perf_counter()
    with subprocess.Popen(peer.command(store, *phase, "finish"), stdout=subprocess.PIPE) as second:
        hear(second, "done")
        seconds = time.perf_counter() - began
    forget(store)
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


def forget(store: Path) -> None:
    for path in store.parent.glob(store.name + "*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def compare(given: argparse.Namespace) -> dict[str, Figures]:
    peers = [peer for peer in contestants() if peer.name in given.peers.split(",")]
    shrink = QUICKER if given.quick else 1
    found = {peer.name: Figures() for peer in peers}
    with tempfile.TemporaryDirectory(prefix=".stores-", dir=given.folder) as made:
        folder = Path(made)
        for turn in range(1 if given.quick else given.rounds):
            for place, c in enumerate(CONCURRENCIES):
                for peer in peers:
                    say(f"round {turn + 1}, c={c}: {peer.name}")
                    count = max(peer.counts[place] // shrink, 10)
                    measure(peer, c, count, folder, found[peer.name])
        for place, c in enumerate(CONCURRENCIES):
            for peer in peers:
                say(f"syncs, c={c}: {peer.name}")
                count = min(peer.counts[place], TRACED_PROCESSES * c) // shrink
                found[peer.name].syncs[c] = count_syncs(peer, c, max(count, 10), folder)
        for peer in peers:
            if peer.recovers and given.recover:
                say(f"recovery of {given.recover // shrink}: {peer.name}")
                seconds = recover(peer, given.recover // shrink, folder)
                found[peer.name].recovery_seconds = seconds
    say("")
    return found


def say(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


# --- showing it ---------------------------------------------------------------------------------


def short(number: float | None) -> str:
    """Three significant figures, with a comma for thousands; – for what was not measured."""
    if number is None:
        return "–"
    if number >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def series(values: dict[int, list[float]]) -> str:
    return " · ".join(short(median(values[c])) for c in CONCURRENCIES)


def ratios(ours: Figures, theirs: Figures, c: int) -> float:
    """How many times as many processes a second, taken within each round."""
    pairs = zip(ours.rates[c], theirs.rates[c], strict=True)
    return median(mine / other for mine, other in pairs)


def table(found: dict[str, Figures], recovered: int) -> str:
    heads = [f"c={c}" for c in CONCURRENCIES]
    heads += ["CPU ms", "fsyncs", "bytes"]
    heads += [f"{recovered} in flight, kill -9, all done"] if recovered else []
    rows = [["processes/s", *heads], ["---"] * (len(heads) + 1)]
    for figures in found.values():
        row = [figures.title, *(short(median(figures.rates[c])) for c in CONCURRENCIES)]
        row.append(series(figures.cpu_ms))
        row.append(" · ".join(short(figures.syncs[c]) for c in CONCURRENCIES))
        row.append(series(figures.bytes))
        seconds = figures.recovery_seconds
        row.append("–" if seconds is None else f"{short(seconds)} s")
        rows.append(row)
    ours = found.get("outlive")
    for name, theirs in found.items():
        if ours is None or name == "outlive":
            continue
        row = [f"outlive ÷ {theirs.title}"]
        row += [f"× {short(ratios(ours, theirs, c))}" for c in CONCURRENCIES]
        row += ["", "", ""]
        both = ours.recovery_seconds and theirs.recovery_seconds
        row.append(f"× {short(theirs.recovery_seconds / ours.recovery_seconds)}" if both else "–")
        rows.append(row)
    return "\n".join("| " + " | ".join(row[: len(rows[0])]) + " |" for row in rows)


def setting(found: dict[str, Figures], given: argparse.Namespace) -> str:
    engines = ", ".join(f"{figures.title}: SQLite {figures.engine}" for figures in found.values())
    command = " ".join(["bench/processes.py", *sys.argv[1:]])
    rounds = 1 if given.quick else given.rounds
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} at commit {commit()} with"
        f" `{command}`: {os.cpu_count()} cores,"
        f" {platform.system()} {platform.release()}, Python {platform.python_version()}; {engines}."
        f" Median of {rounds} rounds in which the peers take turns, ratios taken within a round."
        " CPU, fsyncs and bytes are a process, at c = "
        + " · ".join(map(str, CONCURRENCIES))
        + ". A process is five trivial steps, each durable before the next begins."
    )


def commit() -> str:
    """The short id of the commit that was measured; with a + when files differ from it."""
    git = ["git", "-C", str(BENCH.parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if head.returncode:
        return "(none)"
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def write(text: str) -> None:
    """Put the section into the page, in the place of the one before."""
    begin, end = "<!-- processes: begin -->", "<!-- processes: end -->"
    section = f"{begin}\n## Durable processes on SQLite\n\n{text}\n{end}\n"
    page = PAGE.read_text("utf-8") if PAGE.exists() else "# Benchmarks\n\n"
    before, found, rest = page.partition(begin)
    after = rest.partition(end + "\n")[2] if found else ""
    PAGE.write_text(before + section + after, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Durable processes, side by side.")
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
    found = compare(given)
    recovered = given.recover // (QUICKER if given.quick else 1)
    text = setting(found, given) + "\n\n" + table(found, recovered)
    print(text)
    if given.write:
        write(text)


if __name__ == "__main__":
    main()
