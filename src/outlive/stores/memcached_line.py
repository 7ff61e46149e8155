"""One connection to memcached, in its meta protocol: questions go out at once, answers in order.

    mg key v c      VA <bytes> c<cas> … | EN         what is there, and its unique number
    ms key n C<cas> HD | EX (another number) | NF    write over that number
    ms key n ME     HD | NS (something is there)     write where nothing is
    md key C<cas>   HD | EX | NF                     drop that number

Whoever asked waits for a future; what is asked in one turn of the event loop is one packet. When
the connection is lost, everything that waits is told so: what changes something may have been done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from outlive.errors import OutcomeUnknown, StoreUnavailable

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 5.0
_Waiting = tuple["asyncio.Future[tuple[list[bytes], bytes]]", bool]


class MemcachedLine:
    """The connection to the server at `host`:`port`; used from one event loop."""

    def __init__(self, host: str, port: int) -> None:
        self.name = f"{host}:{port}"
        self._place = (host, port)
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: deque[_Waiting] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def ask(
        self, line: bytes, value: bytes | None = None, *, changes: bool = False
    ) -> tuple[list[bytes], bytes]:
        """The words of the answer and its value. Raises `StoreUnavailable` (nothing was written),
        and `OutcomeUnknown` for a lost answer when `changes`."""
        if self._writer is None:
            await self._connect()
        writer = self._writer
        if writer is None:
            raise StoreUnavailable(f"memcached at {self.name} hung up; nothing was written.")
        future: asyncio.Future[tuple[list[bytes], bytes]]
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((future, changes))
        writer.write(line + b"\r\n" if value is None else line + b"\r\n" + value + b"\r\n")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.shield(future)
        except TimeoutError:
            self._lose(TimeoutError())
            return await future

    async def close(self) -> None:
        reading = self._reading
        self._lose(ConnectionError("closed"))
        if reading is not None:
            await asyncio.gather(reading, return_exceptions=True)

    async def _connect(self) -> None:
        async with self._connecting:
            if self._writer is not None:
                return
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    reader, self._writer = await asyncio.open_connection(*self._place)
            except (OSError, TimeoutError) as error:
                raise StoreUnavailable(
                    f"memcached at {self.name} does not answer ({type(error).__name__}); nothing "
                    "was read or written."
                ) from error
            self._reading = asyncio.get_running_loop().create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                words = (await reader.readuntil(b"\r\n")).split()
                value = b""
                if words[:1] == [b"VA"]:
                    value = (await reader.readexactly(int(words[1]) + 2))[:-2]
                future, _ = self._waiting.popleft()
                if not future.done():
                    future.set_result((words, value))
        except (OSError, asyncio.IncompleteReadError, ValueError, IndexError) as error:
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        """Hang up, and tell everybody who waits."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError):
                writer.transport.abort()
        waiting, self._waiting = self._waiting, deque()
        text = f"The connection to memcached at {self.name} was lost ({type(error).__name__})"
        for future, changes in waiting:
            if not future.done():
                kind = OutcomeUnknown if changes else StoreUnavailable
                future.set_exception(kind(f"{text}."))
                future.exception()  # whoever waits gets it; nobody waiting is no fault
