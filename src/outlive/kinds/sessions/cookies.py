"""The cookie that carries a session: its attributes, how it is read, how large it may be.

Semantics: RFC 6265 and its successor (draft-ietf-httpbis-rfc6265bis): the `__Host-` prefix demands
`Secure`, `Path=/` and no `Domain`; name and value above 4096 octets, and any attribute above 1024,
are dropped by browsers in silence; `Max-Age` is capped at 400 days.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from outlive.errors import SessionTooLarge

COOKIE_BYTES_MAX = 4096
ATTRIBUTE_BYTES_MAX = 1024
AGE_SECONDS_MAX = 400 * 86_400
HOST_PREFIX, SECURE_PREFIX = "__Host-", "__Secure-"
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_VALUE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")
_ATTRIBUTE = re.compile(r"[\x20-\x3a\x3c-\x7e]*")


class Cookie(Struct, frozen=True):
    """The name and the attributes of a cookie. Raises `ValueError` for what no browser keeps.

    `age_seconds` (1 to 400 days): how long the browser keeps it; None: until it is closed. The
    session in the store ends by its own clocks whatever the browser does. `secure=False` is for
    development without TLS, and needs a name without a prefix.
    """

    name: str = "__Host-session"
    same_site: Literal["lax", "strict", "none"] = "lax"
    age_seconds: int | None = None
    secure: bool = True
    path: str = "/"
    domain: str = ""

    def __post_init__(self) -> None:
        if not _TOKEN.fullmatch(self.name):
            raise ValueError(f"{self.name!r} is no name of a cookie")
        if self.name.startswith(HOST_PREFIX) and not (
            self.secure and self.path == "/" and not self.domain
        ):
            raise ValueError(f"{self.name} must be secure, with the path / and without a domain")
        if self.name.startswith(SECURE_PREFIX) and not self.secure:
            raise ValueError(f"{self.name} must be secure")
        if self.same_site == "none" and not self.secure:
            raise ValueError("same_site='none' needs secure=True")
        if self.age_seconds is not None and not 1 <= self.age_seconds <= AGE_SECONDS_MAX:
            raise ValueError(f"age_seconds is 1 to {AGE_SECONDS_MAX} (400 days), or None")
        for text in (self.path, self.domain):
            if len(text.encode()) > ATTRIBUTE_BYTES_MAX or not _ATTRIBUTE.fullmatch(text):
                raise ValueError(f"{text[:50]!r} is no attribute of a cookie")

    def set(self, value: str) -> bytes:
        """The field `Set-Cookie` for `value`. Raises `SessionTooLarge`, `ValueError`."""
        if not _VALUE.fullmatch(value):
            raise ValueError("the value has characters that a cookie does not take")
        size = len(self.name) + len(value)
        if size > COOKIE_BYTES_MAX:
            raise SessionTooLarge(
                f"The cookie {self.name} would have {size} bytes; browsers keep "
                f"{COOKIE_BYTES_MAX}. It was not sent.",
                bytes=size,
            )
        age = "" if self.age_seconds is None else f"; Max-Age={self.age_seconds}"
        return f"{self.name}={value}{age}{self._attributes()}".encode("ascii")

    def delete(self) -> bytes:
        """The field `Set-Cookie` that removes it."""
        return f"{self.name}=; Max-Age=0{self._attributes()}".encode("ascii")

    def _attributes(self) -> str:
        text = f"; Path={self.path}"
        if self.domain:
            text += f"; Domain={self.domain}"
        if self.secure:
            text += "; Secure"
        return f"{text}; HttpOnly; SameSite={self.same_site.capitalize()}"

    def values(self, fields: list[bytes]) -> list[str]:
        """Every value that the `Cookie` fields have under this name, in order."""
        found = []
        for line in fields:
            for pair in line.decode("latin-1").split(";"):
                name, _, value = pair.strip().partition("=")
                if name == self.name:
                    found.append(value.strip('"'))
        return found
