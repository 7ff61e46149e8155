"""One worker process: serves the app on the supervisor's socket until it is told to end.

    SIGTERM ──▶ drain: no new work, /readyz says no, running steps end or are handed on
            ──▶ close connections ──▶ close the store ──▶ exit 0

It ends in the same order when its supervisor is gone, however that died: the supervisor holds one
end of a pipe, and a pipe knows. A thread watches it, because a hanging event loop could not. What
it has to say before it serves (ready, or why not) goes to the supervisor as one line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
from types import FrameType

import msgspec
import uvicorn

from outlive.commands.exits import FAILED, CommandFailed, exit_code
from outlive.commands.target import Service, face, load
from outlive.errors import OutliveError

DRAIN_SHARE = 0.8
"""The part of the grace time that running steps get; the rest is for connections and the store."""

LOGS = ("uvicorn.error", "outlive.web")
"""Where a start-up that fails is spoken of."""

YOUNG_OBJECTS = 10_000
"""How many more objects there are before the garbage collector looks at them: a hundred requests in
flight have as many, and are no garbage."""


class Order(msgspec.Struct, frozen=True):
    """What the supervisor asks of a worker."""

    target: str
    listener: int
    """Descriptor of the listening socket."""
    life: int
    """Descriptor that ends when the supervisor does."""
    report: int
    """Descriptor for the `Report`."""
    grace_seconds: float


class Report(msgspec.Struct, frozen=True):
    """What a worker says once: that it serves, or why it cannot."""

    ready: bool
    store: str = ""
    failure: str = ""
    code: int = FAILED


class Started(logging.Filter):
    """Keeps the logs still until the app has started: the report says why it did not, once.

    A known error is kept to be told in one line; an unknown one passes, with its traceback.
    """

    def __init__(self) -> None:
        super().__init__()
        self.done = False
        self.known: OutliveError | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OutliveError):
            self.known = self.known or error
        return self.done or (error is not None and not isinstance(error, OutliveError))

    def report(self) -> Report:
        """Why the app did not start."""
        if self.known is None:
            return Report(ready=False, failure="the app did not start")
        return Report(ready=False, failure=str(self.known), code=exit_code(self.known))


class Worker(uvicorn.Server):
    """A server that drains before it stops, and tells its supervisor when it serves."""

    def __init__(
        self, config: uvicorn.Config, order: Order, service: Service | None, started: Started
    ) -> None:
        super().__init__(config)
        self.order = order
        self.service = service
        self.starting = started
        self.leaving: asyncio.Task[None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.starting.done = True
        settle_collector()
        store = self.service.store_address if self.service else ""
        say(self.order, Report(ready=True, store=store))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.loop is None or not self.started or self.service is None:
            self.should_exit = True
        else:
            self.loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        self.leaving = self.leaving or asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        assert self.service is not None
        try:
            await self.service.drain(grace_seconds=self.order.grace_seconds * DRAIN_SHARE)
        finally:
            self.should_exit = True


def settle_collector() -> None:
    """Keep the garbage collector from what lives as long as the process, and from what is in
    flight; a service that has switched it off, or made it rarer, is left alone."""
    gc.collect()
    gc.freeze()
    young, *older = gc.get_threshold()
    if 0 < young < YOUNG_OBJECTS:
        gc.set_threshold(YOUNG_OBJECTS, *older)


def say(order: Order, report: Report) -> None:
    """Give the supervisor the one report it waits for; it may be gone already."""
    try:
        os.write(order.report, msgspec.json.encode(report) + b"\n")
        os.close(order.report)
    except OSError:
        pass


def follow(order: Order) -> None:
    """End in order when the supervisor has ended, and in any case when the grace time is over."""
    os.read(order.life, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(order.grace_seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def work(order: Order) -> int:
    """Serve until told to end; gives the exit code."""
    threading.Thread(target=follow, args=(order,), name="follow", daemon=True).start()
    try:
        app, service = face(load(order.target))
    except (CommandFailed, OutliveError) as error:
        code = error.code if isinstance(error, CommandFailed) else exit_code(error)
        say(order, Report(ready=False, failure=str(error), code=code))
        return code
    started = Started()
    config = uvicorn.Config(
        app,
        interface="asgi3",
        lifespan="on" if service else "auto",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(1, round(order.grace_seconds * (1 - DRAIN_SHARE))),
    )
    for name in LOGS:
        logging.getLogger(name).addFilter(started)
    server = Worker(config, order, service, started)
    try:
        server.run(sockets=[socket.socket(fileno=order.listener)])
    except SystemExit:
        report = started.report()
        say(order, report)
        return report.code
    return 0


if __name__ == "__main__":
    sys.exit(work(msgspec.json.decode(sys.argv[1], type=Order)))
