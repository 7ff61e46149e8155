"""What is sent to an address that somebody named goes there, or nowhere."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.service import until

from outlive import Webhooks
from outlive.runtime import outbound

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CERTIFICATE = Path(__file__).parent / "hooks_test.pem"
"""For the name hooks.test; signed by itself, good until 2126."""
FINE = b"HTTP/1.1 204 No Content\r\n\r\n"


class Receiver:
    """A server that answers every connection alike and keeps what it was sent."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.got: list[bytes] = []
        self.port = self.open = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            self.got.append(head + await reader.readexactly(length))
            writer.write(self.answer)
            await writer.drain()
            if self.answer:
                await reader.read()  # until the other side has gone
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
            self.open -= 1


@asynccontextmanager
async def receiver(answer: bytes = FINE, tls: bool = False) -> AsyncIterator[Receiver]:
    made, context = Receiver(answer), None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
    server = await asyncio.start_server(made.take, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await until(lambda: made.open == 0, "every connection has ended")
        await asyncio.sleep(0)  # and its transport is closed


def hooks(**options: Any) -> Webhooks:
    return Webhooks([SECRET], **({"allow_loopback": True, "timeout_seconds": 5.0} | options))


async def post(url: str, webhooks: Webhooks | None = None) -> int:
    webhooks = webhooks or hooks()
    return await outbound.post(webhooks, webhooks.target(url), {"webhook-id": "msg_1"}, b'{"a":1}')


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Lets a name mean addresses, one list for each time it is looked up; gives the look-ups."""

    def mean(*answers: list[str]) -> list[str]:
        left, asked = list(answers), list[str]()

        async def look_up(host: str, port: int) -> list[Any]:
            asked.append(host)
            found = left.pop(0) if len(left) > 1 else left[0]
            return [(2, 1, 6, "", (address, port)) for address in found]

        monkeypatch.setattr(outbound, "_look_up", look_up)
        return asked

    return mean


async def test_the_request_is_whole_and_the_status_comes_back() -> None:
    async with receiver() as there:
        assert await post(f"http://ann:pw@127.0.0.1:{there.port}/a/b?c=d") == 204
    head, _, body = there.got[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /a/b?c=d HTTP/1.1" and body == b'{"a":1}'
    assert f"Host: 127.0.0.1:{there.port}" in lines and "webhook-id: msg_1" in lines
    assert "Content-Type: application/json" in lines and "Content-Length: 7" in lines
    assert "Authorization: Basic YW5uOnB3" in lines


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000, 200),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\n\r\n", 201),
        (b"HTTP/1.0 503 Later\r\n\r\n", 503),
        (b"HTTP/1.1 200\r\n" + b"x: " + b"y" * 100_000, 200),
    ],
)
async def test_the_body_of_the_answer_is_not_read(answer: bytes, status: int) -> None:
    async with receiver(answer) as there:
        assert await post(f"http://127.0.0.1:{there.port}/") == status


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 100 \r\n\r\n" * 9,
        b"x" * 99_999,
    ],
    ids=["nothing", "ssh", "no status", "only interim", "no end"],
)
async def test_what_is_no_answer_is_an_error(answer: bytes) -> None:
    async with receiver(answer) as there:
        with pytest.raises((outbound.NoAnswer, TimeoutError)):
            await post(f"http://127.0.0.1:{there.port}/", hooks(timeout_seconds=0.5))


async def test_one_that_does_not_answer_is_left_in_time() -> None:
    async with receiver(b"HTTP/1.1 100 Continue\r\n\r\n") as there:
        with pytest.raises(TimeoutError):
            await post(f"http://127.0.0.1:{there.port}/", hooks(timeout_seconds=0.1))


async def test_an_address_that_is_silent_leaves_time_for_the_next(
    names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as an IPv6 one where IPv6 leads nowhere."""
    usual = asyncio.open_connection

    async def connect(address: str, *args: Any, **options: Any) -> Any:
        if address == "127.0.0.2":
            await asyncio.Event().wait()
        return await usual(address, *args, **options)

    monkeypatch.setattr(asyncio, "open_connection", connect)
    names(["127.0.0.2", "127.0.0.1"])
    async with receiver() as there:
        assert await post(f"http://localhost:{there.port}/", hooks(timeout_seconds=2.0)) == 204


async def test_no_redirect_is_followed() -> None:
    async with receiver() as inner:
        answer = f"HTTP/1.1 307 Here\r\nLocation: http://127.0.0.1:{inner.port}/\r\n\r\n"
        async with receiver(answer.encode()) as there:
            assert await post(f"http://127.0.0.1:{there.port}/") == 307
    assert len(there.got) == 1 and inner.got == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["::1"], ["fe80::1%lo"],
        ["::ffff:169.254.169.254"], ["8.8.8.8", "127.0.0.1"], ["fd00:ec2::254"], ["0.0.0.0"],
    ],
)  # fmt: skip
async def test_a_name_that_leads_inside_is_not_connected_to(
    names: Callable[..., list[str]], addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(asyncio, "open_connection", never)
    names(addresses)
    with pytest.raises(outbound.Unsafe):
        await post("https://hooks.test/", hooks(allow_loopback=False))


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1"])
async def test_other_spellings_of_this_host_are_seen_through(host: str) -> None:
    strict = hooks(allow_loopback=False)
    with pytest.raises(outbound.Unsafe):
        await outbound.post(strict, strict.target(f"https://{host}/"), {}, b"")


async def test_a_name_that_changes_its_meaning_changes_nothing(
    names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the connection is made to the address that was checked."""
    connected: list[Any] = []

    async def connect(*args: Any, **options: Any) -> Any:
        connected.append((args, options["server_hostname"]))
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncio, "open_connection", connect)
    asked = names(["93.184.215.14"], ["127.0.0.1"])
    with pytest.raises(ConnectionRefusedError):
        await post("https://hooks.test/", hooks(allow_loopback=False))
    assert asked == ["hooks.test"]
    assert connected == [(("93.184.215.14", 443), "hooks.test")]


async def test_tls_is_checked_against_the_name(names: Callable[..., list[str]]) -> None:
    names(["127.0.0.1"])
    trusting = hooks(ca_file=str(CERTIFICATE))
    async with receiver(tls=True) as there:
        assert await post(f"https://hooks.test:{there.port}/", trusting) == 204
        with pytest.raises(ssl.SSLCertVerificationError):
            await post(f"https://other.test:{there.port}/", trusting)
        with pytest.raises(ssl.SSLCertVerificationError):
            await post(f"https://hooks.test:{there.port}/")
    assert len(there.got) == 1


async def test_the_next_address_is_tried_when_one_does_not_answer(
    names: Callable[..., list[str]],
) -> None:
    names(["127.0.0.2", "127.0.0.1"])
    async with receiver() as there:
        assert await post(f"http://localhost:{there.port}/") == 204
    names([])
    with pytest.raises(ConnectionError):
        await post("http://localhost:1/")
