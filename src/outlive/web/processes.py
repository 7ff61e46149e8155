"""Processes over HTTP: start, status, list, signal, cancel.

    POST {path}                      201 or 202 + Location (200: it ended within Prefer: wait=N)
    GET  {path}                      the list, newest first; this machine only
    GET  {path}/{id}                 200 · 304 · long poll by Prefer: wait=N · stream (streams.py)
    POST {path}/{id}/signals/{name}  202
    POST {path}/{id}/cancel          202
    POST {path}/{id}/retry …         what operators ask: control.py

The entity tag is the number of durable events, so it is strong, costs no body to compare, and is
the same on every instance. A queued process moves up without an event of its own, so its tag says
where it stands too. A start is answered after its commit; when this instance dies before the
answer is out, the same request with the same Idempotency-Key finds the same process, and without a
key it starts another one.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from outlive.clock import Clock, rfc3339
from outlive.errors import InvalidInput, MalformedInput, NoSuchProcess
from outlive.kinds.processes import FINAL, STATUSES, fresh_view
from outlive.web import problems
from outlive.web.messages import (
    JSON,
    Headers,
    Request,
    Response,
    demand_json,
    idempotency_key,
    none_match,
    preferred_wait,
    read_json,
    wants_stream,
)
from outlive.web.problems import InvalidQuery
from outlive.web.searching import kept, narrowed
from outlive.web.streams import last_event_id, stream
from outlive.web.waiting import Vigil, Waiting

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.kinds.processes import ChildView, Definition, StepView, Summary, View

START_BYTES_MAX = 1024 * 1024
SIGNAL_BYTES_MAX = 64 * 1024
REASON_CHARACTERS_MAX = 1000
PAGE_ITEMS = 50
PAGE_ITEMS_MAX = 200
TYPES_KEPT_MAX = 20_000
"""Ids whose type is remembered; a type never changes, so what is remembered is never wrong."""

RUNNING_SECONDS = 1.5
WAITING_SECONDS = 6.0
"""The middle of Retry-After while a process works, and while it waits for a signal, a timer or a
person."""

_WITH_PROBLEM = frozenset(("failed", "rolled_back", "stuck"))
_VARY: tuple[bytes, bytes] = (b"vary", b"accept")
_FRESH: tuple[bytes, bytes] = (b"cache-control", b"private, no-cache")
_CURSOR = re.compile(r"[0-9]{1,18}(_[a-z0-9_]{1,64})?")
_null = msgspec.Raw(b"null")


class Processes:
    """The handlers of every declared process."""

    def __init__(self, app: Outlive, waiting: Waiting, clock: Clock, start_bytes_max: int) -> None:
        self._app = app
        self._waiting = waiting
        self._clock = clock
        self._start_bytes_max = start_bytes_max
        self._types: dict[str, str] = {}

    # --- start and status ---

    async def start(self, request: Request) -> Response:
        """`POST {path}`."""
        definition = declared(request)
        demand_json(request)
        key = idempotency_key(request)
        body = await read_json(request, self._start_bytes_max)
        if not body and not definition.takes_input:
            body = b"null"
        scope = "" if key is None else key_scope(request, definition)
        notify = request.headers.get(b"outlive-notify", b"").decode("latin-1").strip()
        caller = request.headers.get(b"traceparent", b"").decode("latin-1")
        begun = await self._app.begin(
            definition.name, body, key=key, scope=scope, notify=notify, caller=caller
        )
        self._remember(begun.id, definition.name)
        if begun.time:
            data = self._app.redacted(begun.data)
            view = fresh_view(begun.id, definition, data, self._app.node, begun.time, begun.tags)
        else:
            view = await self._app.view(begun.id)
        seconds = preferred_wait(request)
        if seconds and view.status not in FINAL:
            view = await self._until_final(request, view, seconds)
        url = item_url(request, definition, begun.id)
        location = url.encode()
        status = definition.status_code
        headers: Headers = [JSON, (b"location", location), entity_tag(view)]
        if seconds:
            headers.append((b"preference-applied", b"wait=%d" % seconds))
            if view.status in FINAL:
                status = 200
                headers.append((b"content-location", location))
        if view.status not in FINAL:
            headers.append(come_back(view))
        if begun.replayed:
            headers.append((b"idempotent-replayed", b"true"))
        return Response(status, representation(view, url, request.root), headers)

    async def status(self, request: Request) -> Response | None:
        """`GET {path}/{id}`."""
        definition = declared(request)
        if wants_stream(request):
            await self.own(request.id, definition)
            return await stream(self._app, self._waiting, request)
        last_event_id(request)  # refused when it is none, also where it is not needed
        seconds = preferred_wait(request)
        known = none_match(request)
        headers: Headers = [_VARY, _FRESH]
        if seconds:
            headers.append((b"preference-applied", b"wait=%d" % seconds))
        if known:
            await self.own(request.id, definition)
            seq = await self._app.seq(request.id)
            if seconds and is_of(known, seq):
                seq = await self._until_changed(request, seq, seconds)
            if b"%d" % seq in known:
                return Response(304, headers=[*headers, (b"etag", b'"%d"' % seq)])
        view = await self._view(request.id, definition)
        tag = entity_tag(view)
        if b"*" in known or tag[1].strip(b'"') in known:
            return Response(304, headers=[*headers, tag])
        if seconds and not known and view.status not in FINAL:
            view = await self._until_final(request, view, seconds)
        headers += [JSON, entity_tag(view)]
        if view.status not in FINAL:
            headers.append(come_back(view))
        url = item_url(request, definition, view.id)
        return Response(200, representation(view, url, request.root), headers)

    async def _until_final(self, request: Request, view: View, seconds: float) -> View:
        """Wait for the end. A process that lives here tells it, and the store is asked once; of
        another the store is asked at each of its events."""
        may_wait = self._waiting.open
        if not may_wait:
            return view
        until = self._clock.boot() + seconds
        if (ended := await self._waiting.ended_soon(view.id, seconds)) is not None:
            return ended
        may_wait = self._waiting.open
        if not may_wait:  # what is known now is the answer
            return await self._app.view(view.id)
        async with Vigil(self._waiting, request) as vigil:
            while view.status not in FINAL and not vigil.over:
                left = until - self._clock.boot()
                if left <= 0:
                    break
                if not await vigil.ended(view.id, left) and not vigil.over:
                    left = max(0.0, until - self._clock.boot())
                    await vigil.changed(view.id, view.seq, left)
                if vigil.gone:
                    break
                view = await self._app.view(view.id)
        return view

    async def _until_changed(self, request: Request, seq: int, seconds: float) -> int:
        if not self._waiting.open:
            return seq
        async with Vigil(self._waiting, request) as vigil:
            return await vigil.changed(request.id, seq, seconds)

    # --- list ---

    async def list(self, request: Request) -> Response:
        """`GET {path}`."""
        definition = declared(request)
        asked = parse_list(request.query)
        items, cursor = await self._app.processes(
            asked.status,
            definition.name,
            asked.limit,
            asked.cursor,
            **narrowed(asked.given, definition.tags),
        )
        body: dict[str, Any] = {
            "items": [summary(item, item_url(request, definition, item.id)) for item in items]
        }
        headers: Headers = [JSON, (b"cache-control", b"no-store")]
        if cursor:
            body["next"] = cursor
            more = {"limit": asked.limit, "cursor": cursor, **kept(asked.given)}
            url = f"{quote(request.root + definition.path)}?{urlencode(more)}"
            headers.append((b"link", f'<{url}>; rel="next"'.encode()))
        return Response(200, msgspec.json.encode(body), headers)

    # --- what is asked of one process ---

    async def signal(self, request: Request) -> Response:
        """`POST {path}/{id}/signals/{name}`."""
        definition = declared(request)
        demand_json(request)
        key = idempotency_key(request)
        body = await read_json(request, SIGNAL_BYTES_MAX)
        await self.own(request.id, definition)
        await self._app.signal(request.id, request.name, body or b"null", key=key)
        return self.accepted(request, definition)

    async def cancel(self, request: Request) -> Response:
        """`POST {path}/{id}/cancel`."""
        definition = declared(request)
        demand_json(request)
        reason = parse_reason(await read_json(request, SIGNAL_BYTES_MAX))
        await self.own(request.id, definition)
        await self._app.cancel(request.id, reason=reason, who="http")
        return self.accepted(request, definition)

    def accepted(self, request: Request, definition: Definition) -> Response:
        """What was told is durable."""
        url = item_url(request, definition, request.id)
        headers: Headers = [
            JSON,
            (b"location", url.encode()),
            (b"retry-after", b"%d" % problems.retry_after(RUNNING_SECONDS)),
        ]
        return Response(202, accepted(request.id, definition.name, url), headers)

    async def _view(self, id: str, definition: Definition) -> View:
        """The view of `id`. Raises `NoSuchProcess` when it is of another type than this path is
        for."""
        view = await self._app.view(id)
        self._remember(id, view.type)
        if view.type != definition.name:
            raise NoSuchProcess
        return view

    async def own(self, id: str, definition: Definition) -> None:
        """As `_view`, and without one when the type of `id` is known."""
        kind = self._types.get(id)
        if kind is None:
            await self._view(id, definition)
        elif kind != definition.name:
            raise NoSuchProcess

    def _remember(self, id: str, kind: str) -> None:
        if id not in self._types and len(self._types) >= TYPES_KEPT_MAX:
            del self._types[next(iter(self._types))]
        self._types[id] = kind


# --- what is sent ---


def representation(view: View, url: str, root: str) -> bytes:
    """The status body of the process at `url`: nothing in it says more than is durable."""
    body: dict[str, Any] = {
        "id": view.id,
        "type": view.type,
        "version": view.version,
        "status": view.status,
        "data": raw(view.data),
    }
    if view.era > 1:
        body["era"] = view.era
    if view.result is not None:
        body["result"] = raw(view.result)
    if view.status in _WITH_PROBLEM or (view.status == "paused" and view.failure is not None):
        body["problem"] = problems.of_failure(view.failure, view.status, root)
    times = _Times()
    body["startedAt"] = times[view.started]
    body["changedAt"] = times[view.changed]
    if view.ended is not None:
        body["endedAt"] = times[view.ended]
    if view.waits_for:
        body["waitsFor"] = view.waits_for
    if view.parent:
        body["parent"] = view.parent
    if view.children:
        body["children"] = [child(found) for found in view.children]
    if view.standing is not None:
        body["queue"] = view.standing
    if view.forked_from:
        body["forkedFrom"] = view.forked_from
    if view.forks:
        body["forks"] = view.forks
    if view.tags:
        body["tags"] = view.tags
    body["history"] = [
        {"status": past.status, "at": times[past.at], "why": past.why} for past in view.history
    ]
    body["steps"] = [step(found, times) for found in view.steps]
    body["links"] = links(url)
    return msgspec.json.encode(body)


def accepted(id: str, type: str, url: str) -> bytes:
    """The body that says: what the process at `url` was told is durable."""
    return msgspec.json.encode({"id": id, "type": type, "links": links(url)})


def child(found: ChildView) -> dict[str, Any]:
    """One process that was started by another, as that one knows it."""
    return {
        "id": found.id,
        "name": found.name,
        "type": found.type,
        "version": found.version,
        "status": found.status,
        "beganAt": rfc3339(found.began),
        "endedAt": None if found.ended is None else rfc3339(found.ended),
    }


class _Times(dict[int, str]):
    """Times as they are written: each is made once, and a journal names most of them twice."""

    def __missing__(self, micros: int) -> str:
        text = self[micros] = rfc3339(micros)
        return text


def step(found: StepView, times: _Times) -> dict[str, Any]:
    """One step with every attempt made at it."""
    return {
        "name": found.name,
        "kind": found.kind,
        "outcome": found.outcome,
        "beganAt": times[found.began],
        "endedAt": None if found.ended is None else times[found.ended],
        "attempts": [
            {
                "number": attempt.number,
                "beganAt": times[attempt.began],
                "endedAt": None if attempt.ended is None else times[attempt.ended],
                "outcome": attempt.outcome,
                "error": attempt.error,
                "node": attempt.node,
            }
            for attempt in found.attempts
        ],
    }


def summary(item: Summary, url: str) -> dict[str, Any]:
    """One line of a list."""
    body: dict[str, Any] = {
        "id": item.id,
        "type": item.type,
        "version": item.version,
        "status": item.status,
        "startedAt": rfc3339(item.started),
        "changedAt": rfc3339(item.changed),
    }
    if item.waits_for:
        body["waitsFor"] = item.waits_for
    if item.tags:
        body["tags"] = item.tags
    body["links"] = {"self": url}
    return body


def links(url: str) -> dict[str, str]:
    """Where to go from a process. `signals` is a URI template (RFC 6570); `events` wants
    text/event-stream."""
    return {
        "self": url,
        "signals": url + "/signals/{name}",
        "cancel": url + "/cancel",
        "events": url,
    }


def raw(value: msgspec.Raw) -> msgspec.Raw:
    """JSON as it is stored; nothing stored is null."""
    return value if len(bytes(value)) else _null


def entity_tag(view: View) -> tuple[bytes, bytes]:
    """The strong ETag: the number of durable events, and where it stands while it is queued."""
    if view.standing is None:
        return (b"etag", b'"%d"' % view.seq)
    place = hashlib.blake2b(msgspec.json.encode(view.standing), digest_size=6).hexdigest()
    return (b"etag", b'"%d-%b"' % (view.seq, place.encode()))


def is_of(known: frozenset[bytes], seq: int) -> bool:
    """Whether the client's If-None-Match names a state after this many events."""
    return any(tag == b"*" or tag.partition(b"-")[0] == b"%d" % seq for tag in known)


def come_back(view: View) -> tuple[bytes, bytes]:
    """Retry-After: soon while it works, later while it waits."""
    busy = view.status in ("queued", "running", "compensating")
    return (
        b"retry-after",
        b"%d" % problems.retry_after(RUNNING_SECONDS if busy else WAITING_SECONDS),
    )


def item_url(request: Request, definition: Definition, id: str) -> str:
    """The path of one process, under the prefix we are mounted at: the same on every instance.

    Paths as they may be declared, and the ids of processes that exist, need no quoting.
    """
    return f"{quote(request.root)}{definition.path}/{id}"


# --- what is read ---


def declared(request: Request) -> Definition:
    """The definition whose path was asked for."""
    assert request.route is not None and request.route.definition is not None
    return request.route.definition


def key_scope(request: Request, definition: Definition) -> str:
    """Where an idempotency key is unique: one path and one principal, known by a digest of its
    credentials."""
    credentials = request.headers.get(b"authorization")
    if credentials is None:
        return definition.path
    return f"{definition.path} {hashlib.blake2b(credentials, digest_size=16).hexdigest()}"


def parse_reason(body: bytes) -> str:
    """The `reason` of a cancel body, which may be empty."""
    if not body.strip():
        return ""
    try:
        asked = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as why:
        raise MalformedInput(f"The body is not valid JSON: {why}.") from None
    reason = asked.get("reason", "") if isinstance(asked, dict) else None
    if not isinstance(reason, str) or len(reason) > REASON_CHARACTERS_MAX:
        raise InvalidInput(
            'The body must be an object like {"reason": "…"},'
            f" the reason a text of at most {REASON_CHARACTERS_MAX} characters."
        )
    return reason


class Asked(msgspec.Struct, frozen=True):
    """What a list was asked for."""

    status: str | None
    type: str | None
    limit: int
    cursor: str
    given: dict[str, str]


def parse_list(query: bytes, *, blanks: bool = True) -> Asked:
    """The query of a list. Without `blanks`, a parameter without a value counts as not sent: so do
    forms. Raises `InvalidQuery` naming the parameter."""
    try:
        text = query.decode("ascii")
        given = dict(parse_qsl(text, keep_blank_values=blanks, errors="strict", max_num_fields=20))
    except ValueError:
        raise InvalidQuery("The query is not a percent-encoded UTF-8 form.") from None
    status = given.get("status")
    if status is not None and status not in STATUSES:
        raise InvalidQuery(f"status must be one of {', '.join(STATUSES)}.", parameter="status")
    limit = given.get("limit", str(PAGE_ITEMS))
    if not (
        limit.isascii() and limit.isdigit() and len(limit) < 6 and 1 <= int(limit) <= PAGE_ITEMS_MAX
    ):
        raise InvalidQuery(f"limit must be between 1 and {PAGE_ITEMS_MAX}.", parameter="limit")
    cursor = given.get("cursor", "")
    if cursor and not _CURSOR.fullmatch(cursor):
        raise InvalidQuery("cursor must be one that a list has given.", parameter="cursor")
    return Asked(status, given.get("type") or None, int(limit), cursor, given)
