"""`make soak`: hours of load and a kill a minute; what is lost, and what grows.

    steady   a worker that nobody kills: its memory, file handles and threads may not grow
    victim   another one on the same store, killed every minute and started again
    clients  register, confirm and cancel, and never give up

Every ten seconds a sample is taken. At the end the last third of them is held against the first
one, a line says what was found, and the store is asked what it is asked after every test of kills.

    python -m tests.soak --minutes 120 [--store postgresql://…] [--json FILE]

Of each figure that may grow the line gives the first third and the last: MB of memory, open files,
threads, milliseconds of the 99th percentile (`slow`), milliseconds of a processor for each
registration (`spent`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from msgspec import Struct
from tests.crash.load import Load, Verdict, settled, verdict
from tests.crash.service import Machine, Service

SEED = 20_261_122
CLIENTS = 8
PAUSE_SECONDS = 0.8
SAMPLE_SECONDS = 10.0
KILL_SECONDS = 60.0
GROWTH_MAX = 1.25
"""What memory of the last third may be of that of the first one."""
SPENT_SECONDS_MORE = 0.005
"""What one registration may cost more of a processor than that: fewer share a commit when fewer
come, and a worker has its chores."""
MORE_FILES_MAX = 16
MORE_THREADS_MAX = 8
LOG_BYTES_MAX = 64 * 1024 * 1024
"""The write-ahead log of SQLite, at any moment."""


class Sample(Struct, frozen=True):
    """What was seen at one moment of the worker that lives on, and of the store."""

    at: float
    resident: int
    files: int
    threads: int
    log: int
    slow: float
    """The 99th percentile of the answers to registrations since the sample before, in seconds."""
    spent: float
    """What the worker has had of a processor since then, in seconds for each registration of all:
    this tells work that grows from a machine that others use too."""


class Soaked(Struct, frozen=True):
    """What a run has found."""

    minutes: float
    kills: int
    samples: list[Sample]
    found: Verdict

    def thirds(self, name: str) -> tuple[float, float]:
        """The median of a figure over the first third of the samples, and over the last."""
        values = [getattr(sample, name) for sample in self.samples]
        third = max(1, len(values) // 3)
        return median(values[:third]), median(values[-third:])

    def line(self) -> str:
        figures: dict[str, int | str] = {"minutes": f"{self.minutes:.1f}"}
        for name, unit in (
            ("resident", 1e6),
            ("files", 1),
            ("threads", 1),
            ("slow", 1e-3),
            ("spent", 1e-3),
        ):
            first, last = (round(value / unit, 1) for value in self.thirds(name))
            figures[name] = f"{first:g}→{last:g}"
        figures["log_mb_max"] = f"{max(sample.log for sample in self.samples) / 1e6:.1f}"
        return self.found.line(self.kills, **figures)

    def flaws(self) -> list[str]:
        """What grew beyond its bound."""
        flaws = []
        first, last = self.thirds("resident")
        if last > first * GROWTH_MAX:
            flaws.append(f"memory grew from {first / 1e6:.0f} to {last / 1e6:.0f} MB")
        first, last = self.thirds("files")
        if last > first + MORE_FILES_MAX:
            flaws.append(f"open files grew from {first:.0f} to {last:.0f}")
        first, last = self.thirds("threads")
        if last > first + MORE_THREADS_MAX:
            flaws.append(f"threads grew from {first:.0f} to {last:.0f}")
        first, last = self.thirds("spent")
        if last > first * GROWTH_MAX + SPENT_SECONDS_MORE:
            said = f"{first * 1000:.1f} to {last * 1000:.1f} ms of a processor"
            flaws.append(f"a registration's work grew from {said}")
        if (log := max(sample.log for sample in self.samples)) > LOG_BYTES_MAX:
            flaws.append(f"the write-ahead log grew to {log / 1e6:.0f} MB")
        return flaws


class Watched(Load):
    """A load that notes how long registrations took."""

    def __init__(self, machine: Machine, clients: int) -> None:
        super().__init__(machine, SEED, clients, PAUSE_SECONDS)
        self.seconds: list[float] = []
        self.ticks = 0

    async def _until_answered(
        self, path: str, body: Any, key: str, wanted: tuple[int, ...]
    ) -> httpx.Response:
        began = time.monotonic()
        answer = await super()._until_answered(path, body, key, wanted)
        if path == "/registrations":
            self.seconds.append(time.monotonic() - began)
        return answer

    def slow_and_spent(self, ticks: int) -> tuple[float, float]:
        """The 99th percentile since it was asked last, and the processor's seconds for each answer
        by which its `ticks` have gone up since."""
        seconds, self.seconds = sorted(self.seconds), []
        before, self.ticks = self.ticks or ticks, ticks
        slow = seconds[len(seconds) * 99 // 100] if seconds else 0.0
        spent = (ticks - before) / os.sysconf("SC_CLK_TCK")
        return slow, spent / max(1, len(seconds))


def sample(machine: Machine, pid: int, load: Watched) -> Sample:
    proc = Path(f"/proc/{pid}")
    status = dict(
        line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
    )
    log = machine.store.with_name(machine.store.name + "-wal")
    user, system = (proc / "stat").read_text().rpartition(")")[2].split()[11:13]
    slow, spent = load.slow_and_spent(int(user) + int(system))
    return Sample(
        time.time(),
        int(status["VmRSS"].split()[0]) * 1024,
        len(os.listdir(proc / "fd")),
        int(status["Threads"]),
        log.stat().st_size if log.exists() else 0,
        slow,
        spent,
    )


async def soak(
    folder: Path,
    seconds: float,
    *,
    address: str = "",
    clients: int = CLIENTS,
    kill_seconds: float = KILL_SECONDS,
    sample_seconds: float = SAMPLE_SECONDS,
) -> Soaked:
    """Let it run for `seconds`; raises what a client met that no client should meet."""
    machine = Machine(folder, address=address)
    try:
        steady: Service = await machine.sign_up()
        assert machine.partner is not None
        victim = await machine.serve("examples.signup.app:app", PARTNER_URL=machine.partner.url)
        (pid,) = steady.workers()
        load = Watched(machine, clients)
        load.begin()
        began = time.monotonic()
        killer = asyncio.create_task(kill_now_and_then(victim, kill_seconds))
        samples: list[Sample] = []
        while time.monotonic() - began < seconds:
            await asyncio.sleep(sample_seconds)
            load.check()
            if killer.done():
                killer.result()  # it kills to the end, or says why not
            samples.append(sample(machine, pid, load))
            say(samples, began)
        killer.cancel()
        await asyncio.gather(killer, return_exceptions=True)
        await victim.all_serve()
        await load.end()
        await settled(machine)
        assert steady.workers() == [pid], "the worker that nobody killed is another one"
        kills = victim.killed
        for service in machine.services:
            await service.end()
        return Soaked(seconds / 60, kills, samples, await verdict(machine, load))
    finally:
        await machine.clean()


async def kill_now_and_then(victim: Service, seconds: float) -> None:
    """Kill the worker of `victim` about every so often; its supervisor starts another."""
    chance = random.Random(SEED)
    while True:
        await asyncio.sleep(chance.uniform(0.5, 1.5) * seconds)
        await victim.kill_worker()


def say(samples: list[Sample], began: float) -> None:
    if sys.stderr.isatty() or len(samples) % 60 == 0:
        last = samples[-1]
        print(
            f"{(time.monotonic() - began) / 60:6.1f} min  {last.resident / 1e6:.0f} MB  "
            f"{last.files} files  log {last.log / 1e6:.1f} MB  p99 {last.slow * 1000:.0f} ms  "
            f"{last.spent * 1000:.1f} ms of a processor each",
            file=sys.stderr,
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--store", default="", help="a PostgreSQL address; without it SQLite")
    parser.add_argument("--json", type=Path, help="write what was found there, too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="outlive-soak-") as folder:
        soaked = asyncio.run(soak(Path(folder), given.minutes * 60, address=given.store))
    print(soaked.line())
    for flaw in soaked.flaws():
        print(flaw)
    if given.json is not None:
        figures = dict(word.split("=", 1) for word in soaked.line().split())
        given.json.write_text(json.dumps({**figures, "grew": soaked.flaws()}))
    soaked.found.demand()
    return 1 if soaked.flaws() else 0


if __name__ == "__main__":
    sys.exit(main())
