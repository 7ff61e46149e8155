"""Faults between a store and its server: a line that is cut where the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from outlive import ids
from outlive.model import Append, Batch, Lease, Put, Ref
from outlive.stores.postgres import PostgresStore

DEADLINE_SECONDS = 60.0
Rule = Callable[[bytes], str]


class Line:
    """Carries bytes between a store and its server.

    `rule` is asked for every message from the store that may be a statement: `pass` it on, `drop`
    it and cut the connection before the server has it, or `deafen`: let the server have it, wait
    until it answered, and cut the connection instead of giving the answer.
    """

    def __init__(self, address: str) -> None:
        self._parts = urlsplit(address)
        self.rule: Rule = lambda data: "pass"
        self.is_open = True
        self.cuts: list[str] = []
        self._carrying: set[asyncio.Task[Any]] = set()

    @property
    def address(self) -> str:
        host = f"{self._parts.username}@127.0.0.1:{self.port}"
        return urlunsplit(self._parts._replace(netloc=host))

    def cut_once(self, where: str, marker: bytes) -> None:
        """Do `where` to the next message that contains `marker`, and to no other."""

        def rule(data: bytes) -> str:
            if marker in data:
                self.rule = lambda data: "pass"
                return where
            return "pass"

        self.rule = rule

    async def end(self) -> None:
        """Wait until whatever it carries has come to its end."""
        for task in self._carrying:
            task.cancel()
        await asyncio.gather(*self._carrying, return_exceptions=True)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        with suppress(asyncio.CancelledError):  # `end` wants it, and nobody asks for the outcome
            await self._carry(reader, writer)
        self._carrying.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_open:
            writer.close()
            return
        up_reader, up_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        deaf = asyncio.Event()

        async def down() -> None:
            while data := await up_reader.read(65536):
                if deaf.is_set():
                    break
                writer.write(data)
                await writer.drain()

        async def up() -> None:
            while data := await reader.read(65536):
                what = self.rule(data)
                if what != "pass":
                    self.cuts.append(what)
                if what == "drop":
                    return
                if what == "deafen":
                    deaf.set()
                up_writer.write(data)
                await up_writer.drain()

        tasks = [asyncio.create_task(down()), asyncio.create_task(up())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for end in (writer, up_writer):
                end.close()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def line_to(address: str) -> AsyncIterator[Line]:
    """A line to the server at `address`, for as long as the block lasts."""
    line = Line(address)
    server = await asyncio.start_server(line.carry, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        server.close()
        await line.end()


@asynccontextmanager
async def store_at(address: str, **options: Any) -> AsyncIterator[PostgresStore]:
    """An open store in a schema of its own, unless one is named."""
    options.setdefault("schema", f"store_{ids.token(40)}")
    store = PostgresStore(address, **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def session_at(address: str) -> AsyncIterator[Any]:
    """A plain session of the tests' own."""
    link = await asyncpg.connect(address)
    try:
        yield link
    finally:
        await link.close()


async def until(condition: Callable[[], Any], what: str) -> None:
    """Look again and again until what `condition` gives, awaited, is true."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await condition():
            await asyncio.sleep(0.01)


def note(lease: Lease, stream: str, n: int, key: str = "") -> Batch:
    """A batch of one event and, if `key` is given, one cell."""
    put = (Put(Ref("noted", key), b"cell"),) if key else ()
    return Batch(lease=lease, put=put, append=(Append(stream, n, "noted", b"event"),))
