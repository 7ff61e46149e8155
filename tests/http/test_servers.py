"""Three ASGI servers, each with its own idea of tasks, threads and signals: one set of answers.

Each test starts `served.py` with a server's own command, as somebody would who does not use
`outlive serve`, and speaks to it over sockets.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
from tests.crash.service import until
from tests.doors.programs import program
from tests.http.served import ONCE, everything
from tests.http.site import events_of
from tests.ports import free_port

TARGET = "tests.http.served:service"
COMMANDS = {
    "granian": "-m granian --interface asgi --host 127.0.0.1 --port {port} --no-log " + TARGET,
    "hypercorn": "-m hypercorn --bind 127.0.0.1:{port} --log-level CRITICAL " + TARGET,
    "uvicorn": "-m uvicorn --host 127.0.0.1 --port {port} --log-level critical " + TARGET,
}
SECONDS = 60.0
GONE = (httpx.TransportError, asyncio.CancelledError)


class Served:
    """One server's process, and a client."""

    def __init__(self, command: str, store: Path) -> None:
        self.port = free_port()
        self._stack = ExitStack()
        self._words = (f"sqlite:///{store}", *command.format(port=self.port).split())
        self.process = self._begin()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.AsyncClient(base_url=self.url, timeout=SECONDS)
        self.sockets: list[asyncio.StreamWriter] = []

    def _begin(self) -> subprocess.Popen[str]:
        return self._stack.enter_context(program(*self._words))

    async def again(self) -> None:
        """Start it once more, on the same port and store."""
        self.process = self._begin()
        await self.ready()

    async def ready(self) -> None:
        async def answers() -> bool:
            assert self.process.poll() is None, "the server ended"
            try:
                return (await self.http.get("/readyz")).status_code == 200
            except httpx.TransportError:
                return False

        await until(answers, "the server is ready")

    async def ended(self) -> int:
        """Its exit code after the stop signal."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, SECONDS)

    async def close(self) -> None:
        for writer in self.sockets:
            writer.close()
        await self.http.aclose()
        self._stack.close()

    async def socket(self, cookie: str) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.sockets.append(writer)
        writer.write(
            f"GET /socket HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nCookie: {cookie}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        return reader


async def frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Kind and content of the next short frame of a web socket."""
    kind, size = await reader.readexactly(2)
    return kind & 15, await reader.readexactly(size)


@pytest.fixture
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    made = Served(COMMANDS[request.param], tmp_path / "store.db")
    await made.ready()
    yield made
    await made.close()


on_each = pytest.mark.parametrize("server", sorted(COMMANDS), indirect=True)


async def test_the_same_requests_get_the_same_answers_from_each(tmp_path: Path) -> None:
    found = {}
    for name, command in COMMANDS.items():
        served = Served(command, tmp_path / f"{name}.db")
        try:
            await served.ready()
            found[name] = await everything(served.http)
        finally:
            await served.close()
    ours = found.pop("uvicorn")
    for theirs in found.values():
        assert [pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1]] == []


@on_each
async def test_a_client_that_leaves_stops_nothing_and_its_retry_collects(server: Served) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await server.http.post("/slow", json={"name": "tea"}, headers=ONCE, timeout=1.0)

    async def collected() -> httpx.Response | None:
        answer = await server.http.post("/slow", json={"name": "tea"}, headers=ONCE)
        assert answer.status_code in (201, 409), answer.text
        return answer if answer.status_code == 201 else None

    answer = await until(collected, "the answer is there")
    assert answer.headers["idempotent-replayed"] == "true" and answer.json() == {"charged": "tea"}
    assert (await server.http.get("/charges")).json() == {"tea": 1}


@on_each
async def test_a_hundred_at_once_under_one_key_have_one_effect_and_one_answer(
    server: Served,
) -> None:
    asked = [server.http.post("/charges", json={"name": "tea"}, headers=ONCE) for _ in range(100)]
    answers = await asyncio.gather(*asked)
    assert {(a.status_code // 100, a.content) for a in answers} == {(2, b'{"charged":"tea"}')}
    assert (await server.http.get("/charges")).json() == {"tea": 1}


@on_each
async def test_a_web_socket_is_closed_with_4401_when_its_session_ends(server: Served) -> None:
    login = await server.http.post("/login/ada")
    reader = await server.socket(login.headers["set-cookie"].partition(";")[0])
    async with asyncio.timeout(SECONDS):
        assert await frame(reader) == (1, b'{"who":"ada"}')
        assert (await server.http.post("/logout")).status_code == 200
        kind, said = await frame(reader)
    assert (kind, said[:2]) == (8, (4401).to_bytes(2))


class Reader:
    """A client that reads a stream, and remembers what it has heard when the stream breaks."""

    def __init__(self, http: httpx.AsyncClient, place: str, **headers: str) -> None:
        self.text = ""
        self._headers = {"accept": "text/event-stream", **headers}
        self.task = asyncio.create_task(self._read(http, place))

    async def _read(self, http: httpx.AsyncClient, place: str) -> None:
        with suppress(httpx.TransportError):
            async with http.stream("GET", place, headers=self._headers) as stream:
                async for text in stream.aiter_text():
                    self.text += text


@on_each
async def test_streams_and_long_polls_do_not_hold_its_end_up_and_go_on_in_its_next_life(
    server: Served,
) -> None:
    """Uvicorn lets what waits be ended in order. Granian cuts what has not begun its answer, and
    Hypercorn tells no application that it leaves and cuts all 3 s later, from Python 3.12 on not
    before the clients have left (its issue 308): a client that comes back misses nothing."""
    place = (await server.http.post("/orders", json={"item": "book"})).headers["location"]
    first = Reader(server.http, place)
    await until(lambda: "event: wait\n" in first.text, "the stream has told that it waits")
    tag = (await server.http.get(place)).headers["etag"]
    headers = {"if-none-match": tag, "prefer": "wait=30"}
    sent = asyncio.Event()

    async def trace(event: str, _: object) -> None:
        if event == "http11.send_request_body.complete":
            sent.set()

    poll = asyncio.create_task(
        server.http.get(place, headers=headers, extensions={"trace": trace}),
    )
    await sent.wait()
    async with httpx.AsyncClient() as later:  # its connection is accepted after that of the poll
        await later.get(server.url + place)
    async with asyncio.timeout(25):
        ended = asyncio.create_task(server.ended())
        if "hypercorn" in server.process.args and sys.version_info >= (3, 12):
            first.task.cancel()
            poll.cancel()
        assert await ended in (0, -signal.SIGTERM)
        await asyncio.wait([first.task])
    (polled,) = await asyncio.gather(poll, return_exceptions=True)
    cut = isinstance(polled, GONE) or polled.status_code == 500
    if "uvicorn" in server.process.args:
        assert not cut and polled.status_code == 304 and "retry: " in first.text
    assert cut or polled.status_code == 304
    await server.again()
    seen = [event for event in events_of(first.text) if "id" in event]
    rest = Reader(server.http, place, **{"last-event-id": seen[-1]["id"]})
    paid = await server.http.post(f"{place}/signals/paid", json={"amount": 1})
    assert paid.status_code == 202
    async with asyncio.timeout(SECONDS):
        await rest.task
    *others, end = events_of(rest.text)
    both = [int(event["id"]) for event in (*seen, *others)]
    assert both == list(range(len(both))) and end["event"] == "end"
