"""A lane: one thread that does one job after another, for the event loop that asked.

SQLite calls block for the length of an fsync, so they never run on an event loop. One lane owns the
writing connection, a few own reading ones. A job's result comes back by `call_soon_threadsafe`; a
loop that is gone by then does not hurt the lane. Where the interpreter ends and nobody has closed
the store, its lanes finish what they were given: a thread inside SQLite would otherwise use what
the interpreter has freed.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from outlive.errors import StoreUnavailable

T = TypeVar("T")
_Job = tuple["asyncio.AbstractEventLoop | None", "asyncio.Future[Any] | None", Callable[[], Any]]

EXIT_SECONDS = 10.0
"""How long an interpreter that ends waits for each of its lanes."""


class Lane:
    """One thread; jobs run in the order given."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._ended = False
        self._given = self._finished = 0
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()
        _lanes.add(self)

    def do(self, job: Callable[[], T]) -> asyncio.Future[T]:
        """Run `job` in the lane; the future gives what it returned or raises what it raised."""
        if self._ended:
            raise StoreUnavailable("The store is closed; nothing was read or written.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._given += 1
        self._jobs.put((loop, future, job))
        return future

    def do_later(self, job: Callable[[], None]) -> None:
        """Run `job` after the jobs given so far; nobody waits for it. Callable from the lane
        itself."""
        self._given += 1
        self._jobs.put((None, None, job))

    @property
    def idle(self) -> bool:
        """Whether no job is given or running: what belongs to the lane is at rest."""
        return self._given == self._finished

    async def end(self) -> None:
        """Finish the jobs given so far, then end the thread."""
        if not self._ended:
            last = self.do(lambda: None)
            self._ended = True
            self._jobs.put(None)
            await last

    def leave(self) -> None:
        """The same without an event loop, for at most `EXIT_SECONDS`."""
        self._ended = True
        self._jobs.put(None)
        self._thread.join(EXIT_SECONDS)

    def _work(self) -> None:
        while (found := self._jobs.get()) is not None:
            loop, future, job = found
            result: Any = None
            error: BaseException | None = None
            try:
                result = job()
            except BaseException as raised:
                error = raised
            self._finished += 1
            if loop is not None:
                with suppress(RuntimeError):  # the loop was closed: nobody waits any more
                    loop.call_soon_threadsafe(_settle, future, result, error)
            del found, loop, future, job, result, error


def _settle(future: asyncio.Future[Any] | None, result: Any, error: BaseException | None) -> None:
    if future is None or future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, StopIteration):  # no future takes it, and who asked would wait for ever
        future.set_exception(RuntimeError(f"A job in a lane raised {error!r}."))
    else:
        future.set_exception(error)


_lanes: weakref.WeakSet[Lane] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    for lane in list(_lanes):
        lane.leave()
