"""Two life spans in one."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
from tests.web.conftest import until
from tests.web.driver import Exchange
from tests.web.fake import Fake, declare

from outlive.errors import StoreUnavailable
from outlive.web import lifespan
from outlive.web.asgi import create


class Server:
    """What a server does with a life span."""

    def __init__(self, app: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.to: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.scope: dict[str, Any] = {"type": "lifespan", "state": {}}
        self.task = asyncio.create_task(app(self.scope, self.to.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    async def ask(self, what: str) -> dict[str, Any]:
        before = len(self.sent)
        self.to.put_nowait({"type": f"lifespan.{what}"})
        await until(lambda: len(self.sent) > before)
        return self.sent[-1]


class Inner:
    def __init__(self, fake: Fake, fails: str = "", knows: bool = True) -> None:
        self.fake, self.fails, self.knows = fake, fails, knows

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.knows:
            raise TypeError("no life span here")
        for phase in ("startup", "shutdown"):
            await receive()
            self.fake.calls.append((f"inner {phase}",))
            if self.fails == phase:
                await send({"type": f"lifespan.{phase}.failed", "message": "no pool"})
                raise RuntimeError
            scope["state"]["pool"] = 1
            await send({"type": f"lifespan.{phase}.complete"})


def order(fake: Fake) -> list[str]:
    return [call[0] for call in fake.calls]


async def test_ours_opens_first_and_closes_last_and_drains_before_theirs_stops(
    fake: Fake,
) -> None:
    server = Server(create(fake, Inner(fake)))  # type: ignore[arg-type]
    assert (await server.ask("startup"))["type"] == "lifespan.startup.complete"
    assert server.scope["state"] == {"pool": 1}
    assert (await server.ask("shutdown"))["type"] == "lifespan.shutdown.complete"
    assert order(fake) == ["open", "inner startup", "drain", "inner shutdown", "close"]
    await server.task


async def test_without_a_wrapped_application_ours_runs_alone(fake: Fake) -> None:
    server = Server(create(fake))  # type: ignore[arg-type]
    await server.ask("startup")
    await server.ask("shutdown")
    assert order(fake) == ["open", "drain", "close"]


async def test_a_wrapped_start_up_that_fails_is_reported_and_ours_is_closed(fake: Fake) -> None:
    server = Server(create(fake, Inner(fake, fails="startup")))  # type: ignore[arg-type]
    answer = await server.ask("startup")
    assert answer["type"] == "lifespan.startup.failed"
    assert "no pool" in answer["message"]
    assert order(fake)[-2:] == ["drain", "close"]
    await server.task


async def test_a_store_that_does_not_open_is_reported_with_its_remedy(fake: Fake) -> None:
    fake.raises = StoreUnavailable("the file is locked")
    server = Server(create(fake, Inner(fake)))  # type: ignore[arg-type]
    answer = await server.ask("startup")
    assert answer["type"] == "lifespan.startup.failed"
    assert "the file is locked" in answer["message"] and "doctor" in answer["message"]
    assert "inner startup" not in order(fake)


async def test_a_mistake_in_the_declarations_stops_the_start_up(fake: Fake) -> None:
    fake.definitions["twice"] = declare("twice", "/registrations")
    server = Server(create(fake))  # type: ignore[arg-type]
    answer = await server.ask("startup")
    assert answer["type"] == "lifespan.startup.failed"
    assert "/registrations" in answer["message"]
    assert order(fake) == []


async def test_a_wrapped_application_that_knows_no_life_span_is_served(fake: Fake) -> None:
    server = Server(create(fake, Inner(fake, knows=False)))  # type: ignore[arg-type]
    assert (await server.ask("startup"))["type"] == "lifespan.startup.complete"
    assert (await server.ask("shutdown"))["type"] == "lifespan.shutdown.complete"


async def test_a_wrapped_shut_down_that_fails_is_reported_and_ours_is_closed(fake: Fake) -> None:
    server = Server(create(fake, Inner(fake, fails="shutdown")))  # type: ignore[arg-type]
    await server.ask("startup")
    assert (await server.ask("shutdown"))["type"] == "lifespan.shutdown.failed"
    assert order(fake)[-1] == "close"


async def test_the_stop_signal_ends_streams_before_the_server_waits_for_them(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    try:
        face = create(fake)  # type: ignore[arg-type]
        server = Server(face)
        await server.ask("startup")
        fake.add("reg_1", "register")
        stream = Exchange(face, "GET", "/registrations/reg_1", {"Accept": "text/event-stream"})
        await until(lambda: fake.waiters == 1)
        signal.raise_signal(signal.SIGTERM)
        await stream.end()
        assert "retry: " in stream.text
        assert caught == [signal.SIGTERM]
        ready = Exchange(face, "GET", "/readyz")
        await ready.end()
        assert ready.status == 503
        await server.ask("shutdown")
        signal.raise_signal(signal.SIGTERM)
        assert caught == [signal.SIGTERM, signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


async def test_a_second_life_span_serves_like_the_first(fake: Fake) -> None:
    face = create(fake)  # type: ignore[arg-type]
    for life in range(2):
        server = Server(face)
        await server.ask("startup")
        ready = Exchange(face, "GET", "/readyz")
        await ready.end()
        assert ready.status == 200, f"life {life}"
        fake.add(f"reg_{life}", "register")
        path = f"/registrations/reg_{life}"
        stream = Exchange(face, "GET", path, {"Accept": "text/event-stream"})
        await until(lambda: fake.waiters == 1)
        await server.ask("shutdown")
        await stream.end()
        assert stream.status == 200 and "retry: " in stream.text


@pytest.mark.parametrize("fails", ["", "startup"])
async def test_a_wrapped_application_that_listens_on_after_its_last_answer_holds_nothing_up(
    fake: Fake, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifespan, "LAST_SECONDS", 0.01)
    gone = asyncio.Event()

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        try:
            while True:
                phase = (await receive())["type"]
                await send({"type": f"{phase}.{'failed' if fails else 'complete'}"})
        finally:
            gone.set()

    server = Server(create(fake, inner))  # type: ignore[arg-type]
    said = await server.ask("startup")
    assert said["type"] == f"lifespan.startup.{'failed' if fails else 'complete'}"
    if not fails:
        assert (await server.ask("shutdown"))["type"] == "lifespan.shutdown.complete"
    assert gone.is_set() and order(fake)[-1] == "close"
