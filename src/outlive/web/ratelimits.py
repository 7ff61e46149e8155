"""A rate limiter in front of an ASGI application: 429 before the work, and headers on every answer.

    service = api.asgi(app, key=by_user(otherwise=by_address(hops=1)))

    RateLimit-Policy: "burst";q=20;w=1, "daily";q=1000;w=86400
    RateLimit: "burst";r=7;t=1, "daily";r=412;t=31000

What is refused gets 429 as problem+json of the registered type `quota-exceeded`, with
`violated-policies` and a Retry-After that is never before `t`, with jitter behind it. When the
store could not be asked and the limiter fails closed, it gets 503 of `temporary-reduced-capacity`.
A websocket is charged at its opening, and refused by the same answer in its place. From a server
that cannot answer there (without the extension `websocket.http.response`) the client gets 403: it
is closed with 4429 before it is open. In shadow mode nothing is refused; the header
`Outlive-RateLimit-Shadow` names what would have refused.

Who is asked about is the *key*. `X-Forwarded-For` is written by anybody; only the entries that the
service's own proxies have added can be trusted, and those are counted from the end: `hops` of them.

Put it behind authentication when the key is a user, in front of it when it is an address, and in
front of idempotency keys in either case, so that a refusal uses none.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Protocol

import http_sf
import msgspec

from outlive.errors import RateLimited
from outlive.ids import full_jitter
from outlive.kinds.ratelimits import Answer, Keys
from outlive.web import guarded
from outlive.web.guarded import Json
from outlive.web.messages import ASGI, Headers, Message, Receive, Scope, Send
from outlive.web.problems import PROBLEM, new_trace_id

KeyOf = Callable[[Scope], Keys | None]
IANA = "https://iana.org/assignments/http-problem-types#"
WINDOW_MAX = 999_999_999_999_999
JITTER_SHARE = 0.25
"""How much later than `t` a client is told to come back, at most, as a share of it."""
WEBSOCKET_CLOSED = 4429
_OURS = (b"ratelimit", b"ratelimit-policy", b"outlive-ratelimit-shadow")


class Asked(Protocol):
    """What decides: a rate limiter."""

    async def hit(self, keys: Keys, cost: int = 1, *, plan: str = "") -> Answer: ...


class Guard:
    """An ASGI application that asks `limiter` before it calls `app`.

    `key`: who a request is from, or None for one that is not limited. `cost` and `plan`: what it
    costs (at least 1), and whose numbers count. Anything that is not HTTP or a websocket passes.
    """

    def __init__(
        self,
        app: ASGI,
        limiter: Asked,
        *,
        key: KeyOf | None = None,
        cost: Callable[[Scope], int] | int = 1,
        plan: Callable[[Scope], str] | str = "",
    ) -> None:
        self._app, self._limiter = app, limiter
        self._key = key or by_address()
        self._cost, self._plan = cost, plan

    def openapi(self) -> Json | None:
        """The description of the application inside, with the fields and refusals of a limit."""
        return guarded.by_ratelimits(self._app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        keys = self._key(scope) if kind in ("http", "websocket") else None
        if keys is None:
            await self._app(scope, receive, send)
            return
        cost = self._cost if isinstance(self._cost, int) else self._cost(scope)
        plan = self._plan if isinstance(self._plan, str) else self._plan(scope)
        answer = await self._limiter.hit(keys, cost, plan=plan)
        headers = headers_of(answer)
        if not answer.admitted and kind == "websocket":
            await receive()
            if "websocket.http.response" in (scope.get("extensions") or ()):
                await _refuse(scope, _before_opening(send), answer, headers)
            else:
                await send({"type": "websocket.close", "code": WEBSOCKET_CLOSED})
        elif not answer.admitted:
            await _refuse(scope, send, answer, headers)
        elif kind == "websocket":
            await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, _with(headers, send))


def headers_of(answer: Answer) -> Headers:
    """The rate limit fields of `answer`; none where nothing could be asked."""
    if not answer.checked:
        return []
    standings = [one for one in answer.standings if not one.shadow]
    made: Headers = []
    if standings:
        terms = tuple((one.name, one.count, one.window_seconds) for one in standings)
        left = [(one.name, {"r": one.left, "t": math.ceil(one.seconds)}) for one in standings]
        made.append((b"ratelimit-policy", _policies(terms)))
        made.append((b"ratelimit", _written(left)))
    if answer.shadowed_by:
        made.append((b"outlive-ratelimit-shadow", _written(list(answer.shadowed_by))))
    return made


@lru_cache(maxsize=1024)
def _policies(terms: tuple[tuple[str, int, float], ...]) -> bytes:
    """The same for every request of a limiter and plan."""
    listed = [
        (name, {"q": count, "w": min(WINDOW_MAX, max(1, math.ceil(window)))})
        for name, count, window in terms
    ]
    return _written(listed)


def _written(items: list[Any]) -> bytes:
    """A list as a structured field (RFC 9651)."""
    return http_sf.ser(items).encode()


def _with(headers: Headers, send: Send) -> Callable[[Message], Awaitable[None]]:
    """`send`, adding `headers` to the beginning of the answer; each of them is there once."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start" and headers:
            own = [pair for pair in message.get("headers", ()) if pair[0].lower() not in _OURS]
            message = {**message, "headers": [*own, *headers]}
        await send(message)

    return sending


def _before_opening(send: Send) -> Callable[[Message], Awaitable[None]]:
    """`send`, for an answer in the place of a websocket that is not opened."""

    async def sending(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return sending


async def _refuse(scope: Scope, send: Send, answer: Answer, headers: Headers) -> None:
    seconds = answer.retry_seconds
    wait = max(1, math.ceil(seconds + full_jitter(seconds * JITTER_SHARE, 60.0, 1)))
    status, kind = (
        (429, "quota-exceeded") if answer.checked else (503, "temporary-reduced-capacity")
    )
    problem: dict[str, Any] = {
        "type": IANA + kind,
        "title": RateLimited.title(),
        "status": status,
        "detail": "Nothing was done; come back after the time in Retry-After.",
        "code": RateLimited.code,
        "retryable": True,
        "remedy": RateLimited.remedy,
        "trace_id": new_trace_id(),
    }
    if answer.checked:
        problem["violated-policies"] = list(answer.refused_by)
    body = msgspec.json.encode(problem)
    fields = [
        PROBLEM, *headers, (b"cache-control", b"no-store"), (b"retry-after", b"%d" % wait),
        (b"content-length", b"%d" % len(body)),
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": fields})
    shown = b"" if scope.get("method") == "HEAD" else body
    await send({"type": "http.response.body", "body": shown})


# --- who is asked about ---------------------------------------------------------------------------


def by_address(hops: int = 0, ipv6_prefix: int = 64) -> KeyOf:
    """The address of the client, behind `hops` proxies of the service's own (0: none).

    An IPv6 address counts as its network of `ipv6_prefix` bits (1 to 128), which is what one
    customer has. A request that came past the proxies, with fewer entries than they would have
    added, counts by the peer's address. Without an address (a socket file) all count as one.
    """
    if hops < 0 or not 1 <= ipv6_prefix <= 128:
        raise ValueError(f"hops is 0 or more and ipv6_prefix 1 to 128: {hops}, {ipv6_prefix}")

    def key(scope: Scope) -> str:
        client = scope.get("client")
        found = client[0] if client else ""
        if hops:
            lines = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
            entries = b",".join(lines).decode("latin-1").split(",") if lines else []
            if len(entries) >= hops:
                found = entries[-hops].strip()
        return _network(found, ipv6_prefix)

    return key


def by_user(otherwise: KeyOf | None = None) -> KeyOf:
    """The authenticated user, as an authentication in front has put it into `scope["user"]`
    (Starlette's `AuthenticationMiddleware` does); `otherwise` for who is not: without it those are
    not limited."""

    def key(scope: Scope) -> Keys | None:
        user = scope.get("user")
        if user is not None and getattr(user, "is_authenticated", False):
            return f"user:{_name_of(user)}"
        return None if otherwise is None else otherwise(scope)

    return key


def _name_of(user: Any) -> str:
    try:
        return str(user.identity)
    except (AttributeError, NotImplementedError):
        return str(user.display_name)


@lru_cache(maxsize=4096)
def _network(text: str, ipv6_prefix: int) -> str:
    """`text` as an address or its network; as it is when it is none."""
    bare = text.removeprefix("[").partition("]")[0]
    if bare.count(":") == 1:  # an IPv4 address with its port, as some proxies write it
        bare = bare.partition(":")[0]
    try:
        address = ip_address(bare.partition("%")[0])
    except ValueError:
        return text[:255]
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((address, ipv6_prefix), strict=False))
    return str(address)
