"""The synchronous face: bodies written as plain functions, in a thread each.

    @app.process("/imports", version=1)
    def import_file(run: BlockingRun, order: Order) -> Report:
        rows = run(read_rows, order.path)
        ...

The thread blocks in each durable call while the event loop does the work. A process that leaves
memory, or is lost to another node, gets `Discarded` raised from its call; let it pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from uuid import UUID

if TYPE_CHECKING:
    from random import Random

    from outlive.runtime.activations import Activations
    from outlive.runtime.run import Run

P = ParamSpec("P")
R = TypeVar("R")

BODIES_MAX = 256
"""Synchronous bodies that run at once in one node; more wait for a thread."""


class BlockingRun:
    """A `Run` for synchronous bodies: the same calls, without `await`."""

    def __init__(self, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        self._run = run
        self._loop = loop

    def _do(self, work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    @property
    def id(self) -> str:
        """See `Run.id`."""
        return self._run.id

    @property
    def version(self) -> int:
        """See `Run.version`."""
        return self._run.version

    @property
    def key(self) -> str:
        """See `Run.key`."""
        return self._run.key

    @property
    def state(self) -> Any:
        """See `Run.state`."""
        return self._run.state

    @state.setter
    def state(self, document: Any) -> None:
        self._run.state = document

    def now(self) -> datetime:
        """See `Run.now`."""
        return self._run.now()

    def uuid(self) -> UUID:
        """See `Run.uuid`."""
        return self._run.uuid()

    def random(self) -> Random:
        """See `Run.random`."""
        return self._run.random()

    def pivot(self) -> None:
        """See `Run.pivot`."""
        self._run.pivot()

    def keyed(self, key: str | int) -> BlockingRun:
        """See `Run.keyed`."""
        return BlockingRun(self._run.keyed(key), self._loop)

    def __call__(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """See `Run.__call__`."""

        async def perform() -> R:  # the run is for the loop's thread
            return await self._run(step, *args, **kwargs)

        return self._do(perform())

    def transact(self, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        """See `Run.transact`."""
        done: R = self._do(self._run.transact(function, *args, **kwargs))
        return done

    def wait(self, signal: str, *, within: float | None = None) -> Any:
        """See `Run.wait`."""
        return self._do(self._run.wait(signal, within=within))

    def sleep(self, seconds: float) -> None:
        """See `Run.sleep`."""
        self._do(self._run.sleep(seconds))


async def call_blocking(
    node: Activations, body: Callable[..., Any], run: Run, args: tuple[Any, ...]
) -> Any:
    """Run a synchronous body in a thread of its own and wait for its end."""
    if node.bodies is None:
        node.bodies = ThreadPoolExecutor(BODIES_MAX, thread_name_prefix="outlive-body")
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(node.bodies, body, BlockingRun(run, loop), *args)
