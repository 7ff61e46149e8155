"""A fake application, its HTTP face, and a client that runs inside the same loop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from tests.web.fake import Fake

from outlive.web.asgi import Face, create


@pytest.fixture
async def fake() -> Fake:
    return Fake()


@pytest.fixture
def face(fake: Fake) -> Face:
    return create(fake)  # type: ignore[arg-type]


@pytest.fixture
async def client(face: Face) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(face) as made:
        yield made


def client_of(face: Any, peer: str = "127.0.0.1", root: str = "") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(face, client=(peer, 50000), root_path=root)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost:8000" + root)


@pytest.fixture
def connect() -> Callable[..., httpx.AsyncClient]:
    return client_of


async def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until `true`, with a deadline."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.001)


OWN = {"Origin": "http://localhost:8000"}


async def sealed(client: httpx.AsyncClient, page: str) -> str:
    """The seal of the forms on a page, whose cookie the client has from then on."""
    answer = await client.get(page, headers={"Accept": "text/html"})
    found = re.search(r'name="seal" value="([0-9a-f]{64})"', answer.text)
    assert found is not None, f"{page} has no form: {answer.status_code}"
    return found[1]


async def send(client: httpx.AsyncClient, page: str, verb: str, **form: str) -> httpx.Response:
    """Send the form for `verb` that stands on a page, as a browser does."""
    seal = await sealed(client, page)
    return await client.post(
        f"{page}/{verb}", data={"seal": seal, **form}, headers={**OWN, "Accept": "text/html"}
    )
