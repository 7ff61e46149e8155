"""The real application behind its HTTP face, in this process, and clients that speak to it.

A `Site` is one store file and the instances that are open on it: each with its life span run as a
server runs it. Streams are read through `Exchange`, because httpx's transport waits for the end of
an answer.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
from tests.http.shop import World, declare
from tests.web.driver import Exchange

from outlive import Outlive
from outlive.stores.sqlite import SQLiteStore

DEADLINE_SECONDS = 60.0


class Instance:
    """One instance of the service: its application, its face, its client."""

    def __init__(self, app: Outlive, face: Any, root: str = "") -> None:
        self.app = app
        self.face = face
        transport = httpx.ASGITransport(face, client=("127.0.0.1", 50000))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://localhost:8000" + root)
        self._asked: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._span: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Run the start-up of its life span."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._span = asyncio.create_task(self.face(scope, self._asked.get, self._told.put))
        assert (await self._ask("startup"))["type"] == "lifespan.startup.complete"

    async def stop(self) -> None:
        """Run the shut-down of its life span."""
        span, self._span = self._span, None
        if span is not None:
            assert (await self._ask("shutdown"))["type"] == "lifespan.shutdown.complete"
            await span
        await self.http.aclose()

    async def _ask(self, verb: str) -> dict[str, Any]:
        await self._asked.put({"type": f"lifespan.{verb}"})
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self._told.get()

    def stream(self, path: str, **headers: str) -> Exchange:
        """An answer that is read while it is sent."""
        accept = {"accept": "text/event-stream", **headers}
        return Exchange(self.face, "GET", path, {**accept, "host": "localhost"})

    async def begin(self, path: str, body: Any, **headers: str) -> str:
        """Start a process; gives its location."""
        answer = await self.http.post(path, json=body, headers=headers)
        assert answer.status_code in (201, 202), answer.text
        return answer.headers["location"]

    async def reaches(self, place: str, *wanted: str) -> dict[str, Any]:
        """The status body as soon as its status is one of `wanted`."""
        end = time.monotonic() + DEADLINE_SECONDS
        while True:
            answer = await self.http.get(place)
            assert answer.status_code == 200, answer.text
            body: dict[str, Any] = answer.json()
            if body["status"] in wanted:
                return body
            assert time.monotonic() < end, f"{place} is {body['status']}, not {wanted}"
            await asyncio.sleep(0.01)


class Site:
    """One store file, and the instances on it; all are stopped at the end."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "store.db"
        self.world = World()
        self.instances: list[Instance] = []

    def new(self, **options: Any) -> Outlive:
        """An application that is not open yet."""
        store = SQLiteStore(self.path, shards=4, clock=options.get("clock"))
        app = Outlive(store, **options)
        declare(app, self.world)
        return app

    async def open(self, **options: Any) -> Instance:
        """An instance that serves."""
        app = self.new(**options)
        return await self.serve(app, app.asgi())

    async def serve(self, app: Outlive, face: Any, root: str = "") -> Instance:
        """Start whatever was made of an application."""
        made = Instance(app, face, root)
        self.instances.append(made)
        await made.start()
        return made

    async def close(self) -> None:
        self.world.go.set()
        for instance in self.instances:
            await instance.stop()


async def until(condition: Any, what: str) -> Any:
    """The first true value of `condition`, within the deadline."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: not within {DEADLINE_SECONDS:g} s"
        await asyncio.sleep(0.005)
    return found


def events_of(text: str) -> list[dict[str, str]]:
    """What a stream has said, event by event; comments are left out."""
    found = []
    for block in text.split("\n\n"):
        lines = [line.partition(": ") for line in block.split("\n") if not line.startswith(":")]
        if any(name for name, _, _ in lines):
            found.append({name: value for name, _, value in lines})
    return found
