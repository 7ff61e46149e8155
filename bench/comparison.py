"""What goes wrong with the small kinds of state, counted: peers and outlive in one run.

Three processes of each service (`peers/compared_web.py`) on one store, asked in turn by many
clients at once: a Valkey for the peers, which keep their state in Redis, a SQLite file for outlive.
Nothing here is a matter of speed; what is counted is what a user would call a bug.

    sessions   100 requests set 100 attributes of one session; a logout while a request is under way
    breakers   the calls that are let through to a partner that may be well again
    limits     20 in 4 seconds: asked steadily for 12 seconds, and around the end of a window
    requests   killed behind the effect and before its answer is kept; then the client repeats

    make bench-comparison            WRITE=1 puts it into docs/comparison.md
    bench/comparison.py --only limits
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from compared_page import Row, write

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "bench" / ".venv-comparison" / "bin" / "python"
SERVICE = ROOT / "bench" / "peers" / "compared_web.py"
DEADLINE_SECONDS = 60.0
PROCESSES = 3
ATTRIBUTES = 100
LOGOUTS = 20
CALLERS = 60
LIMIT, WINDOW_SECONDS = 20, 4.0
SPAN_SECONDS = 3.0
"""Shorter than the window: an answer may be a while under way."""
KILLS = 5
RETRY_SECONDS = 6.0
"""How long a client repeats: three times the lease, where there is one."""


class Service:
    """The processes of one service."""

    def __init__(self, name: str, store: str, folder: Path, processes: int = PROCESSES) -> None:
        sys.path.insert(0, str(ROOT))
        from tests.postgres_server import free_port

        self.name, self.store, self.effects = name, store, folder / f"{name}.effects"
        self.effects.touch()
        self.ports = [free_port() for _ in range(processes)]
        self.running: list[subprocess.Popen[str]] = []
        self.turn = 0
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self.http = httpx.AsyncClient(timeout=DEADLINE_SECONDS, limits=limits)

    def begin(self, port: int) -> subprocess.Popen[str]:
        program = sys.executable if self.name.startswith("outlive") else str(PEER)
        path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
        return subprocess.Popen(
            [program, str(SERVICE), self.name, str(port), self.store],
            stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path, "EFFECTS": str(self.effects)},
        )  # fmt: skip

    async def start(self) -> None:
        self.running = [self.begin(port) for port in self.ports]
        for process in self.running:
            await self._ready(process)

    async def _ready(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        said = await asyncio.to_thread(process.stdout.readline)
        if said != "ready\n":
            raise SystemExit(f"{self.name} does not start")

    async def revive(self) -> None:
        """Start again what is dead."""
        for number, process in enumerate(self.running):
            if process.poll() is not None:
                self.running[number] = self.begin(self.ports[number])
                await self._ready(self.running[number])

    async def end(self) -> None:
        await self.http.aclose()
        for process in self.running:
            process.kill()
            process.communicate()

    async def ask(
        self, path: str, method: str = "GET", port: int | None = None, **headers: str
    ) -> httpx.Response:
        """The answer of the process whose turn it is."""
        if port is None:
            self.turn += 1
            port = self.ports[self.turn % len(self.ports)]
        self.http.cookies.clear()
        url = f"http://127.0.0.1:{port}{path}"
        return await self.http.request(method, url, headers=headers)

    async def ask_all(self, path: str) -> list[httpx.Response]:
        return await asyncio.gather(*(self.ask(path, port=port) for port in self.ports))


@asynccontextmanager
async def serving(
    name: str, places: dict[str, str], folder: Path, **options: int
) -> AsyncIterator[Service]:
    """A service on a store of its own."""
    store = f"sqlite:///{folder}/{name}.db" if name.startswith("outlive") else places["redis"]
    if not name.startswith("outlive"):
        await flush(places["redis"])
    service = Service(name, store, folder, **options)
    try:
        await service.start()
        yield service
    finally:
        await service.end()


async def flush(address: str) -> None:
    from redis.asyncio import Redis

    async with Redis.from_url(address) as redis:
        await redis.flushall()


# --- sessions -------------------------------------------------------------------------------------


def cookie(answer: httpx.Response, before: str = "") -> str:
    found = answer.headers.get("set-cookie", before)
    return str(found).partition(";")[0]


async def sessions(service: Service) -> Row:
    browser = cookie(await service.ask("/login"))
    puts = (service.ask(f"/put?name=a{n}", cookie=browser) for n in range(ATTRIBUTES))
    await asyncio.gather(*puts)
    held = (await service.ask("/read", cookie=browser)).json()["held"]
    row = {"attributes kept of 100": len(set(held) & {f"a{n}" for n in range(ATTRIBUTES)})}
    for what, path in (("reads", "/read?seconds=0.3"), ("writes", "/put?name=late")):
        back = 0
        for _ in range(LOGOUTS):
            browser = cookie(await service.ask("/login"))
            slow = asyncio.create_task(service.ask(path, cookie=browser))
            await asyncio.sleep(0.02)
            await service.ask("/logout", cookie=browser)
            await slow
            back += (await service.ask("/read", cookie=browser)).json()["who"] == "ada"
        row[f"signed in again after {LOGOUTS} logouts, while a request {what}"] = back
    return row


# --- breakers -------------------------------------------------------------------------------------


async def breakers(service: Service) -> Row:
    async def is_open() -> bool:
        answers = [one.json()["said"] for one in await service.ask_all("/call")]
        return all("Open" in said or "CircuitBreaker" in said for said in answers)

    await until(is_open, "it is open everywhere")
    await asyncio.sleep(1.5)  # its rest is over
    await service.ask_all("/mend")
    began = time.monotonic()
    before = [call for one in await service.ask_all("/calls") for call in one.json()]
    assert not before
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(service.ask("/call")) for _ in range(CALLERS)]
    calls = [call for one in await service.ask_all("/calls") for call in one.json()]
    known = min(end for _, end in calls)  # from here it is known that the partner is well
    return {
        f"callers at once, {PROCESSES} processes": CALLERS,
        "let through before the first of them was answered": sum(b < known for b, _ in calls),
        "answered": sum(one.result().status_code == 200 for one in asked),
        "seconds until the last had its answer": round(time.monotonic() - began, 1),
    }


async def until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + DEADLINE_SECONDS
    while not await condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what}: not within {DEADLINE_SECONDS:g} s")
        await asyncio.sleep(0.05)


# --- limits ---------------------------------------------------------------------------------------


async def limits(service: Service) -> Row:
    async def burst(count: int) -> None:
        await asyncio.gather(*(service.ask("/ask") for _ in range(count)))

    async def admitted() -> list[float]:
        return sorted(at for one in await service.ask_all("/times") for at in one.json())

    await burst(PROCESSES)  # whoever connects first to its store does it now
    await asyncio.sleep(2 * WINDOW_SECONDS)
    skipped, ends = len(await admitted()), time.monotonic() + 3 * WINDOW_SECONDS
    while time.monotonic() < ends:
        await burst(12)
    steady = (await admitted())[skipped:]
    await asyncio.sleep(2 * WINDOW_SECONDS)
    skipped += len(steady)
    began = time.monotonic()
    await burst(1)  # a window begins
    for seconds in (0.8 * WINDOW_SECONDS, 1.05 * WINDOW_SECONDS):
        await asyncio.sleep(began + seconds - time.monotonic())
        await burst(3 * LIMIT)
    edge = (await admitted())[skipped:]
    return {
        f"asked steadily for {3 * WINDOW_SECONDS:g} s: admitted": len(steady),
        f"the most in any {SPAN_SECONDS:g} s": most(steady),
        f"around the end of a window: the most in any {SPAN_SECONDS:g} s": most(edge),
    }


def most(times: list[float]) -> int:
    """The largest number of them in any interval of `SPAN_SECONDS`."""
    return max((sum(at <= one < at + SPAN_SECONDS for one in times) for at in times), default=0)


# --- requests -------------------------------------------------------------------------------------


async def requests(service: Service) -> Row:
    """One process, which dies behind the effect; the client repeats until it is given an answer."""

    async def charge(key: str, **headers: str) -> httpx.Response | None:
        named = {"idempotency-key": f'"{key}"', "content-type": "application/json", **headers}
        try:
            return await service.ask("/charge", "POST", **named)
        except httpx.TransportError:
            return None

    first, again = await charge("plain"), await charge("plain")
    same = again is not None and first is not None and first.status_code == again.status_code
    beside = await asyncio.gather(*(charge("beside") for _ in range(10)))
    told: Counter[str] = Counter()
    for number in range(KILLS):
        assert await charge(f"killed-{number}", die="1") is None
        await asyncio.to_thread(service.running[0].wait, DEADLINE_SECONDS)
        await service.revive()
        ends, found = time.monotonic() + RETRY_SECONDS, None
        while time.monotonic() < ends and (found is None or found.status_code >= 400):
            found = await charge(f"killed-{number}")
            await asyncio.sleep(0.1)
        told[said(found)] += 1
    effects = await counted(service)
    doubled = sum(effects[f"killed-{n}"] > 1 for n in range(KILLS))
    return {
        "a repetition gets the same answer": "yes" if same else said(again),
        "ten at once: effects": effects["beside"],
        "ten at once: told": ", ".join(sorted({said(one) for one in beside})),
        f"killed {KILLS} times: effects": sum(effects[f"killed-{n}"] for n in range(KILLS)),
        "of these done twice": doubled,
        f"the client is told, within {RETRY_SECONDS:g} s": ", ".join(sorted(told)),
    }


def said(answer: httpx.Response | None) -> str:
    if answer is None:
        return "nothing"
    code = ""
    if "problem" in answer.headers.get("content-type", ""):
        code = " " + answer.json()["type"].rpartition("/")[2]
    return f"{answer.status_code}{code}"


async def counted(service: Service) -> Counter[str]:
    """The effects of each key: lines of a file, or rows."""
    lines = service.effects.read_text().split()
    if service.name == "outlive-own-tables":
        lines = (await service.ask("/effects")).json()
    return Counter(lines)


GROUPS: dict[str, tuple[Any, tuple[str, ...], int]] = {
    "sessions": (sessions, ("starsessions", "starsessions-rolling", "outlive-sessions"), PROCESSES),
    "breakers": (breakers, ("purgatory", "pybreaker", "outlive-breaker"), PROCESSES),
    "limits": (
        limits,
        ("slowapi", "limits-fixed", "limits-moving", "outlive-gcra", "outlive-sliding"),
        PROCESSES,
    ),
    "requests": (
        requests,
        (
            "asgi-idempotency-header", "fastapi-idempotency-key", "idemkit", "outlive-elsewhere",
            "outlive-own-tables",
        ),
        1,
    ),
}  # fmt: skip


async def compare(only: str) -> dict[str, dict[str, Row]]:
    sys.path.insert(0, str(ROOT))
    from tests.cell_servers import valkey_server

    valkey = valkey_server()
    valkey.start()
    found: dict[str, dict[str, Row]] = {}
    try:
        for group, (count, names, processes) in GROUPS.items():
            for name in names if group.startswith(only) else ():
                with tempfile.TemporaryDirectory() as folder:
                    places = {"redis": valkey.address}
                    async with serving(name, places, Path(folder), processes=processes) as service:
                        row = await count(service)
                found.setdefault(group, {})[name] = row
                print(f"{name:26}", *(f"{what}: {much};" for what, much in row.items()), flush=True)
    finally:
        valkey.kill()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="groups that begin so")
    parser.add_argument("--write", action="store_true", help="put it into docs/comparison.md")
    given = parser.parse_args()
    found = asyncio.run(compare(given.only))
    if given.write:
        write(found)


if __name__ == "__main__":
    main()
