"""Sessions as ASGI middleware: `request.session` on every instance.

    cookie ──load──> scope["session"] ──handler──> http.response.start ──settle──> Set-Cookie
                          (a dict)                        │
                                                          └── lost to a logout ──> 401 instead

What a request wants to have written is written when its response begins, in one commit, and the
response leaves after it. What is changed later, while the body is streamed, is lost, and the log
says so. The outcomes:

    unchanged    nothing was written, no Set-Cookie
    changed      attributes were merged into the session; the cookie stays, so no Set-Cookie
    new          an id was drawn: Set-Cookie
    rotated      another id, the old one is dead: Set-Cookie
    cleared      signed out: the cookie is removed
    expired      the cookie led nowhere (any more) and nothing was stored
    suppressed   the response failed, so nothing was written and nobody signed in
    refused      the session was ended while the request was under way: 401, nothing was written

A stale cookie is not removed (outcomes `expired` and `refused`): a response to an older request may
arrive behind the one that has just set a new one, and would sign the user out again.

A web socket sees the session and cannot change it; it is closed with 4401 when the session ends,
and keeps it no longer alive by being open. Bare ASGI: streams pass through as they are.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from outlive.errors import OutliveError, SessionExpired, StoreUnavailable
from outlive.web import guarded, problems
from outlive.web.guarded import Json
from outlive.web.messages import (
    ASGI,
    Headers,
    Message,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    trace_id,
)

if TYPE_CHECKING:
    from outlive.doors.sealed import SealedSessions
    from outlive.doors.sessions import Sessions
    from outlive.kinds.sessions.visit import Held, Outcome, Session

log = logging.getLogger("outlive.web")

ENDED = 4401
"""The code that a web socket is closed with when its session has ended."""
FAILED, FAILED_AT_SIGN_IN = 500, 400
COOKIES_MAX = 8
"""Cookies of one name that are looked up; a browser sends one."""


class SessionMiddleware:
    """`app` with `request.session`: takes the place of Starlette's class of that name.

    `sessions`: what `Outlive.sessions(…)` gives, or `SealedSessions`. Put it inside nothing that
    changes a response's status, and outside of what reads `request.session`. Answers 503 when the
    store cannot be read (unless `unavailable="anonymous"`) and whenever a change cannot be written.
    """

    def __init__(self, app: ASGI, sessions: Sessions | SealedSessions) -> None:
        self._app = app
        self._sessions = sessions

    def openapi(self) -> Json | None:
        """The description of the application inside, with what a session may answer instead."""
        return guarded.by_sessions(self._app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(self._app, self._sessions, scope, receive, send).run()
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            held = await find(self._sessions, scope)
        except OutliveError:
            if self._sessions.unavailable == "refused":
                await receive()
                await send({"type": "websocket.close", "code": 1013})
                return
            held = None
        scope["session"] = self._sessions.visit(held, read_only=True)
        if held is None:
            await self._app(scope, receive, send)
            return
        await _Socket(self._app, self._sessions, held).run(scope, receive, send)


class _Exchange:
    """One request and its response."""

    def __init__(
        self, app: ASGI, sessions: Any, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._app, self._sessions = app, sessions
        self._scope, self._receive, self._send = scope, receive, send
        self._held: Held | None = None
        self._session: Session
        self._unreadable: OutliveError | None = None
        self._written: Any = None
        self._refused = False
        self._stale = False

    async def run(self) -> None:
        try:
            sent = bool(self._sessions.cookie.values(_fields(self._scope, b"cookie")))
            self._held = await find(self._sessions, self._scope)
            self._stale = sent and self._held is None
        except OutliveError as error:
            if self._sessions.unavailable == "refused":
                await self._answer(error)
                return
            self._unreadable = error
        self._session = self._scope["session"] = self._sessions.visit(self._held)
        await self._app(self._scope, self._receive, self._pass)
        touched = self._written is not None and self._session.touched
        if touched and self._session.change() != self._written:
            log.warning(
                "session %s was changed after its response had begun; that is lost",
                self._session.hint or "(new)",
            )

    async def _pass(self, message: Message) -> None:
        if self._refused:
            return  # the rest of a response in whose place another one was sent
        if message["type"] == "http.response.start":
            try:
                await self._begin(message)
            except OutliveError as error:
                self._refused = True
                self._sessions.counts["refused"] += 1
                await self._answer(error)
                return
        await self._send(message)

    async def _begin(self, message: Message) -> None:
        """Write what is to be written, and say so in the headers of `message`."""
        status = message["status"]
        change = self._session.change()
        touched = self._session.touched
        headers: Headers = list(message.get("headers", ()))
        outcome: Outcome = "expired" if self._stale else "unchanged"
        failed = status >= FAILED or (status >= FAILED_AT_SIGN_IN and change.signs_in)
        if change.writes and failed and not (change.end and not change.signs_in):
            outcome = "suppressed"
        elif change.writes:
            if self._unreadable is not None:
                raise StoreUnavailable("The session could not be read; nothing was written.")
            agent = _fields(self._scope, b"user-agent")
            name = agent[0].decode("latin-1") if agent else ""
            settled = await self._sessions.settle(self._held, change, name)
            outcome = settled.outcome if settled.outcome != "unchanged" else outcome
            if settled.id:
                headers.append((b"set-cookie", self._sessions.cookie.set(settled.id)))
            elif settled.outcome == "cleared":
                headers.append((b"set-cookie", self._sessions.cookie.delete()))
        elif self._held is not None:
            renewed = await self._seen()
            headers += renewed
            touched = touched or bool(renewed)  # what sets a cookie is for one visitor
        self._written = change
        self._scope["outlive.session"] = outcome
        self._sessions.counts[outcome] += 1
        if touched or outcome not in ("unchanged", "expired"):
            headers = _private(headers)
        message["headers"] = headers

    async def _seen(self) -> Headers:
        """Note that the session is in use; a request that only reads does not fail over it."""
        try:
            renewed = await self._sessions.touch(self._held)
        except OutliveError as error:
            log.info("session %s: not noted as seen (%s)", self._session.hint, error.code)
            return []
        return [(b"set-cookie", self._sessions.cookie.set(renewed))] if renewed else []

    async def _answer(self, error: OutliveError) -> None:
        """Answer with a problem in the place of what the handler says."""
        request = Request(self._scope, self._receive, self._send)
        status, body, headers = problems.of_error(
            error, instance=request.url, root=request.root, trace=trace_id(request)
        )
        if isinstance(error, SessionExpired):
            headers.append((b"www-authenticate", b'Cookie realm="session"'))
        response = Response(status, body, _private(headers))
        await response.send(self._send, head=request.method == "HEAD")


class _Socket:
    """A web socket whose session may end before it does."""

    def __init__(self, app: ASGI, sessions: Any, held: Held) -> None:
        self._app, self._sessions, self._held = app, sessions, held
        self._over = False

    async def run(self, scope: Scope, receive: Receive, send: Send) -> None:
        ended = asyncio.create_task(self._sessions.until_ended(self._held))
        pending: asyncio.Task[Message] | None = None

        async def close() -> None:
            self._over = True
            await _cancelled(pending)  # Granian closes nothing while somebody receives
            await send({"type": "websocket.close", "code": ENDED, "reason": "session ended"})

        async def receiving() -> Message:
            nonlocal pending
            if pending is None:
                pending = asyncio.create_task(_next(receive))
            await asyncio.wait({pending, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not pending.done() and not self._over:
                await close()
            if self._over:
                return {"type": "websocket.disconnect", "code": ENDED, "reason": "session ended"}
            message, pending = pending.result(), None
            self._over = message["type"] == "websocket.disconnect"
            return message

        async def sending(message: Message) -> None:
            if ended.done() and not ended.cancelled() and not self._over:
                await close()
            if not self._over:
                self._over = message["type"] == "websocket.close"
                await send(message)

        try:
            await self._app(scope, receiving, sending)
        finally:
            await _cancelled(ended)
            await _cancelled(pending)


async def _cancelled(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task, and wait until it has ended."""
    if task is not None:
        task.cancel()
        await asyncio.wait((task,))  # who is cancelled here itself ends too
        if not task.cancelled():
            task.result()


async def _next(receive: Receive) -> Message:
    return await receive()


async def find(sessions: Any, scope: Scope) -> Held | None:
    """The session that the cookies of `scope` lead to. Raises what the store raises."""
    for value in sessions.cookie.values(_fields(scope, b"cookie"))[:COOKIES_MAX]:
        held: Held | None = await sessions.load(value)
        if held is not None:
            return held
    return None


def _fields(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def _private(headers: Headers) -> Headers:
    """`headers` of a response that is for one visitor: kept by no cache, and varying by cookie."""
    vary = [part.strip() for key, value in headers if key.lower() == b"vary"
            for part in value.split(b",")]  # fmt: skip
    if b"*" not in vary and b"cookie" not in [part.lower() for part in vary]:
        vary.append(b"Cookie")
    controls = b", ".join(value for key, value in headers if key.lower() == b"cache-control")
    if b"no-store" not in controls.lower():
        controls = b"no-store"
    kept = [(key, value) for key, value in headers
            if key.lower() not in (b"vary", b"cache-control")]  # fmt: skip
    return [*kept, (b"vary", b", ".join(vary)), (b"cache-control", controls)]
