"""Hooks for schemathesis: each request under a key of its own, and lines of JSON as they are.

Schemathesis draws the same few keys again and again, and a used key with another body is refused as
it must be, although nothing is wrong with either of them.
"""

from __future__ import annotations

import re
from itertools import count
from typing import Any

import schemathesis
from msgspec import Raw

from outlive.kinds.processes import Head
from outlive.kinds.processes.transfer import Lines
from outlive.kinds.processes.vocabulary import Started, pack
from outlive.model import Event
from outlive.web.openapi import PARAMETERS

FITTING = re.compile(PARAMETERS["Idempotency-Key"]["schema"]["pattern"])

_numbers = count()


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Put a fresh key in the place of one that fits."""
    for name, value in (case.headers or {}).items():
        if name.lower() == "idempotency-key" and FITTING.fullmatch(str(value)):
            case.headers[name] = f'"{next(_numbers)}"'


def journal() -> bytes:
    """An exported process that has just begun."""
    head = Head("a-stream", "elsewhere", 1, "running", 1)
    lines = Lines("reg_00000000000000000000000000", head, 1)
    data = pack(Started("reg_00000000000000000000000000", "elsewhere", 1, Raw(b"7"), "a-node"))
    event = Event(0, 0, head.stream, 0, "started", data, 1, b"")
    return b"".join((lines.first(), lines.of(event), lines.last()))


@schemathesis.serializer("application/x-ndjson")
def of_lines(context: Any, value: Any) -> bytes:
    """No schema tells which texts are journals: for one that is meant to be, a real one."""
    return journal() if isinstance(value, str) else str(value).encode()
