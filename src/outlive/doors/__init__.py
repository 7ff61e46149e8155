"""The ways into an application: what may be asked of it and told to it, and from where.

    opened · reading · telling   what `Outlive` answers and takes, on any node

    app.blocking()            Django, Flask, scripts: the same calls without `await` (blocking.py)
    app.within(connection)    a process or a signal that goes with the caller's own transaction
                              (within.py)
    app.transact(function)    the caller's tables and what goes with them, in the store's own
                              transaction: the door on SQLite, where no second one may exist

An application lives in one event loop of one process at a time. A forked child has none: what it
inherited is left alone, and it opens a store of its own at its first call.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast, overload

from outlive.errors import StoreRefused
from outlive.handle import Handle
from outlive.model import Batch
from outlive.steps import manner_of, transacting

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.doors.blocking import BlockingOutlive
    from outlive.doors.within import Within

P = ParamSpec("P")
R = TypeVar("R")
TRANSACT_SECONDS = 5.0


class Doors:
    """What an application gives to code that has no event loop, or a transaction of its own."""

    _home: asyncio.AbstractEventLoop | None = None
    _face: BlockingOutlive | None = None

    def blocking(self, *, run: bool = False) -> BlockingOutlive:
        """The synchronous face of this application; the same object for every caller.

        It is opened by its first call, and drained when the interpreter ends or its `with` block
        does. `run`: be a whole node, which runs processes itself; without it this program starts,
        reads, signals and awaits, and a node elsewhere on the same store does the work.
        """
        from outlive.doors.blocking import BlockingOutlive

        if self._face is None:  # `setdefault`: another thread may ask first at the same time
            self.__dict__.setdefault("_face", BlockingOutlive(cast("Outlive", self)))
        face = cast("BlockingOutlive", self._face)
        face.runs = face.runs or run
        return face

    def handle(self, id: str) -> Handle[Any]:
        """The process with this public id, from outside its body. Asks nothing yet."""
        return Handle(cast("Outlive", self), id)

    def within(self, connection: Any) -> Within:
        """The caller's own open transaction, as a place to start processes in and send signals
        from.

        `connection`: an asyncpg connection, SQLAlchemy's `AsyncSession` or `AsyncConnection`, a
        psycopg `AsyncConnection`, or what an `async` function given to `transact` gets. It leads to
        the database of this application's store. For plain code: `app.blocking().within(…)`.
        Raises `NotAllowed` for anything else.
        """
        from outlive.doors.within import Within

        return Within(cast("Outlive", self), connection)

    @overload
    async def transact(
        self,
        function: Callable[Concatenate[Any, P], Awaitable[R]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    async def transact(
        self, function: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    async def transact(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `function(tables, *args)` in the store's own transaction; gives what it returns.

        Durable when this returns; when it raises, nothing was written (but for `OutcomeUnknown`).
        At most 5 s. Inside, `app.blocking().within(tables)` starts processes and sends signals that
        are there with the rows or not at all. An `async` function needs PostgreSQL.
        """
        made: list[Any] = []

        def plain(tables: Any) -> Batch:
            with transacting() as carried:
                made[:] = (function(tables, *args, **kwargs), carried)
            return Batch(put=tuple(carried.puts.values()))

        async def awaited(tables: Any) -> Batch:
            with transacting() as carried:
                made[:] = (await function(tables, *args, **kwargs), carried)
            return Batch(put=tuple(carried.puts.values()))

        work: Any = awaited if inspect.iscoroutinefunction(function) else plain
        work.manner = manner_of(function)
        await cast("Outlive", self).store.transact(work, limit_seconds=TRANSACT_SECONDS)
        for call in made[1].after:
            call()
        return made[0]

    async def nudge(self) -> None:
        """Let the nodes look for work now.

        Worth a call after the commit of a transaction that was used by `within`: without it they
        look within about a second. Nothing depends on it.
        """
        await cast("Outlive", self).store.commit(Batch())

    # --- where it lives ---------------------------------------------------------------------------

    def _settle_in(self) -> None:
        """From now on the application lives in the event loop that runs this. Raises `StoreRefused`
        when it lives in another."""
        app, here = cast("Outlive", self), asyncio.get_running_loop()
        if app._store is None:
            self._home = here
            _settled.add(self)
            if app._phase == "stopped":
                app._phase = "new"
        elif self._home is not here and self._home is not None and self._home.is_running():
            raise StoreRefused(
                "The application is open in another event loop of this process; nothing was opened."
            )

    def _forked(self) -> None:
        """In a forked child: what runs, runs in the parent."""
        app = cast("Outlive", self)
        _inherited.append((app._store, app._runtime, self._home))
        app._store = app._runtime = self._home = None
        app._phase = "new"
        for place in app._all_places():
            place.forget()
        if self._face is not None:
            self._face.forget()


_settled: weakref.WeakSet[Doors] = weakref.WeakSet()
_inherited: list[Any] = []
"""What a forked child must neither use nor close."""


def _after_fork() -> None:
    for doors in list(_settled):
        doors._forked()


os.register_at_fork(after_in_child=_after_fork)
