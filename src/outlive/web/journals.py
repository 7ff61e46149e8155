"""Whole journals over HTTP: out of this store, and into it, for `outlive process … --context`.

    GET  /outlive/journals/{id}                   200, a line of JSON for each event
    POST /outlive/journals?reason=…&within=30     201 imported; 202 kept until a node is there

Guarded as the dashboard is (access.py): who may look may export, and sees nothing that is redacted;
importing is for operators, who say why. The body declares itself `application/x-ndjson`, which a
form of a foreign page cannot say without asking first.

An export is sent part by part as it is read; a client that is slow holds no more than one part, and
one that leaves ends it. When it breaks off there is no last line, without which no file is read.
An import is read to its end and checked before anything is written, and is one commit: cut off
anywhere it leaves nothing, or the process. Asked again it is refused, and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs, quote

import msgspec
from msgspec import Meta, Struct

from outlive.web.access import ANYBODY
from outlive.web.messages import (
    DEPTH_MAX,
    JSON,
    Request,
    Response,
    depth,
    read_body,
    until_gone,
)
from outlive.web.problems import (
    BodyTooLarge,
    InvalidQuery,
    ReasonNeeded,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from outlive.app import Outlive

JOURNALS_PATH = "/outlive/journals"
LINES = "application/x-ndjson"
LINES_TOO = frozenset((LINES, "application/jsonl", "application/jsonlines"))
WITHIN_SECONDS, WITHIN_SECONDS_MAX = 30.0, 60.0
QUERY_FIELDS_MAX = 10

log = logging.getLogger("outlive.web")


class _Asked(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(max_length=500)] = ""
    who: Annotated[str, Meta(max_length=200)] = ""
    within: Annotated[float, Meta(ge=0, le=WITHIN_SECONDS_MAX)] = WITHIN_SECONDS


class _Named(Struct, frozen=True):
    id: str


class Journals:
    """The handlers of `/outlive/journals`."""

    def __init__(self, app: Outlive) -> None:
        self._app = app

    async def export(self, request: Request) -> Response | None:
        """`GET /outlive/journals/{id}`."""
        parts = self._app.export_shown(request.id)
        first = await anext(parts)  # what is wrong with it is said before the status line
        headers = [
            (b"content-type", LINES.encode()),
            (b"content-disposition", b'attachment; filename="%b.jsonl"' % request.id.encode()),
            (b"cache-control", b"no-store"),
        ]
        await request.send({"type": "http.response.start", "status": 200, "headers": headers})
        if request.method == "HEAD":
            await _send(request, b"", more=False)
            await parts.aclose()
            return None
        gone = asyncio.ensure_future(until_gone(request))
        try:
            await _send_all(request, first, parts, gone)
        except Exception:  # the status line is out: without its last line nobody takes it for whole
            log.exception("an export of %s broke off", request.id)
        finally:
            gone.cancel()
            await parts.aclose()
        return None

    async def take_in(self, request: Request) -> Response:
        """`POST /outlive/journals`."""
        from outlive.doors.transfers import IMPORT_BYTES_MAX

        _demand_lines(request)
        asked = _asked(request)
        if not asked.reason.strip():
            raise ReasonNeeded(
                "An import cannot be taken back: give a reason (--reason). Nothing was imported."
            )
        body = await read_body(request, IMPORT_BYTES_MAX)
        if await asyncio.to_thread(_is_too_deep, body):
            raise BodyTooLarge(f"The journal may be nested {DEPTH_MAX} levels deep; it is deeper.")
        visitor = request.visitor
        who = visitor.name if visitor is not None and visitor is not ANYBODY else asked.who
        try:
            id = await self._app.import_journal(
                body, within=asked.within, who=who or ANYBODY.name, why=asked.reason
            )
        except TimeoutError:
            return _answer(202, _id_in(body), request)
        return _answer(201, id, request)


async def _send_all(
    request: Request, part: bytes, more: AsyncIterator[bytes], gone: asyncio.Future[None]
) -> None:
    """Send a part and all behind it, until the client leaves."""
    await _send(request, part)
    async for part in more:
        if gone.done():
            return
        await _send(request, part)
    await _send(request, b"", more=False)


async def _send(request: Request, part: bytes, *, more: bool = True) -> None:
    await request.send({"type": "http.response.body", "body": part, "more_body": more})


def _demand_lines(request: Request) -> None:
    """Raise `UnsupportedMediaType` for what does not say that it is lines of JSON."""
    if request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMediaType(
            "The body is declared as encoded; only plain lines are read. Nothing was imported."
        )
    declared = request.headers.get(b"content-type", b"").decode("latin-1")
    kind = declared.partition(";")[0].strip().lower()
    if kind not in LINES_TOO:
        said = f"declared as {kind!r}" if kind else "not declared"
        raise UnsupportedMediaType(
            f"The body is {said}; a journal is sent as Content-Type: {LINES}. Nothing was imported."
        )


def _asked(request: Request) -> _Asked:
    try:
        found = parse_qs(
            request.query.decode("latin-1"),
            keep_blank_values=True,
            max_num_fields=QUERY_FIELDS_MAX,
            errors="strict",
        )
    except ValueError as error:  # what is no UTF-8 is one too
        raise InvalidQuery(f"The query cannot be read: {error}. Nothing was imported.") from None
    try:
        return msgspec.convert(
            {name: values[-1] for name, values in found.items()}, _Asked, strict=False
        )
    except msgspec.ValidationError as error:
        raise InvalidQuery(f"{error}. Nothing was imported.") from None


def _is_too_deep(body: bytes) -> bool:
    """Whether a line is; one by one, so that none keeps the event loop from its turn."""
    return any(
        line.count(b"[") + line.count(b"{") > DEPTH_MAX and depth(line) > DEPTH_MAX
        for line in body.split(b"\n")
    )


def _id_in(body: bytes) -> str:
    return msgspec.json.decode(body.lstrip().partition(b"\n")[0], type=_Named).id


def _answer(status: int, id: str, request: Request) -> Response:
    place = f"{quote(request.root)}{JOURNALS_PATH}/{id}"
    headers = [JSON, (b"cache-control", b"no-store"), (b"location", place.encode())]
    return Response(status, msgspec.json.encode({"id": id}), headers)
