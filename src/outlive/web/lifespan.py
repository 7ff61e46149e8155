"""The life span of two applications in one: ours around the one we wrap.

    start   open the store and take up work  →  the wrapped application's start-up
    stop    drain  →  the wrapped application's shut-down  →  close the store

So the wrapped application may use ours from its first line to its last, and a step that still runs
during the drain finds the wrapped application's pools open. When the wrapped application does not
start, ours is closed again and the server is told why. One that knows no life span (it raises at
once) is served without.

Servers send the stop event only after the last response has been sent. A stream or a long poll
would hold that up for ever, so the stop *signal* is listened to beside the server's own handler,
and only to end what waits.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from outlive.errors import OutliveError
from outlive.web.messages import ASGI, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.web.waiting import Waiting

log = logging.getLogger("outlive.web")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LAST_SECONDS = 5.0
"""So long a wrapped application may go on after its last answer; servers do not wait for it."""


class LifeSpan:
    """One life span, from the server's `startup` to its `shutdown`."""

    def __init__(
        self, app: Outlive, wrapped: ASGI | None, waiting: Waiting, prepare: Callable[[], None]
    ) -> None:
        self._app = app
        self._prepare = prepare
        self._waiting = waiting
        self._inner = Inner(wrapped) if wrapped is not None else None
        self._handlers: dict[int, Any] = {}

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the `lifespan` scope."""
        await receive()
        try:
            await self._start(scope)
        except Exception as error:
            log.exception("the application does not start")
            await send({"type": "lifespan.startup.failed", "message": told(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await self._stop()
        except Exception as error:
            log.exception("the application did not stop in order")
            await send({"type": "lifespan.shutdown.failed", "message": told(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self, scope: Scope) -> None:
        self._waiting.leaving = asyncio.Event()  # that of an earlier life is set, and of its loop
        self._prepare()
        await self._app.open()
        try:
            if self._inner is not None:
                await self._inner.start(scope)
        except BaseException:
            await self._app.drain()
            await self._app.close()
            raise
        self._listen()

    async def _stop(self) -> None:
        self._waiting.leaving.set()
        self._unlisten()
        try:
            await self._app.drain()
        finally:
            try:
                if self._inner is not None:
                    await self._inner.stop()
            finally:
                await self._app.close()

    def _listen(self) -> None:
        """Set `leaving` on a stop signal, then do what the server does. Only where the server
        catches it itself."""
        loop = asyncio.get_running_loop()

        def chained(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._waiting.leaving.set)
            self._handlers[number](number, frame)

        for number in STOP_SIGNALS:
            before = signal.getsignal(number)
            if not callable(before) or before is signal.default_int_handler:
                continue
            try:
                signal.signal(number, chained)
            except (
                ValueError
            ):  # not the main thread: a test or an embedding server, which stops us otherwise
                return
            self._handlers[number] = before

    def _unlisten(self) -> None:
        for number, before in self._handlers.items():
            signal.signal(number, before)


class Inner:
    """The wrapped application's side: a life span of its own, run in a task."""

    def __init__(self, wrapped: ASGI) -> None:
        self._wrapped = wrapped
        self._to: asyncio.Queue[Message] = asyncio.Queue(2)
        self._from: asyncio.Queue[Message] = asyncio.Queue(2)
        self._task: asyncio.Task[None] | None = None

    async def start(self, scope: Scope) -> None:
        """Run its start-up. Raises `RuntimeError` with its message when it failed."""
        self._task = asyncio.create_task(self._run(scope))
        message = await self._ask("lifespan.startup")
        if message is not None and message["type"] == "lifespan.startup.failed":
            await self._end(self._task)
            raise RuntimeError(message.get("message") or "the wrapped application did not start")

    async def stop(self) -> None:
        """Run its shut-down. Raises `RuntimeError` with its message when it failed."""
        if self._task is None or self._task.done():
            return
        message = await self._ask("lifespan.shutdown")
        await self._end(self._task)
        if message is not None and message["type"] == "lifespan.shutdown.failed":
            raise RuntimeError(
                message.get("message") or "the wrapped application did not stop in order"
            )

    async def _end(self, task: asyncio.Task[None]) -> None:
        """Wait until it returns; one that listens on is ended."""
        done, _ = await asyncio.wait({task}, timeout=LAST_SECONDS)
        if not done:
            task.cancel()
            await asyncio.wait({task}, timeout=LAST_SECONDS)
        if task.done() and not task.cancelled():
            task.exception()  # it has said what there is to say

    async def _run(self, scope: Scope) -> None:
        await self._wrapped(scope, self._to.get, self._from.put)

    async def _ask(self, type: str) -> Message | None:
        """Its answer to `type`, or None when it ended without one: it knows no life span."""
        assert self._task is not None
        await self._to.put({"type": type})
        answer = asyncio.create_task(self._from.get())
        await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        if not self._from.empty():
            return self._from.get_nowait()
        failure = self._task.exception()
        if failure is not None:
            log.info("the wrapped application knows no life span (%s)", type_name(failure))
        return None


def told(error: Exception) -> str:
    """What the server shows on its console."""
    return str(error) if isinstance(error, OutliveError) else f"{type_name(error)}: {error}"


def type_name(error: BaseException) -> str:
    """The bare name of an error's type."""
    return type(error).__name__
