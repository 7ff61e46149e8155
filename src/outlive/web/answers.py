"""What is told to a process and answered, over HTTP: updates, queries, callbacks.

    POST {path}/{id}/updates/{name}         200 + the answer (within Prefer: wait=N, or known), else
                                            202 + Location; 409 when the process refuses it
    GET  {path}/{id}/updates/{name}/{key}   how it stands: 200, also by Prefer: wait=N
    GET  {path}/{id}/queries/{name}?…       200 + what the query computes
    POST /outlive/callbacks/{token}         200, or 202 while another node has not answered; no
                                            other authorisation than the token
    GET  {path}/{id}/notice                 200 + how it stands with telling its end; this machine
                                            only
    POST {path}/{id}/notify                 202: its end is told once more; this machine only

Everything that is answered with 2xx is durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec

from outlive import codec
from outlive.clock import Clock, rfc3339
from outlive.errors import UpdateRefused, UpdateUnanswered
from outlive.kinds.processes.heard import UpdateView, place_of
from outlive.web import problems
from outlive.web.access import ANYBODY, demand_declared
from outlive.web.messages import (
    JSON,
    Headers,
    Request,
    Response,
    demand_json,
    idempotency_key,
    preferred_wait,
    read_body,
    read_json,
)
from outlive.web.problems import InvalidQuery, page_of
from outlive.web.processes import RUNNING_SECONDS, Processes, declared, item_url, raw
from outlive.web.waiting import Vigil, Waiting

if TYPE_CHECKING:
    from outlive.app import Outlive

BODY_BYTES_MAX = 64 * 1024
PARAMETERS_MAX = 50
_FRESH: tuple[bytes, bytes] = (b"cache-control", b"private, no-cache")


class Answers:
    """The handlers of updates, queries and callbacks."""

    def __init__(self, app: Outlive, waiting: Waiting, clock: Clock, processes: Processes) -> None:
        self._app = app
        self._waiting = waiting
        self._clock = clock
        self._processes = processes

    async def ask(self, request: Request) -> Response:
        """`POST {path}/{id}/updates/{name}`."""
        demand_json(request)
        key = idempotency_key(request)
        body = await read_json(request, BODY_BYTES_MAX)
        await self._processes.own(request.id, declared(request))
        key = await self._app.ask(request.id, request.name, body or b"null", key=key)
        seconds = preferred_wait(request)
        found = await self._stands(request, request.name, place_of(key), seconds)
        facts = {"key": found.key}
        if found.status == "refused":
            failure = found.failure
            why = "" if failure is None else failure.message
            raise UpdateRefused(why, reason="" if failure is None else failure.type, **facts)
        if found.status == "unanswered":
            raise UpdateUnanswered(
                f"{request.id} has ended without answering {found.name}.", **facts
            )
        location = _url(request, found).encode()
        headers: Headers = [JSON, (b"location", location)]
        if seconds:
            headers.append((b"preference-applied", b"wait=%d" % seconds))
        if found.status == "answered":
            headers.append((b"content-location", location))
            return Response(200, self._body(request, found), headers)
        headers.append((b"retry-after", b"%d" % problems.retry_after(RUNNING_SECONDS)))
        return Response(202, self._body(request, found), headers)

    async def standing(self, request: Request) -> Response:
        """`GET {path}/{id}/updates/{name}/{key}`."""
        await self._processes.own(request.id, declared(request))
        name, _, place = request.name.partition("/")
        seconds = preferred_wait(request)
        found = await self._stands(request, name, place, seconds)
        headers: Headers = [JSON, _FRESH]
        if seconds:
            headers.append((b"preference-applied", b"wait=%d" % seconds))
        if found.status == "accepted":
            headers.append((b"retry-after", b"%d" % problems.retry_after(RUNNING_SECONDS)))
        return Response(200, self._body(request, found), headers)

    async def query(self, request: Request) -> Response:
        """`GET {path}/{id}/queries/{name}`."""
        await self._processes.own(request.id, declared(request))
        try:
            given = parse_qsl(
                request.query.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=PARAMETERS_MAX,
            )
        except ValueError:
            raise InvalidQuery("The query is not a percent-encoded UTF-8 form.") from None
        found = await self._app.read_query(request.id, request.name, dict(given))
        shown = self._app.redacted(msgspec.Raw(codec.encode(found)))
        return Response(200, bytes(shown), [JSON, _FRESH])

    async def call_back(self, request: Request) -> Response:
        """`POST /outlive/callbacks/{token}`."""
        demand_json(request)
        body = await read_json(request, BODY_BYTES_MAX)
        outcome = await self._app.call_back(request.id, body)
        headers: Headers = [JSON, (b"cache-control", b"no-store")]
        if outcome == "replayed":
            headers.append((b"idempotent-replayed", b"true"))
        status = 202 if outcome == "kept" else 200
        return Response(status, msgspec.json.encode({"status": outcome}), headers)

    async def notice(self, request: Request) -> Response:
        """`GET {path}/{id}/notice`."""
        await self._processes.own(request.id, declared(request))
        found = await self._app.notice(request.id)
        body = {
            "url": found.url,
            "status": found.status,
            "attempts": found.attempts,
            "said": found.said,
            "dueAt": None if found.due is None else rfc3339(found.due),
        }
        return Response(200, msgspec.json.encode(body), [JSON, _FRESH])

    async def notify(self, request: Request) -> Response:
        """`POST {path}/{id}/notify`."""
        definition, visitor = declared(request), request.visitor
        demand_json(request)
        demand_declared(request, await read_body(request, BODY_BYTES_MAX))
        await self._processes.own(request.id, definition)
        who = "http" if visitor is None or visitor is ANYBODY else visitor.name
        await self._app.notify(request.id, who=who)
        return self._processes.accepted(request, definition)

    async def _stands(self, request: Request, name: str, place: str, seconds: float) -> UpdateView:
        """How it stands with an update, once it is decided or `seconds` have passed."""
        found = await self._app.standing_at(request.id, name, place)
        if not seconds or found.status != "accepted" or not self._waiting.open:
            return found
        until = self._clock.boot() + seconds
        async with Vigil(self._waiting, request) as vigil:
            while not vigil.over:
                left = until - self._clock.boot()
                seen = await self._app.seq(request.id)
                found = await self._app.standing_at(request.id, name, place)
                if found.status != "accepted" or left <= 0:
                    break
                await vigil.changed(request.id, seen, left)
        return found

    def _body(self, request: Request, found: UpdateView) -> bytes:
        body: dict[str, Any] = {
            "id": request.id,
            "update": found.name,
            "key": found.key,
            "status": found.status,
        }
        if found.asked:
            body["askedAt"] = rfc3339(found.asked)
        if found.answer is not None:
            body["answer"] = raw(self._app.redacted(found.answer))
        if found.failure is not None:
            body["problem"] = {
                "type": page_of(request.root, UpdateRefused),
                "title": UpdateRefused.title(),
                "code": UpdateRefused.code,
                "detail": found.failure.message,
                "reason": found.failure.type,
            }
        body["links"] = {
            "self": _url(request, found),
            "process": item_url(request, declared(request), request.id),
        }
        return msgspec.json.encode(body)


def _url(request: Request, found: UpdateView) -> str:
    """The address of an update, the same on every instance and for every repetition."""
    item = item_url(request, declared(request), request.id)
    return f"{item}/updates/{found.name}/{place_of(found.key)}"
