"""Death in one process, as close to kill -9 as Python allows: dropped, not cancelled.

    Life        all tasks that were begun within it, directly or by one another
    end()       none of them runs another line: no `finally`, no `except`, no handler
    Port        the store as a life sees it: it ends its life before or after the k-th commit, and
                answers nobody afterwards

A task's coroutine is wrapped when it is begun; once its life has ended the wrapper does not resume
it and lets the task end as cancelled. What was dropped is kept for ever, by a reference that nobody
gives back: Python would run its `finally` blocks when it is thrown away, at the latest when the
interpreter ends. That is a few kilobytes for each death.

Not promised: that a thread is stopped. A synchronous step that was under way ends in its own time,
and a synchronous body gets `Discarded` from its next call, as when its shard is lost.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

from outlive.errors import Discarded, OutliveError
from outlive.kinds.processes.entries import line_of
from outlive.kinds.processes.vocabulary import unpack
from outlive.model import Append, Batch, Committed

When = Literal["before", "after"]
_life: contextvars.ContextVar[Life | None] = contextvars.ContextVar("outlive_life", default=None)
_ASKED_BY_THREADS = ("BlockingRun.", "Run.")
"""Coroutines of ours that a thread may wait for: they end with `Discarded`, and the thread with
them."""


class Life:
    """The tasks of one life of an application."""

    def __init__(self) -> None:
        self.ended = False
        self._tasks: dict[asyncio.Task[Any], None] = {}

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run `work` as this life; gives what it gives, or None when the life ended under it."""
        context = contextvars.copy_context()
        context.run(_life.set, self)
        task = asyncio.get_running_loop().create_task(work, context=context)
        await asyncio.wait({task})
        return None if self.ended else task.result()

    def end(self) -> None:
        """Nothing of it runs any more, from the next time that anything of it would be resumed."""
        self.ended = True
        for task in list(self._tasks):
            task.cancel()

    async def rest(self) -> None:
        """Wait until each task of it is known to have ended: a few turns of the loop."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def begin(self, task: asyncio.Task[Any]) -> None:
        """`task` belongs to it."""
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._tasks.pop(task, None))


class _Mortal(Coroutine[Any, Any, Any]):
    """A coroutine that is not resumed once its life has ended."""

    def __init__(self, inner: Coroutine[Any, Any, Any], life: Life) -> None:
        self._inner, self._life = inner, life
        self.__name__ = getattr(inner, "__name__", "")
        self.__qualname__ = getattr(inner, "__qualname__", "")

    cr_await = property(lambda self: self._inner)
    cr_frame = None

    def send(self, value: Any) -> Any:
        return self._drop() if self._life.ended else self._inner.send(value)

    def throw(self, *error: Any) -> Any:
        return self._drop() if self._life.ended else self._inner.throw(*error)

    def close(self) -> None:
        if not self._life.ended:
            self._inner.close()

    def __await__(self) -> Any:
        return self._inner.__await__()

    def _drop(self) -> Any:
        if self.__qualname__.startswith(_ASKED_BY_THREADS):
            return self._inner.throw(Discarded())
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._inner))
        raise asyncio.CancelledError


class Mortals:
    """While it is open, tasks that a life begins in this event loop belong to it."""

    life: Life | None = None
    """To whom belongs what a thread asks for: threads do not say whose they are."""

    def __enter__(self) -> Mortals:
        self._loop = asyncio.get_running_loop()
        self._before: Any = self._loop.get_task_factory()
        self._loop.set_task_factory(self._make)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.set_task_factory(self._before)

    def _make(self, loop: Any, work: Any, **options: Any) -> asyncio.Task[Any]:
        context = options.get("context")
        life = _life.get() if context is None else context.get(_life)
        if life is None and getattr(work, "__qualname__", "").startswith(_ASKED_BY_THREADS):
            life = self.life
        if life is not None and asyncio.iscoroutine(work):
            work = _Mortal(work, life)
        if self._before is not None:
            task: asyncio.Task[Any] = self._before(loop, work, **options)
        else:
            task = asyncio.Task(work, loop=loop, **options)
        if life is not None:
            life.begin(task)
        return task


class Port:
    """The store of one life, which ends `when` its commit number `at` (0: it does not).

    Only commits that say something of a process are counted, and `said` has a line for each.
    """

    def __init__(self, inner: Any, life: Life, at: int = 0, when: When = "after") -> None:
        self._inner, self._life = inner, life
        self._at, self._when = at, when
        self.said: list[str] = []
        self.recorded: set[tuple[str, str]] = set()
        """The streams and ids of the steps that are recorded."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(found) or name in ("open", "close"):
            return found

        async def alive(*args: Any, **options: Any) -> Any:
            await self._stay_alive()
            return await found(*args, **options)

        return alive

    async def _stay_alive(self) -> None:
        if self._life.ended:
            await asyncio.get_running_loop().create_future()

    async def _die_if(self, when: When) -> None:
        if len(self.said) == self._at and self._when == when:
            self._life.end()
        await self._stay_alive()

    async def commit_group(self, batches: Sequence[Batch]) -> list[Committed | OutliveError]:
        await self._stay_alive()
        counted = any(batch.storage == "durable" for batch in batches)
        if counted:
            self.said.append(_said(add for batch in batches for add in batch.append))
            await self._die_if("before")
        found: list[Committed | OutliveError] = await self._inner.commit_group(batches)
        for batch, result in zip(batches, found, strict=True):
            if isinstance(result, Committed):
                self._note(batch.append)
        if counted:
            await self._die_if("after")
        return found

    async def commit(self, batch: Batch) -> Committed:
        (result,) = await self.commit_group([batch])
        if isinstance(result, OutliveError):
            raise result
        return result

    async def transact(
        self, work: Callable[[Any], Any], *, limit_seconds: float = 5.0
    ) -> Committed:
        """The function runs before a death `before` its commit as well: it is rolled back."""
        await self._stay_alive()
        made: list[Batch] = []

        def plain(tables: Any) -> Batch:
            made[:] = [work(tables)]
            self._die_inside(made[0])
            return made[0]

        async def awaited(tables: Any) -> Batch:
            made[:] = [await work(tables)]
            self._die_inside(made[0])
            return made[0]

        asked: Any = awaited if inspect.iscoroutinefunction(work) else plain
        asked.manner = getattr(work, "manner", "tables")
        try:
            found: Committed = await self._inner.transact(asked, limit_seconds=limit_seconds)
        except _DiedInside:
            self._life.end()
            await self._stay_alive()
            raise
        self._note(made[0].append)
        if made[0].append:
            await self._die_if("after")
        return found

    async def erase(self, streams: Sequence[str], batch: Batch) -> Committed:
        """Counted like a commit: it says of processes that they are no longer kept."""
        await self._stay_alive()
        self.said.append(f"{len(streams)} journals erased")
        await self._die_if("before")
        found: Committed = await self._inner.erase(streams, batch)
        await self._die_if("after")
        return found

    def _die_inside(self, batch: Batch) -> None:
        if batch.append:
            self.said.append(_said(batch.append))
            if len(self.said) == self._at and self._when == "before":
                raise _DiedInside

    def _note(self, appends: Sequence[Append]) -> None:
        for add in appends:
            if add.kind == "step":
                self.recorded.add((add.stream, unpack(add.kind, add.data).id))


class _DiedInside(Exception):
    """The death of a life before the commit of a transaction: nothing of it is written."""


def _said(appends: Any) -> str:
    return "; ".join(line_of(unpack(add.kind, add.data)) for add in appends) or "a cell written"
