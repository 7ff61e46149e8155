"""The stream that tells an open page to look again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.service import has_status
from tests.web.driver import Exchange

from outlive import Outlive, Run

HEADERS = {"host": "localhost:8000"}


@pytest.fixture
async def app() -> AsyncIterator[Outlive]:
    made = Outlive("memory://")

    @made.process("/orders", version=1)
    async def order(run: Run) -> str:
        await run.wait("packed", within=86_400)
        return "done"

    made.order = order  # type: ignore[attr-defined]
    async with made:
        yield made


def follow(face: Any, query: bytes = b"") -> Exchange:
    return Exchange(face, "GET", "/outlive/events", HEADERS, query_string=query)


async def test_a_page_is_told_of_every_commit(app: Outlive) -> None:
    stream = follow(app.asgi())
    await stream.until("retry: 500\n\n")
    assert stream.headers["content-type"].startswith("text/event-stream")
    await app.start(app.order)  # type: ignore[attr-defined]
    await stream.until("event: change\n")
    stream.leave()
    await stream.end()


async def test_the_page_of_a_process_is_told_of_its_events_and_its_end(app: Outlive) -> None:
    handle = await app.start(app.order)  # type: ignore[attr-defined]
    await has_status(app, handle.id, "waiting")
    stream = follow(app.asgi(), f"process={handle.id}".encode())
    await stream.until("retry")
    assert "change" not in stream.text
    await handle.signal("packed")
    await stream.until("event: end\n")
    assert stream.text.index("event: change") < stream.text.index("event: end")
    await stream.end()


async def test_what_does_not_exist_is_not_followed(app: Outlive) -> None:
    stream = follow(app.asgi(), b"process=order_nothing")
    await stream.end()
    assert stream.status == 404


async def test_a_stream_ends_with_the_instance(app: Outlive) -> None:
    face = app.asgi()
    stream = follow(face)
    await stream.until("retry")
    face._waiting.leaving.set()
    await stream.end()
    refused = follow(face)
    await refused.end()
    assert refused.status == 503


async def test_nobody_follows_from_elsewhere(app: Outlive) -> None:
    stream = Exchange(app.asgi(), "GET", "/outlive/events", HEADERS, client=("203.0.113.9", 1))
    await stream.end()
    assert stream.status == 403
