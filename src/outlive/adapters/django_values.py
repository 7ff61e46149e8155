"""Values of a Django cache as JSON, and back as what they were; nothing in it can run code.

Plain JSON stays plain. What JSON has no word for is written as `{"!": name, "is": …}`: tuples,
sets, bytes, dates and times, decimals, UUIDs, safe strings, dictionaries with other keys, and
finished responses, so that `cache_page` works. Anything else is refused by name.

Django's own way is pickle, which runs whatever somebody wrote into the store. Who wants it names
Django's serializer in `OPTIONS` (see `django_cache`).
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from http.cookies import SimpleCookie
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.http import HttpResponse
from django.utils.safestring import SafeString, mark_safe

MARK, IS = "!", "is"
DEPTH_MAX = 100


class JSONValues:
    """A serializer in the manner of Django's: `dumps` and `loads`."""

    def dumps(self, value: Any) -> bytes:
        """`value` as bytes. Raises `TypeError` for what could not be read back as it was."""
        plain = _plain(value, 0)
        return json.dumps(plain, separators=(",", ":"), allow_nan=False).encode()

    def loads(self, data: bytes) -> Any:
        """The value that `dumps` was given, in parts of its own."""
        return json.loads(data, object_hook=_rich)


def _response(value: HttpResponse) -> Any:
    cookies = value.cookies.output(header="", sep="\n")
    return [
        value.status_code, value.reason_phrase, list(value.headers.items()), cookies,
        b64encode(value.content).decode(),
    ]  # fmt: skip


def _as_response(said: Any) -> HttpResponse:
    status, reason, headers, cookies, content = said
    made = HttpResponse(b64decode(content), status=status, reason=reason, headers=dict(headers))
    for line in filter(None, cookies.split("\n")):
        made.cookies.update(SimpleCookie(line.strip()))
    return made


def _clock(value: datetime | time) -> Any:
    """As ISO 8601 has it; a zone with a name is more than its offset, and stands beside it."""
    zone = value.tzinfo
    if isinstance(zone, ZoneInfo) and zone.key is not None:
        return [value.replace(tzinfo=None).isoformat(), value.fold, zone.key]
    return value.isoformat()


def _as_clock(kind: type[datetime] | type[time], said: Any) -> Any:
    if isinstance(said, str):
        return kind.fromisoformat(said)
    local, fold, zone = said
    return kind.fromisoformat(local).replace(fold=fold, tzinfo=ZoneInfo(zone))


_Way = tuple[str, type, Callable[[Any], Any], Callable[[Any], Any]]
WAYS: tuple[_Way, ...] = (
    ("safe", SafeString, str.__str__, mark_safe),
    ("tuple", tuple, list, tuple),
    ("set", set, list, set),
    ("frozenset", frozenset, list, frozenset),
    ("bytes", bytes, lambda value: b64encode(value).decode(), b64decode),
    ("datetime", datetime, _clock, partial(_as_clock, datetime)),
    ("date", date, date.isoformat, date.fromisoformat),
    ("time", time, _clock, partial(_as_clock, time)),
    ("timedelta", timedelta, lambda value: [value.days, value.seconds, value.microseconds],
     lambda said: timedelta(*said)),
    ("decimal", Decimal, str, Decimal),
    ("uuid", UUID, str, UUID),
)  # fmt: skip
"""Name, type, and how it is written and read."""
_READ: dict[str, Callable[[Any], Any]] = {
    **{name: read for name, _, _, read in WAYS},
    "map": dict,
    "float": float,
    "response": _as_response,
}
_WRITTEN = {kind: (name, write) for name, kind, write, _ in WAYS}


def _plain(value: Any, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise TypeError(f"the value is nested more than {DEPTH_MAX} deep")
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {MARK: "float", IS: repr(value)}
    if kind is list:
        return [_plain(one, depth + 1) for one in value]
    if kind is dict:
        if all(type(name) is str for name in value) and MARK not in value:
            return {name: _plain(one, depth + 1) for name, one in value.items()}
        pairs = [[_plain(name, depth + 1), _plain(one, depth + 1)] for name, one in value.items()]
        return {MARK: "map", IS: pairs}
    if kind in _WRITTEN:
        name, write = _WRITTEN[kind]
        return {MARK: name, IS: _plain(write(value), depth + 1)}
    if isinstance(value, HttpResponse):
        return {MARK: "response", IS: _response(value)}
    raise TypeError(
        f"a {kind.__module__}.{kind.__qualname__} cannot be kept as JSON; keep plain values, or "
        "name a serializer (OPTIONS: SERIALIZER)"
    )


def _rich(said: dict[str, Any]) -> Any:
    return _READ[said[MARK]](said[IS]) if MARK in said else said
