"""What a caller's transaction on PostgreSQL says and hears when it carries cells.

One text goes, plain columns come back, so that it is the same with every driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from outlive.model import Put
from outlive.store import Sight

_encode = msgspec.json.Encoder().encode


def packed(puts: Sequence[Put]) -> str:
    """`puts` as the text that the database's function takes. Their values are JSON, so text too."""
    return _encode(
        [
            {
                "space": put.ref.space,
                "key": put.ref.key,
                "value": put.value.decode(),
                "due": put.due,
                "marks": _encode(put.marks).decode(),
            }
            for put in puts
        ]
    ).decode()


def sight_of(row: Sequence[Any]) -> Sight:
    """The answer to a look."""
    time, shards, incarnation, value = row
    return Sight(time, shards, incarnation, None if value is None else value.encode())


def carried_of(row: Sequence[Any]) -> bytes | None:
    """The answer to a carry: what was there already, if anything was."""
    (value,) = row
    return None if value is None else value.encode()
