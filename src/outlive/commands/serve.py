"""`outlive serve`: a supervisor that owns the socket and keeps workers alive behind it.

supervisor   binds the socket once, so a worker's death refuses no connection
  └ worker   python -m outlive.commands.worker: the app, on the inherited socket

worker dies                 another takes its place, at once or after a growing pause if it
                            keeps dying; who died of what is said on stderr
SIGTERM or Ctrl-C           workers drain and end; whoever is left after the grace time is killed
Ctrl-C a second time        the workers are killed now, which costs nothing but the warm goodbye
the supervisor is killed    the workers notice, drain and end
a worker cannot start       at first: nothing is served, its reason is ours; later: tried again
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Annotated

import msgspec
from cyclopts import Parameter, validators

from outlive.commands.exits import DONE, FAILED, CommandFailed
from outlive.commands.worker import Order, Report

BACKLOG = 2048
"""Connections that wait while all workers are busy or being replaced."""
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.2, 5.0
"""Before a dead worker is replaced: doubled each time one died before it served."""
WORKERS_MAX = 64

Count = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=WORKERS_MAX))]
Port = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))]
Grace = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=3600))]


def serve(
    target: str,
    /,
    *,
    host: str = "127.0.0.1",
    port: Port = 8000,
    workers: Count = 1,
    store: str | None = None,
    grace_seconds: Grace = 20.0,
) -> int:
    """Run a service until it is told to end.

    Parameters
    ----------
    target
        MODULE:APP, an Outlive or an ASGI app.
    host
        The address to listen on.
    port
        The port to listen on; 0 takes any free one.
    workers
        How many processes serve (1 to 64).
    store
        The store's address, for apps that do not name one themselves (OUTLIVE_STORE).
    grace_seconds
        How long running work may take to end after SIGTERM (0 to 3600).
    """
    if store is not None:
        os.environ["OUTLIVE_STORE"] = store
    listener = listen(host, port)
    return asyncio.run(Supervisor(target, listener, workers, grace_seconds).run())


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `CommandFailed` with what stands in the way."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # The protocol is named because asyncio turns Nagle's delay off only where it is.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except (OSError, UnicodeError) as error:  # the latter: a name that no host can have
        reason = getattr(error, "strerror", None) or str(error)
        of_port = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        remedy = "--port 0" if of_port else "another --host"
        raise CommandFailed(f"cannot listen on {host}:{port}: {reason}; try {remedy}") from error
    return listener


class Supervisor:
    """Keeps `workers` processes serving on one socket until it is told to end."""

    def __init__(
        self, target: str, listener: socket.socket, workers: int, grace_seconds: float
    ) -> None:
        self.target = target
        self.listener = listener
        self.workers = workers
        self.grace_seconds = grace_seconds
        self.alive: dict[int, asyncio.subprocess.Process] = {}
        self.serving: list[int] = []
        self.announced = False
        self.leaving = asyncio.Event()
        self.code = DONE
        # Workers hold the reading end: it ends when this process does, however it dies.
        self.life, self._held = os.pipe()

    async def run(self) -> int:
        """Serve until told to end; gives the exit code: 0 when every worker ended in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_leave, number)
        slots = [asyncio.create_task(self._keep()) for _ in range(self.workers)]
        for slot in slots:
            slot.add_done_callback(lambda _: self.leaving.set())
        try:
            await self.leaving.wait()
            self.listener.close()
            for process in self.alive.values():
                self._signal(process, signal.SIGTERM)
            _, late = await asyncio.wait(slots, timeout=self.grace_seconds)
            if late:
                self._kill()
                say(
                    f"{len(late)} of {self.workers} workers did not end in {self.grace_seconds:g} s"
                )
            await asyncio.gather(*slots)
        finally:
            self._kill()
            self.listener.close()
            os.close(self.life)
            os.close(self._held)
        return self.code

    def _asked_to_leave(self, number: int) -> None:
        if self.leaving.is_set() and number == signal.SIGINT:
            self._kill()
        self.leaving.set()

    async def _keep(self) -> None:
        """Keep one place filled: start a worker, wait for its end, start another."""
        pause = PAUSE_SECONDS
        while not self.leaving.is_set():
            try:
                process, report = await self._start()
            except OSError as error:  # no process or memory is left, for now
                if not self.announced:
                    raise
                say(f"no worker can be started: {error}; it is tried again")
                pause = min(PAUSE_SECONDS_MAX, pause * 2)
                await self.rest(pause, served=False)
                continue
            await self._welcome(process, report)
            status = await process.wait()
            self.alive.pop(process.pid, None)
            if process.pid in self.serving:
                self.serving.remove(process.pid)
            if self.leaving.is_set():
                self._note_end(process.pid, status, report)
                return
            served = report is not None and report.ready
            pause = PAUSE_SECONDS if served else min(PAUSE_SECONDS_MAX, pause * 2)
            self.tell_death(process.pid, status)
            await self.rest(pause, served)

    def tell_death(self, pid: int, status: int) -> None:
        """Say that a worker has ended which was not asked to."""
        say(f"worker {pid} {end_of(status)}; another takes its place")

    def tell_successor(self, pid: int) -> None:
        """Say that a worker serves in the place of one that has ended."""
        say(f"worker {pid} is ready")

    async def rest(self, seconds: float, served: bool) -> None:
        """Wait before a worker that has ended is replaced; `served`: it had begun to serve."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.leaving.wait()

    async def _start(self) -> tuple[asyncio.subprocess.Process, Report | None]:
        """Start a worker and wait until it serves (or cannot, or died)."""
        read, write = os.pipe()
        listener = self.listener.fileno()
        order = Order(self.target, listener, self.life, write, self.grace_seconds)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "outlive.commands.worker"),
                msgspec.json.encode(order).decode(),
                pass_fds=(listener, self.life, write),
                # A group of its own: Ctrl-C in a terminal asks only the supervisor.
                process_group=0,
            )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        self.alive[process.pid] = process
        if self.leaving.is_set():
            self._signal(process, signal.SIGTERM)
        line = await _line(read)
        return process, msgspec.json.decode(line, type=Report) if line else None

    async def _welcome(self, process: asyncio.subprocess.Process, report: Report | None) -> None:
        if self.leaving.is_set():
            return
        if report is not None and report.ready:
            self.serving.append(process.pid)
            if self.announced:
                self.tell_successor(process.pid)
            elif len(self.serving) == self.workers:
                self.announced = True
                self.announce(report.store)
            return
        reason = report.failure if report else ""
        if self.announced:
            say(f"worker {process.pid} cannot start: {reason or 'it died'}")
            return
        # Nothing is served, so the others end too, and one reason is enough.
        self.code = report.code if report else FAILED
        self.leaving.set()
        status = await process.wait()
        say(reason or f"the worker {end_of(status)} before it could serve")

    def announce(self, store: str) -> None:
        """Say that all workers serve: where, who, and on which store."""
        host, port = self.listener.getsockname()[:2]
        place = f"[{host}]" if ":" in host else host
        pids = ", ".join(str(pid) for pid in sorted(self.serving))
        parts = [f"outlive ready on http://{place}:{port}", f"workers {pids}"]
        print(" · ".join(parts + [f"store {store}"] * bool(store)), flush=True)

    def _note_end(self, pid: int, status: int, report: Report | None) -> None:
        never_served = report is None or not report.ready
        in_order = status == 0 or (never_served and status == -signal.SIGTERM)
        if not in_order and self.announced:
            say(f"worker {pid} {end_of(status)} while it was ending")
            self.code = self.code or FAILED

    def _signal(self, process: asyncio.subprocess.Process, number: int) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(number)

    def _kill(self) -> None:
        for process in self.alive.values():
            self._signal(process, signal.SIGKILL)


async def _line(descriptor: int) -> bytes:
    """One line from a pipe, empty when it ends without one; closes the pipe."""
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    pipe = os.fdopen(descriptor, "rb")
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
    try:
        return await reader.readline()
    finally:
        transport.close()


def end_of(status: int) -> str:
    """How a process ended, in words."""
    if status < 0:
        with suppress(ValueError):  # most signals of real time have no name
            return f"was ended by {signal.Signals(-status).name}"
        return f"was ended by signal {-status}"
    return f"ended with exit status {status}"


def say(text: str) -> None:
    print(f"outlive: {text}", file=sys.stderr, flush=True)
