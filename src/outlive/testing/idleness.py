"""Whether a node has anything to do before the clock is moved or somebody speaks to it.

    under way    a commit, a step's function, a body between two durable points, a take-over,
                 a command that is being decided
    idle         every body has ended or waits for a signal or a time

Nothing is looked at again and again: whatever leads to idleness is the end of a task, a record, or
a body that begins to wait, and each wakes who asks. What is under way may wait for the world (a
socket, a thread), and only real time says whether that comes; so there is a bound in real seconds,
and an error that shows where everything stands.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from outlive.runtime.activation import Activation
    from outlive.runtime.node import NodeRuntime

QUIET_TURNS = 8
"""Turns of the event loop without any work after which there is none: a result that was set takes
a few to reach who waits for it."""
NOT_USERS = ("outlive", "asyncio", "concurrent", "threading", "contextlib", "selectors")
"""Packages whose lines say nothing about where a user's code stands."""


class NotIdle(AssertionError):
    """Something was still under way after the given time, or nothing ever comes that was waited
    for."""


class Drifted(AssertionError):
    """A body asked for something else when it was replayed: it is not deterministic."""


class Idleness:
    """Watches one node, whose loops stand still."""

    def __init__(self, runtime: NodeRuntime) -> None:
        self._runtime = runtime
        self._news: asyncio.Future[None] | None = None
        self._tell = runtime.activations.tell
        runtime.activations.tell = self._told
        runtime.activations.on_park = self._wake

    async def settle(self, within: float) -> None:
        """Let everything run that can, and take up what is due, until the node is idle.

        Raises `NotIdle` with what is under way after `within` real seconds; it goes on then.
        """
        try:
            async with asyncio.timeout(within):
                await self._settle()
        except TimeoutError:
            lines = "\n".join(f"  {line}" for line in self.picture())
            raise NotIdle(f"Still under way after {within:g} s:\n{lines}") from None

    async def _settle(self) -> None:
        quiet = 0
        while True:
            busy = under_way(self._runtime)
            if busy:
                quiet = 0
                await self._change(busy)
            elif quiet < QUIET_TURNS:
                quiet += 1
                await asyncio.sleep(0)
            elif not await self._runtime.take_due() and not under_way(self._runtime):
                return
            else:
                quiet = 0

    async def _change(self, busy: set[asyncio.Task[Any]]) -> None:
        """Until one of the tasks has ended, something was recorded, or a body begins to wait."""
        self._news = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait({*busy, self._news}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._news.cancel()
            self._news = None

    def _told(self, id: str) -> None:
        self._tell(id)
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def picture(self) -> list[str]:
        """A line for each process that is under way, with the user's line of code where known."""
        lines = []
        for activation in self._runtime.activations.live.values():
            if activation.task is not None and is_moving(activation):
                steps = [f"{id} (attempt {past.number + 1})" for id, past in _retried(activation)]
                head = activation.head
                said = f"{activation.id} ({head.type}, {head.status})"
                said += f" trying {', '.join(steps)} again" if steps else ""
                lines.append(said + "".join(f" at {place}" for place in places_of(activation.task)))
        lines += [f"{place} in a thread" for place in _threads()]
        return lines or [f"{len(under_way(self._runtime))} tasks of the node itself"]


def _retried(activation: Activation) -> Iterator[tuple[str, Any]]:
    journal = activation.journal
    return ((id, past) for id, past in journal.attempts.items() if id not in journal.records)


def under_way(runtime: NodeRuntime) -> set[asyncio.Task[Any]]:
    """The tasks that must go on before the node is idle."""
    activations, ownership, committer = runtime.activations, runtime.ownership, runtime.committer
    found: set[asyncio.Task[Any]] = {*activations._tasks, *ownership._beginning}
    found.update(ownership._leaving.values())
    if committer._running and committer._task is not None:
        found.add(committer._task)
    for activation in activations.live.values():
        if activation.task is not None and is_moving(activation):
            found.add(activation.task)
    return {task for task in found if not task.done()}


def is_moving(activation: Activation) -> bool:
    """Whether the body of `activation` does anything but wait for a signal or a time."""
    if activation.interrupts or activation.transacting is not None or not activation.parking:
        return True
    return any(parked.future.done() for parked in activation.parking.values())


def places_of(task: asyncio.Task[Any]) -> list[str]:
    """Where the user's code stands that `task` runs: its innermost line that is not a library's."""
    found = list[str]()
    waiting: Any = task.get_coro()
    while waiting is not None:
        found += _place(getattr(waiting, "cr_frame", None))
        waiting = getattr(waiting, "cr_await", None)
    return found[-1:]


def _threads() -> list[str]:
    frames, found = sys._current_frames(), list[str]()
    for thread in threading.enumerate():
        if thread.name.startswith(("outlive-step", "outlive-body")):
            frame, lines = frames.get(thread.ident or 0), list[str]()
            while frame is not None:
                lines += _place(frame)
                frame = frame.f_back
            found += lines[:1]
    return found


def _place(frame: FrameType | None) -> list[str]:
    if frame is None or frame.f_globals.get("__name__", "").split(".")[0] in NOT_USERS:
        return []
    return [f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"]
