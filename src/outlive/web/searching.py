"""The query of a list: what narrows it, in words that a client can read.

    version=2 · startedSince=… · startedUntil=… · changedSince=… · changedUntil=… · tag.NAME=VALUE

Times are RFC 3339 with a zone (`2026-11-22T07:00:00Z`); a range holds its first moment and not its
last. Only tags that the type declares are searched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from outlive.errors import TagInvalid
from outlive.kinds.processes.search import Narrowed
from outlive.kinds.processes.tags import text_of
from outlive.web.problems import InvalidQuery

TAG = "tag."
"""What stands before the name of a tag."""
TIMES = {
    "startedSince": "started_since",
    "startedUntil": "started_until",
    "changedSince": "changed_since",
    "changedUntil": "changed_until",
}
VERSION_MAX = 2**31 - 1


def narrowed(given: Mapping[str, str], tags: Iterable[str]) -> Narrowed:
    """What the parameters in `given` narrow a list to; those of others are left alone. Raises
    `InvalidQuery` naming the parameter."""
    found: dict[str, Any] = {}
    if (version := given.get("version")) is not None:
        whole = version.isascii() and version.isdigit() and len(version) <= 10
        if not whole or not 1 <= int(version) <= VERSION_MAX:
            raise InvalidQuery("version must be a whole number above 0.", parameter="version")
        found["version"] = int(version)
    for name, word in TIMES.items():
        if name in given:
            found[word] = _time(name, given[name])
    asked = {name: value for name, value in given.items() if name.startswith(TAG)}
    if asked:
        found["tags"] = _tags(asked, tuple(tags))
    made: Narrowed = found  # type: ignore[assignment]
    return made


def kept(given: Mapping[str, str]) -> dict[str, str]:
    """Those of the parameters that narrow a list, for the link to its next page."""
    names = ("status", "version", *TIMES)
    return {name: v for name, v in given.items() if name in names or name.startswith(TAG)}


def parameters(tags: Iterable[str]) -> list[dict[str, Any]]:
    """How the parameters are described, for a type with these tags."""
    found: list[dict[str, Any]] = [
        {
            "name": "version",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "maximum": VERSION_MAX},
        }
    ]
    for name in TIMES:
        found.append(
            {"name": name, "in": "query", "schema": {"type": "string", "format": "date-time"}}
        )
    for name in sorted(tags):
        found.append(
            {
                "name": TAG + name,
                "in": "query",
                "description": f"Only those whose tag `{name}` is this.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 128},
            }
        )
    return found


def _time(name: str, text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text.upper())
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InvalidQuery(
            f"{name} must be an RFC 3339 time with a zone, such as 2026-11-22T07:00:00Z.",
            parameter=name,
        )
    return found


def _tags(asked: Mapping[str, str], known: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for parameter, value in asked.items():
        name = parameter.removeprefix(TAG)
        if name not in known:
            said = ", ".join(TAG + one for one in sorted(known)) or "none"
            raise InvalidQuery(
                f"There is no such tag here; there are: {said}.", parameter=parameter
            )
        try:
            found[name] = text_of(name, value, kept=False)
        except TagInvalid as error:
            raise InvalidQuery(error.detail, parameter=parameter) from None
    return found
