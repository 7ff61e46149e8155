"""The synchronous face: an application for code without an event loop.

    client = app.blocking()                        # a module of its own, once
    handle = client.start(register, form)          # in a Django or Flask view
    account = handle.result(within=5)

    with app.blocking(run=True) as client: ...     # a script that runs the processes itself

    caller's thread ──call──> event loop in a thread of our own ──> store
                    <─answer─

The thread is made by the first call and ends with `close`, the `with` block or the interpreter.
When the application is open in a running loop already (a service with synchronous views beside
asynchronous ones), that loop is used and no thread is made. Any number of threads may call at
once. A call that is interrupted (Ctrl-C) is given up and leaves everything as it is: what was
started goes on, and can be asked again by its id.

A forked child (gunicorn's prefork) makes its own thread and opens its own store at its first call.

Not promised: a call from inside an event loop. It would stop that loop, so it raises `InEventLoop`.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import CancelledError, wait
from contextlib import suppress
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypeVar,
    TypeVarTuple,
    Unpack,
    overload,
)

from outlive import codec
from outlive.errors import InEventLoop, NotAllowed, OutcomeUnknown, StoreUnavailable
from outlive.steps import is_transacting

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.doors.faces import (
        BlockingCache,
        BlockingDependency,
        BlockingOnce,
        BlockingRateLimiter,
        BlockingRequests,
        BlockingSessions,
        BlockingSlots,
    )
    from outlive.doors.ratelimits import RateLimiter, SlotKeeper
    from outlive.doors.requests import Requests
    from outlive.doors.sessions import Sessions
    from outlive.doors.within import BlockingWithin
    from outlive.kinds.caches.rule import Holds
    from outlive.kinds.processes import View
    from outlive.kinds.processes.search import Narrowed, Page
    from outlive.kinds.processes.seen import Seen
    from outlive.kinds.processes.updates import Update
    from outlive.runtime.caches import Cache
    from outlive.runtime.dependencies import Dependency

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")
Args = TypeVarTuple("Args")

DRAIN_SECONDS = 20.0
LOOK_SECONDS = 1.0
"""A Ctrl-C that comes just before a wait is only seen when the wait ends: so long it is deaf."""
EXIT_SECONDS = 5.0
"""How long the end of the interpreter waits for steps under way."""
_ENDING_SECONDS = 5.0
"""What closing may take beside the drain."""


class BlockingHandle(Generic[R]):
    """One process, from outside its body: `Handle` without `await`."""

    def __init__(self, client: BlockingOutlive, id: str) -> None:
        self.id = id
        self._client = client

    def view(self) -> View:
        """See `Handle.view`."""
        return self._client.call(lambda app: app.view(self.id))

    def status(self) -> str:
        """See `Handle.status`."""
        return self.view().status

    def result(self, within: float | None = None) -> R:
        """See `Handle.result`. Interrupted, it may be called again."""
        found: R = self._client.call(lambda app: app.result(self.id, within))
        return found

    def signal(self, name: str, payload: Any = None, *, key: str | None = None) -> None:
        """See `Handle.signal`."""
        raw = codec.encode(payload)
        self._client.call(lambda app: app.signal(self.id, name, raw, key=key))

    @overload
    def update(
        self,
        update: Update[A, B],
        value: A,
        *,
        key: str | None = None,
        within: float | None = None,
    ) -> B: ...
    @overload
    def update(
        self,
        update: str,
        value: Any = None,
        *,
        key: str | None = None,
        within: float | None = None,
    ) -> Any: ...
    def update(
        self,
        update: Update[Any, Any] | str,
        value: Any = None,
        *,
        key: str | None = None,
        within: float | None = None,
    ) -> Any:
        """See `Handle.update`."""
        handle = self._client.app.handle(self.id)
        return self._client.call(lambda _: handle.update(update, value, key=key, within=within))

    @overload
    def query(
        self, query: Callable[Concatenate[Seen, P], A], /, *args: P.args, **kwargs: P.kwargs
    ) -> A: ...
    @overload
    def query(self, query: str, /, **parameters: Any) -> Any: ...
    def query(self, query: Any, /, *args: Any, **parameters: Any) -> Any:
        """See `Handle.query`."""
        handle = self._client.app.handle(self.id)
        return self._client.call(lambda _: handle.query(query, *args, **parameters))

    def cancel(self, *, reason: str = "", who: str = "") -> None:
        """See `Handle.cancel`."""
        self._client.call(lambda app: app.cancel(self.id, reason=reason, who=who))


class BlockingOutlive:
    """An application without `await`: made by `Outlive.blocking`, safe to call from any thread."""

    def __init__(self, app: Outlive) -> None:
        self.app = app
        self.runs = False
        """Whether opening makes a node of this program that runs processes."""
        self._own: LoopThread | None = None
        self._lock = threading.Lock()

    # --- the calls --------------------------------------------------------------------------------

    @overload
    def start(
        self,
        body: Callable[P, Awaitable[R]],
        value: Any = None,
        *,
        key: str | None = None,
        notify: str = "",
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> BlockingHandle[R]: ...
    @overload
    def start(
        self,
        body: Callable[P, R],
        value: Any = None,
        *,
        key: str | None = None,
        notify: str = "",
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> BlockingHandle[R]: ...
    def start(
        self,
        body: Callable[..., Any],
        value: Any = None,
        *,
        key: str | None = None,
        notify: str = "",
        priority: int = 0,
        tags: Mapping[str, Any] | None = None,
    ) -> BlockingHandle[Any]:
        """See `Outlive.start`."""
        begun = self.call(
            lambda app: app.start(body, value, key=key, notify=notify, priority=priority, tags=tags)
        )
        return BlockingHandle(self, begun.id)

    def handle(self, id: str) -> BlockingHandle[Any]:
        """The process with this public id, from outside its body. Asks nothing yet."""
        return BlockingHandle(self, id)

    def publish(self, event: Any) -> str:
        """See `Outlive.publish`."""
        return self.call(lambda app: app.publish(event))

    def processes(
        self,
        status: str | None = None,
        type: str | None = None,
        limit: int = 50,
        cursor: str = "",
        **narrowed: Unpack[Narrowed],
    ) -> Page:
        """See `Outlive.processes`."""
        return self.call(lambda app: app.processes(status, type, limit, cursor, **narrowed))

    def transact(
        self, function: Callable[Concatenate[Any, P], R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """See `Outlive.transact`; the function is plain."""
        return self.call(lambda app: app.transact(function, *args, **kwargs))

    def within(self, connection: Any) -> BlockingWithin:
        """The caller's own open transaction, as a place to start processes in and send signals
        from.

        `connection`: a Django connection, a psycopg `Connection`, SQLAlchemy's `Session` or
        `Connection`, all on the PostgreSQL database of this application's store; or the `tables`
        that a plain function got from `transact`, on any store. Raises `NotAllowed` for anything
        else. Needs no thread and opens nothing.
        """
        from outlive.doors.within import BlockingWithin

        return BlockingWithin(self, connection)

    # --- the kinds that requests need -------------------------------------------------------------

    @overload
    def face(self, thing: RateLimiter) -> BlockingRateLimiter: ...
    @overload
    def face(self, thing: SlotKeeper) -> BlockingSlots: ...
    @overload
    def face(self, thing: Sessions) -> BlockingSessions: ...
    @overload
    def face(self, thing: Requests) -> BlockingRequests: ...
    @overload
    def face(self, thing: Dependency) -> BlockingDependency: ...
    @overload
    def face(self, thing: Cache[*Args, R]) -> BlockingCache[*Args, R]: ...
    def face(self, thing: Any) -> Any:
        """`thing` (a limiter, slots, sessions, idempotency keys, a dependency or a cache that the
        application declared) without `await`. Opens nothing. Raises `TypeError` for anything
        else."""
        from outlive.doors.faces import face_of

        return face_of(self, thing)

    def once(self, scope: str, key: str, value: Any = None, **options: Any) -> BlockingOnce:
        """See `Outlive.once`: `with client.once(…) as claim:`."""
        from outlive.doors.faces import BlockingOnce

        return BlockingOnce(self, self.app.once(scope, key, value, **options))

    def cache(
        self, holds: Holds, **options: Any
    ) -> Callable[[Callable[[*Args], R]], BlockingCache[*Args, R]]:
        """Cache a plain function, which is called in a thread of ours; see `Outlive.cache`."""
        from outlive.doors.faces import BlockingCache, in_thread

        def declare(function: Callable[[*Args], R]) -> BlockingCache[*Args, R]:
            return BlockingCache(self, self.app.cache(holds, **options)(in_thread(function)))

        return declare

    def nudge(self) -> None:
        """See `Outlive.nudge`."""
        self.call(lambda app: app.nudge())

    def call(self, work: Callable[[Outlive], Coroutine[Any, Any, R]]) -> R:
        """Run `work(app)` in the application's event loop and wait for what it gives.

        Raises what it raises; before anything was done, `InEventLoop` from inside an event loop and
        `NotAllowed` from inside a transaction of the store's, which it would wait for;
        `OutcomeUnknown` when the face was closed meanwhile.
        """
        demand_no_loop()
        if is_transacting():
            raise NotAllowed(
                "A function inside a transaction would wait for its own end. Use "
                "`client.within(tables)` there. Nothing was done."
            )
        return wait_in(self._opened(), work(self.app))

    async def reach(self, work: Callable[[Outlive], Coroutine[Any, Any, R]]) -> R:
        """The same as `call`, awaited from any event loop: for libraries that have a face of each
        kind. Where the application is open in this very loop, nothing is handed over."""
        home = self.app._home
        if home is asyncio.get_running_loop() and self.app._store is not None:
            return await work(self.app)
        loop = await asyncio.to_thread(self._opened)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(self.app), loop))

    # --- opening and closing ----------------------------------------------------------------------

    def open(self) -> None:
        """Open the store now, instead of with the first call. Raises `StoreRefused` with the
        remedy."""
        demand_no_loop()
        self._opened()

    def close(self, grace_seconds: float = DRAIN_SECONDS) -> None:
        """End in order: steps under way end within `grace_seconds`, the rest is left to other
        nodes. Does nothing when it is not open. The next call opens it again."""
        with self._lock:
            own, self._own = self._own, None
        if own is None:
            return
        try:
            ending = asyncio.run_coroutine_threadsafe(self._end(grace_seconds), own.loop)
            ending.result(grace_seconds + _ENDING_SECONDS)
        finally:
            own.end()

    async def _end(self, grace_seconds: float) -> None:
        await self.app.drain(grace_seconds)
        await self.app.close()

    def __enter__(self) -> BlockingOutlive:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def forget(self) -> None:
        """Begin anew, as a forked child must: thread and lock are the parent's."""
        _inherited.append(self._own)
        self._own, self._lock = None, threading.Lock()

    def _opened(self) -> asyncio.AbstractEventLoop:
        """The event loop in which the application lives; it is made and opened if need be. Whoever
        calls while another thread opens it waits for that."""
        if (own := self._own) is not None:
            return own.loop
        with self._lock:
            if self._own is not None:
                return self._own.loop
            home = self.app._home
            if home is not None and self.app._store is not None and home.is_running():
                return home
            own = LoopThread()
            try:
                wait_in(own.loop, self.app.open() if self.runs else self.app.open_client())
            except BaseException:
                own.end()
                raise
            self._own = own
            _open.add(self)
            return own.loop


class LoopThread:
    """A thread with an event loop, until it is ended."""

    def __init__(self) -> None:
        ready = threading.Event()
        self._stop = asyncio.Event()

        async def live() -> None:
            self.loop = asyncio.get_running_loop()
            ready.set()
            await self._stop.wait()

        work = live()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(work), name="outlive-blocking", daemon=True
        )
        self._thread.start()
        ready.wait()

    def end(self) -> None:
        """What still runs in the loop is cancelled, and whoever waits for it is told."""
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_ENDING_SECONDS)


def wait_in(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, R]) -> R:
    try:
        asked = asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError as error:  # the loop was closed this moment
        work.close()
        raise StoreUnavailable("The application was closed; nothing was done.") from error
    try:
        while not asked.done():
            wait((asked,), LOOK_SECONDS)
        return asked.result()
    except CancelledError as error:
        raise OutcomeUnknown(
            "The application was closed during this call; what it did is not known."
        ) from error
    finally:
        asked.cancel()  # interrupted: nobody waits any more; otherwise it is done already


def demand_no_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise InEventLoop(
        "The synchronous face was called inside an event loop, which it would stop. Nothing was "
        "done."
    )


_open: weakref.WeakSet[BlockingOutlive] = weakref.WeakSet()
_inherited: list[Any] = []
"""What a forked child must neither use nor close."""


def _at_exit() -> None:
    for client in list(_open):
        with suppress(Exception):  # the program ends; what is not handed over is taken over
            client.close(EXIT_SECONDS)


# Before the threads of the standard library's pools end, so that no step fails for want of one;
# atexit comes after that.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)
