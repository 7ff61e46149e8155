"""`Handle`: one process, from outside its body.

It holds nothing but the id: what it says is read from the store, wherever the process lives.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from msgspec import Raw

from outlive import codec
from outlive.codec import ANYTHING
from outlive.kinds.processes import View
from outlive.kinds.processes.seen import Seen
from outlive.kinds.processes.updates import Update

A = TypeVar("A")
B = TypeVar("B")
R = TypeVar("R")
P = ParamSpec("P")


class Processes(Protocol):
    """What a handle asks and tells: the application's own calls."""

    async def view(self, id: str) -> View: ...
    async def result(self, id: str, within: float | None = None) -> Any: ...
    async def signal(
        self, id: str, name: str, payload: bytes, *, key: str | None = None
    ) -> None: ...
    async def update(
        self,
        id: str,
        name: str,
        payload: bytes,
        *,
        key: str | None = None,
        within: float | None = None,
    ) -> Raw: ...
    async def ask_query(
        self, id: str, query: Callable[..., Any] | str, parameters: Mapping[str, Any]
    ) -> Any: ...
    async def cancel(self, id: str, *, reason: str = "", who: str = "") -> None: ...


class Handle(Generic[R]):
    """One process, from outside its body."""

    def __init__(self, app: Processes, id: str) -> None:
        self.id = id
        self._app = app

    async def view(self) -> View:
        """What is durable about it now."""
        return await self._app.view(self.id)

    async def status(self) -> str:
        """Its status now, such as `running` or `done`."""
        return (await self.view()).status

    def result(self, within: float | None = None) -> Coroutine[Any, Any, R]:
        """Wait for its end; gives its result when it is awaited. Raises `ProcessFailed` when it
        ended otherwise, `TimeoutError` after `within` seconds."""
        return self._app.result(self.id, within)

    async def signal(self, name: str, payload: Any = None, *, key: str | None = None) -> None:
        """Send it a signal; durable when this returns."""
        await self._app.signal(self.id, name, codec.encode(payload), key=key)

    @overload
    async def update(
        self,
        update: Update[A, B],
        value: A,
        *,
        key: str | None = None,
        within: float | None = None,
    ) -> B: ...
    @overload
    async def update(
        self,
        update: str,
        value: Any = None,
        *,
        key: str | None = None,
        within: float | None = None,
    ) -> Any: ...
    async def update(
        self,
        update: Update[Any, Any] | str,
        value: Any = None,
        *,
        key: str | None = None,
        within: float | None = None,
    ) -> Any:
        """Ask it for `update`; gives its answer.

        Accepted durably before it is waited for. `key`: 1 to 255 characters; asked again with the
        same key, the answer is the same. Raises `TimeoutError` after `within` seconds (it stays
        accepted: ask again with the key), `UpdateRefused` with the body's words,
        `UpdateUnanswered` when the process ended first; `UpdateNotExpected`, `InvalidInput`,
        `TooLarge`, `TooManySignals`, `KeyReused`, `ProcessTerminal`, and nothing was kept.
        """
        name, shape = (update, ANYTHING) if isinstance(update, str) else (update.name, update.gives)
        raw = await self._app.update(self.id, name, codec.encode(value), key=key, within=within)
        return shape.read(raw)

    @overload
    async def query(
        self, query: Callable[Concatenate[Seen, P], A], /, *args: P.args, **kwargs: P.kwargs
    ) -> A: ...
    @overload
    async def query(self, query: str, /, **parameters: Any) -> Any: ...
    async def query(self, query: Any, /, *args: Any, **parameters: Any) -> Any:
        """Ask it a declared query: its function (or its name) and its parameters.

        Computed here from what is durable; the process is not woken. Raises `QueryTooSlow`,
        `NoSuchQuery`, `NoSuchProcess`, `ProcessGone`, or what the function raises.
        """
        if args:
            bound = inspect.signature(query).bind(None, *args, **parameters)
            parameters = dict(list(bound.arguments.items())[1:])
        return await self._app.ask_query(self.id, query, parameters)

    async def cancel(self, *, reason: str = "", who: str = "") -> None:
        """Ask it to stop and roll back; durable when this returns."""
        await self._app.cancel(self.id, reason=reason, who=who)
