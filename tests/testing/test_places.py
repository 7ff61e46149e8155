"""Where one test's state lies: apart from every other, and there again after a death."""

from __future__ import annotations

from pathlib import Path

import pytest

from outlive.errors import BadAddress
from outlive.model import Batch, Put, Ref
from outlive.testing.places import Place
from outlive.testing.virtual import VirtualClock

CELL = Ref("space", "key")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def address(request: pytest.FixtureRequest) -> str:
    if request.param != "postgresql":
        return f"{request.param}://"
    found: str = request.getfixturevalue("postgres")
    return found


async def test_what_was_committed_is_there_for_the_next_store_and_for_no_other_place(
    address: str, tmp_path: Path
) -> None:
    clock, place, other = VirtualClock(), Place(address, tmp_path), Place(address, tmp_path)
    try:
        store = place.store(clock)
        await store.open()
        await store.commit(Batch(put=(Put(CELL, b"kept"),)))
        assert await store.now() >= clock.wall()
        await store.close()
        for where, found in ((place, b"kept"), (other, None)):
            store = where.store(clock)
            await store.open()
            (cell,) = await store.read((CELL,))
            assert (None if cell is None else cell.value) == found
            await store.close()
    finally:
        place.remove()
        other.remove()


def test_an_address_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadAddress):
        Place("redis://", tmp_path)
