"""The synchronous face: bodies written as plain functions, in a thread each.

    @app.process("/imports", version=1)
    def import_file(run: BlockingRun, order: Order) -> Report:
        rows = run(read_rows, order.path)
        ...

The thread blocks in each durable call while the event loop does the work. A process that leaves
memory, or is lost to another node, gets `Discarded` raised from its call; let it pass.

Branches have a thread each, made for them, so that bodies which wait for their branches never hold
the threads that these need. A branch that is ended from outside is told at its next durable call.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar, overload
from uuid import UUID

if TYPE_CHECKING:
    from random import Random

    from outlive.kinds.processes.updates import Update
    from outlive.runtime.activations import Activations
    from outlive.runtime.callbacks import Callback
    from outlive.runtime.children import Child
    from outlive.runtime.fanout import Outcomes
    from outlive.runtime.run import Run
    from outlive.runtime.scopes import Scope
    from outlive.runtime.updates import Asked

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
T = TypeVar("T")
Branch = Callable[["BlockingRun"], R]
"""A part of a body that runs beside others: a function of the run it is given."""

BODIES_MAX = 256
"""Synchronous bodies that run at once in one node; more wait for a thread."""
BRANCHES_MAX = 64
"""Branches of one synchronous call: each has a thread of its own."""
CLOSING_SECONDS = 0.02
"""How often a branch that was ended is told so while its thread goes on."""


class BlockingRun:
    """A `Run` for synchronous bodies: the same calls, without `await`."""

    def __init__(self, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        self._run = run
        self._loop = loop

        self._waits: set[Future[Any]] = set()

    def _do(self, work: Coroutine[Any, Any, R]) -> R:
        waits = asyncio.run_coroutine_threadsafe(work, self._loop)
        self._waits.add(waits)
        try:
            return waits.result()
        finally:
            self._waits.discard(waits)

    @property
    def id(self) -> str:
        """See `Run.id`."""
        return self._run.id

    @property
    def version(self) -> int:
        """See `Run.version`."""
        return self._run.version

    def since(self, version: int) -> bool:
        """See `Run.since`."""
        return self._run.since(version)

    @property
    def era(self) -> int:
        """See `Run.era`."""
        return self._run.era

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

    def deadline(self, seconds: float | None) -> None:
        """See `Run.deadline`."""

        async def set_it() -> None:  # a timer is set, which is for the loop's thread
            self._run.deadline(seconds)

        self._do(set_it())

    def again(self, value: Any = None) -> NoReturn:
        """See `Run.again`."""
        self._do(self._run.again(value))

    def keyed(self, key: str | int) -> BlockingRun:
        """See `Run.keyed`."""
        made = BlockingRun(self._run.keyed(key), self._loop)
        made._waits = self._waits
        return made

    def __call__(self, step: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """See `Run.__call__`."""

        async def perform() -> R:  # the run is for the loop's thread
            return await self._run(step, *args, **kwargs)

        return self._do(perform())

    def transact(self, function: Callable[..., R], /, *args: Any, **kwargs: Any) -> R:
        """See `Run.transact`."""
        done: R = self._do(self._run.transact(function, *args, **kwargs))
        return done

    @overload
    def start(
        self, body: Callable[..., Awaitable[R]], value: Any = None, *,
        key: str | int | None = None, detached: bool = False,
        undo: Callable[..., Any] | None = None,
    ) -> BlockingChild[R]: ...  # fmt: skip
    @overload
    def start(
        self, body: Callable[..., R], value: Any = None, *, key: str | int | None = None,
        detached: bool = False, undo: Callable[..., Any] | None = None,
    ) -> BlockingChild[R]: ...  # fmt: skip
    def start(
        self, body: Callable[..., Any], value: Any = None, *, key: str | int | None = None,
        detached: bool = False, undo: Callable[..., Any] | None = None,
    ) -> BlockingChild[Any]:  # fmt: skip
        """See `Run.start`."""

        async def begin() -> Child[Any]:  # the run is for the loop's thread
            return await self._run.start(body, value, key=key, detached=detached, undo=undo)

        return BlockingChild(self, self._do(begin()))

    @overload
    def call(
        self, body: Callable[..., Awaitable[R]], value: Any = None, *,
        key: str | int | None = None, undo: Callable[..., Any] | None = None,
    ) -> R: ...  # fmt: skip
    @overload
    def call(
        self, body: Callable[..., R], value: Any = None, *, key: str | int | None = None,
        undo: Callable[..., Any] | None = None,
    ) -> R: ...  # fmt: skip
    def call(
        self, body: Callable[..., Any], value: Any = None, *, key: str | int | None = None,
        undo: Callable[..., Any] | None = None,
    ) -> Any:  # fmt: skip
        """See `Run.call`."""
        return self._do(self._run.call(body, value, key=key, undo=undo))

    def publish(self, event: Any) -> str:
        """See `Run.publish`."""

        async def publish() -> str:
            return await self._run.publish(event)

        return self._do(publish())

    def wait(self, signal: str | BlockingCallback[Any], *, within: float | None = None) -> Any:
        """See `Run.wait`."""
        if isinstance(signal, BlockingCallback):
            return self._do(self._run.wait(signal._callback))
        return self._do(self._run.wait(signal, within=within))

    @overload
    def callback(
        self, name: str, *, type: type[T], within: float | None = None
    ) -> BlockingCallback[T]: ...
    @overload
    def callback(self, name: str, *, within: float | None = None) -> BlockingCallback[Any]: ...
    def callback(
        self, name: str, *, type: Any = None, within: float | None = None
    ) -> BlockingCallback[Any]:
        """See `Run.callback`; `.result()` waits for what it is told."""
        made = self._do(self._run.callback(name, type=type, within=within))
        return BlockingCallback(self, made)

    def wait_update(
        self, update: Update[A, B], *, within: float | None = None
    ) -> BlockingAsked[A, B]:
        """See `Run.wait_update`."""
        return BlockingAsked(self, self._do(self._run.wait_update(update, within=within)))

    def sleep(self, seconds: float) -> None:
        """See `Run.sleep`."""
        self._do(self._run.sleep(seconds))

    @overload
    def gather(self, a: Branch[A], b: Branch[B], /) -> tuple[A, B]: ...
    @overload
    def gather(self, a: Branch[A], b: Branch[B], c: Branch[C], /) -> tuple[A, B, C]: ...
    @overload
    def gather(self, *branches: Branch[R]) -> tuple[R, ...]: ...
    def gather(self, *branches: Branch[Any]) -> tuple[Any, ...]:
        """See `Run.gather`; at most 64 branches, in a thread each."""
        return self._beside(self._run.gather, branches)  # type: ignore[no-any-return]

    @overload
    def first(self, a: Branch[A], b: Branch[B], /) -> A | B: ...
    @overload
    def first(self, a: Branch[A], b: Branch[B], c: Branch[C], /) -> A | B | C: ...
    @overload
    def first(self, *branches: Branch[R]) -> R: ...
    def first(self, *branches: Branch[Any]) -> Any:
        """See `Run.first`; at most 64 branches, in a thread each."""
        return self._beside(self._run.first, branches)

    def _beside(self, asked: Callable[..., Any], branches: tuple[Branch[Any], ...]) -> Any:
        if len(branches) > BRANCHES_MAX:
            raise ValueError(f"{len(branches)} branches; at most {BRANCHES_MAX} have a thread each")
        threads = ThreadPoolExecutor(max(1, len(branches)), thread_name_prefix="outlive-branch")
        try:
            return self._do(
                asked(*(_in_thread(branch, threads, self._loop) for branch in branches))
            )
        finally:
            threads.shutdown(wait=False)

    def all(
        self,
        items: Iterable[T],
        step: Callable[[T], R],
        *,
        limit: int,
        key: Callable[[T], str | int] | None = None,
    ) -> Outcomes[T, R]:
        """See `Run.all`."""
        done: Outcomes[T, R] = self._do(self._run.all(items, step, limit=limit, key=key))
        return done

    def scope(self) -> BlockingScope:
        """See `Run.scope`: `with run.scope():`."""
        return BlockingScope(self)


class BlockingAsked(Generic[A, B]):
    """An update in a synchronous body; see `Run.wait_update`."""

    def __init__(self, run: BlockingRun, asked: Asked[A, B]) -> None:
        self._run = run
        self._asked = asked
        self.value = asked.value
        self.key = asked.key

    def answer(self, answer: B) -> None:
        """See `Asked.answer`."""
        self._run._do(self._asked.answer(answer))

    def refuse(self, why: str | Exception) -> None:
        """See `Asked.refuse`."""
        self._run._do(self._asked.refuse(why))


class BlockingCallback(Generic[T]):
    """A callback in a synchronous body; see `Run.callback`."""

    def __init__(self, run: BlockingRun, callback: Callback[T]) -> None:
        self._run = run
        self._callback = callback
        self.id, self.token, self.until = callback.id, callback.token, callback.until

    @property
    def url(self) -> str:
        """See `Callback.url`."""
        return self._callback.url

    def result(self) -> T:
        """Wait for what it is told."""
        told: T = self._run._do(self._run._run.wait(self._callback))
        return told


class BlockingChild(Generic[R]):
    """A `Child` in a synchronous body: `result()` waits for its end."""

    def __init__(self, run: BlockingRun, child: Child[R]) -> None:
        self._run = run
        self._child = child

    @property
    def id(self) -> str:
        """See `Child.id`."""
        return self._child.id

    def result(self) -> R:
        """See `Child.result`."""
        return self._run._do(self._child.result())


class BlockingScope:
    """`with run.scope():` in a synchronous body; see `Run.scope`."""

    def __init__(self, run: BlockingRun) -> None:
        self._run = run
        self._scope: Scope = run._run.scope()

    def __enter__(self) -> BlockingScope:
        self._scope.enter()
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scope.restore()
        self._run._do(self._scope.leave(error))


def _in_thread(
    branch: Branch[R], threads: ThreadPoolExecutor, loop: asyncio.AbstractEventLoop
) -> Callable[[Run], Coroutine[Any, Any, R]]:
    """`branch` as a branch of the loop: it runs in a thread of `threads`, and its end is waited
    for also when it is cancelled."""
    context = contextvars.copy_context()

    async def run_it(run: Run) -> R:
        face = BlockingRun(run, loop)
        work = loop.run_in_executor(threads, context.copy().run, branch, face)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            run._course.closed = True
            while not work.done():
                for waits in tuple(face._waits):
                    waits.cancel()
                await asyncio.wait((work,), timeout=CLOSING_SECONDS)
            if not work.cancelled():
                _ = work.exception()
            raise

    function: Any = getattr(branch, "func", branch)
    run_it.__name__ = getattr(function, "__name__", "branch")
    return run_it


async def call_blocking(
    node: Activations, body: Callable[..., Any], run: Run, args: tuple[Any, ...]
) -> Any:
    """Run a synchronous body in a thread of its own and wait for its end."""
    if node.bodies is None:
        node.bodies = ThreadPoolExecutor(BODIES_MAX, thread_name_prefix="outlive-body")
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(node.bodies, body, BlockingRun(run, loop), *args)
