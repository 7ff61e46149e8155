"""A service with sessions and idempotency keys that kills itself where a request says.

    Die: answer    when everything is committed, and before the first byte of the answer leaves
    Die: effect    when the effect has happened, and before its outcome is recorded
    Die: claim     when the key is taken, and before the effect
    Die: before    before the key is taken
    Die: middle    when the first byte of the answer has left

Run as `python keyed.py PORT`; prints `ready`. An effect outside of the store is a line in a file.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from outlive import Outlive, ids
from outlive.kinds.sessions.cookies import Cookie
from outlive.web.requests import IdempotencyMiddleware, Rule, once_of
from outlive.web.sessions import SessionMiddleware

LEASE_SECONDS = 1.0
LITE = os.environ["OUTLIVE_STORE"].startswith("sqlite")
app = Outlive(os.environ["OUTLIVE_STORE"])


@app.schema
def make(tables: Any) -> None:
    tables.execute("CREATE TABLE IF NOT EXISTS keyed_charge (name TEXT, id TEXT)")


def write(tables: Any, name: str) -> dict[str, str]:
    id = ids.token(40)
    values = "(?, ?)" if LITE else "($1, $2)"
    tables.execute(f"INSERT INTO keyed_charge VALUES {values}", (name, id))
    return {"id": id}


def count(tables: Any) -> dict[str, int]:
    rows = tables.execute("SELECT name, count(*) FROM keyed_charge GROUP BY name")
    return dict(rows)


def note(name: str) -> None:
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(name + "\n")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def charge(request: Request) -> JSONResponse:
    form = await request.json()
    if request.headers.get("die") == "claim":
        die()
    made = await once_of(request).transact(write, form["name"])
    return JSONResponse(made, 201)


async def mail(request: Request) -> JSONResponse:
    form = await request.json()
    if request.headers.get("die") == "claim":
        die()
    note(form["name"])
    if request.headers.get("die") == "effect":
        die()
    return JSONResponse({"sent": form["name"]}, 201)


async def charges(request: Request) -> JSONResponse:
    return JSONResponse(await app.transact(count))


async def resolve(request: Request) -> JSONResponse:
    await keys.sweep()
    found = await keys.unknown()
    for record in found:
        await keys.resolve(record.place, None, by="test", why="the ledger says so")
    return JSONResponse([record.place.key for record in found])


async def whoami(request: Request) -> JSONResponse:
    return JSONResponse({"who": request.session.subject, "data": dict(request.session)})


async def login(request: Request) -> JSONResponse:
    request.session.sign_in("ada")
    return JSONResponse({})


async def logout(request: Request) -> JSONResponse:
    request.session.sign_out()
    return JSONResponse({})


async def put(request: Request) -> JSONResponse:
    request.session.update(await request.json())
    return JSONResponse({})


class Mortal:
    """Dies where a request says."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        wish = dict(scope.get("headers", ())).get(b"die")

        if wish == b"before":
            die()

        async def sent(message: Any) -> None:
            if wish == b"answer":
                die()
            await send(message)
            if wish == b"middle" and message["type"] == "http.response.start":
                await send({"type": "http.response.body", "body": b"{", "more_body": True})
                die()

        await self._inner(scope, receive, sent)


POST = ["POST"]
site = Starlette(
    routes=[
        Route("/charges", charge, methods=POST), Route("/mails", mail, methods=POST),
        Route("/charges", charges), Route("/resolve", resolve, methods=POST),
        Route("/", whoami), Route("/login", login, methods=POST),
        Route("/logout", logout, methods=POST), Route("/put", put, methods=POST),
    ]
)  # fmt: skip
keys = app.requests(lease_seconds=LEASE_SECONDS)
sessions = app.sessions(cookie=Cookie("session", secure=False))
RULES = [Rule(route="POST /charges", mode="transactional"), Rule(route="POST /mails")]
keyed = IdempotencyMiddleware(site, keys, RULES, principal=lambda scope: "")
service = app.asgi(Mortal(SessionMiddleware(keyed, sessions)))


class Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        print("ready", flush=True)


if __name__ == "__main__":
    config = uvicorn.Config(service, port=int(sys.argv[1]), log_level="warning")
    asyncio.run(Server(config).serve())
