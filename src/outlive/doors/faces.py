"""The kinds of state that requests need, without `await`: what `client.face(…)` gives.

    api = app.ratelimits(Quota("burst", 20))            declared once, as for asynchronous code
    limits = client.face(api)                           and asked from any thread

    if not limits.hit("ada"): …
    with client.face(exports).hold("acme"): …
    with client.once("orders", key, form) as claim: …
    client.face(price)("tea")
    client.face(partner).call(charge, 500)              a plain function, guarded

Each call is one call of the asynchronous object in the application's loop (see `blocking.py`), so
promises, errors and what a death leaves behind are the same; only its own docstring says where not.

Plain functions that a dependency guards, or that a cache loads by, run in threads of ours, at most
`CALLS_MAX` at once. A time limit ends the wait for one, and not the function: it goes on in its
thread, and what it does counts for nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, TypeVarTuple, cast

if TYPE_CHECKING:
    from outlive.doors.blocking import BlockingOutlive
    from outlive.doors.ratelimits import RateLimiter, Slot, SlotKeeper
    from outlive.doors.requests import Once, Requests
    from outlive.doors.sessions import Device, Sessions
    from outlive.kinds.breakers.standing import Standing
    from outlive.kinds.ratelimits import Answer, Keys
    from outlive.kinds.requests.decisions import Answer as Recorded
    from outlive.kinds.requests.decisions import Record
    from outlive.runtime.caches import Cache
    from outlive.runtime.dependencies import Dependency

Args = TypeVarTuple("Args")
P = ParamSpec("P")
R = TypeVar("R")
CALLS_MAX = 256
"""Plain functions of one application that run at once for these faces; more wait for a thread."""


class _Face:
    def __init__(self, client: BlockingOutlive) -> None:
        self._client = client

    def _do(self, work: Coroutine[Any, Any, R]) -> R:
        try:
            return self._client.call(lambda _: work)
        finally:
            work.close()  # where it was refused before it began


class BlockingRateLimiter(_Face):
    """A `RateLimiter` without `await`."""

    def __init__(self, client: BlockingOutlive, limiter: RateLimiter) -> None:
        super().__init__(client)
        self._limiter = limiter

    def hit(self, keys: Keys, cost: int = 1, *, plan: str = "") -> Answer:
        """See `RateLimiter.hit`."""
        return self._do(self._limiter.hit(keys, cost, plan=plan))

    def demand(self, keys: Keys, cost: int = 1, *, plan: str = "") -> Answer:
        """See `RateLimiter.demand`."""
        return self._do(self._limiter.demand(keys, cost, plan=plan))

    def peek(self, keys: Keys, *, plan: str = "") -> Answer:
        """See `RateLimiter.peek`."""
        return self._do(self._limiter.peek(keys, plan=plan))

    def refund(self, keys: Keys, answer: Answer, *, plan: str = "") -> bool:
        """See `RateLimiter.refund`."""
        return self._do(self._limiter.refund(keys, answer, plan=plan))

    def reset(self, keys: Keys, *, plan: str = "") -> None:
        """See `RateLimiter.reset`."""
        self._do(self._limiter.reset(keys, plan=plan))


class BlockingSlots(_Face):
    """A `SlotKeeper` without `await`."""

    def __init__(self, client: BlockingOutlive, keeper: SlotKeeper) -> None:
        super().__init__(client)
        self._keeper = keeper

    @contextmanager
    def hold(self, keys: Keys) -> Iterator[Slot]:
        """See `SlotKeeper.hold`; `slot.lost` may be asked from this thread."""
        held = self._keeper.hold(keys)
        slot = self._do(held.__aenter__())
        try:
            yield slot
        finally:
            self._do(cast("Coroutine[Any, Any, Any]", held.__aexit__(None, None, None)))


class BlockingSessions(_Face):
    """Who is signed in where, without `await`; a request's own session is its middleware's."""

    def __init__(self, client: BlockingOutlive, sessions: Sessions) -> None:
        super().__init__(client)
        self._sessions = sessions

    def devices(self, subject: str) -> list[Device]:
        """See `Sessions.devices`."""
        return self._do(self._sessions.devices(str(subject)))

    def revoke(self, key: str) -> bool:
        """See `Sessions.revoke`."""
        return self._do(self._sessions.revoke(key))

    def revoke_all(self, subject: str, *, but: str = "") -> int:
        """See `Sessions.revoke_all`."""
        return self._do(self._sessions.revoke_all(str(subject), but=but))


class BlockingRequests(_Face):
    """The idempotency keys of a service for its operators, without `await`."""

    def __init__(self, client: BlockingOutlive, requests: Requests) -> None:
        super().__init__(client)
        self._requests = requests

    def look(self, place: Any) -> Record:
        """See `Requests.look`."""
        return self._do(self._requests.look(place))

    def unknown(self, limit: int = 100) -> list[Record]:
        """See `Requests.unknown`."""
        return self._do(self._requests.unknown(limit))

    def resolve(self, place: Any, answer: Recorded | None, *, by: str, why: str) -> None:
        """See `Requests.resolve`."""
        self._do(self._requests.resolve(place, answer, by=by, why=why))

    def expire(self, place: Any, *, by: str, why: str) -> None:
        """See `Requests.expire`."""
        self._do(self._requests.expire(place, by=by, why=why))

    def erase(self, principal: str, tenant: str = "") -> int:
        """See `Requests.erase`."""
        return self._do(self._requests.erase(principal, tenant))


class BlockingOnce(_Face):
    """A block that is carried out once for its key, without `await`; see `Outlive.once`.

    While the block runs its lease is renewed by the application's loop.
    """

    def __init__(self, client: BlockingOutlive, once: Once) -> None:
        super().__init__(client)
        self._once = once

    @property
    def replayed(self) -> bool:
        """See `Once.replayed`."""
        return self._once.replayed

    @property
    def value(self) -> Any:
        """See `Once.value`."""
        return self._once.value

    def finish(self, value: Any = None) -> None:
        """See `Once.finish`."""
        self._once.finish(value)

    def transact(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """See `Once.transact`."""
        return self._do(self._once.transact(function, *args, **kwargs))

    def __enter__(self) -> BlockingOnce:
        self._do(self._once.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._once.__aexit__(kind, error, trace))


class BlockingCache(_Face, Generic[*Args, R]):
    """A `Cache` without `await`: call it with the arguments of the function."""

    def __init__(self, client: BlockingOutlive, cache: Cache[*Args, R]) -> None:
        super().__init__(client)
        self.cache = cache
        functools.update_wrapper(self, cache)

    def __call__(self, *args: *Args) -> R:
        """See `Cache.__call__`."""
        return self._do(self.cache(*args))

    def invalidate(self, *args: *Args) -> None:
        """See `Cache.invalidate`."""
        self._do(self.cache.invalidate(*args))

    def invalidate_in(self, tables: object, *args: *Args) -> None:
        """See `Cache.invalidate_in`: for a function that was given to `transact`."""
        self.cache.invalidate_in(tables, *args)

    def invalidate_tag(self, tag: str) -> None:
        """See `Cache.invalidate_tag`."""
        self._do(self.cache.invalidate_tag(tag))

    def clear(self) -> None:
        """See `Cache.clear`."""
        self._do(self.cache.clear())


class BlockingDependency(_Face):
    """A `Dependency` for plain functions."""

    def __init__(self, client: BlockingOutlive, dependency: Dependency) -> None:
        super().__init__(client)
        self._dependency = dependency

    def guard(self, **options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Guard a plain function; `options` as for `Dependency.guard`, `fallback` a plain one."""
        fallback = options.pop("fallback", None)
        if fallback is not None:
            options["fallback"] = in_thread(fallback)

        def guarded(function: Callable[P, R]) -> Callable[P, R]:
            call = self._dependency.guard(**options)(in_thread(function))

            @functools.wraps(function)
            def carried(*args: P.args, **kwargs: P.kwargs) -> R:
                async def ask() -> R:
                    return cast("R", await call(*args, **kwargs))

                return self._do(ask())

            return carried

        return guarded

    def call(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """See `Dependency.call`."""
        return self._do(self._dependency.call(in_thread(function), *args, **kwargs))

    def standing(self, part: str = "") -> Standing:
        """See `Dependency.standing`; so with the others."""
        return self._do(self._dependency.standing(part))

    def force_open(self, who: str, why: str, part: str = "") -> Standing:
        """Let nothing through until `release` or `reset`."""
        return self._do(self._dependency.force_open(who, why, part))

    def force_closed(self, who: str, why: str, part: str = "") -> Standing:
        """Let everything through until `release` or `reset`."""
        return self._do(self._dependency.force_closed(who, why, part))

    def release(self, who: str, why: str, part: str = "") -> Standing:
        """Hold it neither open nor closed any more."""
        return self._do(self._dependency.release(who, why, part))

    def reset(self, who: str, why: str, part: str = "") -> Standing:
        """Close it, and forget what was counted."""
        return self._do(self._dependency.reset(who, why, part))


_FACES: dict[str, Any] = {
    "RateLimiter": BlockingRateLimiter,
    "SlotKeeper": BlockingSlots,
    "Sessions": BlockingSessions,
    "Requests": BlockingRequests,
    "Once": BlockingOnce,
    "Cache": BlockingCache,
    "Dependency": BlockingDependency,
}
"""By name, so that a kind which a service does not use is not loaded for this."""


def face_of(client: BlockingOutlive, thing: Any) -> Any:
    """`thing` without `await`. Raises `TypeError` for what has no such face."""
    for base in type(thing).__mro__:
        if base.__module__.startswith("outlive.") and base.__name__ in _FACES:
            return _FACES[base.__name__](client, thing)
    raise TypeError(
        f"a {type(thing).__name__} has no synchronous face; there is one of what app.ratelimits, "
        "slots, sessions, requests, once, cache and dependency give"
    )


def in_thread(function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """A plain function as one to be awaited: it runs in a thread, in the caller's context."""

    @functools.wraps(function)
    async def awaited(*args: P.args, **kwargs: P.kwargs) -> R:
        context = contextvars.copy_context()
        call = functools.partial(context.run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(_threads(), call)

    return awaited


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CALLS_MAX, thread_name_prefix="outlive-call")


def _threads() -> ThreadPoolExecutor:
    """The threads of this process; a forked child has its own."""
    return _pool(os.getpid())
