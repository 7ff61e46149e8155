"""An address names a store, or says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from outlive.clock import ManualClock
from outlive.errors import BadAddress
from outlive.stores.address import store_at
from outlive.stores.memory import MemoryStore
from outlive.stores.sqlite import SQLiteStore


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("sqlite:////var/lib/store.db", "/var/lib/store.db"),
        ("sqlite:////var/a%20b.db", "/var/a b.db"),
        ("sqlite:///store.db", "store.db"),
        ("sqlite:///folder/store.db", "folder/store.db"),
    ],
)
def test_a_file_is_absolute_with_four_slashes_and_relative_with_three(
    address: str, path: str
) -> None:
    store = store_at(address)
    assert isinstance(store, SQLiteStore)
    assert store.path == Path(path).resolve()


async def test_memory_is_a_store_too_and_takes_the_clock() -> None:
    clock = ManualClock()
    store = store_at("memory://", clock)
    assert isinstance(store, MemoryStore)
    await store.open()
    assert await store.now() == clock.wall()


@pytest.mark.parametrize(
    "address",
    ["", "store.db", "sqlite://", "sqlite:///", "sqlite://host/x.db", "mysql://x", "sqlite:///x?y"],
)
def test_what_is_not_understood_is_refused(address: str) -> None:
    with pytest.raises(BadAddress):
        store_at(address)
