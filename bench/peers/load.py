"""A load of requests that start a process and wait for its result, the same for every service.

    load.py --port P --path /steps --header 'Prefer: wait=30' --processes N --concurrency C

C connections, kept alive; on each one request after the other, the next when the answer to the one
before is there. An answer must be a 200 whose JSON is the number sent and the steps, added, or an
object with that as its `result`. It speaks no more HTTP/1.1 than that needs, and so costs little:
it runs on the machine that is measured. Its own CPU is not counted, that of `--server-pid` is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any

import uvloop

from measure import Meter, run_all

HEAD_END = b"\r\n\r\n"
CHUNKS_END = b"0\r\n\r\n"
parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--path", required=True)
parser.add_argument("--header", action="append", default=[])
parser.add_argument("--processes", type=int, required=True)
parser.add_argument("--concurrency", type=int, required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--server-pid", type=int, nargs="+", required=True)
given = parser.parse_args()
lines = [f"POST {given.path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
HEAD = "\r\n".join([*lines, *given.header, "Content-Length: "]).encode()


class Line(asyncio.Protocol):
    """One connection with at most one request under way."""

    def __init__(self) -> None:
        self._heard = b""
        self._answer: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, body: bytes) -> asyncio.Future[bytes]:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(b"%s%d\r\n\r\n%s" % (HEAD, len(body), body))
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._heard += data
        head, found, body = self._heard.partition(HEAD_END)
        if not found or self._answer is None:
            return
        fields = head.lower()
        _, sized, rest = fields.partition(b"\r\ncontent-length:")
        if sized:
            if len(body) < int(rest.partition(b"\r\n")[0]):
                return
        elif not body.endswith(CHUNKS_END):
            return
        else:
            body = unchunked(body)
        answer, self._answer, self._heard = self._answer, None, b""
        if fields.startswith(b"http/1.1 200"):
            answer.set_result(body)
        else:
            answer.set_exception(RuntimeError(f"{head!r} {body!r}"))

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None:
            self._answer.set_exception(ConnectionResetError("the service hung up"))


def unchunked(body: bytes) -> bytes:
    """What the chunks of `body` say."""
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        found += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
    return found


async def perform() -> None:
    loop = asyncio.get_running_loop()
    free = [
        (await loop.create_connection(Line, "127.0.0.1", given.port))[1]
        for _ in range(given.concurrency)
    ]

    async def through(number: int) -> int:
        line = free.pop()
        said = json.loads(await line.ask(b"%d" % number))
        free.append(line)
        result: int = said["result"] if isinstance(said, dict) else said
        return result

    await through(-1 - given.steps)
    meter: Meter = await run_all(given, through)
    print(
        json.dumps(
            {
                "c": given.concurrency,
                "processes": given.processes,
                "seconds": round(meter.seconds, 4),
                "server_cpu_seconds": round(meter.server_cpu_seconds, 4),
            }
        )
    )


uvloop.run(perform())
