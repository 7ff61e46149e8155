"""Waiting with a client: for news, the client's leaving, the drain or the end of patience.

A client that waits for longer than a moment costs three small tasks and no store connection:
`app.changed` is told by the commits of this node. Its wait ends early in two cases. The client
left: nothing is done on its behalf any more (its work goes on). The instance goes down: the answer
is what is known now, and the client asks again, elsewhere or after the restart. Servers tell a life
span of the end only after the last answer was sent, so waiting for that would never end: `leaving`
is set when the stop signal comes (see `lifespan.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from outlive.web.messages import Request, until_gone

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.kinds.processes import View

T = TypeVar("T")
WAITERS_MAX = 10_000
"""Clients that wait at once in one instance; one more is answered at once (long poll) or refused
(stream)."""


BRIEF_SECONDS = 0.25
"""For so long nobody looks whether a client that waits has left, or the instance goes down: that
takes tasks, and most processes that are waited for have ended by then."""


class Waiting:
    """The waiting room of one instance."""

    def __init__(self, app: Outlive, *, waiters_max: int = WAITERS_MAX) -> None:
        self.app = app
        self.leaving = asyncio.Event()
        self.waiters_max = waiters_max
        self.count = 0

    @property
    def open(self) -> bool:
        """Whether one more client may wait."""
        return (
            self.count < self.waiters_max
            and self.app.phase == "ready"
            and not self.leaving.is_set()
        )

    async def ended_soon(self, id: str, seconds: float) -> View | None:
        """The view of a process that lives here, when it ends within `seconds` and
        `BRIEF_SECONDS`; else None."""
        self.count += 1
        try:
            return await self.app.view_at_end(id, min(seconds, BRIEF_SECONDS))
        finally:
            self.count -= 1


class Vigil:
    """One client's wait, from `async with` to its end."""

    def __init__(self, waiting: Waiting, request: Request) -> None:
        self._waiting = waiting
        self._request = request
        self._ends: set[asyncio.Task[Any]] = set()
        self._gone: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Vigil:
        self._waiting.count += 1
        self._gone = asyncio.create_task(until_gone(self._request))
        self._ends = {self._gone, asyncio.create_task(self._waiting.leaving.wait())}
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.count -= 1
        for task in self._ends:
            task.cancel()
        await asyncio.gather(*self._ends, return_exceptions=True)

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        return self._gone is not None and self._gone.done()

    @property
    def over(self) -> bool:
        """Whether there is no sense in waiting on: the client left, or the instance goes down."""
        return (
            any(task.done() for task in self._ends)
            or self._waiting.leaving.is_set()
            or self._waiting.app.phase != "ready"
        )

    async def ended(self, id: str, seconds: float) -> bool:
        """Wait until the process `id` has ended here, at most `seconds`, or until `over`.

        False also when it does not live on this node: then `changed` is what there is.
        """
        return await self._until(self._waiting.app.ended_here(id, seconds), False)

    async def changed(self, id: str, seen: int, seconds: float) -> int:
        """Wait until the process `id` has more than `seen` durable events, at most `seconds`, or
        until `over`.

        Gives the number of events known then, which is `seen` when nothing came.
        """
        return await self._until(self._waiting.app.changed(id, seen, seconds), seen)

    async def store_changed(self, seen: int, seconds: float) -> int:
        """Wait until anything was committed by anybody since `seen`, at most `seconds`, or until
        `over`; gives the new count, which is `seen` when nothing came."""
        return await self._until(self._waiting.app.store.changed(seen, seconds), seen)

    async def rest(self, seconds: float) -> None:
        """Let `seconds` pass, or less when the vigil is `over` before."""
        await asyncio.wait(self._ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def _until(self, wait: Coroutine[Any, Any, T], otherwise: T) -> T:
        """What `wait` gives, or `otherwise` when the vigil ended before."""
        news = asyncio.create_task(wait)
        try:
            await asyncio.wait({news, *self._ends}, return_when=asyncio.FIRST_COMPLETED)
            return news.result() if news.done() else otherwise
        finally:
            if not news.done():
                news.cancel()
                await asyncio.gather(news, return_exceptions=True)
