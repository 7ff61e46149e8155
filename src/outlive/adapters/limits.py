"""A storage for `limits`: what slowapi, Flask-Limiter and `limits` itself count lies in a store.

    import outlive.adapters.limits                                     # once: it registers itself

    Limiter(key_func=…, storage_uri="outlive+sqlite:///limits.db")              # Flask-Limiter
    Limiter(key_func=…, storage_uri="outlive+postgresql://…")                   # slowapi
    storage_from_string("async+outlive+redis://cache:6379")                     # limits.aio
    storage_from_string("outlive://", app=app)      # an application that the service has anyway

Every strategy works: fixed window, moving window, sliding window counter. Each question is one
decision in the store, so what the library allows is allowed by all processes together: where its
own sliding window counts first and takes back what was too much, here nothing too much is counted.
Expiry is decided by the store's clock.

When a process dies, what it was told stays counted. Not promised: that counts survive what their
storage class does not (`volatile` unless `storage="durable"` is given); `reset` on memcached, which
cannot look through itself.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from limits.aio.storage import MovingWindowSupport as AsyncMovingWindow
from limits.aio.storage import SlidingWindowCounterSupport as AsyncSlidingWindow
from limits.aio.storage import Storage as AsyncStorage
from limits.errors import ConfigurationError
from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage

from outlive.app import Outlive
from outlive.clock import MICROS
from outlive.errors import OutliveError, StoreUnavailable
from outlive.kinds.ratelimits.counters import (
    COUNTERS,
    SPACES,
    Ask,
    Count,
    Forget,
    Way,
    prefix_of,
    ref_of,
)
from outlive.stores.address import CELLS_ONLY

if TYPE_CHECKING:
    from outlive.model import Storage as StorageClass
    from outlive.store import CellStore

R = TypeVar("R")
SCHEMES = ("sqlite", "postgresql", "postgres", "redis", "rediss", "memcached", "memory")
GROUP_CHARACTERS_MAX = 64
PAGE = 1000


def _schemes(before: str) -> list[str]:
    return [f"{before}outlive", *(f"{before}outlive+{scheme}" for scheme in SCHEMES)]


class _Counts:
    """The commands of both storages; what runs them is the storage's own."""

    def __init__(
        self, uri: str, app: Outlive | None, group: str, storage: StorageClass, cells: str
    ) -> None:
        address = uri.removeprefix("async+").removeprefix("outlive").removeprefix("+")
        scheme = address.partition(":")[0]
        if not group or "/" in group or len(group) > GROUP_CHARACTERS_MAX:
            raise ConfigurationError(
                f"group is 1 to {GROUP_CHARACTERS_MAX} characters without a slash, not {group!r}"
            )
        if storage not in SPACES:
            raise ConfigurationError(f"storage is one of {', '.join(SPACES)}, not {storage!r}")
        if app is None and not scheme:
            raise ConfigurationError(
                "outlive:// is for an application of yours: give it as `app`, or write the address "
                "of a store (outlive+sqlite:///limits.db)."
            )
        if scheme in CELLS_ONLY:
            cells, address = address, "memory://"
        self.app = app if app is not None else Outlive(address)
        self.face = self.app.blocking()
        self._storage, self._group = storage, group
        self._place = self.app.place(COUNTERS, cells)
        self._place.spaces.setdefault(COUNTERS.name, set()).add(SPACES[storage])

    async def ask(self, command: Ask | Forget) -> Count:
        applier = await self._place.applier()
        return await applier.apply(COUNTERS, command)

    def count(
        self, way: Way, key: str, expiry: float, amount: int = 0, most: int | None = None
    ) -> Callable[[Outlive], Coroutine[Any, Any, Count]]:
        """`amount` more of `key`, as work for the application's loop."""
        life = round(expiry * MICROS)
        command = Ask(way, f"{self._group}/{key}", life, amount, most, self._storage)
        return lambda _: self.ask(command)

    def forget(self, way: Way, key: str) -> Callable[[Outlive], Coroutine[Any, Any, Count]]:
        """Forget `key`, as work for the application's loop."""
        command = Forget(ref_of(way, f"{self._group}/{key}", self._storage))
        return lambda _: self.ask(command)

    async def check(self, _: Outlive) -> bool:
        """Whether the store answers."""
        try:
            await self.ask(Ask("fixed", f"{self._group}/check", 0, storage=self._storage))
        except OutliveError:
            return False
        return True

    async def reset(self, _: Outlive) -> int:
        """Forget everything of this group; gives how much that was."""
        applier = await self._place.applier()
        if "scan" in applier.store.lacks:
            raise NotImplementedError(applier.store.lacks["scan"])
        store, space = cast("CellStore", applier.store), SPACES[self._storage]
        begin, count = prefix_of(self._group), 0
        after = begin
        while True:
            cells = await store.scan(space, after, PAGE)
            found = [cell for cell in cells if cell.key.startswith(begin)]
            for cell in found:
                await applier.apply(COUNTERS, Forget(cell.ref))
            count += len(found)
            if len(found) < PAGE:
                return count
            after = found[-1].key


def _seconds(micros: int) -> float:
    return micros / MICROS


def _slid(found: Count, expiry: int) -> tuple[int, float, int, float]:
    """What the library wants to know of a sliding window."""
    left = _seconds(found.ends - found.now)
    return found.before, left if found.before else 0.0, found.count, left + expiry


class _Kept:
    """What both storages take, and what they raise."""

    _counts: _Counts

    def __init__(
        self,
        uri: str = "outlive://",
        wrap_exceptions: bool = False,
        *,
        app: Outlive | None = None,
        group: str = "limits",
        storage: StorageClass = "volatile",
        cells: str = "",
        **_: Any,
    ) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)  # type: ignore[call-arg]
        self._counts = _Counts(uri, app, group, storage, cells)

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """What an unreachable store raises: with it Flask-Limiter falls back, if told to."""
        return OutliveError


class OutliveStorage(_Kept, Storage, MovingWindowSupport, SlidingWindowCounterSupport):
    """A storage of `limits`, for synchronous code; safe to call from any thread, and after a fork.

    `uri`: `outlive+` and the address of a store, or `outlive://` with `app`, an `Outlive`. `group`:
    what keeps the counts of several limiters in one store apart. `storage`: the weakest class that
    will do; `durable` for what is money. `cells`: the address of a store of cells beside that of
    `app`. Raises `limits.errors.ConfigurationError` for what cannot be.
    """

    STORAGE_SCHEME = _schemes("")

    def __init__(
        self, uri: str = "outlive://", wrap_exceptions: bool = False, **options: Any
    ) -> None:
        super().__init__(uri, wrap_exceptions, **options)
        self._call = self._counts.face.call

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """See `limits`."""
        return self._call(self._counts.count("fixed", key, expiry, amount)).count

    def get(self, key: str) -> int:
        """See `limits`."""
        return self._call(self._counts.count("fixed", key, 0)).count

    def get_expiry(self, key: str) -> float:
        """See `limits`: seconds since 1970, by the store's clock."""
        return _seconds(self._call(self._counts.count("fixed", key, 0)).ends)

    def check(self) -> bool:
        """See `limits`."""
        try:
            return self._call(self._counts.check)
        except StoreUnavailable:
            return False

    def reset(self) -> int | None:
        """See `limits`. Raises `NotImplementedError` on memcached."""
        return self._call(self._counts.reset)

    def clear(self, key: str) -> None:
        """See `limits`."""
        self._call(self._counts.forget("fixed", key))
        self._call(self._counts.forget("moving", key))

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """See `limits`."""
        return self._call(self._counts.count("moving", key, expiry, amount, limit)).counted

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """See `limits`."""
        found = self._call(self._counts.count("moving", key, expiry))
        return _seconds(found.oldest), found.count

    def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """See `limits`."""
        return self._call(self._counts.count("sliding", key, expiry, amount, limit)).counted

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """See `limits`."""
        return _slid(self._call(self._counts.count("sliding", key, expiry)), expiry)

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """See `limits`."""
        self._call(self._counts.forget("sliding", key))


class AsyncOutliveStorage(_Kept, AsyncStorage, AsyncMovingWindow, AsyncSlidingWindow):
    """The same for `limits.aio`, from any event loop: in that of the application nothing is handed
    to another thread. Parameters as for `OutliveStorage`."""

    STORAGE_SCHEME = _schemes("async+")

    def __init__(
        self, uri: str = "async+outlive://", wrap_exceptions: bool = False, **options: Any
    ) -> None:
        super().__init__(uri, wrap_exceptions, **options)
        self._call = self._counts.face.reach

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        """See `limits`."""
        return (await self._call(self._counts.count("fixed", key, expiry, amount))).count

    async def get(self, key: str) -> int:
        """See `limits`."""
        return (await self._call(self._counts.count("fixed", key, 0))).count

    async def get_expiry(self, key: str) -> float:
        """See `OutliveStorage.get_expiry`."""
        return _seconds((await self._call(self._counts.count("fixed", key, 0))).ends)

    async def check(self) -> bool:
        """See `limits`."""
        try:
            return await self._call(self._counts.check)
        except StoreUnavailable:
            return False

    async def reset(self) -> int | None:
        """See `OutliveStorage.reset`."""
        return await self._call(self._counts.reset)

    async def clear(self, key: str) -> None:
        """See `limits`."""
        await self._call(self._counts.forget("fixed", key))
        await self._call(self._counts.forget("moving", key))

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """See `limits`."""
        return (await self._call(self._counts.count("moving", key, expiry, amount, limit))).counted

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """See `limits`."""
        found = await self._call(self._counts.count("moving", key, expiry))
        return _seconds(found.oldest), found.count

    async def acquire_sliding_window_entry(
        self, key: str, limit: int, expiry: int, amount: int = 1
    ) -> bool:
        """See `limits`."""
        found = await self._call(self._counts.count("sliding", key, expiry, amount, limit))
        return found.counted

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """See `limits`."""
        return _slid(await self._call(self._counts.count("sliding", key, expiry)), expiry)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """See `limits`."""
        await self._call(self._counts.forget("sliding", key))
