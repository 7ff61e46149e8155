"""One of several processes on one store: it does what each line of its input says, and says so.

    limit N          N hits at once; how many were admitted
    ahead N          the same of a limit of which each process takes 10 ahead
    make             a session of ada's; its id
    set ID FROM N    N requests at once, each setting another attribute; how many were refused
    logout ID        sign the session out
    read ID          its attributes, or null
    break            open the breaker
    hold             hold it open, as an operator does; `release` ends that
    probe N          N calls at once while it is half-open; each that is let through writes a line
                     to the ledger and never ends; how many were refused
    load KEY N       N questions of a cache at once; the loader writes a line to the ledger
    hour             what its own clock says, in seconds
    die KEY          the same, and it is killed while it loads

Run as `python fleet.py ADDRESS CELLS LEDGER`; what is written to the ledger is flushed at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

from msgspec import Raw

from outlive import Breaker, BreakerOpen, Outlive, Quota, bounded
from outlive.errors import SessionExpired
from outlive.kinds.sessions.visit import Change

ADDRESS, CELLS, LEDGER = sys.argv[1:]
PROBE_SECONDS = float(os.environ.get("PROBE_SECONDS", 4.0))
app = Outlive(ADDRESS)
limits = app.ratelimits(
    Quota("all", 200, per_seconds=86_400), cells=CELLS, on_failure="closed", timeout_seconds=30
)
ahead = app.ratelimits(
    Quota("ahead", 200, per_seconds=86_400), cells=CELLS, scope="hybrid", ahead=10,
    ahead_seconds=60.0, on_failure="closed", timeout_seconds=30,
)  # fmt: skip
sessions = app.sessions(cells=CELLS, storage="volatile" if CELLS else "durable")
partner = app.dependency(
    "partner", breaker=Breaker(calls_min=4, open_seconds=0.3, probe_seconds=PROBE_SECONDS)
)
dies = False
inside = 0
"""How many calls have been let through, and stay."""
under_way: set[asyncio.Future[None]] = set()
"""Nobody else holds a task that waits for nothing."""


def note(word: str) -> None:
    with open(LEDGER, "a") as ledger:
        ledger.write(f"{word}\n")


@app.cache(bounded(60.0), ttl=600.0, cells=CELLS, load_seconds=2.0)
async def price(key: str) -> str:
    note(f"load {key}")
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.1)
    return key.upper()


def change(name: str = "", subject: str = "ada", was: str = "ada", end: bool = False) -> Change:
    data = {name: Raw(b"1")} if name else {}
    fresh = sessions.visit(None)._next()
    return Change(data, (), {}, was, "" if end else subject, False, end, False, "", fresh)


async def set_one(id: str, name: str) -> bool:
    held = await sessions.load(id)
    if held is None:
        return False
    try:
        await sessions.settle(held, change(name))
    except SessionExpired:
        return False
    return True


@partner.guard()
async def call(well: bool) -> None:
    if not well:
        raise ConnectionError
    global inside
    inside += 1
    note(f"probe {os.getpid()}")
    await asyncio.Event().wait()


async def refused(count: int) -> int:
    """How many of `count` calls were refused; the others are let through and stay."""
    before = inside
    calls = {asyncio.ensure_future(call(True)) for _ in range(count)}
    under_way.update(calls)
    done: set[asyncio.Future[None]] = set()
    while len(done) + inside - before < count:
        done, _ = await asyncio.wait(calls, timeout=0.05)
    errors = [one.exception() for one in done]
    assert all(isinstance(error, BreakerOpen) for error in errors), errors
    return len(done)


async def do(words: list[str]) -> Any:
    global dies
    match words:
        case ["hour"]:
            return time.time()
        case ["limit" | "ahead", count]:
            asked = ahead if words[0] == "ahead" else limits
            said = await asyncio.gather(*(asked.hit("ada") for _ in range(int(count))))
            return sum(map(bool, said))
        case ["make"]:
            return (await sessions.settle(None, change("start", was=""))).id
        case ["set", id, first, count]:
            names = [f"n{int(first) + n}" for n in range(int(count))]
            said = await asyncio.gather(*(set_one(id, name) for name in names))
            return said.count(False)
        case ["logout", id]:
            held = await sessions.load(id)
            return (await sessions.settle(held, change(end=True))).outcome
        case ["read", id]:
            held = await sessions.load(id)
            return None if held is None else sorted(held.record.data)
        case ["break"]:
            for _ in range(4):
                try:
                    await call(False)
                except (ConnectionError, BreakerOpen):
                    continue
            return (await partner.standing()).mode == "open"
        case ["hold"]:
            return (await partner.force_open("ann", "they asked for a pause")).mode
        case ["release"]:
            return (await partner.release("bob", "they are back")).mode
        case ["probe", count]:
            return await refused(int(count))
        case ["load" | "die", key, *count]:
            dies = words[0] == "die"
            loads = (price(key) for _ in range(int(count[0]) if count else 40))
            return sorted(set(await asyncio.gather(*loads)))
    raise AssertionError(words)


async def main() -> None:
    loop = asyncio.get_running_loop()
    async with app:
        print('"ready"', flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await do(line.split())), flush=True)


asyncio.run(main())
