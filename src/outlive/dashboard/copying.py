"""What a page says, as commands: the same for curl, for the command line, and as JSON."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import msgspec

if TYPE_CHECKING:
    from outlive.app import Outlive
    from outlive.dashboard.rendering import Sight
    from outlive.kinds.processes import View

Copies = list[tuple[str, str]]
"""What each copy is called, and its text."""


def copies_of(sight: Sight, view: View, app: Outlive) -> Copies:
    """One process as commands and as JSON. Not for whoever may see what is redacted: `view` is what
    this visitor is shown."""
    found: Copies = []
    definition = app.definitions.get(view.type)
    if definition is not None:
        url = f"{sight.base}{quote(sight.root + definition.path)}/{quote(view.id)}"
        found.append(("curl", f"curl -s {shlex.quote(url)}{_bearer(app, public=True)}"))
    found.append(("CLI", f"outlive process show {shlex.quote(view.id)}"))
    shown = {
        "id": view.id,
        "type": view.type,
        "version": view.version,
        "status": view.status,
        "tags": view.tags,
        "data": view.data,
        "result": view.result,
        "failure": view.failure,
    }
    text = msgspec.json.format(msgspec.json.encode(shown), indent=2).decode()
    found.append(("JSON", text))
    return found


def copies_of_list(sight: Sight, status: str | None, type: str | None, app: Outlive) -> Copies:
    """The list as commands."""
    options = [
        f"--{name} {shlex.quote(v)}" for name, v in (("status", status), ("type", type)) if v
    ]
    found: Copies = [("CLI", " ".join(("outlive process list", *options)))]
    definition = app.definitions.get(type or "")
    if definition is not None:
        asked = f"?{urlencode({'status': status})}" if status else ""
        url = f"{sight.base}{quote(sight.root + definition.path)}{asked}"
        found.insert(0, ("curl", f"curl -s {shlex.quote(url)}{_bearer(app)}"))
    return found


def _bearer(app: Outlive, *, public: bool = False) -> str:
    access = app.access
    wanted = access is not None and access.has_tokens and not public
    return ' -H "Authorization: Bearer $OUTLIVE_TOKEN"' if wanted else ""
