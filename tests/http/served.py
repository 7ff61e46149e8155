"""A service with every kind of request state, for whatever ASGI server runs it.

    /orders /greetings /pings …   the processes of `shop.py`
    POST /charges                 one row for each idempotency key, in one transaction with it
    POST /slow                    the same at-most-once, done when the client has left
    POST /login/{who} /logout     sessions;  GET /me  who it is, and the attributes
    GET  /limited                 three a day
    WS   /socket                  tells who it is, and is closed when the session ends

`service` is served by a server's own command; its store comes from OUTLIVE_STORE, and its cookie is
the one that is meant for HTTPS with SECURE=1. What it is asked by `everything` is the same wherever
it runs.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from tests.http.shop import World, declare

from outlive import Outlive, Quota
from outlive.kinds.sessions.cookies import Cookie
from outlive.web.requests import IdempotencyMiddleware, Rule, once_of

POST = ["POST"]
RULES = [Rule(route="POST /charges", mode="transactional"), Rule(route="POST /slow")]
SLOW_SECONDS = 2.0


def write(db: Any, name: str) -> dict[str, str]:
    db.execute("INSERT INTO charge VALUES (?)", (name,))
    return {"charged": name}


def count(db: Any) -> dict[str, int]:
    return dict(db.execute("SELECT name, count(*) FROM charge GROUP BY name"))


async def charge(request: Request) -> JSONResponse:
    form = await request.json()
    return JSONResponse(await once_of(request).transact(write, form["name"]), 201)


async def slow(request: Request) -> JSONResponse:
    form = await request.json()
    await asyncio.sleep(SLOW_SECONDS)
    return JSONResponse(await request.app.state.outlive.transact(write, form["name"]), 201)


async def charged(request: Request) -> JSONResponse:
    return JSONResponse(await request.app.state.outlive.transact(count))


async def login(request: Request) -> JSONResponse:
    request.session.sign_in(request.path_params["who"])
    request.session["cart"] = ["tea"]
    return JSONResponse({})


async def logout(request: Request) -> JSONResponse:
    request.session.sign_out()
    return JSONResponse({})


async def me(request: Request) -> JSONResponse:
    return JSONResponse({"who": request.session.subject, "data": dict(request.session)})


async def limited(request: Request) -> JSONResponse:
    return JSONResponse({})


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json({"who": websocket.session.subject})  # type: ignore[attr-defined]
    async for _ in websocket.iter_text():
        pass


def made(store: str) -> Any:
    """The service on the store at an address: an ASGI application."""
    app = Outlive(store)
    declare(app, World())

    @app.schema
    def charges(db: Any) -> None:
        db.execute("CREATE TABLE IF NOT EXISTS charge (name TEXT)")

    site = Starlette(
        routes=[
            Route("/charges", charge, methods=POST), Route("/charges", charged),
            Route("/slow", slow, methods=POST), Route("/login/{who}", login, methods=POST),
            Route("/logout", logout, methods=POST), Route("/me", me), Route("/limited", limited),
            WebSocketRoute("/socket", socket),
        ]
    )  # fmt: skip
    site.state.outlive = app
    keyed = IdempotencyMiddleware(site, app.requests(), RULES, principal=lambda scope: "")
    quotas = app.ratelimits(Quota("day", 3, per_seconds=86_400))
    limits = quotas.asgi(keyed, key=lambda scope: "all" if scope["path"] == "/limited" else None)
    named = Cookie() if os.environ.get("SECURE") else Cookie("session", secure=False)
    sessions = app.sessions(cookie=named)
    return app.asgi(sessions.asgi(limits))


service = made(os.environ.get("OUTLIVE_STORE", "memory://"))


ONCE = {"idempotency-key": '"one"'}
FLEETING = ("date", "server", "connection", "keep-alive", "transfer-encoding", "retry-after")
OF_ITS_RUN = (
    (r"\b(ord|pin|gre)_[0-9a-z]{26}", r"\1_ID"), (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
    (r"session=[^;]+;", "session=ID;"), (r'("node": ?)"[^"]+"', r"\1NODE"),
    (r"'(content-length|etag)': '[^']*'", r"\1"),
    (r'(trace_id"?: ?"|t=|localhost:|127.0.0.1:)[0-9a-f]+', r"\1SOME"),
)  # fmt: skip


def lasting(text: str) -> str:
    """A text without what differs from one run to the next."""
    for pattern, instead in OF_ITS_RUN:
        text = re.sub(pattern, instead, text)
    return text


async def everything(http: httpx.AsyncClient) -> list[tuple[str, int, str]]:
    """What one client is answered: request, status, fields and body."""
    told = []

    async def ask(method: str, path: str, **sent: Any) -> httpx.Response:
        answer = await http.request(method, path, **sent)
        fields = {k: v for k, v in sorted(answer.headers.items()) if k not in FLEETING}
        asked = lasting(f"{method} {path}")
        told.append((asked, answer.status_code, lasting(f"{fields} {answer.text}")))
        return answer

    place = (await ask("POST", "/orders", json={"item": "book"}, headers=ONCE)).headers["location"]
    told[0] = (
        *told[0][:2],
        told[0][2].partition(' {"id"')[0],
    )  # how far it had come by then varies
    async with asyncio.timeout(60):
        while (await http.get(place)).json()["status"] != "waiting":
            await asyncio.sleep(0.01)
    await ask("POST", "/orders", json={"item": "book"}, headers=ONCE)
    await ask("POST", "/orders", json={"item": "pen"}, headers=ONCE)
    await ask("POST", "/orders", content=b"{", headers={"content-type": "application/json"})
    tag = (await ask("GET", place)).headers["etag"]
    await ask("HEAD", place)
    await ask("GET", place, headers={"if-none-match": tag})
    await ask("POST", f"{place}/signals/paid", json={"amount": 4})
    await ask("GET", place, headers={"prefer": "wait=20"})
    await ask("GET", place, headers={"accept": "text/event-stream"})
    await ask("GET", "/orders/ord_none")
    await ask("DELETE", "/orders")
    await ask("OPTIONS", "/orders")
    for _ in range(4):
        await ask("GET", "/limited")
    for name in ("ada", "ada", "bob"):
        await ask("POST", "/charges", json={"name": name}, headers=ONCE)
    await ask("POST", "/charges", json={"name": "ada"})
    await ask("GET", "/charges")
    await ask("GET", "/me")
    await ask("POST", "/login/ada")
    await ask("GET", "/me")
    await ask("POST", "/logout")
    await ask("GET", "/me")
    assert [status for _, status, _ in told] == [
        202, 202, 422, 400, 200, 200, 304, 202, 200, 200, 404, 405, 204,
        200, 200, 200, 429, 200, 200, 422, 400, 200, 200, 200, 200, 200, 200,
    ]  # fmt: skip
    return told
