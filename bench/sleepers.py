"""Sleepers by the hundred thousand, and one process with a long journal, in a real service.

memory      resident memory of a process of the operating system whose node owns all sleepers
lateness    of those that wake meanwhile: from when they were due to their durable record
journal     a process of many steps waits, its node is killed -9; from the signal on the next
            node to its result: the journal is read, and every step replayed

bench/sleepers.py                                     100,000 sleepers, 10,000 steps
bench/sleepers.py --sleepers 5000 --steps 1000        does it run at all?
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import page
from filling import fill_sleepers
from outlive import Outlive, Run, step
from outlive.clock import MICROS
from outlive.stores.address import store_at

WAKING_SECONDS = 20
WAKING_EACH_SECOND = 50
YEAR = 365 * 86_400 * MICROS


@step
async def one(number: int) -> int:
    return number


def application(address: str, steps: int) -> Outlive:
    app = Outlive(address)

    @app.process("/naps", version=1, prefix="nap")
    async def nap(run: Run) -> None:
        await run.sleep(1)

    @app.process("/journeys", version=1, prefix="way")
    async def journey(run: Run) -> int:
        for number in range(steps):
            await run(one, number)
        await run.wait("go")
        return steps

    return app


def resident_megabytes() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000
    raise LookupError("this system does not say how much memory is resident")


async def serve(address: str, steps: int) -> None:
    """A service: says what it takes when it has come to rest, and after the waking."""
    app = application(address, steps)
    await app.open()
    await asyncio.sleep(3)
    print(json.dumps({"resident": resident_megabytes()}), flush=True)
    while (await app.processes("done", "nap", 1)).items == []:
        await asyncio.sleep(0.1)
    await asyncio.sleep(WAKING_SECONDS + 3)
    late: list[float] = []
    cursor = ""
    while True:
        found = await app.processes("done", "nap", 200, cursor)
        for line in found.items:
            journal = await app.journal(line.id)
            until = json.loads(bytes(journal[1].data))["until"]
            late += [(entry.at - until) / 1000 for entry in journal if entry.kind == "woke"]
        cursor = found.cursor
        if not cursor:
            break
    late.sort()
    told = {"resident": resident_megabytes(), "woken": len(late)}
    told |= {"p50": late[len(late) // 2], "p99": late[len(late) * 99 // 100], "max": late[-1]}
    print(json.dumps(told), flush=True)
    await app.close()


async def travel(address: str, steps: int) -> None:
    """Perform the steps of one process, say its id, and wait to be killed."""
    app = application(address, steps)
    await app.open()
    id = (await app.begin("journey", b"null")).id
    while (await app.view(id)).status != "waiting":
        await asyncio.sleep(0.5)
    print(id, flush=True)
    await asyncio.sleep(3600)


def child(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def sleepers(folder: Path, count: int) -> list[list[str]]:
    """The rows of the table that are about them."""
    address = f"sqlite:///{folder}/sleepers.db"
    store = store_at(address)
    await store.open()
    began = time.perf_counter()
    first = await store.now() + round((15 + count / 2000) * MICROS)
    waking = WAKING_SECONDS * WAKING_EACH_SECOND
    soon = [first + number * MICROS // WAKING_EACH_SECOND for number in range(waking)]
    await fill_sleepers(store, count, "nap", soon, first + YEAR)
    await store.close()
    print(f"{count} sleepers written in {time.perf_counter() - began:.0f} s")
    node = child("--serve", address)
    rest, after = json.loads(said(node)), json.loads(said(node))
    node.wait()
    asleep, late = f"{count:,} asleep", f"late, of {after['woken']:,} that woke, "
    return [
        [f"resident memory of a node with {asleep}", f"{rest['resident']:.0f} MB"],
        [f"the same after {after['woken']:,} of them have woken", f"{after['resident']:.0f} MB"],
        [f"{late}{WAKING_EACH_SECOND} a second: p50", f"{after['p50']:.1f} ms"],
        [f"{late}p99", f"{after['p99']:.1f} ms"],
        [f"{late}at most", f"{after['max']:.1f} ms"],
    ]


async def long_journal(folder: Path, steps: int) -> list[list[str]]:
    """The row of the table that is about it."""
    address = f"sqlite:///{folder}/journal.db"
    began = time.perf_counter()
    node = child("--travel", address, "--steps", steps)
    id = said(node)
    print(f"{steps} steps in {time.perf_counter() - began:.0f} s")
    node.send_signal(signal.SIGKILL)
    node.wait()
    app = application(address, steps)
    await app.open()
    began = time.perf_counter()
    await app.signal(id, "go", b"null")
    assert await app.result(id, within=60) == steps
    took = time.perf_counter() - began
    await app.close()
    return [[f"a process of {steps:,} steps, read and replayed on another node", f"{took:.2f} s"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sleepers", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--travel", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve, given.steps))
        return
    if given.travel:
        asyncio.run(travel(given.travel, given.steps))
        return
    folder = Path(tempfile.mkdtemp(prefix="outlive-sleepers-"))
    try:
        rows = [["", "measured"], *asyncio.run(sleepers(folder, given.sleepers))]
        rows += asyncio.run(long_journal(folder, given.steps))
        found = f"{page.measured()}.\n\n{page.table(rows)}"
        print(found)
        if given.write:
            page.write("sleepers", "Sleepers, and one long journal", found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
