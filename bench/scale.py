"""One, two and four nodes on one PostgreSQL: what a process costs must not grow with the nodes.

The same number of processes of five trivial steps is started over all nodes, each node its part,
on a server of its own with its default settings (every commit flushed). On a machine of few cores
nodes cannot make more of it: they share them with each other and with the server. What is shown is
therefore the price of a process, and where it would go if the nodes got into each other's way:

    writes        transactions that wrote, by the numbers the server gave out for them: exact
    commits       all that ended well, reads included (pg_stat_database.xact_commit). Sessions
                  report seldom while they are busy, so it is read after a pause, and what as long a
                  pause cost before the work is taken off
    nodes CPU     user and system time of all nodes, ms
    server CPU    of the server and all of its sessions, but for the one that looks, ms
    lock          ms waited for a lock of a row, a table or a key: samples of pg_stat_activity every
                  20 ms, each session that is active with wait_event_type 'Lock' counts for the time
                  since the sample before
    LWLock, IO    the same for the server's own latches (WALWrite: somebody else flushes the log
                  for me) and for the disk

Rows with a rate start as many processes a second on each node, few enough that no core is
saturated: what they cost shows whether nodes get into each other's way. All others take as much as
the machine gives. With 128 processes at a time for each node every node has as much to do as the
one, and less of a core to do it with. Rows with 128 at a time in all show the price of smaller
groups: who shares a commit with fewer pays more of it.

    make bench-scale                       measure and print
    make bench-scale WRITE=1               … and put the table into docs/benchmarks.md
    bench/scale.py --quick                 one short round: does it run at all?
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg

from grounds import Databases, running_databases
from page import BENCH, measured, say, short, table, write
from peers.spent import tree_seconds

RATE = 200
"""Processes that are started on each node in a second, where they are started by the clock."""
PACED_SECONDS = 10
SHAPES = ((1, RATE), (2, RATE), (4, RATE), (1, 128), (2, 256), (4, 512), (2, 128), (4, 128))
"""How many nodes, and how many processes at a time in all of them; or `RATE`."""
PROCESSES, STEPS = 8000, 5
QUICKER = 10
SAMPLE_SECONDS = 0.02
PAUSE_SECONDS = 2.5
"""Longer than a node that does nothing lets any of its sessions rest."""
RUN_SECONDS_MAX = 300
WAITS = ("Lock", "LWLock", "IO")
READ = """
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS writes,
       (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()) AS commits
"""
LOOK = """
SELECT wait_event_type AS kind, count(*) AS sessions FROM pg_stat_activity
WHERE datname = current_database() AND state = 'active' AND wait_event_type = ANY ($1)
    AND pid <> pg_backend_pid()
GROUP BY 1
"""
FIGURES = ("processes/s", "writes", "commits", "nodes CPU", "server CPU", *WAITS)


@dataclass
class Load:
    """What is counted while the nodes work."""

    seconds: float = 0.0
    nodes_cpu: float = 0.0
    server_cpu: float = 0.0
    waited: Counter[str] = field(default_factory=Counter)

    def per_process(self, count: int, writes: float, commits: float) -> dict[str, float]:
        found = {
            "processes/s": count / self.seconds,
            "writes": writes / count,
            "commits": commits / count,
            "nodes CPU": 1000 * self.nodes_cpu / count,
            "server CPU": 1000 * self.server_cpu / count,
        }
        return found | {kind: 1000 * self.waited[kind] / count for kind in WAITS}


async def hear(node: Process) -> str:
    """The next line a node says; ends the benchmark when it says none."""
    assert node.stdout is not None
    async with asyncio.timeout(RUN_SECONDS_MAX):
        said = (await node.stdout.readline()).decode().strip()
    if not said:
        raise SystemExit("a node ended before its work; nothing was written")
    return said


@asynccontextmanager
async def running(
    nodes: int, store: str, count: int, c: int, rate: int
) -> AsyncIterator[list[Process]]:
    """Nodes that are ready; at the end they leave in order, or are killed."""
    script = str(BENCH / "peers" / "outlive_node.py")
    started: list[Process] = []
    try:
        for number in range(nodes):
            part = count // nodes + (number < count % nodes)
            options = ["--store", store, "--nodes", nodes, "--steps", STEPS]
            options += ["--processes", part, "--concurrency", c // nodes, "--rate", rate]
            command = [sys.executable, script, *map(str, options)]
            started.append(await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE))
        for node in started:
            await hear(node)
        yield started
        for node in started:
            assert node.stdin is not None
            node.stdin.close()
        async with asyncio.timeout(RUN_SECONDS_MAX):
            await asyncio.gather(*(node.wait() for node in started))
    finally:
        for node in started:
            if node.returncode is None:
                node.kill()
                await node.wait()


async def sample(link: Any, load: Load) -> None:
    """Add up who waits for what, until cancelled."""
    before = time.perf_counter()
    while True:
        await asyncio.sleep(SAMPLE_SECONDS)
        rows = await link.fetch(LOOK, list(WAITS))
        now = time.perf_counter()
        for row in rows:
            load.waited[row["kind"]] += row["sessions"] * (now - before)
        before = now


async def work(nodes: list[Process], link: Any, server: int) -> Load:
    """Let the nodes do their work, and count."""
    load, looker = Load(), frozenset((link.get_server_pid(),))
    sampling = asyncio.create_task(sample(link, load))
    load.server_cpu = -tree_seconds(server, looker)
    load.nodes_cpu = -sum(tree_seconds(node.pid) for node in nodes)
    load.seconds = -time.perf_counter()
    for node in nodes:
        assert node.stdin is not None
        node.stdin.write(b"go\n")
    for line in await asyncio.gather(*(hear(node) for node in nodes)):
        assert json.loads(line)["seconds"] > 0
    load.seconds += time.perf_counter()
    load.nodes_cpu += sum(tree_seconds(node.pid) for node in nodes)
    load.server_cpu += tree_seconds(server, looker)
    sampling.cancel()
    await asyncio.gather(sampling, return_exceptions=True)
    return load


async def measure(databases: Databases, nodes: int, c: int, count: int) -> dict[str, float]:
    store = await asyncio.to_thread(databases.make, "scale")
    link = await asyncpg.connect(store)
    counter = await asyncpg.connect(store)
    rate = RATE if c == RATE else 0
    async with running(nodes, store, count, c, rate) as started:
        await asyncio.sleep(PAUSE_SECONDS)
        rested = await counter.fetchrow(READ)
        await asyncio.sleep(PAUSE_SECONDS)
        before = await counter.fetchrow(READ)
        load = await work(started, link, databases.pid)
        wrote = await counter.fetchval(READ)
        await asyncio.sleep(PAUSE_SECONDS)
        after = await counter.fetchrow(READ)
    await link.close()
    await counter.close()
    commits = after["commits"] - 2 * before["commits"] + rested["commits"]
    return load.per_process(count, wrote - before["writes"], commits)


async def compare(given: argparse.Namespace, databases: Databases) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {shape: [] for shape in SHAPES}
    for turn in range(1 if given.quick else given.rounds):
        for nodes, c in SHAPES:
            say(f"round {turn + 1}: {nodes} nodes, {c} at a time")
            all_of_it = nodes * RATE * PACED_SECONDS if c == RATE else PROCESSES
            count = all_of_it // (QUICKER if given.quick else 1)
            found[nodes, c].append(await measure(databases, nodes, c, count))
    say("")
    return found


def rows_of(found: dict[Any, list[Any]]) -> list[list[str]]:
    rows = [["nodes · a second on each, or in flight in all", *FIGURES]]
    for (nodes, c), rounds in found.items():
        figures = [short(median(one[name] for one in rounds)) for name in FIGURES]
        rows.append([_named(nodes, c), *figures])
    for (nodes, c), rounds in found.items():
        if nodes == 1:
            base_c, first = c, rounds
            continue
        row = [f"{_named(nodes, c)} ÷ {_named(1, base_c)}"]
        for name in FIGURES:
            pairs = [(one[name], base[name]) for one, base in zip(rounds, first, strict=True)]
            whole = all(base > 0 for _, base in pairs)
            row.append(f"× {short(median(a / b for a, b in pairs))}" if whole else "–")
        rows.append(row)
    return rows


def _named(nodes: int, c: int) -> str:
    return f"{nodes} · {RATE}/s" if c == RATE else f"{nodes} · {c}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Several nodes on one PostgreSQL.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=BENCH, help="the disk that is measured")
    parser.add_argument("--quick", action="store_true", help="one round, a tenth of the work")
    parser.add_argument(
        "--write", action="store_true", help="put the table into docs/benchmarks.md"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".stores-", dir=given.folder) as made:
        with running_databases(Path(made)) as databases:
            version = databases.version()
            found = asyncio.run(compare(given, databases))
    count = PROCESSES // (QUICKER if given.quick else 1)
    paced = RATE * PACED_SECONDS // (QUICKER if given.quick else 1)
    text = (
        f"{measured()}; PostgreSQL {version} with its own defaults (every commit flushed). Median"
        f" of {1 if given.quick else given.rounds} rounds, ratios taken within a round. {count}"
        f" processes of five trivial steps, started over all nodes; where {RATE} are started a"
        f" second, {paced} on each. All but processes/s is a"
        " process: transactions that wrote, all transactions (reads and the nodes' own ticks"
        " included), ms of CPU of all nodes and of the server, and ms that sessions waited for"
        " locks, for the server's latches and for the disk (sampled every 20 ms).\n\n"
        + table(rows_of(found))
    )
    print(text)
    if given.write:
        write("scale", "Several nodes on one PostgreSQL", text)


if __name__ == "__main__":
    main()
