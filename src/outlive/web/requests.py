"""`Idempotency-Key` as ASGI middleware: one effect and one answer for each key.

    POST with a key ──claim──> handler ──record──> answer
                        │
                        ├── finished      the same bytes, with Idempotent-Replayed: true
                        ├── other values  422
                        ├── running       409 + Retry-After, or wait for it (Prefer: wait=N)
                        ├── unknown       409: the first one died, an operator resolves it
                        └── store away    503: the route is never run without its key

Put it *inside* authentication and rate limits: a 401 or 429 of theirs never takes a key, and the
principal is known. A handler is run in a task of its own, so a client that leaves stops nothing:
its retry collects the answer. The answer leaves when it is recorded, so it is collected first; one
that is larger than `answer_bytes_max`, or a stream of events, is recorded as completed and not
replayable, and then passed on as it comes.

Semantics: draft-ietf-httpapi-idempotency-key-header; the key is a structured-field String (RFC
9651), and bare tokens are taken too.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from outlive.errors import (
    KeyMissing,
    MalformedKey,
    NotReplayable,
    OutcomeUnknown,
    OutliveError,
    StoreUnavailable,
)
from outlive.kinds.requests.decisions import Answer, Mode, Place
from outlive.kinds.requests.fingerprints import Asked, fingerprints_of
from outlive.web import guarded, problems
from outlive.web.guarded import Json
from outlive.web.messages import (
    ASGI,
    ClientGone,
    Message,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    idempotency_key,
    preferred_wait,
    read_body,
    trace_id,
)
from outlive.web.problems import NotAdmitted

if TYPE_CHECKING:
    from outlive.doors.requests import Once, Requests

log = logging.getLogger("outlive.web")

METHODS = ("POST", "PATCH")
BODY_BYTES_MAX = 1024 * 1024
ANSWER_BYTES_MAX = 256 * 1024
DRAIN_SECONDS = 20.0
KEPT_HEADERS = (
    "content-type", "content-language", "content-location", "etag", "last-modified", "link",
    "location", "preference-applied",
)  # fmt: skip
NEVER_KEPT = frozenset(
    "connection date keep-alive proxy-authenticate set-cookie te traceparent tracestate trailer "
    "transfer-encoding upgrade".split()
)
UNRECORDED = (401, 403, 408, 413, 415, 422, 429)
"""Statuses that say that nothing was begun: the key is given back."""
CLAIM = "outlive.once"
"""Where in the scope a handler finds its claim (`once_of`)."""


class Rule(Struct, frozen=True, kw_only=True, dict=True):
    """How the requests of one route are kept. Raises `ValueError` for what cannot be.

    `route`: method and template, such as `POST /charges/{id}`. `mode`: see `Outlive.once`;
    `transactional` needs a handler that records (`once_of(request).transact`). `required`: without
    a key 400. `strict`: only a quoted key. `fields`: the members of a JSON body that count; all
    without. `server_errors`: an answer of 5xx is given again (`store`), or the key is given back
    (`release`: only where an error means that nothing happened). `unrecorded`: statuses that mean
    so. `answer_bytes_max`, `body_bytes_max`: bytes kept of an answer, taken of a body.
    `headers`: fields that are given again. `wait_seconds` (0 to 30): how long a second request
    waits for the first one without `Prefer`. `retention_seconds`: how long an answer is kept, when
    not as long as `Requests` says.
    """

    route: str
    mode: Mode = "at-most-once"
    required: bool = True
    strict: bool = False
    fields: Sequence[str] = ()
    server_errors: str = "store"
    unrecorded: Sequence[int] = UNRECORDED
    answer_bytes_max: int = ANSWER_BYTES_MAX
    body_bytes_max: int = BODY_BYTES_MAX
    headers: Sequence[str] = KEPT_HEADERS
    wait_seconds: float = 0.0
    retention_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"{self.route!r}: keys are for {' and '.join(METHODS)}; the other methods are "
                "idempotent by themselves"
            )
        if self.server_errors not in ("store", "release"):
            raise ValueError("server_errors is 'store' or 'release'")
        if refused := NEVER_KEPT & {name.lower() for name in self.headers}:
            raise ValueError(f"{', '.join(sorted(refused))}: never given again")

    @property
    def method(self) -> str:
        """The method of its route."""
        return self.route.partition(" ")[0]

    @property
    def template(self) -> str:
        """The path of its route, as it is declared."""
        return self.route.partition(" ")[2]

    @cached_property
    def kept(self) -> frozenset[bytes]:
        """The names of `headers` as they are sent."""
        return frozenset(name.lower().encode("latin-1") for name in self.headers)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What paths it is for."""
        parts = re.split(r"\{(\w+)(:path)?\}", self.template)
        text = ""
        for place in range(0, len(parts), 3):
            text += re.escape(parts[place])
            if place + 1 < len(parts):
                text += f"(?P<{parts[place + 1]}>{'.+' if parts[place + 2] else '[^/]+'})"
        return re.compile(text)


Principal = Callable[[Scope], str]
Admit = Callable[[Scope], Awaitable[bool]]


class IdempotencyMiddleware:
    """`app` with idempotency keys on the routes of `rules`.

    `requests`: what `Outlive.requests(…)` gives. `principal`, `tenant`: whose request it is; keys
    of different ones never meet. Without `principal`: who is signed in to the session, else the
    user of Starlette's authentication, else the digest of `Authorization`. `admit`: asked before a
    key is touched, and so before each replay; False answers 403. A route that no rule names is
    passed on as it is. When the process dies, the retry finds what the mode of its rule promises.
    """

    def __init__(
        self,
        app: ASGI,
        requests: Requests,
        rules: Sequence[Rule],
        *,
        principal: Principal | None = None,
        tenant: Principal | None = None,
        admit: Admit | None = None,
    ) -> None:
        self._app, self._requests = app, requests
        self._rules = tuple(rules)
        self._principal = principal or principal_of
        self._tenant = tenant or (lambda scope: "")
        self._admit = admit
        self._owners: set[asyncio.Task[None]] = set()

    def openapi(self) -> Json | None:
        """The description of the application inside, with the key and what it may be answered."""
        routes = {(rule.method, rule.template): rule.required for rule in self._rules}
        return guarded.by_keys(self._app, routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, self._draining(receive), send)
            return
        if scope["type"] != "http" or scope["method"] not in METHODS:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        found = self._rule_of(request)
        if found is None:
            await self._app(scope, receive, send)
        else:
            await self._guarded(request, *found)

    def _rule_of(self, request: Request) -> tuple[Rule, dict[str, str]] | None:
        """The rule for `request`, and the parameters in its path; None without one."""
        for rule in self._rules:
            match = rule.method == request.method and rule.pattern.fullmatch(request.path)
            if match:
                return rule, match.groupdict()
        return None

    async def _guarded(self, request: Request, rule: Rule, parameters: dict[str, str]) -> None:
        try:
            key = _key(request, rule)
            if key is None:
                await self._app(request.scope, request.receive, request.send)
                return
            if self._admit is not None and not await self._admit(request.scope):
                raise NotAdmitted
            body = await read_body(request, rule.body_bytes_max)
            once = self._once(request, rule, parameters, key, body)
            await once.__aenter__()
            if once.replayed:
                await _send_answer(request, _kept(once))
                return
        except ClientGone:
            return
        except OutliveError as error:
            await _problem(request, error)
            return
        await self._own(request, rule, once, body)

    def _once(
        self, request: Request, rule: Rule, parameters: dict[str, str], key: str, body: bytes
    ) -> Once:
        scope = request.scope
        place = Place(key, self._principal(scope), self._tenant(scope), rule.method, rule.template)
        media = request.headers.get(b"content-type", b"").decode("latin-1")
        query = request.query.decode("latin-1")
        asked = Asked(rule.method, rule.template, parameters, body, media, query, rule.fields)
        return self._requests.once(
            place,
            fingerprints_of(asked),
            mode=rule.mode,
            wait_seconds=max(rule.wait_seconds, preferred_wait(request)),
            retention_seconds=rule.retention_seconds,
        )

    async def _own(self, request: Request, rule: Rule, once: Once, body: bytes) -> None:
        """Carry the request out in a task of its own, which a client that leaves does not end."""
        loop = asyncio.get_running_loop()
        gate: asyncio.Future[None] = loop.create_future()
        task = loop.create_task(_Owner(self._app, request, rule, once, body).run())

        def ended(task: asyncio.Task[None]) -> None:
            self._owners.discard(task)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                log.debug("a handler under a key failed: %s", type(error).__name__)
            if gate.done():
                return
            if task.cancelled():
                gate.cancel()
            elif error is None:
                gate.set_result(None)
            else:
                gate.set_exception(error)

        self._owners.add(task)
        task.add_done_callback(ended)
        await gate

    def _draining(self, receive: Receive) -> Receive:
        """A life span whose end waits for what is being carried out."""

        async def received() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown" and self._owners:
                await asyncio.wait(set(self._owners), timeout=DRAIN_SECONDS)
            return message

        return received


class _Owner:
    """One handler under its key: what it sends is collected, recorded, and then passed on."""

    def __init__(self, app: ASGI, request: Request, rule: Rule, once: Once, body: bytes) -> None:
        self._app, self._request, self._rule, self._once = app, request, rule, once
        self._body: bytes | None = body
        self._start: Message = {}
        self._chunks: list[bytes] = []
        self._size = 0
        self._passing = False
        self._sent = False
        self._over: asyncio.Future[None] | None = None
        """What a handler waits for that waits for its client to leave."""

    async def run(self) -> None:
        scope = {**self._request.scope, "extensions": {}, CLAIM: self._once}
        try:
            await self._app(scope, self._receive, self._send)
        except BaseException as error:
            if not self._sent and not self._passing:
                await self._failed()
            if isinstance(error, Exception) and self._sent:
                log.exception("a handler failed behind its answer")
                return
            raise
        if not self._sent and not self._passing:
            await self._failed()

    async def _failed(self) -> None:
        """The handler ended without an answer."""
        releases = self._rule.server_errors == "release" or self._rule.mode == "recovery"
        await (self._once.release() if releases else self._once.doubt())

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if not self._sent:
            if self._over is None:
                self._over = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._over)  # the client may leave: the handler is not told
            if self._passing:  # but of a stream that nobody reads any more
                return await self._request.receive()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._passing:
            await self._forward(message)
        elif message["type"] == "http.response.start":
            self._start = message
            if _is_stream(message):
                await self._pass_on()
        elif message["type"] == "http.response.body" and not self._sent:
            chunk = message.get("body", b"")
            self._size += len(chunk)
            self._chunks.append(chunk)
            more = message.get("more_body", False)
            if self._size > self._rule.answer_bytes_max:
                await self._pass_on(more)
            elif not more:
                await self._finish()

    async def _finish(self) -> None:
        """The whole answer is there: record it, then let it leave."""
        self._sent = True
        self._wake()
        status, body = self._start["status"], b"".join(self._chunks)
        try:
            if self._once.answer is not None and await self._once.is_recorded():  # by the handler
                await _send_answer(self._request, _kept(self._once), self._once.replayed)
                return
            if await self._is_recorded(status, Answer(status, self._kept_headers(), body)):
                await _send_answer(self._request, _kept(self._once))
                return
        except OutliveError as error:
            await _problem(self._request, error)
            return
        await _quietly(
            self._request.send, self._start, {"type": "http.response.body", "body": body}
        )

    async def _is_recorded(self, status: int, answer: Answer) -> bool:
        """Record `answer`, or give the key back; True when another one was recorded before."""
        once, rule = self._once, self._rule
        failed = status >= 500 and rule.server_errors == "release"
        if once.mode == "transactional":
            if 200 <= status < 300:
                log.error("%s answered %d and recorded nothing: a repetition is carried out again",
                          rule.route, status)  # fmt: skip
            return False
        if failed or status in rule.unrecorded:
            await once.release()
            return False
        await once.complete(answer)
        return once.replayed

    async def _pass_on(self, more: bool = True) -> None:
        """Record that there was an answer which is not kept, and pass it on from here."""
        self._passing = True
        status = self._start["status"]
        try:
            await self._is_recorded(status, Answer(status, self._kept_headers(), b"", kept=False))
        except OutliveError as error:
            self._sent = True
            await _problem(self._request, error)
            return
        await self._forward(self._start)
        self._wake()
        body, self._chunks = b"".join(self._chunks), []
        if body or not more:
            await self._forward({"type": "http.response.body", "body": body, "more_body": more})

    async def _forward(self, message: Message) -> None:
        if not self._sent:
            await self._request.send(message)  # it is recorded: who cannot send may end

    def _wake(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _kept_headers(self) -> tuple[tuple[str, str], ...]:
        kept, found = self._rule.kept, []
        for name, value in self._start.get("headers", ()):
            if (lower := name.lower()) in kept:
                found.append((lower.decode("latin-1"), value.decode("latin-1")))
        return tuple(found)


def once_of(request: Any) -> Once:
    """The claim of the request that a handler answers. Raises `LookupError` where it has none."""
    found: Once | None = request.scope.get(CLAIM)
    if found is None:
        raise LookupError("this request has no idempotency key: no rule, or none was sent")
    return found


def principal_of(scope: Scope) -> str:
    """Whose request it is, when the application does not say: the session's subject, the user of
    Starlette's authentication, or the digest of `Authorization`; empty for nobody."""
    session = scope.get("session")
    subject = getattr(session, "subject", "")
    if subject:
        return f"session:{subject}"
    user = scope.get("user")
    if user is not None and getattr(user, "is_authenticated", False):
        return f"user:{_name_of(user)}"
    for name, value in scope["headers"]:
        if name == b"authorization":
            return "authorization:" + hashlib.sha256(value).hexdigest()
    return ""


def _name_of(user: Any) -> str:
    """What tells a user of Starlette's from the others; several may display the same name."""
    if name := getattr(user, "username", ""):
        return str(name)
    with suppress(NotImplementedError):  # a user need not have one
        if identity := getattr(user, "identity", ""):
            return str(identity)
    return str(getattr(user, "display_name", ""))


def _key(request: Request, rule: Rule) -> str | None:
    """The key of `request`. Raises `KeyMissing`, `MalformedKey`."""
    key = idempotency_key(request)
    if key is None and rule.required:
        raise KeyMissing
    quoted = request.headers.get(b"idempotency-key", b"").strip().startswith(b'"')
    if key is not None and rule.strict and not quoted:
        raise MalformedKey("The Idempotency-Key header is no quoted string.")
    return key


def _kept(once: Once) -> Answer:
    """The recorded answer. Raises `NotReplayable` with the place that the first one named."""
    answer = once.answer
    assert answer is not None
    if not answer.kept:
        facts = {name: value for name, value in answer.headers if name == "location"}
        raise NotReplayable(status_then=answer.status, **facts)
    return answer


async def _send_answer(request: Request, answer: Answer, replayed: bool = True) -> None:
    headers = []
    is_typed = not answer.body
    for name, value in answer.headers:
        headers.append((name.encode("latin-1"), value.encode("latin-1")))
        is_typed = is_typed or name == "content-type"
    if not is_typed:
        headers.append((b"content-type", b"application/json"))
    if replayed:
        headers.append((b"idempotent-replayed", b"true"))
    await Response(answer.status, answer.body, headers).send(_quiet(request.send))


async def _problem(request: Request, error: OutliveError) -> None:
    """Answer with the problem that `error` is; with a key a repetition is safe, whatever came of
    the first."""
    if isinstance(error, OutcomeUnknown):
        error = StoreUnavailable("It is not known whether the key was taken; repeat the request.")
    status, body, headers = problems.of_error(
        error, instance=request.url, root=request.root, trace=trace_id(request)
    )
    page = problems.page_of(request.root, type(error))
    headers.append((b"link", f'<{page}>; rel="help"'.encode()))
    await Response(status, body, headers).send(_quiet(request.send))


def _is_stream(message: Message) -> bool:
    """Whether an answer that begins is a stream of events."""
    for name, value in message.get("headers", ()):
        if name.lower() == b"content-type":
            return bool(value.startswith(b"text/event-stream"))
    return False


def _quiet(send: Send) -> Send:
    async def sent(message: Message) -> None:
        await _quietly(send, message)

    return sent


async def _quietly(send: Send, *messages: Message) -> None:
    """Send to a client that may have left: the answer is recorded, so nothing is lost."""
    try:
        for message in messages:
            await send(message)
    except OSError:
        log.debug("the client left before its answer")
