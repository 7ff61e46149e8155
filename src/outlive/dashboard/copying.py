"""What a page says, as commands: the same for curl, for the command line, and as JSON."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import msgspec

from outlive.kinds.processes.census import UNFINISHED

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    if definition is not None and definition.path:
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


def copies_of_list(sight: Sight, kept: Mapping[str, str], app: Outlive) -> Copies:
    """The list as commands; `kept`: what it is narrowed by, as it stands in the address. What has
    not ended is asked for status by status: neither way to a list takes several."""
    wanted = {name: value for name, value in kept.items() if name != "unfinished"}
    lists = [wanted]
    if kept.get("unfinished") and not kept.get("status"):
        lists = [{**wanted, "status": status} for status in UNFINISHED]
    found: Copies = [("CLI", "\n".join(_command(one) for one in lists))]
    definition = app.definitions.get(kept.get("type", ""))
    if definition is not None and definition.path:
        url = f"{sight.base}{quote(sight.root + definition.path)}"
        curls = (f"curl -s {shlex.quote(url + _asked(one))}{_bearer(app)}" for one in lists)
        found.insert(0, ("curl", "\n".join(curls)))
    return found


def _command(kept: Mapping[str, str]) -> str:
    options = [f"{_OPTIONS[n]} {shlex.quote(v)}" for n, v in kept.items() if n in _OPTIONS]
    tags = ((n.removeprefix("tag."), v) for n, v in kept.items() if n.startswith("tag."))
    options += [f"--tag {shlex.quote(f'{name}={value}')}" for name, value in tags]
    return " ".join(("outlive process list", *options))


def _asked(kept: Mapping[str, str]) -> str:
    rest = {name: value for name, value in kept.items() if name != "type"}
    return f"?{urlencode(rest)}" if rest else ""


_OPTIONS = {
    "status": "--status", "type": "--type", "version": "--version", "startedSince": "--since",
    "startedUntil": "--until", "changedSince": "--changed-since",
    "changedUntil": "--changed-until", "limit": "--limit",
}  # fmt: skip
"""What narrows a list in an address, and on the command line."""


def _bearer(app: Outlive, *, public: bool = False) -> str:
    access = app.access
    wanted = access is not None and access.has_tokens and not public
    return ' -H "Authorization: Bearer $OUTLIVE_TOKEN"' if wanted else ""
