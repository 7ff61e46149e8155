"""A client that reads a response while it is being sent: streams, and clients that leave."""

from __future__ import annotations

import asyncio
from typing import Any


class Exchange:
    """One request against an ASGI application, in a task of its own."""

    def __init__(
        self,
        app: Any,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: list[bytes] | None = None,
        **scope: Any,
    ) -> None:
        self.sent: list[dict[str, Any]] = []
        self._news = asyncio.Event()
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        chunks = body or [b""]
        for number, chunk in enumerate(chunks, 1):
            more = number < len(chunks)
            self._incoming.put_nowait({"type": "http.request", "body": chunk, "more_body": more})
        made = {
            "type": "http",
            "method": method,
            "path": path,
            "root_path": "",
            "query_string": b"",
            "headers": [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()],
            "client": ("127.0.0.1", 50000),
            "scheme": "http",
        }
        self.task = asyncio.create_task(app(made | scope, self._incoming.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        self._news.set()

    def leave(self) -> None:
        self._incoming.put_nowait({"type": "http.disconnect"})

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"]) if self.sent else 0

    @property
    def headers(self) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.sent[0]["headers"]}

    @property
    def text(self) -> str:
        return b"".join(sent.get("body", b"") for sent in self.sent[1:]).decode()

    async def until(self, text: str, seconds: float = 60.0) -> None:
        """Wait until the body contains `text`."""
        async with asyncio.timeout(seconds):
            while not self.sent or text not in self.text:
                self._news.clear()
                await self._news.wait()

    async def end(self, seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            await self.task
