"""Who may ask for what, until the application has a say of its own.

The id of a process is 128 random bits: whoever knows it may read it, signal it and cancel it. What
shows or changes the work of *every* caller (lists, retry, the dashboard) is served to this machine
only, unless the application is created with `open_to_all=True` because something in front of it
decides.

"This machine" means three things at once, because each alone can be faked from outside:

    the peer is a loopback address   a socket from elsewhere cannot have one
    no proxy says it forwarded this  a proxy beside us makes every client look local
    the Host is a local name         a foreign page that rebinds its name keeps its own Host

A form is taken only from a page of our own origin (`Sec-Fetch-Site`, else `Origin`): that is all
that stands between a foreign page and a local dashboard.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from outlive.web.messages import Request
from outlive.web.problems import ForeignOrigin, LocalOnly

_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")


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
