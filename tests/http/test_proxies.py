"""A proxy that cuts, buffers and runs out of patience, and clients that really try again."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
from tests.http.site import events_of
from tests.http.test_servers import COMMANDS, SECONDS, Served

KEYS = 100
PATIENCE_SECONDS = 0.1
LATE = b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
MOODS = ("cuts before", "cuts behind", "cuts within", "gives up", "buffers", "passes")


class Proxy:
    """Each connection carries one request; what becomes of it changes from one to the next.

    cuts before   the request never arrives        cuts behind   it does, and no answer leaves
    cuts within   half of the answer leaves        gives up      504, and the service goes on
    buffers       the answer leaves when it is whole
    """

    def __init__(self, port: int, *moods: str) -> None:
        self._port, self._moods = port, moods
        self.used: Counter[str] = Counter()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mood = self._moods[self.used.total() % len(self._moods)]
        self.used[mood] += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            await self._exchange(mood, reader, writer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async def _exchange(
        self, mood: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        body = await reader.readexactly(int(fields.get(b"content-length", 0)))
        if mood == "cuts before":
            return
        upstream, sink = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            sink.write(head.replace(b"Connection: keep-alive", b"Connection: close") + body)
            if mood == "gives up":
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS):
                        answer = await upstream.read()
                except TimeoutError:
                    answer = LATE
            else:
                answer = await upstream.read()
            if mood == "cuts within":
                answer = answer[: len(answer) // 2]
            if mood != "cuts behind":
                writer.write(answer)
                await writer.drain()
        finally:
            sink.close()
            await sink.wait_closed()


async def insisting(http: httpx.AsyncClient, path: str, name: str) -> httpx.Response:
    """What a client gets that tries again after whatever went wrong, under its key."""
    headers = {"idempotency-key": f'"{path[1:]}-{name}"'}
    async with asyncio.timeout(SECONDS):
        while True:
            with suppress(httpx.TransportError):
                answer = await http.post(path, json={"name": name}, headers=headers)
                if answer.status_code not in (409, 503, 504):
                    return answer
            await asyncio.sleep(0.02)


async def test_clients_behind_a_bad_proxy_have_one_effect_and_one_answer(tmp_path: Path) -> None:
    served = Served(COMMANDS["uvicorn"], tmp_path / "store.db")
    await served.ready()
    proxy = Proxy(served.port, *MOODS)
    limits = httpx.Limits(max_connections=20)
    http = httpx.AsyncClient(base_url=await proxy.start(), timeout=SECONDS, limits=limits)
    try:
        names = [f"n{number}" for number in range(KEYS)]
        answers = await asyncio.gather(*(insisting(http, "/charges", name) for name in names))
        slow = await asyncio.gather(*(insisting(http, "/slow", f"s{n}") for n in range(10)))
        found = (await served.http.get("/charges")).json()
        again = [await insisting(served.http, "/charges", name) for name in names]
    finally:
        await http.aclose()
        await proxy.close()
        await served.close()
    assert found == dict.fromkeys([*names, *(f"s{n}" for n in range(10))], 1)
    assert [one.content for one in again] == [one.content for one in answers]
    assert {one.status_code for one in again} == {200} and {a.status_code for a in slow} == {201}
    assert set(proxy.used) == set(MOODS)


async def test_a_stream_that_a_proxy_cuts_goes_on_where_it_was(tmp_path: Path) -> None:
    served = Served(COMMANDS["uvicorn"], tmp_path / "store.db")
    await served.ready()
    proxy = Proxy(served.port, "cuts within", "cuts before", "cuts behind", "buffers")
    http = httpx.AsyncClient(base_url=await proxy.start(), timeout=SECONDS)
    try:
        begun = await served.http.post("/greetings", json={"givenName": "Ada"})
        place = begun.headers["location"]
        await served.http.get(place, headers={"prefer": "wait=20"})
        numbers: list[int] = []
        async with asyncio.timeout(SECONDS):
            while True:
                text, headers = "", {"accept": "text/event-stream"}
                if numbers:
                    headers["last-event-id"] = str(numbers[-1])
                with suppress(httpx.TransportError):
                    async with http.stream("GET", place, headers=headers) as stream:
                        async for part in stream.aiter_text():
                            text += part
                whole = events_of(text.rpartition("\n\n")[0])
                numbers += [int(event["id"]) for event in whole if event["event"] != "end"]
                if whole and whole[-1]["event"] == "end":
                    break
    finally:
        await http.aclose()
        await proxy.close()
        await served.close()
    assert numbers == list(range(len(numbers))) and len(numbers) >= 3
    assert set(proxy.used) == {"cuts within", "cuts before", "cuts behind", "buffers"}
