"""Where the time goes when one process is under way alone: nothing shares its commits.

A process of five steps is seven commits, one behind the other. What a commit takes is measured four
times in each round, on new files of one disk:

    one thread       SQLite's COMMIT on the thread that works: nobody is woken, everybody waits
    two threads      the rows are written on an event loop, COMMIT is called in a second thread,
                     which wakes the loop: what an event loop needs that must not stand still
    the same, busy   two threads, and before each commit the loop is so busy that its CPU is ours
    outlive          processes of five steps, one at a time

The first three write as many pages as ours does on average, with `synchronous=FULL`, into a log
that is moved into the file as often. Loop CPU is that of the event loop's thread alone: between two
flushes it sleeps, and what it then does, it does with cold caches.

What is left between `the same, busy` and `outlive` is the lock between processes, and the second
thread's own work. Between `two threads` and `the same, busy` lies more than the CPU that is added:
the longer a virtual core sleeps, the longer it takes to wake.

    make bench-commit                  a minute; WRITE=1 puts the table into docs/benchmarks.md
    bench/one_commit.py --commits 500  does it run at all?
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from statistics import median

import apsw
import uvloop

import page
from outlive import Outlive, Run, step
from outlive.stores.sqlite_file import CHECKPOINT_PAGES

STEPS = 5
COMMITS = STEPS + 2
"""Of one process: its start, its steps, its end."""
PAGES = 6
"""What a commit of ours writes on average: five for a step, eight for a start and an end."""
ROUNDS = 3
Figures = tuple[float, float]
"""Seconds of a commit, and CPU seconds of the loop's thread."""


class Pages:
    """A file in which each transaction changes `PAGES` pages."""

    def __init__(self, folder: Path) -> None:
        self._file = apsw.Connection(str(folder / "pages.db"))
        self._file.execute("PRAGMA journal_mode = wal").fetchall()
        self._file.execute("PRAGMA synchronous = full")
        self._file.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}").fetchall()
        for number in range(PAGES):
            self._file.execute(f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY, value BLOB)")
            self._file.execute(f"INSERT INTO t{number} VALUES (1, '')")

    def write(self, number: int) -> None:
        self._file.execute("BEGIN IMMEDIATE")
        for table in range(PAGES):
            self._file.execute(f"UPDATE t{table} SET value = ? WHERE id = 1", (b"%0100d" % number,))

    def commit(self) -> None:
        self._file.execute("COMMIT")

    def close(self) -> None:
        self._file.close()


@step
async def one(number: int) -> int:
    return number + 1


async def through(run: Run, number: int) -> int:
    for _ in range(STEPS):
        number = await run(one, number)
    return number


async def measured(commit: Callable[[int], Awaitable[None]], commits: int) -> Figures:
    """What `commit(n)` takes, once the log has its length."""
    for number in range(CHECKPOINT_PAGES // PAGES):
        await commit(number)
    began, used = time.perf_counter(), time.thread_time()
    for number in range(commits):
        await commit(number)
    used, took = time.thread_time() - used, time.perf_counter() - began
    return took / commits, used / commits


async def one_thread(folder: Path, commits: int) -> Figures:
    file = Pages(folder)

    async def commit(number: int) -> None:
        file.write(number)
        file.commit()

    try:
        return await measured(commit, commits)
    finally:
        file.close()


async def two_threads(folder: Path, commits: int, busy_seconds: float = 0.0) -> Figures:
    file, loop = Pages(folder), asyncio.get_running_loop()
    given: SimpleQueue[asyncio.Future[None] | None] = SimpleQueue()

    def work() -> None:
        while (done := given.get()) is not None:
            file.commit()
            loop.call_soon_threadsafe(done.set_result, None)

    async def commit(number: int) -> None:
        ends = time.perf_counter() + busy_seconds
        while time.perf_counter() < ends:
            pass
        file.write(number)
        done = loop.create_future()
        given.put(done)
        await done

    thread = threading.Thread(target=work)
    thread.start()
    try:
        return await measured(commit, commits)
    finally:
        given.put(None)
        thread.join()
        file.close()


async def outlive(folder: Path, commits: int) -> Figures:
    app = Outlive(f"sqlite:///{folder}/store.db")
    app.process("/through", version=1)(through)
    await app.open()

    async def process(number: int) -> None:
        await (await app.start(through, number)).result()

    try:
        took, used = await measured(process, commits // COMMITS)
        return took / COMMITS, used / COMMITS
    finally:
        await app.close()


def figures_of(work: Callable[[Path], Awaitable[Figures]]) -> Figures:
    folder = Path(tempfile.mkdtemp(prefix=".stores-", dir=page.BENCH))

    async def run() -> Figures:
        return await work(folder)

    try:
        return uvloop.run(run())
    finally:
        shutil.rmtree(folder)


def rounds(commits: int) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {}

    def note(name: str, work: Callable[[Path], Awaitable[Figures]]) -> Figures:
        page.say(name)
        figures = figures_of(work)
        found.setdefault(name, []).append(figures)
        return figures

    for _ in range(ROUNDS):
        note("one thread", partial(one_thread, commits=commits))
        _, plain = note("two threads", partial(two_threads, commits=commits))
        _, ours = note("outlive", partial(outlive, commits=commits))
        busy = ours - plain
        _, used = figures_of(partial(two_threads, commits=commits // 4, busy_seconds=busy))
        busy *= busy / max(used - plain, busy)  # it wakes colder, and does all else slower
        note("the same, busy", partial(two_threads, commits=commits, busy_seconds=busy))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    given = parser.parse_args()
    found = rounds(given.commits)
    rate = f"processes/s, of {COMMITS} commits"
    rows = [["one at a time", "µs a commit", "loop CPU µs", rate, "÷ one thread"]]
    for name in ("one thread", "two threads", "the same, busy", "outlive"):
        took = median(seconds for seconds, _ in found[name])
        used = median(cpu for _, cpu in found[name])
        ratio = median(
            alone / seconds
            for (seconds, _), (alone, _) in zip(found[name], found["one thread"], strict=True)
        )
        figures = map(page.short, (took * 1e6, used * 1e6, 1 / took / COMMITS))
        rows.append([name, *figures, f"× {ratio:.2f}"])
    text = (
        f"{page.measured()}; SQLite {apsw.sqlite_lib_version()}. Median of {ROUNDS} rounds in which"
        f" all take turns; {given.commits} commits of {PAGES} pages each.\n\n{page.table(rows)}"
    )
    print(text)
    if given.write:
        page.write("one-commit", "One process at a time: where the time goes", text)


if __name__ == "__main__":
    main()
