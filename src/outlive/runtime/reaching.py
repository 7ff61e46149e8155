"""What a body has to do with other processes: calls of `Run`.

parcel = await run.start(ship, order)       a child: started once, awaited when wanted
number = await run.call(ship, order)        started and awaited
await run.publish(Shipped(order.id))        an event: whoever subscribes hears of it once
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from outlive.runtime import children, publications

if TYPE_CHECKING:
    from outlive.runtime.run import Run

R = TypeVar("R")


class Reaching:
    """The part of `Run` that reaches other processes."""

    __slots__ = ()

    @overload
    def start(
        self,
        body: Callable[..., Awaitable[R]],
        value: Any = None,
        *,
        key: str | int | None = None,
        detached: bool = False,
        undo: Callable[..., Any] | None = None,
    ) -> Coroutine[Any, Any, children.Child[R]]: ...
    @overload
    def start(
        self,
        body: Callable[..., R],
        value: Any = None,
        *,
        key: str | int | None = None,
        detached: bool = False,
        undo: Callable[..., Any] | None = None,
    ) -> Coroutine[Any, Any, children.Child[R]]: ...
    def start(
        self, body: Callable[..., Any], value: Any = None, *, key: str | int | None = None,
        detached: bool = False, undo: Callable[..., Any] | None = None,
    ) -> Coroutine[Any, Any, children.Child[Any]]:  # fmt: skip
        """Start a declared process as a child of this one: one commit; `await` the child for its
        result.

        `key`: as `keyed`, for loops. `detached`: it goes on by itself, and is not awaited. `undo`:
        a step that takes a child back which was done, called with its input and its result.
        An attached child is cancelled before this process undoes anything, and this process does
        not end before it. At most 10,000 attached at a time. Raises `InvalidInput`, `TooLarge`,
        `TooManyChildren`; then nothing was started. Started once, whoever dies when.
        """
        return children.start(cast("Run", self), body, value, key, detached, undo)

    @overload
    async def call(
        self,
        body: Callable[..., Awaitable[R]],
        value: Any = None,
        *,
        key: str | int | None = None,
        undo: Callable[..., Any] | None = None,
    ) -> R: ...
    @overload
    async def call(
        self,
        body: Callable[..., R],
        value: Any = None,
        *,
        key: str | int | None = None,
        undo: Callable[..., Any] | None = None,
    ) -> R: ...
    async def call(
        self, body: Callable[..., Any], value: Any = None, *, key: str | int | None = None,
        undo: Callable[..., Any] | None = None,
    ) -> Any:  # fmt: skip
        """Start a child and wait for its result; see `start`. Raises `ChildFailed` when it ended
        otherwise."""
        return await (await children.start(cast("Run", self), body, value, key, False, undo))

    def publish(self, event: Any) -> Coroutine[Any, Any, str]:
        """Publish an event to whoever subscribes with `@app.on`; gives its id.

        `event`: a Struct, dataclass or pydantic model, at most 64 KiB as JSON. One commit, and each
        subscriber hears of it once, soon after, whoever dies when.
        """
        return publications.publish(cast("Run", self), event)
