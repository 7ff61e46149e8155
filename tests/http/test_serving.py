"""`outlive serve` over sockets: ten thousand starts at once, streams that end, a damaged store."""

from __future__ import annotations

import asyncio
from collections import Counter

import httpx
import pytest
from tests.crash.service import Machine, Service, until

SHOP = "tests.http.shop:shop"
STARTS = 10_000
CONNECTIONS = 200
TURNS_MAX = 50


class Wire:
    """One kept-alive connection that sends starts and reads the status of each."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.statuses: Counter[int] = Counter()
        self.places: list[str] = []

    async def send(self, numbers: range) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for number in numbers:
            for _ in range(TURNS_MAX):
                status, place = await self._start(reader, writer, number)
                self.statuses[status] += 1
                if status != 503:
                    break
            self.places.append(place)
        writer.close()
        await writer.wait_closed()

    async def _start(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> tuple[int, str]:
        writer.write(
            b"POST /pings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n"
            b'Idempotency-Key: "n%d"\r\n\r\n' % number
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        await reader.readexactly(int(fields["content-length"]))
        return int(lines[0].split()[1]), fields.get("location", "")


@pytest.mark.slow
async def test_ten_thousand_starts_at_once_each_end_exactly_once(machine: Machine) -> None:
    service = await machine.serve(SHOP)
    wires = [Wire(service.port) for _ in range(CONNECTIONS)]
    async with asyncio.timeout(120):
        await asyncio.gather(
            *(wire.send(range(n, STARTS, CONNECTIONS)) for n, wire in enumerate(wires))
        )
    statuses = sum((wire.statuses for wire in wires), Counter())
    assert statuses[202] == STARTS and set(statuses) <= {202, 503}, statuses
    places = {place for wire in wires for place in wire.places}
    assert len(places) == STARTS

    async def all_ended() -> bool:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:
            text = (await http.get("/metrics")).text
        return f'outlive_processes_ended_total{{status="done"}} {STARTS}\n' in text

    await until(all_ended, "all have ended")
    assert await service.end() == 0
    ((rows, ids),) = await machine.rows("SELECT count(*), count(DISTINCT id) FROM ends")
    assert rows == ids == STARTS
    assert service.said() == ""


async def test_a_stream_and_a_long_poll_do_not_hold_the_end_up(machine: Machine) -> None:
    service = await machine.serve(SHOP)
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as http:
        place = (await http.post("/orders", json={"item": "book"})).headers["location"]

        async def waiting() -> bool:
            return bool((await http.get(place)).json()["status"] == "waiting")

        await until(waiting, "it waits")
        tag = (await http.get(place)).headers["etag"]
        headers = {"if-none-match": tag, "prefer": "wait=30"}
        poll = asyncio.create_task(http.get(place, headers=headers))
        async with http.stream("GET", place, headers={"accept": "text/event-stream"}) as stream:
            lines = stream.aiter_lines()
            async for line in lines:
                if line == "event: wait":
                    break
            async with asyncio.timeout(25):
                ending = asyncio.create_task(service.end())
                rest = [line async for line in lines]
                assert any(line.startswith("retry: ") for line in rest)
                assert (await poll).status_code == 304
                assert await ending == 0
        await service.start()
        paid = await http.post(f"{place}/signals/paid", json={"amount": 1})
        assert paid.status_code == 202
        done = await http.get(place, headers={"prefer": "wait=20"})
        assert done.json()["status"] == "done"


@pytest.mark.parametrize(
    "content", [b"this is no store " * 500, b"SQLite format 3\0" + b"\xff" * 8176]
)
async def test_a_damaged_store_is_one_line_and_exit_code_5(
    machine: Machine, content: bytes
) -> None:
    machine.store.write_bytes(content)
    service = Service(machine.folder, SHOP, 1, OUTLIVE_STORE=f"sqlite:///{machine.store}")
    process = await asyncio.create_subprocess_exec(
        *service.command,
        cwd=machine.folder,
        env=service.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode == 5
    assert out == b""
    (line,) = err.decode().splitlines()
    assert line.startswith("outlive: ") and "[OL1107]" in line
    assert machine.store.read_bytes() == content
