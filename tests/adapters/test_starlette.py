"""Starlette's session line with another import: the same dict, and what it could not promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware as Theirs
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from outlive import Outlive
from outlive.adapters.starlette import SessionMiddleware

MIDDLEWARES = (Theirs, SessionMiddleware)


async def add(request: Request) -> Response:
    session = request.session
    session[request.path_params["name"]] = request.path_params["value"]
    return JSONResponse(dict(session))


async def show(request: Request) -> Response:
    return JSONResponse(dict(request.session))


async def clear(request: Request) -> Response:
    request.session.clear()
    return JSONResponse({})


@asynccontextmanager
async def visiting(
    service: Any, url: str = "http://shop.test", cookies: Any = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A browser before a server that starts `service` and shuts it down."""
    told: asyncio.Queue[Any] = asyncio.Queue()
    said: asyncio.Queue[Any] = asyncio.Queue()
    serving = asyncio.ensure_future(service({"type": "lifespan"}, told.get, said.put))
    await told.put({"type": "lifespan.startup"})
    assert (await said.get())["type"] == "lifespan.startup.complete"
    transport = httpx.ASGITransport(service)
    async with httpx.AsyncClient(transport=transport, base_url=url, cookies=cookies) as browser:
        yield browser
    await told.put({"type": "lifespan.shutdown"})
    assert (await said.get())["type"] == "lifespan.shutdown.complete"
    await serving


def site(middleware: Any, store: Any, **options: Any) -> Starlette:
    made = Starlette(
        routes=[
            Route("/set/{name}/{value}", add, methods=["POST"]),
            Route("/show", show),
            Route("/clear", clear, methods=["POST"]),
        ]
    )
    if middleware is SessionMiddleware:
        options["store"] = store
    made.add_middleware(middleware, secret_key="only for a test", **options)
    return made


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/sessions.db"


@pytest.mark.parametrize("middleware", MIDDLEWARES)
async def test_a_session_lasts_until_it_is_cleared(middleware: Any, store: str) -> None:
    async with visiting(site(middleware, store, max_age=3600)) as visitor:
        assert (await visitor.get("/show")).json() == {} and not visitor.cookies
        first = await visitor.post("/set/a/1")
        assert "session=" in first.headers["set-cookie"]
        assert "httponly; " in first.headers["set-cookie"].lower() + "; "
        assert "samesite=lax" in first.headers["set-cookie"].lower()
        assert (await visitor.post("/set/b/2")).json() == {"a": "1", "b": "2"}
        shown = await visitor.get("/show")
        assert shown.json() == {"a": "1", "b": "2"} and "cookie" in shown.headers["vary"].lower()
        await visitor.post("/clear")
        assert (await visitor.get("/show")).json() == {}


@pytest.mark.parametrize("middleware", MIDDLEWARES)
async def test_the_cookie_is_as_it_was_asked_for(middleware: Any, store: str) -> None:
    options: dict[str, Any] = {
        "session_cookie": "visit", "same_site": "strict", "https_only": True, "max_age": None,
        "path": "/", "domain": "testserver.local",
    }  # fmt: skip
    async with visiting(site(middleware, store, **options), "https://testserver.local") as visitor:
        said = (await visitor.post("/set/a/1")).headers["set-cookie"].lower()
        assert said.startswith("visit=") and "secure" in said and "samesite=strict" in said
        assert "domain=testserver.local" in said and "max-age" not in said
        assert (await visitor.get("/show")).json() == {"a": "1"}


async def test_a_restart_and_a_second_instance_know_the_session(store: str) -> None:
    async with visiting(site(SessionMiddleware, store)) as one:
        await one.post("/set/a/1")
        async with visiting(site(SessionMiddleware, store), cookies=one.cookies) as other:
            assert (await other.post("/set/b/2")).json() == {"a": "1", "b": "2"}
    async with visiting(site(SessionMiddleware, store), cookies=one.cookies) as later:
        assert (await later.get("/show")).json() == {"a": "1", "b": "2"}


async def test_what_starlette_could_not_promise(store: str) -> None:
    """A logout counts for a copy of the cookie, and a session may be larger than a cookie."""
    async with visiting(site(SessionMiddleware, store)) as visitor:
        await visitor.post("/set/large/" + "x" * 5000)
        copied = dict(visitor.cookies)
        assert len((await visitor.get("/show")).json()["large"]) == 5000
        assert len(copied["session"]) < 100
        await visitor.post("/clear")
        visitor.cookies.update(copied)
        assert (await visitor.get("/show")).json() == {}


async def test_first_requests_that_come_together_open_the_store_once(store: str) -> None:
    service = site(SessionMiddleware, store)
    transport = httpx.ASGITransport(service)
    async with httpx.AsyncClient(transport=transport, base_url="http://t") as visitor:
        await asyncio.gather(*(visitor.post(f"/set/n{n}/{n}") for n in range(8)))
        await visitor.post("/set/first/1")
        tries = [visitor.post(f"/set/n{n}/{n}") for n in range(20)]
        await asyncio.gather(*tries)
        assert len((await visitor.get("/show")).json()) >= 21
    stack: Any = service.middleware_stack
    while not isinstance(stack, SessionMiddleware):
        stack = stack.app
    assert stack._own is not None
    await stack._own.close()


async def test_an_application_that_is_there_is_used(tmp_path: Path) -> None:
    app = Outlive(f"sqlite:///{tmp_path}/shop.db")
    kept = app.sessions(principal="user")

    async def login(request: Request) -> Response:
        request.session["user"] = "ada"
        return JSONResponse({})

    api = Starlette(routes=[Route("/login", login, methods=["POST"])])
    api.add_middleware(SessionMiddleware, secret_key=None, sessions=kept)
    async with app:
        transport = httpx.ASGITransport(api)
        async with httpx.AsyncClient(transport=transport, base_url="https://t") as visitor:
            said = await visitor.post("/login")
        assert said.headers["set-cookie"].startswith("__Host-session=")
        assert len(await kept.devices("ada")) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "store"),
        ({"store": "memory://", "sessions": object()}, "store"),
        ({"store": "memory://", "max_age": 0}, "max_age"),
        ({"store": "memory://", "max_age": 10**9}, "max_age"),
        ({"store": "memory://", "session_cookie": "a b"}, "cookie"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SessionMiddleware(show, "secret", **options)  # type: ignore[arg-type]
