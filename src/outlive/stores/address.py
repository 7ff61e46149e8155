"""A store from its address.

sqlite:///relative/path.db     sqlite:////absolute/path.db     memory://
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from outlive.clock import Clock
from outlive.errors import BadAddress

if TYPE_CHECKING:
    from outlive.store import Store


def store_at(address: str, clock: Clock | None = None) -> Store:
    """The store at `address`, not opened yet. Raises `BadAddress`."""
    parts = urlsplit(address)
    if parts.scheme == "sqlite":
        path = unquote(parts.path)[1:]
        if parts.netloc or not path or parts.query:
            raise BadAddress(f"{address!r} names no file.")
        from outlive.stores.sqlite import SQLiteStore

        return SQLiteStore(path, clock=clock)
    if parts.scheme == "memory":
        from outlive.stores.memory import MemoryStore

        return MemoryStore(clock=clock)
    raise BadAddress(f"{address!r} is no address of a store.")
