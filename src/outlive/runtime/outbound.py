"""One POST to an address that somebody has named, and to nothing behind it.

    resolve    every address of the name must be one that may be reached, or none is
    connect    to the very address that was checked: a name that means another one a moment later
               (DNS rebinding) changes nothing; TLS is still checked against the name
    send       no redirect is followed, no proxy is asked, no cookie is kept
    read       the status line, within its limit; the body is not read

The limit of time holds for all of it together.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from socket import SOCK_STREAM
from typing import Any

from outlive.kinds.processes.webhooks import Target, Webhooks

HEAD_BYTES_MAX = 16 * 1024
ADDRESSES_MAX = 4
"""Addresses of one name that are tried."""
INTERIM_MAX = 5
"""Interim answers (1xx) before the final one."""


class Unsafe(Exception):
    """The name leads to where nothing may be sent; nothing was."""


class NoAnswer(Exception):
    """What came was no answer of HTTP."""


async def post(webhooks: Webhooks, target: Target, headers: Mapping[str, str], body: bytes) -> int:
    """Send `body` to `target`; gives the status of the answer.

    Raises `Unsafe` (nothing was sent), `TimeoutError`, `OSError`, `NoAnswer`: then it is not known
    whether it arrived.
    """
    async with asyncio.timeout(webhooks.timeout_seconds):
        addresses = await _resolve(webhooks, target)
        reader, writer = await _connect(webhooks, target, addresses)
        try:
            writer.write(_request(target, headers, body))
            await writer.drain()
            return await _status(reader)
        finally:
            writer.transport.abort()


async def _resolve(webhooks: Webhooks, target: Target) -> list[str]:
    """The addresses of the target's host. Raises `Unsafe` when one of them may not be reached."""
    try:
        found = await _look_up(target.host, target.port)
    except UnicodeError as error:  # no name at all
        raise Unsafe from error
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    for address in addresses:
        if not webhooks.may_reach(ip_address(address.partition("%")[0])):
            raise Unsafe
    return addresses[:ADDRESSES_MAX]


async def _look_up(host: str, port: int) -> list[Any]:
    """What the resolver of this host says."""
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)


async def _connect(
    webhooks: Webhooks, target: Target, addresses: list[str]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first of the checked `addresses` that answers. One that is silent has
    half of the time that is left, unless it is the last."""
    secured = target.scheme == "https"
    context = _context(webhooks) if secured else None
    failed: OSError = ConnectionError("the name has no address")
    share = webhooks.timeout_seconds
    for address in addresses:
        share /= 2
        try:
            async with asyncio.timeout(None if address == addresses[-1] else share):
                return await asyncio.open_connection(
                    address,
                    target.port,
                    limit=HEAD_BYTES_MAX,
                    ssl=context,
                    server_hostname=target.host if secured else None,
                )
        except OSError as error:
            failed = error
    raise failed


def _context(webhooks: Webhooks) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if webhooks.ca_file is not None:
        context.load_verify_locations(webhooks.ca_file)
    return context


def _request(target: Target, headers: Mapping[str, str], body: bytes) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    usual = target.port == (443 if target.scheme == "https" else 80)
    lines = [
        f"POST {target.path} HTTP/1.1",
        f"Host: {host}" + ("" if usual else f":{target.port}"),
        "User-Agent: outlive",
        "Accept: */*",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if target.authorization:
        lines.append(f"Authorization: {target.authorization}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + body


async def _status(reader: asyncio.StreamReader) -> int:
    """The status of the final answer."""
    for _ in range(INTERIM_MAX):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            head = await reader.read(HEAD_BYTES_MAX)
        except asyncio.IncompleteReadError as error:
            head = error.partial
        version, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        digits = rest[:3]
        if not version.startswith(b"HTTP/1.") or not (len(digits) == 3 and digits.isdigit()):
            raise NoAnswer
        if int(digits) >= 200:
            return int(digits)
    raise NoAnswer
