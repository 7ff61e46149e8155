"""Requests and responses, and the header fields whose meaning is ours.

Bare ASGI hands over a scope of bytes. The hot path (start, status) needs four header fields and one
chunk of body, so nothing here builds more than that: a `Request` is the scope with its prefix taken
off, a `Response` is bytes.

    Idempotency-Key   a structured-field String (`"order-17"`); a bare token (`order-17`) is taken
                      too, because clients have sent that for a decade. Malformed: refused whole.
    Prefer            `wait=N`, capped. A malformed preference is ignored: RFC 7240 says so.
    If-None-Match     compared weakly, as RFC 9110 demands for it.
    traceparent       W3C Trace Context: only its trace id is taken, and only when it is valid.

A body is read against its limit, chunk by chunk: the first byte too many ends the reading. JSON has
a second limit, its depth: what is nested deeper than a decoder can follow must not be stored.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import http_sf

from outlive.errors import MalformedKey
from outlive.web.problems import BodyTooLarge, UnsupportedMediaType

if TYPE_CHECKING:
    from outlive.access import Visitor
    from outlive.web.routes import Route

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")
KEY_CHARACTERS_MAX = 255
WAIT_SECONDS_MAX = 30
LENGTH_DIGITS_MAX = 18
"""Digits of a Content-Length that are read: more of them are more bytes than there are."""
DEPTH_MAX = 200
"""How deep the JSON of a body may be nested."""

_BARE_KEY = re.compile(rb"[A-Za-z0-9_*][!#$%&'*+\-.^_`|~:/=@A-Za-z0-9]*")
_PLAIN_KEY = re.compile(rb'"[ !#-\[\]-~]*"')
"""A structured-field string (RFC 9651) with nothing escaped in it, and nothing behind it."""
# The closing quote may be missing: else each quote of a broken text would be looked at from anew.
_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


class ClientGone(Exception):
    """The client left while its body was being read: there is nobody to answer."""


class Request:
    """One HTTP request, with the mount prefix (`root`) taken off its `path`."""

    __slots__ = (
        "headers",
        "id",
        "method",
        "name",
        "path",
        "receive",
        "root",
        "route",
        "scope",
        "seal",
        "send",
        "visitor",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.method: str = scope["method"]
        self.root: str = scope.get("root_path") or ""
        self.path: str = local_path(scope["path"], self.root)
        self.root = self.root.rstrip("/")
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.route: Route | None = None
        self.id = ""
        self.name = ""
        self.visitor: Visitor | None = None
        """Who asks, where that matters."""
        self.seal: tuple[str, str] | None = None
        """What its forms carry, and the cookie behind it (signing.py)."""

    def lines(self, name: bytes) -> list[bytes]:
        """Every line of the field `name`, in order."""
        return [value for key, value in self.scope["headers"] if key == name]

    @property
    def url(self) -> str:
        """The path as the client sees it, percent-encoded: what a problem calls its `instance`."""
        return quote(self.root + self.path)

    @property
    def query(self) -> bytes:
        found: bytes = self.scope.get("query_string", b"")
        return found


class Response:
    """What will be sent: a status, header fields, and the whole body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, body: bytes = b"", headers: Headers | None = None) -> None:
        self.status = status
        self.body = body
        self.headers: Headers = [] if headers is None else headers

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Send it; with `head`, everything but the body."""
        headers = self.headers
        if self.status not in (204, 304):
            headers = [*headers, (b"content-length", b"%d" % len(self.body))]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else self.body})


Handler = Callable[[Request], Awaitable[Response | None]]
"""Answers a request; None when it has sent its answer itself (a stream)."""


def local_path(path: str, root: str) -> str:
    """`path` without the prefix it is mounted under. Some servers leave the prefix in, some take it
    off."""
    if not root or not path.startswith(root):
        return path
    rest = path[len(root) :]
    if root.endswith("/"):
        return "/" + rest
    if not rest:
        return "/"
    return rest if rest[0] == "/" else path


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body of `request`, at most `bytes_max` bytes of it.

    Raises `BodyTooLarge` as soon as it is known to be longer (by Content-Length before the first
    byte is read), and `ClientGone` when the client leaves in between.
    """
    announced = request.headers.get(b"content-length")
    digits = announced.lstrip(b"0") if announced is not None and announced.isdigit() else b""
    if len(digits) > LENGTH_DIGITS_MAX or int(digits or b"0") > bytes_max:
        said = digits[:LENGTH_DIGITS_MAX].decode() + "…" * (len(digits) > LENGTH_DIGITS_MAX)
        raise BodyTooLarge(f"The body may be {bytes_max} bytes long; {said} were announced.")
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        _within(len(body), bytes_max)
        return body
    collected = bytearray(body)
    while message.get("more_body", False):
        _within(len(collected), bytes_max)
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        collected += message.get("body", b"")
    _within(len(collected), bytes_max)
    return bytes(collected)


async def read_json(request: Request, bytes_max: int) -> bytes:
    """As `read_body`, for a body that will be read as JSON. Raises `BodyTooLarge` also when it is
    nested deeper than `DEPTH_MAX`."""
    body = await read_body(request, bytes_max)
    if body.count(b"[") + body.count(b"{") > DEPTH_MAX and depth(body) > DEPTH_MAX:
        raise BodyTooLarge(f"The body may be nested {DEPTH_MAX} levels deep; it is deeper.")
    return body


def depth(body: bytes) -> int:
    """How deep the brackets of some JSON are nested; those in its strings do not count."""
    brackets = _STRINGS.sub(b"", body).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0)


def _within(length: int, bytes_max: int) -> None:
    if length > bytes_max:
        raise BodyTooLarge(f"The body may be {bytes_max} bytes long; reading stopped there.")


def demand_json(request: Request) -> None:
    """Refuse a body that is declared to be something other than JSON, or to be compressed.

    A missing declaration passes."""
    if request.headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise UnsupportedMediaType("The body is declared as encoded; only plain JSON is read here.")
    declared = request.headers.get(b"content-type")
    if declared is None or declared == b"application/json":
        return
    kind = declared.partition(b";")[0].strip().lower()
    if kind == b"application/json" or (
        kind.startswith(b"application/") and kind.endswith(b"+json")
    ):
        return
    raise UnsupportedMediaType(
        f"The body is declared as {kind.decode('latin-1')!r}; only JSON is read here."
    )


def idempotency_key(request: Request) -> str | None:
    """The Idempotency-Key of `request`, or None without one. Raises `MalformedKey`: nothing was
    started."""
    value = request.headers.get(b"idempotency-key")
    if value is None:
        return None
    if len(request.lines(b"idempotency-key")) > 1:
        raise MalformedKey("The Idempotency-Key header was sent more than once.")
    value = value.strip(b" \t")
    if _PLAIN_KEY.fullmatch(value):
        key = value[1:-1].decode("ascii")
    elif value[:1] == b'"':
        try:
            parsed = http_sf.parse(value, tltype="item")
        except (http_sf.StructuredFieldError, ValueError) as why:
            raise MalformedKey(
                f"The Idempotency-Key header is not a structured-field string: {why}."
            ) from None
        if not isinstance(parsed, tuple) or parsed[1]:
            raise MalformedKey("The Idempotency-Key header is more than a structured-field string.")
        key = str(parsed[0])
    elif _BARE_KEY.fullmatch(value):
        key = value.decode("ascii")
    else:
        raise MalformedKey(
            "The Idempotency-Key header is neither a structured-field string nor a bare token."
        )
    if not 1 <= len(key) <= KEY_CHARACTERS_MAX:
        raise MalformedKey(
            f"The idempotency key has {len(key)} characters; 1 to {KEY_CHARACTERS_MAX} are allowed."
        )
    return key


def preferred_wait(request: Request) -> int:
    """The seconds of `Prefer: wait=N`, at most `WAIT_SECONDS_MAX`; 0 without it."""
    if b"prefer" not in request.headers:
        return 0
    for preference in b",".join(request.lines(b"prefer")).split(b","):
        name, _, value = preference.partition(b";")[0].partition(b"=")
        digits = value.strip().strip(b'"')
        if name.strip().lower() == b"wait" and digits.isdigit():
            return min(int(digits[:9]), WAIT_SECONDS_MAX)
    return 0


def none_match(request: Request) -> frozenset[bytes]:
    """The entity tags of If-None-Match, their weakness and quotes taken off; `*` stays as it is."""
    if b"if-none-match" not in request.headers:
        return frozenset()
    tags = b",".join(request.lines(b"if-none-match")).split(b",")
    return frozenset(tag.strip().removeprefix(b"W/").strip(b'"') for tag in tags)


def wants_stream(request: Request) -> bool:
    """Whether `text/event-stream` is asked for by name, and no less than JSON is."""
    if b"accept" not in request.headers:
        return False
    accept = b",".join(request.lines(b"accept"))
    if b"text/event-stream" not in accept.lower():
        return False
    weights = {b"text/event-stream": 0.0, b"application/json": 0.0}
    for line in accept.split(b","):
        kind, *parameters = (part.strip() for part in line.split(b";"))
        if kind.lower() in weights:
            weights[kind.lower()] = _weight(parameters)
    return 0.0 < weights[b"text/event-stream"] >= weights[b"application/json"]


def _weight(parameters: list[bytes]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition(b"=")
        if name.strip().lower() == b"q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def trace_id(request: Request) -> str:
    """The trace id of a valid `traceparent`, else an empty string."""
    found = _TRACEPARENT.fullmatch(request.headers.get(b"traceparent", b""))
    if found is None or not found[1].strip(b"0") or not found[2].strip(b"0"):
        return ""
    return found[1].decode("ascii")


async def until_gone(request: Request) -> None:
    """Return when the client has left: to be run beside a long answer, once the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
