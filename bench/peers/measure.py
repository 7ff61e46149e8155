"""The yardstick all peers share, so that no peer is measured in a way of its own.

A peer is a script run in its own interpreter, once for every figure:

    peer.py --store ADDRESS --processes N --concurrency C    N processes, C at a time
    peer.py --store ADDRESS --processes N --phase start      N processes that wait in the middle
    peer.py --store ADDRESS --processes N --phase finish     after kill -9: bring those N to the end

`ADDRESS` begins with `sqlite:///` or `postgresql://`. A process has `--steps` steps, five unless
told. The first prints one line of JSON; `start` prints `ready` when all N wait, `finish` prints
`done`. With `--processes 0` the store is only made and left again, so that what that costs is
known. The middle step waits until the file `--gate` is there.

Every interpreter goes through its garbage as `outlive serve` has it: not through what is there when
the work begins, and through the young after 10,000 of them.

Seconds and CPU seconds cover the work alone: not the start of the interpreter, not the making of
the tables, not the first process. CPU is that of the peer's own interpreter, and apart from it that
of the servers `--server-pid` with all of their children, the ended ones included. Syncs are counted
from outside, by strace; `Meter` marks where the count begins and ends with a sync that cannot
succeed: that of a pipe.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import resource
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from spent import tree_seconds

STEPS = 5
GATE_LOOK_SECONDS = 0.25
YOUNG_OBJECTS = 10_000


def arguments() -> argparse.Namespace:
    """What the orchestrator asks of a peer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--phase", choices=("measure", "start", "finish"), default="measure")
    parser.add_argument("--gate", type=Path, default=Path(os.devnull))
    parser.add_argument("--server-pid", type=int, nargs="*", default=[], help="its CPU counts too")
    parser.add_argument("--wal", action="store_true", help="for a peer whose default is another")
    return parser.parse_args()


class Meter:
    """Wall and CPU seconds of what runs inside it, all threads of this interpreter included."""

    seconds = 0.0
    cpu_seconds = 0.0
    server_cpu_seconds = 0.0

    def __init__(self, *server_pids: int) -> None:
        self.server_pids = server_pids

    def __enter__(self) -> Meter:
        gc.collect()
        gc.freeze()
        gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
        mark()
        self.server_cpu_seconds = -sum(map(tree_seconds, self.server_pids))
        self.cpu_seconds = -cpu_seconds()
        self.seconds = -time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.seconds += time.perf_counter()
        self.cpu_seconds += cpu_seconds()
        self.server_cpu_seconds += sum(map(tree_seconds, self.server_pids))
        mark()


def mark() -> None:
    """A sync that strace sees and the disk does not."""
    reader, writer = os.pipe()
    with suppress(OSError):
        os.fsync(reader)
    os.close(reader)
    os.close(writer)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def run_all(given: argparse.Namespace, one: Callable[[int], Awaitable[int]]) -> Meter:
    """Run `one(0)`, `one(1)` …, as many and as many at a time as asked for.

    Each must give its number and the count of its steps, added."""
    numbers = iter(range(given.processes))

    async def worker() -> None:
        for number in numbers:
            result = await one(number)
            assert result == number + given.steps, f"process {number} gave {result}"

    with Meter(*given.server_pid) as meter:
        await asyncio.gather(*(worker() for _ in range(given.concurrency)))
    return meter


class Gate:
    """Where all processes of the recovery run wait: a file, and who has come."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.arrived = 0

    async def wait(self) -> None:
        self.arrived += 1
        while not self.file.exists():
            await asyncio.sleep(GATE_LOOK_SECONDS)

    async def all_arrived(self, count: int) -> None:
        """Say `ready` when `count` processes wait, and then wait to be killed."""
        await until(lambda: self.arrived >= count)
        print("ready", flush=True)
        await asyncio.sleep(3600)


async def until(holds: Callable[[], bool], look_seconds: float = 0.005) -> None:
    while not holds():
        await asyncio.sleep(look_seconds)


def report(peer: str, engine: str, given: argparse.Namespace, meter: Meter) -> None:
    """Print the line of JSON the orchestrator reads."""
    line = {
        "peer": peer,
        "engine": engine,
        "python": sys.version.split()[0],
        "c": given.concurrency,
        "processes": given.processes,
        "steps": given.steps,
        "seconds": round(meter.seconds, 4),
        "cpu_seconds": round(meter.cpu_seconds, 4),
        "server_cpu_seconds": round(meter.server_cpu_seconds, 4),
    }
    print(json.dumps(line), flush=True)


def sqlite_file(address: str) -> Path | None:
    """The file that a `sqlite:///` address names; None for another address."""
    kind, _, place = address.partition(":///")
    return Path("/" + place.lstrip("/")) if kind == "sqlite" else None


def engine_of(address: str, library: str = sqlite3.sqlite_version) -> str:
    """What the store is kept by, when SQLite is `library`."""
    return f"SQLite {library}" if sqlite_file(address) else "PostgreSQL"
