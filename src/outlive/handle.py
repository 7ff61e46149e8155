"""`Handle`: one process, from outside its body.

It holds nothing but the id: what it says is read from the store, wherever the process lives.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Generic, Protocol, TypeVar

from outlive import codec
from outlive.kinds.processes import View

R = TypeVar("R")


class Processes(Protocol):
    """What a handle asks and tells: the application's own calls."""

    async def view(self, id: str) -> View: ...
    async def result(self, id: str, within: float | None = None) -> Any: ...
    async def signal(
        self, id: str, name: str, payload: bytes, *, key: str | None = None
    ) -> None: ...
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

    async def cancel(self, *, reason: str = "", who: str = "") -> None:
        """Ask it to stop and roll back; durable when this returns."""
        await self._app.cancel(self.id, reason=reason, who=who)
