"""Whether a value can be handed to many callers: whether none of them could change it.

Plain: text, bytes, numbers, None, enums, dates, and tuples, frozen sets, frozen structs and frozen
dataclasses of what is plain. Anything else is kept as JSON, and each caller is given a copy.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
from typing import Any
from uuid import UUID

import msgspec

ATOMS = frozenset(
    (
        str, bytes, int, float, bool, type(None), decimal.Decimal, UUID, datetime.date,
        datetime.datetime, datetime.time, datetime.timedelta,
    )
)  # fmt: skip
PARTS_MAX = 10_000
"""Parts that are looked at; what has more is copied."""


def is_plain(value: Any) -> bool:
    """Whether nobody who is given `value` can change it."""
    waiting, seen = [value], 0
    while waiting:
        one = waiting.pop()
        kind = type(one)
        if kind in ATOMS or isinstance(one, enum.Enum):
            continue
        seen += 1
        if kind in (tuple, frozenset):
            waiting.extend(one)
        elif isinstance(one, msgspec.Struct) and one.__struct_config__.frozen:
            waiting.extend(getattr(one, name) for name in one.__struct_fields__)
        elif dataclasses.is_dataclass(kind) and _is_frozen(kind):
            waiting.extend(getattr(one, field.name) for field in dataclasses.fields(kind))
        else:
            return False
        if seen + len(waiting) > PARTS_MAX:
            return False
    return True


def _is_frozen(kind: Any) -> bool:
    return bool(kind.__dataclass_params__.frozen)
