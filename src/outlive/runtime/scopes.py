"""Scopes: parts of a body that are rolled back by themselves, while the body goes on.

    try:
        async with run.scope():
            await run(reserve_hotel, trip)
            await run(reserve_flight, trip)         raises: the hotel is given back
    except StepFailed:
        await run(offer_train, trip)

An error that leaves the scope undoes the steps completed inside it, the last first, each undo
recorded and tried again; then the error goes on outwards. What is undone is one record, so a crash
in the middle goes on where it was. Scopes nest, and hold whatever is done inside of them, also by
branches and tasks made there. The identities of steps are the same with and without a scope.

An error undoes nothing here that would not roll back the process (`rollback_on`), and nothing is
undone behind `run.pivot()`. A cancel of the process passes through: it undoes everything anyway.
An undo that gives up makes the process `stuck`; when it is let go on, it is tried again.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any

from outlive.runtime import branches
from outlive.runtime.rollback import SIBLINGS_SECONDS, is_any

if TYPE_CHECKING:
    from outlive.runtime.activation import Activation
    from outlive.runtime.run import Run

_innermost: ContextVar[Scope | None] = ContextVar("outlive_scope", default=None)


class Scope:
    """`async with run.scope():`; see `Run.scope`."""

    __slots__ = ("_id", "_ids", "_outer", "_run", "_tasks", "_token")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._id = ""
        self._ids: set[str] = set()
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._outer: Scope | None = None
        self._token: Token[Scope | None] | None = None

    async def __aenter__(self) -> Scope:
        self.enter()
        return self

    async def __aexit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
        await self.leave(error)

    def enter(self) -> None:
        """From here on what this task does belongs to the scope."""
        if self._token is not None:
            raise RuntimeError("a scope is entered once; make another with run.scope()")
        self._id = self._run._identify("scope")
        activation = self._run._activation
        outer = _innermost.get()
        if outer is not None and outer._run._activation is activation:
            self._outer = outer
        self._token = _innermost.set(self)
        activation.scopes.append(self)

    def restore(self) -> None:
        """What this task does belongs to the scope no more; called where it was entered."""
        assert self._token is not None
        _innermost.reset(self._token)

    async def leave(self, error: BaseException | None) -> None:
        """The end of the scope, with what has left it."""
        run, activation = self._run, self._run._activation
        activation.scopes.remove(self)
        if self._outer is not None:
            self._outer._ids |= self._ids
            self._outer._tasks |= self._tasks
        if isinstance(error, branches.INTERRUPTIONS):
            run._course.cut |= self._ids
            return
        decided = await branches.decision(run, self._id, "scope")
        if error is None:
            if decided is not None:
                await activation.drift(
                    f"{self._id} is recorded as rolled back, and the code leaves it without an "
                    f"error"
                )
            return
        if decided is not None:
            run._pass(self._id)
            await branches.undo_decided(run, decided)
            return
        rolls_back = is_any(error, activation.definition.rollback_on)
        if not isinstance(error, Exception) or not rolls_back or activation.forward:
            return
        await self._end_tasks()
        inside = self._ids.__contains__
        await branches.decide(
            run, self._id, "scope", inside, error=error, undo=inside, needed=False
        )

    async def _end_tasks(self) -> None:
        """What was begun inside and still runs beside ends before anything is undone."""
        for id in self._ids:
            parked = self._run._activation.parking.get(id)
            if parked is not None:
                parked.future.cancel()
        left = [task for task in self._tasks.values() if not task.done()]
        left = [task for task in left if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=SIBLINGS_SECONDS)

    def note_task(self, id: str) -> None:
        """The step `id` is run by this task, perhaps beside the body."""
        task, scope = asyncio.current_task(), inside_of(self._run._activation)
        if task is not None and scope is not None:
            scope._tasks[id] = task


def inside_of(activation: Activation) -> Scope | None:
    """The innermost open scope of this process that the code which asks is in."""
    scope = _innermost.get()
    if scope is None or scope._run._activation is not activation:
        return None
    return scope


def note(activation: Activation, id: str) -> None:
    """The code that asks does `id` now: it belongs to the scope it is in."""
    scope = inside_of(activation)
    if scope is not None:
        scope._ids.add(id)
