"""A real service of real processes that can be killed, frozen, asked to leave and started again.

    Machine ── partner.py                  its ledger outlives it; it survives what is done to us
           └── outlive serve (Service)     supervisor ── workers, found through /proc

Everything is started by this module and ended by pid; if the tests themselves are killed, the
kernel tells it. Waits are conditions with a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from examples.signup.run import die_with_parent
from tests.ports import free_port

from outlive.model import Batch
from outlive.store import Store
from outlive.stores.address import store_at
from outlive.testing.oracles import Effect, Facts, facts_of

ROOT = Path(__file__).resolve().parents[2]
PARTNER = ROOT / "examples" / "signup" / "partner.py"
SIGN_UP = "examples.signup.app:app"
DEADLINE_SECONDS = 60.0


async def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """The first true value of `condition` (which may be asynchronous), within the deadline."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process lives: one that ended and was not waited for does not."""
    return state_of(pid) not in ("", "Z", "X")


def state_of(pid: int) -> str:
    """The kernel's letter for what a process does; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def children_of(pid: int) -> list[int]:
    """The pids of the living children of a process."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [int(child) for child in found if alive(int(child))]


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


class Service:
    """`outlive serve` on one store and one port; it may be killed and started again."""

    def __init__(self, folder: Path, target: str, workers: int, **environment: str) -> None:
        self.folder = folder
        self.workers_wanted = workers
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        path = os.pathsep.join((str(ROOT), str(ROOT / "src")))
        self.environment = {**os.environ, "PYTHONPATH": path, **environment}
        command = (sys.executable, "-m", "outlive.commands", "serve", target)
        self.command = (*command, "--port", str(self.port), "--workers", str(workers))
        self.lives = 0
        self.killed = 0
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until all of it serves."""
        self._begin()
        await until(self._ready, "the service is ready")

    def _begin(self) -> None:
        self.lives += 1
        self.out = self.folder / f"service{self.lives}.out"
        self.err = self.folder / f"service{self.lives}.err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=err,
                preexec_fn=die_with_parent,
            )

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        return "outlive ready on" in self.out.read_text()

    def said(self) -> str:
        """Everything it has said on stderr in this life."""
        return self.err.read_text()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def workers(self) -> list[int]:
        """The pids of the workers that live."""
        return children_of(self.pid)

    def serving(self) -> list[int]:
        """The pids of the workers that live and have said that they serve."""
        first = self.out.read_text().partition("workers ")[2].split(" · ")[0]
        ready = {int(pid) for pid in first.split(",") if pid.strip()}
        for line in self.said().splitlines():
            if line.endswith(" is ready"):
                ready.add(int(line.split()[2]))
        return [pid for pid in self.workers() if pid in ready]

    async def all_serve(self) -> None:
        """Wait until every place is filled by a worker that serves."""
        await until(lambda: len(self.serving()) == self.workers_wanted, "all workers serve")

    def kill_all(self) -> int:
        """SIGKILL for the supervisor and every worker at once; gives how many were killed."""
        assert self.process is not None
        victims = [self.pid, *self.workers()]
        for pid in victims:
            send(pid, signal.SIGKILL)
        self.process.wait(DEADLINE_SECONDS)
        return len(victims)

    async def kill_worker(self) -> None:
        """SIGKILL for one worker that serves; over when it is gone."""
        (pid, *_) = await until(self.serving, "a worker serves")
        send(pid, signal.SIGKILL)
        self.killed += 1
        await self.gone([pid])

    async def gone(self, pids: list[int]) -> None:
        await until(lambda: not any(map(alive, pids)), f"{pids} have ended")

    async def end(self) -> int:
        """SIGTERM for the supervisor; gives its exit code once it has ended."""
        process = self.process
        assert process is not None
        send(process.pid, signal.SIGTERM)
        await until(lambda: process.poll() is not None, "the service's end")
        return int(process.returncode)

    def clean(self) -> None:
        """End whatever of it still lives, frozen or not."""
        if self.process is None:
            return
        for pid in (*self.workers(), self.pid):
            send(pid, signal.SIGKILL)
        self.process.wait(DEADLINE_SECONDS)


class Partner:
    """The partner of the sign-up, which lives on while we die."""

    def __init__(self, folder: Path) -> None:
        command = (sys.executable, str(PARTNER), "--port", "0")
        with (folder / "partner.err").open("wb") as err:
            self.process = subprocess.Popen(
                (*command, "--ledger", str(folder / "partner.db")),
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
                preexec_fn=die_with_parent,
            )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().rpartition(" ")[2].strip()
        assert self.url.startswith("http://"), (folder / "partner.err").read_text()

    async def behave(self, **how: Any) -> None:
        """Change how it treats us; without arguments it is well."""
        async with httpx.AsyncClient(timeout=60) as client:
            (await client.put(f"{self.url}/behaviour", json=how)).raise_for_status()

    async def effects(self, kind: str) -> list[Effect]:
        """What it did, key by key."""
        async with httpx.AsyncClient(timeout=60) as client:
            lines = (await client.get(f"{self.url}/ledger")).raise_for_status().json()
        return [
            Effect(line["key"], line["effects"], line["undone"])
            for line in lines
            if line["kind"] == kind
        ]

    def clean(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.asynccontextmanager
async def looking_at(place: Path | str) -> AsyncIterator[Store]:
    """The store in a file or at an address, opened from outside the service: to be read."""
    store = store_at(f"sqlite:///{place}" if isinstance(place, Path) else place)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


class Machine:
    """Partner, services and store of one test, in one folder.

    The store is a file in `place`, else in the folder, unless an `address` is given.
    """

    def __init__(self, folder: Path, place: Path | None = None, address: str = "") -> None:
        self.folder = folder
        self.store: Path = (place or folder) / "store.db"
        self.address = address or f"sqlite:///{self.store}"
        self.partner: Partner | None = None
        self.services: list[Service] = []
        self.closing: list[Callable[[], Awaitable[None]]] = []

    async def sign_up(self, workers: int = 1) -> Service:
        """Start the partner and the sign-up."""
        self.partner = self.partner or Partner(self.folder)
        return await self.serve(SIGN_UP, workers, PARTNER_URL=self.partner.url)

    async def serve(self, target: str, workers: int = 1, **environment: str) -> Service:
        """Start any service on this store; it keeps what it says in a folder of its own."""
        folder = self.folder / f"service{len(self.services)}"
        folder.mkdir()
        environment = {"OUTLIVE_STORE": self.address, **environment}
        made = Service(folder, target, workers, **environment)
        self.services.append(made)
        await made.start()
        return made

    async def facts(self) -> Facts:
        """All that the store says."""
        async with looking_at(self.address) as store:
            return await facts_of(store)

    async def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of the service's own tables, read through the store."""
        found: list[tuple[Any, ...]] = []

        def work(tables: Any) -> Any:
            found.extend(tables.execute(statement))
            return Batch()

        async with looking_at(self.address) as store:
            await store.transact(work)
        return found

    async def clean(self) -> None:
        """End whatever was started here."""
        for close in self.closing:
            await close()
        for service in self.services:
            service.clean()
        if self.partner is not None:
            self.partner.clean()
