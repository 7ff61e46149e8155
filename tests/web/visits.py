"""A small site with sessions, and browsers that visit it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from outlive.clock import ManualClock
from outlive.doors.sessions import Sessions
from outlive.kinds.sessions.decisions import SESSIONS
from outlive.web.sessions import SessionMiddleware

ID = "__Host-session"
IDLE, ABSOLUTE = 600.0, 3600.0


async def whoami(request: Request) -> JSONResponse:
    return JSONResponse({"who": request.session.subject, "data": dict(request.session)})


async def login(request: Request) -> JSONResponse:
    request.session.sign_in(request.path_params["who"], place="Paris")
    return JSONResponse({}, int(request.query_params.get("status", "200")))


async def logout(request: Request) -> JSONResponse:
    request.session.sign_out()
    return JSONResponse({})


async def step_up(request: Request) -> JSONResponse:
    request.session.rotate()
    return JSONResponse({"csrf": request.session.csrf_token()})


async def put(request: Request) -> JSONResponse:
    request.session.update(await request.json())
    return JSONResponse({}, int(request.query_params.get("status", "200")))


async def deep(request: Request) -> JSONResponse:
    request.session["cart"]["items"].append("tea")
    return JSONResponse({})


async def drop(request: Request) -> JSONResponse:
    del request.session[request.query_params["name"]]
    return JSONResponse({})


async def slow(request: Request) -> JSONResponse:
    """Read, wait until the test says so, then set."""
    seen, gate = request.app.state.gates[request.query_params["gate"]]
    name = request.query_params.get("name")
    seen.set()
    await gate.wait()
    if name:
        request.session[name] = request.query_params["value"]
    return JSONResponse({})


async def plain(request: Request) -> PlainTextResponse:
    return PlainTextResponse("plain", headers={"cache-control": "max-age=60"})


async def stream(request: Request) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        yield b"one"
        request.session["late"] = True
        yield b"two"

    assert request.session is not None
    return StreamingResponse(body())


async def csrf(request: Request) -> JSONResponse:
    sent = request.headers.get("x-csrf", "")
    good = request.session.check_csrf(sent) if sent else None
    return JSONResponse({"csrf": request.session.csrf_token(), "good": good})


async def boom(request: Request) -> JSONResponse:
    request.session.sign_in("ada")
    raise RuntimeError("after the sign-in")


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json({"who": websocket.session.subject})  # type: ignore[attr-defined]
    try:
        websocket.session["a"] = 1
    except Exception as error:
        await websocket.send_json({"error": type(error).__name__})
    async for _ in websocket.iter_text():
        pass


def site() -> Starlette:
    routes = [
        Route("/", whoami), Route("/login/{who}", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]), Route("/step-up", step_up, methods=["POST"]),
        Route("/put", put, methods=["POST"]), Route("/deep", deep, methods=["POST"]),
        Route("/drop", drop, methods=["POST"]), Route("/slow", slow, methods=["POST"]),
        Route("/plain", plain), Route("/stream", stream), Route("/csrf", csrf),
        Route("/boom", boom, methods=["POST"]), WebSocketRoute("/socket", socket),
    ]  # fmt: skip
    app = Starlette(routes=routes)
    app.state.gates = {name: (asyncio.Event(), asyncio.Event()) for name in "ab"}
    return app


def browser(service: Any, cookie: str = "") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(service, raise_app_exceptions=False)
    made = httpx.AsyncClient(transport=transport, base_url="https://shop.test")
    if cookie:
        made.cookies.set(ID, cookie, domain="shop.test")
    return made


def id_of(client: httpx.AsyncClient) -> str:
    return client.cookies.get(ID) or ""


class Place:
    """Two instances of a service on one store."""

    def __init__(self, store: Any, clock: ManualClock, **options: Any) -> None:
        self.store, self.clock = store, clock
        options.setdefault("storage", store.keeps[-1])
        options.setdefault("idle_seconds", IDLE)
        options.setdefault("absolute_seconds", ABSOLUTE)
        self.sessions = [Sessions(store, **options) for _ in range(2)]
        self.sites = [site() for _ in self.sessions]
        pairs = zip(self.sites, self.sessions, strict=True)
        self.services = [SessionMiddleware(app, sessions) for app, sessions in pairs]

    async def rows(self) -> list[Any]:
        if "scan" in self.store.lacks:
            return []
        return list(await self.store.scan(SESSIONS))
