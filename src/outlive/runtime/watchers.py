"""Who waits for news of a process: long polls and event streams, without holding the store.

News of processes that live on this node are told at the gate, when their commit is durable. For all
others one task asks for the lengths of all watched journals at once, when the store hints at a
change and at least every half second.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from outlive.clock import Clock
from outlive.errors import OutliveError
from outlive.store import Store

POLL_SECONDS_MIN = 0.02
POLL_SECONDS_MAX = 0.5


class Watchers:
    """The waits of one node; used from one event loop."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: dict[str, dict[asyncio.Future[None], None]] = {}
        self._streams: dict[str, str] = {}
        self._known: dict[str, int] = {}
        """The shortest length that somebody who waits has seen."""
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def tell(self, id: str) -> None:
        """Something of the process `id` became durable."""
        waiting = self._waiting.pop(id, None)
        if waiting is not None:
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def changed(self, id: str, stream: str, seen: int, timeout_seconds: float) -> int:
        """Wait until the journal of `id` is longer than `seen`, at most `timeout_seconds`; gives
        its length."""
        ends = self._clock.boot() + timeout_seconds
        while True:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(id, {})[future] = None
            self._streams[id] = stream
            try:
                length = (await self._store.lengths((stream,))).get(stream, 0)
                left = ends - self._clock.boot()
                if length > seen or left <= 0 or self._closed:
                    return length
                self._known[id] = min(length, self._known.get(id, length))
                self._start()
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left, 5.0)):
                        await future
            finally:
                self._leave(id, future)

    def close(self) -> None:
        """End every wait with what is known."""
        self._closed = True
        for id in list(self._waiting):
            self.tell(id)
        if self._task is not None:
            self._task.cancel()

    def _leave(self, id: str, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(id)
        if waiting is not None:
            waiting.pop(future, None)
            if not waiting:
                del self._waiting[id]
        if id not in self._waiting:
            self._streams.pop(id, None)
            self._known.pop(id, None)

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._poll())

    async def _poll(self) -> None:
        """Ask for all watched journals at once while anybody watches."""
        seen = -1
        while self._waiting and not self._closed:
            watched = dict(self._streams)
            try:
                lengths = await self._store.lengths(list(watched.values()))
                for id, stream in watched.items():
                    if self._known.get(id, length := lengths.get(stream, 0)) != length:
                        self.tell(id)
                await asyncio.sleep(POLL_SECONDS_MIN)
                seen = await self._store.changed(seen, POLL_SECONDS_MAX)
            except OutliveError:
                await asyncio.sleep(POLL_SECONDS_MAX)
