"""In the place of Starlette's `SessionMiddleware`: the same line, another import.

    from outlive.adapters.starlette import SessionMiddleware

    app.add_middleware(SessionMiddleware, secret_key=…, max_age=3600, store="sqlite:///shop.db")

`request.session` is the dict it was. What lies in the cookie is a random id and nothing else, the
attributes are in the store: so they may be large, nobody can read them, a logout counts also for a
copy of the cookie, and of two requests that overlap both are kept. See `outlive.web.sessions` for
what a response says.

The store is opened with the first request in the server's event loop and closed with its life span.
A service that has an `Outlive` anyway gives that, or its sessions: `sessions=app.sessions(…)`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from outlive.app import Outlive
from outlive.doors.sealed import SealedSessions
from outlive.doors.sessions import Sessions
from outlive.kinds.sessions.cookies import AGE_SECONDS_MAX, Cookie
from outlive.web import sessions as web
from outlive.web.messages import ASGI, Message, Receive, Scope, Send

MAX_AGE = 14 * 86_400


class SessionMiddleware:
    """`app` with `request.session`; the parameters of Starlette's class mean what they mean there.

    `secret_key` is taken so that the line need not change, and not used: nothing is signed.
    `max_age`: seconds without a request after which the session ends, by the store's clock; None:
    14 days, and the cookie goes with the browser. It ends 400 days after it began in any case, as
    the cookie does. `store`: the address of a store, or an `Outlive`; `sessions` in its place: what
    `Outlive.sessions` gave, which then says everything about cookie and ages. `options`: more of
    `Sessions`. Raises `ValueError` for what cannot be.

    A cookie that Starlette made is not read: users sign in once more.
    """

    def __init__(
        self,
        app: ASGI,
        secret_key: Any = None,
        session_cookie: str = "session",
        max_age: int | None = MAX_AGE,
        path: str = "/",
        same_site: Literal["lax", "strict", "none"] = "lax",
        https_only: bool = False,
        domain: str | None = None,
        *,
        store: str | Outlive | None = None,
        sessions: Sessions | SealedSessions | None = None,
        **options: Any,
    ) -> None:
        if (store is None) == (sessions is None):
            raise ValueError(
                "give `store` (an address or an Outlive), or `sessions` (of `app.sessions(…)`)"
            )
        if max_age is not None and not 1 <= max_age <= AGE_SECONDS_MAX:
            raise ValueError(f"max_age is 1 to {AGE_SECONDS_MAX} (400 days), or None")
        self._own = Outlive(store) if isinstance(store, str) else None
        if sessions is None:
            cookie = Cookie(
                session_cookie, same_site, None if max_age is None else AGE_SECONDS_MAX,
                https_only, path, domain or "",
            )  # fmt: skip
            idle = max_age or MAX_AGE
            options.setdefault("absolute_seconds", AGE_SECONDS_MAX)
            options.setdefault("touch_seconds", min(60.0, idle / 2))
            place = self._own or store
            sessions = Sessions(place, idle_seconds=idle, cookie=cookie, **options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._inner = web.SessionMiddleware(app, sessions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._own is None:
            await self._inner(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._inner(scope, receive, _closing(self._own, send))
        else:
            if (loop := asyncio.get_running_loop()) is not self._loop:
                self._loop, self._opening = loop, asyncio.Lock()
            async with self._opening:
                await self._own.open_client()
            await self._inner(scope, receive, send)


def _closing(app: Outlive, send: Send) -> Send:
    """`send`, closing `app` before the server is told that the shutdown is complete."""

    async def sending(message: Message) -> None:
        if message["type"].startswith("lifespan.shutdown"):
            await app.close()
        await send(message)

    return sending
