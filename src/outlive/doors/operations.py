"""What may be asked of a service from afar, by name: what it takes, what it gives, who may.

    commands/remote.py  ──/outlive/operations/{name}──▶  web/operations.py  ──▶  Outlive, Desk

The same table stands at both ends, so the command line does over HTTP what it does on a store. What
`changes` something is for operators; the rest is for everybody who may look. Whole
journals are not in it: they may be long, and have paths of their own (web/journals.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from outlive.doors.desk import (
    LINES_MAX,
    BreakerLine,
    CacheLine,
    LimitLine,
    RequestLine,
    SessionLine,
)
from outlive.kinds.breakers.standing import Action, Standing
from outlive.kinds.processes import Entry, Node, Summary, View
from outlive.kinds.processes.bulk import Preview, Report
from outlive.kinds.processes.census import Census
from outlive.kinds.processes.undelivered import Undelivered
from outlive.model import Shard
from outlive.store import Finding

SECONDS_MAX = 100 * 366 * 86_400
_Page = Annotated[int, Meta(ge=1, le=200)]
_Lines = Annotated[int, Meta(ge=1, le=LINES_MAX)]
_Thousand = Annotated[int, Meta(ge=1, le=1000)]
_Seconds = Annotated[float, Meta(gt=0, le=SECONDS_MAX)]
_Since = Annotated[float, Meta(ge=0, le=SECONDS_MAX)]
_Who = Annotated[str, Meta(max_length=200)]
_Why = Annotated[str, Meta(max_length=500)]
_Id = (("id", str),)
_BY = (("who", _Who, ""), ("why", _Why, ""))


class Forked(Struct, frozen=True):
    """The process that was started by a fork."""

    id: str


class Operation(Struct, frozen=True):
    """One thing that may be asked: the method of an `Outlive` (or a `Desk`) of this name."""

    name: str
    asks: type[Struct]
    gives: Any = None
    changes: bool = True
    at_desk: bool = False


def _operation(
    name: str, *fields: Any, gives: Any = None, changes: bool = True, at_desk: bool = False
) -> Operation:
    asks = msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True, frozen=True)
    return Operation(name, asks, gives, changes, at_desk)


def _look(name: str, gives: Any, *fields: Any, at_desk: bool = False) -> Operation:
    return _operation(name, *fields, gives=gives, changes=False, at_desk=at_desk)


_TIMES = tuple(
    (name, datetime | None, None)
    for name in ("started_since", "started_until", "changed_since", "changed_until")
)
_ALL = (
    _look(
        "processes",
        tuple[list[Summary], str],
        ("status", str | None, None),
        ("type", str | None, None),
        ("limit", _Page, 50),
        ("cursor", str, ""),
        ("version", int | None, None),
        ("tags", dict[str, str] | None, None),
        *_TIMES,
    ),
    _look("unnotified", list[Summary], ("limit", _Thousand, 50)),
    _look("undelivered", list[Undelivered], ("limit", _Thousand, 100)),
    _look("view", View, *_Id),
    _look("journal", list[Entry], *_Id, ("after", int, -1), ("era", int | None, None)),
    _look("nodes", list[Node]),
    _look("shards", list[Shard]),
    _look("census", Census),
    _look("examine", list[Finding]),
    _operation(
        "signal",
        *_Id,
        ("name", str),
        ("payload", Raw, Raw(b"null")),
        ("key", str | None, None),
        ("who", _Who, ""),
    ),
    _operation("notify", *_Id, ("who", _Who, "")),
    _operation("cancel", *_Id, ("reason", _Why, ""), ("who", _Who, "")),
    _operation("pause", *_Id, *_BY),
    _operation("resume", *_Id, *_BY),
    _operation("retry", *_Id, ("now", bool, False), ("step", str, ""), *_BY),
    _operation(
        "skip",
        *_Id,
        ("step", str, ""),
        ("value", Any, None),
        ("error", str | None, None),
        ("with_undo", bool, True),
        *_BY,
    ),
    _operation("deadline", *_Id, ("seconds", _Seconds | None), *_BY),
    _operation(
        "fork",
        *_Id,
        ("at", str),
        ("input", Any | UnsetType, UNSET),
        ("version", int | None, None),
        ("cancel", bool, False),
        ("key", str | None, None),
        *_BY,
        gives=Forked,
    ),
    _operation(
        "bulk",
        ("verb", str),
        ("status", str | None, None),
        ("type", str | None, None),
        ("version", int | None, None),
        ("tags", dict[str, Any] | None, None),
        ("started_since", datetime | None, None),
        ("started_until", datetime | None, None),
        ("older_than", _Since | None, None),
        ("limit", int, 1000),
        ("seconds", _Seconds | None, None),
        gives=Preview,
    ),
    _operation("carry_out", ("token", str), ("verb", str | None, None), *_BY, gives=Report),
    _look(
        "session_lines",
        list[SessionLine],
        ("subject", str, ""),
        ("limit", _Lines, 50),
        at_desk=True,
    ),
    _operation("session_revoke", ("key", str), *_BY, at_desk=True),
    _operation("session_revoke_all", ("subject", str), *_BY, gives=int, at_desk=True),
    _look("limit_lines", list[LimitLine], ("limit", _Lines, 50), at_desk=True),
    _operation("limit_reset", ("key", str), *_BY, at_desk=True),
    _look("breaker_lines", list[BreakerLine], ("limit", _Lines, 50), at_desk=True),
    _look("breaker", Standing, ("name", str), at_desk=True),
    _operation(
        "breaker_control",
        ("name", str),
        ("action", Action),
        *_BY,
        gives=BreakerLine,
        at_desk=True,
    ),
    _look("cache_lines", list[CacheLine], at_desk=True),
    _operation(
        "cache_invalidate",
        ("name", str),
        ("tag", str, ""),
        ("key", tuple[str | int, ...], ()),
        ("unseen", bool, False),
        *_BY,
        at_desk=True,
    ),
    _look(
        "request_lines",
        list[RequestLine],
        ("state", str, ""),
        ("limit", _Lines, 50),
        at_desk=True,
    ),
    _look("request", RequestLine, *_Id, at_desk=True),
    _operation(
        "request_resolve", *_Id, ("status", int | None, None), *_BY, at_desk=True
    ),
    _operation("request_expire", *_Id, *_BY, at_desk=True),
)  # fmt: skip
OPERATIONS: Mapping[str, Operation] = MappingProxyType({one.name: one for one in _ALL})
"""Every operation by its name."""

# msgspec reads no field that is raw JSON or None, which the result of a process is.
_Sent = msgspec.defstruct(
    "_Sent",
    [
        (field.encode_name, Raw if field.name == "result" else field.type, UNSET)
        for field in msgspec.structs.fields(View)
    ],
    frozen=True,
)


def answer_in(operation: Operation, body: bytes) -> Any:
    """What the answer to an operation says. Raises `msgspec.DecodeError`, `UnicodeDecodeError`."""
    if operation.gives is None:
        return None
    if operation.gives is not View:
        return msgspec.json.decode(body, type=operation.gives)
    given = {
        name: value
        for name, value in msgspec.structs.asdict(msgspec.json.decode(body, type=_Sent)).items()
        if value is not UNSET
    }
    if given.get("status") != "done":  # only then there is one
        given["result"] = None
    try:
        return View(**given)
    except TypeError as error:
        raise msgspec.ValidationError(str(error)) from None
