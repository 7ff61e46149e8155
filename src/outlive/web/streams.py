"""A process as a stream of server-sent events: one event per durable entry of its journal.

    id: 7            the entry's place: what a client sends back as Last-Event-ID
    event: step      the entry's kind
    data: {"n":7,"kind":"step","at":"2026-…Z","text":"…","status":"running"}

Nothing is sent that is not durable, nothing is skipped and nothing comes twice to a client that
sends its last id back, on whichever instance it arrives. A comment comes when there was nothing to
say for a while, so that proxies keep the connection. When the process has ended the last event is
`end`, and a client that comes back after it gets 204, upon which browsers stop. When the instance
goes down the stream ends with a `retry:` hint.

No store connection is held between two events.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from outlive.clock import rfc3339
from outlive.errors import Overloaded
from outlive.kinds.processes import FINAL
from outlive.web.messages import Headers, Request, Response
from outlive.web.problems import InvalidQuery, retry_after
from outlive.web.waiting import Vigil, Waiting

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.kinds.processes import Entry, View

HEARTBEAT_SECONDS = 15.0
RECONNECT_SECONDS = 1.0
"""The middle of the `retry:` hint of a stream that ends because the instance does."""

log = logging.getLogger("outlive.web")

_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"vary", b"accept"),
    (b"x-accel-buffering", b"no"),
]


async def stream(app: Outlive, waiting: Waiting, request: Request) -> Response | None:
    """Send the journal of `request.id` from Last-Event-ID on, until it ends, the client leaves, or
    we do.

    Gives a response instead when there is nothing to stream: 204 to a client that has seen the end.
    """
    after = last_event_id(request)
    view = await app.view(request.id)
    entries = await app.journal(request.id, after)
    if not entries and after >= 0 and view.status in FINAL:
        return Response(204, headers=[(b"cache-control", b"no-store")])
    if request.method == "HEAD":
        return Response(200, headers=list(_HEADERS))
    if not waiting.open:
        raise Overloaded("No more clients can wait on this instance right now.")
    await request.send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    try:
        async with Vigil(waiting, request) as vigil:
            await _follow(app, vigil, request, view, entries, after)
    except asyncio.CancelledError:
        raise
    except (
        Exception
    ):  # the status line is out: all that is left is to end, and the client comes back
        log.exception("a stream of %s broke off", request.id)
        await _send(request, _hint(), more=False)
    return None


async def _follow(
    app: Outlive,
    vigil: Vigil,
    request: Request,
    view: View,
    entries: list[Entry],
    after: int,
) -> None:
    while not vigil.gone:
        if entries:
            after = entries[-1].n
            await _send(request, b"".join(event(entry, view) for entry in entries))
        if view.status in FINAL:
            await _send(request, end(view, after), more=False)
            return
        if vigil.over:
            await _send(request, _hint(), more=False)
            return
        if await vigil.changed(request.id, view.seq, HEARTBEAT_SECONDS) <= view.seq:
            entries = []
            if not vigil.over:
                await _send(request, b": still here\n\n")
            continue
        view = await app.view(request.id)
        entries = await app.journal(request.id, after)


def event(entry: Entry, view: View) -> bytes:
    """One entry on the wire."""
    data = msgspec.json.encode(
        {
            "n": entry.n,
            "kind": entry.kind,
            "at": rfc3339(entry.at),
            "text": entry.text,
            "status": status_at(view, entry),
        }
    )
    kind = entry.kind.replace("\n", " ").replace("\r", " ").encode()
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (entry.n, kind, data)


def end(view: View, after: int) -> bytes:
    """The last event of a process that has ended."""
    data = msgspec.json.encode({"status": view.status, "seq": view.seq})
    return b"id: %d\nevent: end\ndata: %b\n\n" % (after, data)


def status_at(view: View, entry: Entry) -> str:
    """The status the process had once `entry` was durable."""
    if entry.n >= view.seq - 1:
        return view.status
    status = "queued" if view.era == 1 else "running"
    for past in view.history:
        if past.at > entry.at:
            break
        status = past.status
    return status


def last_event_id(request: Request) -> int:
    """The place after which to go on; -1 for the beginning. Raises `InvalidQuery` for what is not a
    place."""
    given = request.headers.get(b"last-event-id", b"").strip()
    if not given:
        return -1
    if not given.isdigit() or len(given) > 18:
        raise InvalidQuery(
            "Last-Event-ID must be the id of an event of this stream.", parameter="Last-Event-ID"
        )
    return int(given)


def _hint() -> bytes:
    return b"retry: %d\n\n" % (1000 * retry_after(RECONNECT_SECONDS))


async def _send(request: Request, chunk: bytes, *, more: bool = True) -> None:
    await request.send({"type": "http.response.body", "body": chunk, "more_body": more})
