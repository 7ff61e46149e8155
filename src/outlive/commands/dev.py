"""`outlive dev`: a service while it is written. It reloads, and what is under way survives that.

a file changes      the code is loaded by another program first (developing/checking.py)
                    does not load   said with its line; what serves goes on serving
                    loads           what is under way is replayed on it, and what would be held is
                                    shown; then the worker drains and another takes its place
the worker dies     another takes its place; how long that took and what it took over is said
keys                r reload · k kill -9 · p prove · d dashboard · ? help · q end (with a terminal)
--postgres          a real PostgreSQL in .outlive/postgres (developing/database.py)

The socket stays bound all the while: no connection is refused. One worker serves.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import urllib.request
import webbrowser
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter, validators

from outlive.clock import Clock
from outlive.commands.developing import keys, telling
from outlive.commands.developing.checking import Looked, Order
from outlive.commands.developing.database import Database
from outlive.commands.developing.watching import Watch
from outlive.commands.exits import MISUSED, CommandFailed
from outlive.commands.serve import Port, Supervisor, end_of, listen, say
from outlive.commands.worker import Report

DATABASE = Path(".outlive/postgres")
CHECK_SECONDS = 60.0
"""For loading the code and replaying what is under way; then it counts as not loadable."""
TAKE_OVER_SECONDS = 3.0
"""How long a new worker is asked what it has taken over."""
METRICS_SECONDS = 2.0
KILLS_MAX = 200

Grace = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=600))]
Kills = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=KILLS_MAX))]
Folders = Annotated[list[Path] | None, Parameter(name="--watch", negative="")]
Postgres = Annotated[bool, Parameter(name="--postgres", negative="")]


def dev(
    target: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: Port = 8000,
    store: str | None = None,
    postgres: Postgres = False,
    watch: Folders = None,
    grace_seconds: Grace = 5.0,
    kills: Kills = 10,
) -> int:
    """Serve, and reload when the code changes; what is under way goes on.

    Parameters
    ----------
    target
        MODULE:APP, an Outlive or an ASGI app.
    host
        The address to listen on.
    port
        The port to listen on; 0 takes any free one.
    store
        The store's address, for apps that do not name one themselves (OUTLIVE_STORE).
    postgres
        Bring up a real PostgreSQL in .outlive/postgres and use that as the store.
    watch
        A folder or file that is watched beside the current folder.
    grace_seconds
        How long running steps may take to end before a reload (0 to 600); a step that is cut off
        runs again.
    kills
        How often the proof (key p) kills (1 to 200).
    """
    roots = [Path.cwd(), *(watch or [])]
    for root in roots:
        if not root.exists():
            raise CommandFailed(f"--watch {root}: there is no such file or folder", MISUSED)
    if postgres and store is not None:
        raise CommandFailed("give --store or --postgres, not both", MISUSED)
    if store is not None:
        os.environ["OUTLIVE_STORE"] = store
    listener = listen(host, port)
    database = Database(DATABASE) if postgres else None
    try:
        if database is not None:
            os.environ["OUTLIVE_STORE"] = database.start()
        return asyncio.run(Developer(target, listener, grace_seconds, roots, kills).run())
    finally:
        listener.close()
        if database is not None:
            database.stop()


class Developer(Supervisor):
    """A supervisor of one worker that reloads it, kills it, and says what came of it."""

    def __init__(
        self, target: str, listener: Any, grace_seconds: float, roots: list[Path], kills: int
    ) -> None:
        super().__init__(target, listener, 1, grace_seconds)
        self.kills = kills
        self.clock = Clock()
        self.watch = Watch(roots)
        self.changed = asyncio.Event()
        """A file has changed, or somebody asked for a reload: a worker that failed may be tried."""
        self.reloading: int | None = None
        """The pid of the worker that was asked to end for a reload."""
        self._was_asked = False
        """Whether the worker that ended last was."""
        self.since = 0.0
        """When the last worker was asked to end, or found dead."""
        self.proof: asyncio.subprocess.Process | None = None
        self._proves = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host, port = self.listener.getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
            host, f"[{host}]" if ":" in host else host
        )
        return f"http://{host}:{port}"

    async def run(self) -> int:
        """Serve until told to end; gives the exit code."""
        looked = await self.look(fully=True)
        if looked.failure:
            raise CommandFailed(looked.failure, looked.code or MISUSED)
        show([f"outlive dev · {self.target}", *telling.found(looked)])
        if looked.declared and looked.declared.gives_store and os.environ.get("OUTLIVE_STORE"):
            warn(("the app gives its store itself: --store and --postgres may not count",))
        warn(telling.differences(looked))
        self._address = self.url  # the listener is closed before the last line is printed
        self._bear(self._watch())
        with keys.pressed(self._key) as can_type:
            self._can_type = can_type
            try:
                return await super().run()
            finally:
                for task in self._tasks:
                    task.cancel()
                if self.proof is not None and self.proof.returncode is None:
                    self.proof.terminate()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def look(self, *, fully: bool = False) -> Looked:
        """Load the code in another program and see what it says."""
        read, write = os.pipe()
        order = Order(self.target, write, fully)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "outlive.commands.developing.checking"),
            msgspec.json.encode(order).decode(),
            pass_fds=(write,),
            process_group=0,
        )
        os.close(write)
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                said = await _all_of(read)
                status = await process.wait()
        except TimeoutError:
            return Looked(f"{self.target} was not loaded within {CHECK_SECONDS:g} s", MISUSED)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if not said:
            return Looked(f"{self.target} {end_of(status)} while it was loaded", MISUSED)
        return msgspec.json.decode(said, type=Looked)

    # --- what becomes of the worker ---------------------------------------------------------------

    def announce(self, store: str) -> None:
        """Say where it serves, and what can be done."""
        self.reloading = None
        (pid,) = self.serving
        show(
            (
                f"  serves      {self.url} · dashboard {self.url}/outlive · worker {pid}",
                f"  keys        {telling.short_keys()}"
                if self._can_type
                else "  keys        none: this is no terminal; it reloads when a file changes",
            )
        )

    def tell_death(self, pid: int, status: int) -> None:
        """Say that a worker has died, unless it was asked to end for a reload."""
        self._was_asked = pid == self.reloading
        if not self._was_asked:
            self.since = self.clock.boot()
            say(f"worker {pid} {end_of(status)}; another takes its place")

    def tell_successor(self, pid: int) -> None:
        """Say how long it took, and after a death what was taken over."""
        took = self.clock.boot() - self.since
        if self.reloading is not None:
            self.reloading = None
            show((f"reloaded in {took:.1f} s: worker {pid} serves",))
        else:
            show((f"worker {pid} serves after {took:.2f} s",))
            self._bear(self._tell_take_over(pid))

    async def rest(self, seconds: float, served: bool) -> None:
        """A worker that has never served is tried again when something has changed."""
        if self._was_asked:
            self._was_asked = False
            return
        if served:
            await super().rest(seconds, served)
            return
        show(("nothing serves; the next change of a file (or r) tries again",))
        self.changed.clear()
        waits = [asyncio.create_task(each.wait()) for each in (self.changed, self.leaving)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()

    async def _welcome(self, process: asyncio.subprocess.Process, report: Report | None) -> None:
        """One that was asked to end before it served is not spoken of, and ends nothing."""
        if process.pid != self.reloading:
            await super()._welcome(process, report)

    async def _tell_take_over(self, pid: int) -> None:
        """Ask the new worker what it goes on with, until it has gone on with anything."""
        ends, went_on = self.clock.boot() + TAKE_OVER_SECONDS, 0
        while not went_on and self.clock.boot() < ends and pid in self.serving:
            await asyncio.sleep(0.1)
            counts = await asyncio.to_thread(_counts, f"{self._address}/metrics")
            went_on = counts.get("outlive_crashes_total", 0)
        if went_on:
            show((f"take-over: {went_on} that were under way went on where they were",))
        elif pid in self.serving:
            show(("take-over: nothing was in the middle of anything; what waits, waits on",))

    # --- reloading --------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            files = await self.watch.changed()
            show((telling.changes(files),))
            await self._reload()

    async def _reload(self) -> None:
        """Look at the code; when it loads, replace the worker."""
        async with self._turn:
            looked = await self.look()
            if looked.failure:
                kept = "what serves goes on serving" if self.serving else "nothing serves"
                say(f"not reloaded, {kept}: {looked.failure}")
                return
            warn(telling.differences(looked))
            self.changed.set()
            for pid, process in list(self.alive.items()):  # one that starts may have the old code
                self.reloading, self.since = pid, self.clock.boot()
                self._signal(process, signal.SIGTERM)
                try:
                    async with asyncio.timeout(self.grace_seconds + 1):
                        await process.wait()
                except TimeoutError:
                    say(f"worker {pid} did not end in {self.grace_seconds:g} s and is killed")
                    self._signal(process, signal.SIGKILL)

    # --- keys -------------------------------------------------------------------------------------

    def _key(self, key: str) -> None:
        acts: dict[str, Callable[[], object]] = {
            "r": lambda: self._bear(self._asked_to_reload()),
            "k": self._asked_to_kill,
            "p": lambda: self._bear(self._prove()),
            "d": self._open_dashboard,
            "?": lambda: show(telling.keys(self.url)),
            "h": lambda: show(telling.keys(self.url)),
            "q": self.leaving.set,
            "\x04": self.leaving.set,
        }
        if key in acts and not self.leaving.is_set():
            acts[key]()

    async def _asked_to_reload(self) -> None:
        show(("reload",))
        self.watch.seen = await asyncio.to_thread(self.watch.look)
        await self._reload()

    def _asked_to_kill(self) -> None:
        if not self.serving:
            show(("no worker serves: there is nothing to kill",))
        for pid in self.serving:
            show((f"kill -9 {pid}",))
            self._signal(self.alive[pid], signal.SIGKILL)

    def _open_dashboard(self) -> None:
        address = f"{self.url}/outlive"
        show((f"dashboard {address}",))
        opened = threading.Thread(target=webbrowser.open, args=(address,), daemon=True)
        opened.start()  # a browser in the terminal would hold us up

    async def _prove(self) -> None:
        if self._proves:
            show(("a proof runs already",))
            return
        self._proves = True  # before it is started: a key that is held down comes many times
        show((f"proof: {self.kills} kills of a worker of its own, on a store of its own …",))
        arguments = ("--kills", str(self.kills), self.target)
        try:
            self.proof = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "outlive.testing.smallproof", *arguments), process_group=0
            )
            await self.proof.wait()
        finally:
            if self.proof is not None and self.proof.returncode is None:
                with suppress(ProcessLookupError):
                    self.proof.terminate()
                await self.proof.wait()
            self.proof, self._proves = None, False

    def _bear(self, work: Coroutine[Any, Any, None]) -> None:
        """Let `work` run beside; what goes wrong in it is seen, and ends nothing."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            say(f"a defect of outlive dev: {type(error).__name__}: {error}")


async def _all_of(descriptor: int) -> bytes:
    """Everything from a pipe, which is closed."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    pipe = os.fdopen(descriptor, "rb")
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
    try:
        return await reader.read()
    finally:
        transport.close()


def _counts(address: str) -> dict[str, int]:
    """The plain counters that /metrics of a worker shows; empty when it does not answer."""
    try:
        with urllib.request.urlopen(address, timeout=METRICS_SECONDS) as answer:
            lines = answer.read().decode().splitlines()
    except (OSError, ValueError, HTTPException):  # the last: it died in the middle of its answer
        return {}
    plain = (line.split() for line in lines if not line.startswith("#") and "{" not in line)
    return {each[0]: int(each[1]) for each in plain if len(each) == 2 and each[1].isdecimal()}


def show(lines: Iterable[str]) -> None:
    """Print to stdout: what this command is there for."""
    for line in lines:
        print(line, flush=True)


def warn(lines: Iterable[str]) -> None:
    """Print to stderr."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)
