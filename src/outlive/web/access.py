"""Who may ask for what: this machine, who has signed in, or who holds a token.

The id of a process is 128 random bits: whoever knows it may read it, signal it and cancel it. What
shows or changes the work of *every* caller (lists, retry, the dashboard) is for visitors:

    dashboard=Access(…)       a token (`Authorization: Bearer …`), a session, or the application's
                              own log-in; viewers read, operators change
    nothing                   this machine only, as an operator
    open_to_all=True          everybody, because something in front of the service decides

"This machine" means three things at once, because each alone can be faked from outside:

    the peer is a loopback address   a socket from elsewhere cannot have one
    no proxy says it forwarded this  a proxy beside us makes every client look local
    the Host is a local name         a foreign page that rebinds its name keeps its own Host

A form is taken only from a page of our own origin (`Sec-Fetch-Site`, else `Origin`) and with the
seal of this browser (signing.py). A request with a token of its own is no browser's, and needs
neither.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from outlive.access import Visitor
from outlive.web.messages import Request
from outlive.web.problems import (
    ForeignOrigin,
    LocalOnly,
    SignInNeeded,
    UnsupportedMediaType,
    ViewerOnly,
)
from outlive.web.signing import SESSION, cookies, visitor_of

if TYPE_CHECKING:
    from outlive.access import Access
    from outlive.clock import Clock

ANYBODY = Visitor("dashboard", "operator")
"""Who acts where nobody has to say who they are."""

_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")


class Gate:
    """Lets visitors in, or says why not."""

    def __init__(self, access: Access | None, clock: Clock, *, open_to_all: bool) -> None:
        self.access = access
        self._clock = clock
        self._open_to_all = open_to_all

    async def admit(self, request: Request) -> Visitor:
        """Who asks. Raises `LocalOnly`, `SignInNeeded`, and `ViewerOnly` for a change by a
        viewer."""
        visitor = await self._visitor(request)
        if request.method not in ("GET", "HEAD") and not visitor.operates:
            raise ViewerOnly(f"{visitor.name} is a viewer. Nothing was done.")
        return visitor

    async def _visitor(self, request: Request) -> Visitor:
        if self._open_to_all:
            return ANYBODY
        if self.access is None:
            demand_local(request)
            return ANYBODY
        found = self.bearer(request)
        if found is None:
            found = visitor_of(
                self.access, cookies(request).get(SESSION, ""), self._clock.wall()
            ) or await self._logged_in(request)
        if found is None:
            raise SignInNeeded
        return found

    def bearer(self, request: Request) -> Visitor | None:
        """Whose token the request brings; None without one. Raises `SignInNeeded` for a wrong
        one."""
        scheme, _, token = request.headers.get(b"authorization", b"").partition(b" ")
        if self.access is None or not self.access.has_tokens or scheme.lower() != b"bearer":
            return None
        found = self.access.holder(_text(token.strip()))
        if found is None:
            raise SignInNeeded("The token is nobody's.")
        return found

    async def _logged_in(self, request: Request) -> Visitor | None:
        login = None if self.access is None else self.access.login
        found = None if login is None else login(request.scope)
        return await found if inspect.isawaitable(found) else found


def _text(sent: bytes) -> str:
    """A token as it was meant: most clients write letters beyond ASCII as UTF-8, some as
    Latin-1."""
    try:
        return sent.decode()
    except UnicodeDecodeError:
        return sent.decode("latin-1")


def demand_local(request: Request) -> None:
    """Raise `LocalOnly` unless `request` comes from this machine, straight, under a local name."""
    client = request.scope.get("client")
    if not client or not is_loopback(client[0]):
        raise LocalOnly
    if any(field in request.headers for field in _FORWARDED):
        raise LocalOnly(
            "The request was forwarded by a proxy; this page is only served to this machine."
        )
    host = hostname(request.headers.get(b"host", b""))
    if not (is_loopback(host) or host == "localhost" or host.endswith(".localhost")):
        raise LocalOnly(
            f"The request was sent to the host name {host!r}, which is not a local one."
        )


def demand_same_origin(request: Request) -> None:
    """Raise `ForeignOrigin` unless a page of this very origin sent the form."""
    site = request.headers.get(b"sec-fetch-site")
    if site is not None and site != b"same-origin":
        raise ForeignOrigin
    origin = request.headers.get(b"origin")
    if origin is None:
        if site is None:
            raise ForeignOrigin("The request names no origin (neither Origin nor Sec-Fetch-Site).")
        return
    sent_from = urlsplit(origin.decode("latin-1")).netloc.lower()
    if not sent_from or sent_from != request.headers.get(b"host", b"").decode("latin-1").lower():
        raise ForeignOrigin


def demand_declared(request: Request, body: bytes) -> None:
    """Refuse what a page of another origin could send without asking first: a body that is not
    declared, or none at all from such a page.

    Raises `UnsupportedMediaType`, `ForeignOrigin`.
    """
    if b"content-type" in request.headers:
        return  # as JSON, which `demand_json` has seen to: a browser asks before it sends that
    if body:
        raise UnsupportedMediaType(
            "The body is not declared; send Content-Type: application/json. Nothing was done."
        )
    if b"origin" in request.headers or b"sec-fetch-site" in request.headers:
        demand_same_origin(request)


def is_loopback(address: str) -> bool:
    """Whether `address` is ::1 or in 127.0.0.0/8, also when written as an IPv4 address within
    IPv6."""
    plain = address.removeprefix("::ffff:")
    parts = plain.split(".")
    return plain == "::1" or (
        len(parts) == 4 and parts[0] == "127" and all(part.isdigit() for part in parts)
    )


def hostname(host: bytes) -> str:
    """The name in a Host field, without its port and brackets, in lower case."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
