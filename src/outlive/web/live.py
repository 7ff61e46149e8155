"""`GET /outlive/events`: tells an open page to look again, by server-sent events.

    event: change    something was committed, by whichever node; data is nothing to be read
    event: end       the process that is followed (?process=ID) has ended, and its page is final

A page that is told fetches itself, so nothing is sent here that a visitor may not see, and nothing
is lost by a stream that breaks off: whoever comes back looks at once. Changes are told at most
every `PAUSE_SECONDS`, those of one process at most every `PAUSE_ONE_SECONDS`. No store connection
is held between two events.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from outlive.errors import Overloaded
from outlive.kinds.processes import FINAL
from outlive.web.messages import Headers, Request, Response
from outlive.web.pages import form_of
from outlive.web.waiting import Vigil, Waiting

if TYPE_CHECKING:
    from outlive.app import Outlive

PAUSE_SECONDS = 1.0
PAUSE_ONE_SECONDS = 0.2
HEARTBEAT_SECONDS = 15.0
RECONNECT_MS = 500

log = logging.getLogger("outlive.web")

_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class Live:
    """The handler of the stream."""

    def __init__(self, app: Outlive, waiting: Waiting) -> None:
        self._app = app
        self._waiting = waiting

    async def events(self, request: Request) -> Response | None:
        """Tell of changes until the client leaves or this instance goes down."""
        one = form_of(request.query).get("process", "")
        if one:
            await self._app.seq(one)  # raises what there is to say before the stream begins
        if request.method == "HEAD":
            return Response(200, headers=list(_HEADERS))
        if not self._waiting.open:
            raise Overloaded("No more clients can wait on this instance right now.")
        await request.send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await _send(request, b"retry: %d\n\n" % RECONNECT_MS)
        try:
            async with Vigil(self._waiting, request) as vigil:
                await (self._follow(request, vigil, one) if one else self._all(request, vigil))
        except Exception:  # the status line is out: it can only end, and the client comes back
            log.exception("a dashboard's stream broke off")
        await _send(request, b"", more=False)
        return None

    async def _all(self, request: Request, vigil: Vigil) -> None:
        seen, silent = await self._app.store.changed(-1, 0.0), 0.0
        while not vigil.over:
            now = await vigil.store_changed(seen, PAUSE_SECONDS)
            if now != seen:
                seen, silent = now, 0.0
                await _send(request, b"event: change\ndata: 1\n\n")
                await vigil.rest(PAUSE_SECONDS)
            elif (silent := silent + PAUSE_SECONDS) >= HEARTBEAT_SECONDS:
                silent = 0.0
                await _send(request, b": still here\n\n")

    async def _follow(self, request: Request, vigil: Vigil, id: str) -> None:
        seen = await self._app.seq(id)
        while not vigil.over:
            now = await vigil.changed(id, seen, HEARTBEAT_SECONDS)
            if now <= seen:
                await _send(request, b": still here\n\n")
                continue
            seen = now
            await _send(request, b"event: change\ndata: 1\n\n")
            if (await self._app.view(id)).status in FINAL:
                await _send(request, b"event: end\ndata: 1\n\n")
                return
            await vigil.rest(PAUSE_ONE_SECONDS)


async def _send(request: Request, chunk: bytes, *, more: bool = True) -> None:
    await request.send({"type": "http.response.body", "body": chunk, "more_body": more})
