"""Who may look at the dashboard, and who may act there: what an application says about it.

    Outlive("sqlite:///shop.db")                        this machine only, nobody else
    Outlive(…, dashboard=Access(                        everybody signs in, this machine too
        viewers={"wall": os.environ["WALL_TOKEN"]},
        operators={"ann": os.environ["ANN_TOKEN"]},
    ))
    Outlive(…, dashboard=Access(login=who_is_it))       the application's own log-in decides

A token belongs to a name, because every change is recorded with the name of who asked for it. A
viewer sees everything that is not redacted; an operator may change it too.

Not promised: that a token is hard to guess. It must have 16 characters; draw it
(`python -c "import secrets; print(secrets.token_urlsafe())"`).
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from msgspec import Struct

Role = Literal["viewer", "operator"]
TOKEN_CHARACTERS_MIN, TOKEN_CHARACTERS_MAX = 16, 512
NAME_CHARACTERS_MAX = 64
NAMES_MAX = 1000
"""Names with a token of one application."""


class Visitor(Struct, frozen=True):
    """Somebody who looks at the dashboard: what their changes are recorded as, and their role."""

    name: str
    role: Role = "viewer"

    @property
    def operates(self) -> bool:
        """Whether they may change anything."""
        return self.role == "operator"


Login = Callable[[Mapping[str, Any]], Visitor | Awaitable[Visitor | None] | None]
"""The application's own log-in: is given the ASGI scope of a request, says who it is; None:
nobody."""


class Access:
    """Names, tokens and a hook: who may see the dashboard, and what they may do.

    `viewers`, `operators`: a token (16 to 512 characters) for each name (1 to 64); one name has one
    role. `login`: asked when there is no token, plain or `async`; it gets the ASGI scope, so it
    sees what the middleware in front of the service has put there. Its errors are errors of the
    request. `session_seconds` (60 to 30 days): how long a browser stays signed in; changing the
    token ends it at once. Raises `ValueError` when anybody could get in.
    """

    def __init__(
        self,
        *,
        viewers: Mapping[str, str] | None = None,
        operators: Mapping[str, str] | None = None,
        login: Login | None = None,
        session_seconds: float = 12 * 3600,
    ) -> None:
        given: dict[str, tuple[Role, str]] = {}
        for role, names in (("viewer", viewers), ("operator", operators)):
            for name, token in (names or {}).items():
                _demand(name, token, given)
                given[name] = ("operator" if role == "operator" else "viewer", token)
        if not given and login is None:
            raise ValueError("Access names nobody: give viewers=, operators= or login=")
        if len(given) > NAMES_MAX:
            raise ValueError(f"Access names {len(given)} visitors; at most {NAMES_MAX}")
        if not 60 <= session_seconds <= 30 * 86_400:
            raise ValueError("session_seconds must be 60 to 2,592,000")
        self._given = given
        self.login = login
        self.session_seconds = session_seconds

    def __repr__(self) -> str:
        return f"Access({', '.join(sorted(self._given)) or 'login'})"

    @property
    def has_tokens(self) -> bool:
        """Whether anybody signs in with a token."""
        return bool(self._given)

    def holder(self, token: str) -> Visitor | None:
        """Whose token this is. Takes as long for a wrong one as for a right one."""
        found = None
        for name, (role, known) in self._given.items():
            if hmac.compare_digest(known.encode(), token.encode(errors="replace")):
                found = Visitor(name, role)
        return found

    def visitor(self, name: str) -> tuple[Visitor, str] | None:
        """The visitor called `name`, with the token that their sessions are sealed with."""
        if name not in self._given:
            return None
        role, token = self._given[name]
        return Visitor(name, role), token


def _demand(name: str, token: str, given: Mapping[str, object]) -> None:
    if not 0 < len(name) <= NAME_CHARACTERS_MAX:
        raise ValueError(f"a name of Access has 1 to {NAME_CHARACTERS_MAX} characters")
    if name in given:
        raise ValueError(f"{name!r} is named twice in Access: give it one role")
    if not TOKEN_CHARACTERS_MIN <= len(token) <= TOKEN_CHARACTERS_MAX or not token.isprintable():
        raise ValueError(
            f"the token of {name!r} must have {TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX}"
            " printable characters; draw it: secrets.token_urlsafe()"
        )
