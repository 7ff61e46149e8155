"""Does a long history cost anything? The same work on a small store and on one of many megabytes.

Both are filled with ended processes, and then, on both, in turn: two-step processes from 16
clients, a page of the list, a search by tag, the status of one process, and the recovery of 200
processes whose node was killed. Shown are the best figures of both in two rounds, and their ratio:
1 says that the size costs nothing.

    bench/sizes.py --megabytes 1000               on SQLite, in a folder that is removed afterwards
    bench/sizes.py --store postgresql://…         in two schemas of that database, to be dropped
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import page
from filling import fill_ended
from outlive import Outlive, Run, ids, step
from outlive.stores.address import store_at

CLIENTS = 16
UNDER_WAY = 200
LOOKS = 30
ROUNDS = 2
SMALL_MEGABYTES = 1.0
"""So many that a page of the list is full."""


@step
async def work(number: int) -> int:
    return number + 1


@step
async def hang() -> None:
    if os.environ.get("HANG"):
        await asyncio.sleep(3600)


def application(address: str) -> Outlive:
    app = Outlive(address)

    @app.process("/orders", version=1, tags={"customer": lambda _: "c-7"})
    async def order(run: Run) -> int:
        return await run(work, await run(work, 1))

    @app.process("/hangs", version=1)
    async def hangs(run: Run) -> None:
        await run(hang)

    return app


async def throughput(app: Outlive, seconds: float) -> float:
    """Processes a second from `CLIENTS` clients, each waiting for the end of one."""
    ends, done = time.perf_counter() + seconds, 0

    async def client() -> None:
        nonlocal done
        while time.perf_counter() < ends:
            await app.result((await app.begin("order", b"null")).id)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return done / (time.perf_counter() - began)


async def milliseconds(look: Callable[[], Awaitable[object]]) -> float:
    """The median time of `look`."""
    times = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        await look()
        times.append(time.perf_counter() - began)
    return median(times) * 1000


async def leave_under_way(address: str) -> None:
    """Start processes that do not end, say so, and wait to be killed."""
    app = application(address)
    await app.open()
    for _ in range(UNDER_WAY):
        await app.begin("hangs", b"null")
    print("ready", flush=True)
    await asyncio.sleep(3600)


async def recovery(address: str) -> float:
    """Seconds from the opening of a node until all that a killed one left has ended."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--child", address,
        env={**os.environ, "HANG": "1"}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None and await child.stdout.readline() == b"ready\n"
    child.kill()
    await child.wait()
    began = time.perf_counter()
    app = application(address)
    await app.open()
    while (await app.processes("running", "hangs")).items:
        await asyncio.sleep(0.01)
    seconds = time.perf_counter() - began
    await app.close()
    return seconds


async def measured(address: str, seconds: float) -> dict[str, float]:
    app = application(address)
    await app.open()
    await throughput(app, 1.0)
    found = {"processes/s, c=16": await throughput(app, seconds)}
    line = (await app.processes(limit=1)).items[0]
    found["list page, ms"] = await milliseconds(lambda: app.processes(type="order"))
    found["whole list page, ms"] = await milliseconds(app.processes)
    found["search by tag, ms"] = await milliseconds(lambda: app.processes(tags={"customer": "c-7"}))
    found["status of one, ms"] = await milliseconds(lambda: app.view(line.id))
    await app.close()
    found[f"recovery of {UNDER_WAY}, s"] = await recovery(address)
    return found


async def _filled(address: str, megabytes: float, payload: int) -> int:
    store = store_at(address)
    await store.open()
    try:
        return await fill_ended(store, megabytes, payload)
    finally:
        await store.close()


async def compare(
    store: str | None, megabytes: float, payload: int, seconds: float, *, write: bool
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="outlive-sizes-"))
    try:
        if store is None:
            addresses = [f"sqlite:///{folder}/{name}.db" for name in ("small", "large")]
        else:
            joined = "&" if "?" in store else "?"
            addresses = [f"{store}{joined}schema=sizes_{ids.token(20)}" for _ in range(2)]
        began = time.perf_counter()
        few = await _filled(addresses[0], SMALL_MEGABYTES, payload)
        count = await _filled(addresses[1], megabytes, payload)
        size = sum(path.stat().st_size for path in folder.glob("large*") if path.is_file())
        took = time.perf_counter() - began
        print(f"{count} ended processes, {size / 1e6:.0f} MB in files, written in {took:.0f} s\n")
        rounds = [[await measured(one, seconds) for one in addresses] for _ in range(ROUNDS)]
        rows = [["", "small", "large", "large ÷ small"]]
        for name in rounds[0][0]:
            best = max if name.startswith("processes/s") else min
            small, large = (best(both[at][name] for both in rounds) for at in (0, 1))
            rows.append([name, page.short(small), page.short(large), f"× {large / small:.2f}"])
        found = (
            f"{page.measured()}. {count:,} ended processes in {size / 1e6:,.0f} MB of files, "
            f"beside {few:,}; the best of {ROUNDS} rounds.\n\n{page.table(rows)}"
        )
        print(found)
        if write:
            page.write("sizes", "A long history beside a short one", found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--payload", type=int, default=2000, help="bytes of each payload")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--store", help="a PostgreSQL address; without it SQLite")
    parser.add_argument("--write", action="store_true", help="put it into docs/benchmarks.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        asyncio.run(leave_under_way(given.child))
    else:
        asyncio.run(
            compare(given.store, given.megabytes, given.payload, given.seconds, write=given.write)
        )


if __name__ == "__main__":
    main()
