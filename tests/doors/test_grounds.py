"""Where kinds on cells stand: an application, or a store of cells alone."""

from __future__ import annotations

import pytest
from tests.kinds.test_requests import PLACE

from outlive import Outlive
from outlive.doors.grounds import Ground
from outlive.errors import StoreRefused
from outlive.kinds.requests.decisions import Look, RequestKind
from outlive.kinds.sessions.decisions import SessionKind
from outlive.stores.memory import MemoryStore


class Less(MemoryStore):
    """A store that keeps, and finds, less."""

    def __init__(self) -> None:
        super().__init__()
        self.keeps = ("volatile",)
        self.lacks = {"claim": "it forgets by itself"}


async def test_both_carry_commands_out() -> None:
    store, app = MemoryStore(), Outlive("memory://")
    await store.open()
    async with app:
        for place in (store, app):
            ground = Ground(place, RequestKind())
            assert (await ground.apply(Look(PLACE.name))).said == "absent"
            assert await ground.sweep() == 0


async def test_a_store_that_keeps_less_is_refused_at_once() -> None:
    with pytest.raises(StoreRefused):
        Ground(Less(), RequestKind("durable"))
    with pytest.raises(StoreRefused, match="forgets by itself"):
        Ground(Less(), RequestKind("volatile"))  # the end of a lease would free the key
    ground = Ground(Less(), SessionKind(storage="volatile"))
    with pytest.raises(StoreRefused, match="forgets by itself"):
        await ground.sweep()


def test_a_store_alone_has_no_store_beside_it() -> None:
    with pytest.raises(ValueError, match="beside"):
        Ground(MemoryStore(), RequestKind(), "redis://localhost")
