"""Signed in without a record: the session cookie and the seal of a form.

    outlive_session   name, end and a random part, under an HMAC whose key is the visitor's token.
                      Any instance can check it, no restart forgets it, and a new token ends it.
    outlive_seal      130 random bits. Each form carries an HMAC of the session under it: a page of
                      another origin has neither of them.

Both are cookies for our pages only, not for scripts, and not sent across sites with a form. Nothing
of this is in the store: a cookie states its own end (12 hours unless `Access` says otherwise), by
this node's clock.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING
from urllib.parse import quote

from outlive import ids
from outlive.clock import MICROS

if TYPE_CHECKING:
    from outlive.access import Access, Visitor
    from outlive.web.messages import Request

SESSION, SEAL = "outlive_session", "outlive_seal"
SEAL_CHARACTERS = 26
COOKIES_BYTES_MAX = 16 * 1024
"""Of a longer Cookie field nothing is read."""


def session_of(access: Access, visitor: Visitor, now: int) -> str:
    """The value of a session cookie for `visitor`, made at `now`."""
    found = access.visitor(visitor.name)
    assert found is not None
    ends = now + round(access.session_seconds * MICROS)
    name = urlsafe_b64encode(visitor.name.encode()).decode().rstrip("=")
    said = f"{name}.{ends}.{ids.token(80)}"
    return f"{said}.{_mac(found[1], said)}"


def visitor_of(access: Access, session: str, now: int) -> Visitor | None:
    """Who is signed in by a session cookie; None: nobody, or not any more."""
    said, _, mac = session.rpartition(".")
    name, _, rest = said.partition(".")
    ends = rest.partition(".")[0]
    try:
        plain = urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
    except ValueError:
        return None
    found = access.visitor(plain)
    if found is None or not hmac.compare_digest(_mac(found[1], said).encode(), mac.encode()):
        return None
    return found[0] if ends.isdigit() and int(ends) > now else None


def cookies(request: Request) -> dict[str, str]:
    """The cookies of a request by name; the first of each name counts."""
    sent = b"; ".join(request.lines(b"cookie"))
    if len(sent) > COOKIES_BYTES_MAX:
        return {}
    found: dict[str, str] = {}
    for part in sent.decode("latin-1").split(";"):
        name, _, value = part.strip().partition("=")
        found.setdefault(name, value)
    return found


def seal_of(request: Request) -> tuple[str, str]:
    """The seal that forms must carry, and the new cookie behind it if there was none."""
    if request.seal is None:
        sent = cookies(request)
        known = sent.get(SEAL, "")
        fresh = "" if len(known) == SEAL_CHARACTERS and known.isalnum() else ids.token(130)
        request.seal = _mac(fresh or known, sent.get(SESSION, "")), fresh
    return request.seal


def is_sealed(request: Request, given: str) -> bool:
    """Whether a form carries the seal of this browser's own cookie."""
    sent = cookies(request)
    known = sent.get(SEAL, "")
    made = _mac(known, sent.get(SESSION, ""))
    return bool(known) and hmac.compare_digest(made.encode(), given.encode(errors="replace"))


def cookie(request: Request, name: str, value: str, seconds: float | None = None) -> bytes:
    """A Set-Cookie field for our pages; `seconds` 0 forgets it, None keeps it for the browser's
    session."""
    parts = [f"{name}={value}", f"Path={quote(request.root)}/outlive", "HttpOnly", "SameSite=Lax"]
    if seconds is not None:
        parts.append(f"Max-Age={int(seconds)}")
    if request.scope.get("scheme") == "https":
        parts.append("Secure")
    return "; ".join(parts).encode()


def _mac(key: str, said: str) -> str:
    return hmac.new(f"outlive {key}".encode(), said.encode(), hashlib.sha256).hexdigest()
