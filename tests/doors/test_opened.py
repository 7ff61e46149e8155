"""Reading by id: what is not found is looked for once more where another server may lead."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from outlive import Outlive, Run
from outlive.errors import NoSuchProcess
from outlive.model import Cell, Ref
from outlive.stores.memory import MemoryStore


class Replaced(MemoryStore):
    """A store that reads from a server which knows nothing yet, until it is told to look again."""

    is_old = False
    refreshed = 0

    async def read(self, refs: Sequence[Ref]) -> list[Cell | None]:
        found = await super().read(refs)
        return [None] * len(found) if self.is_old else found

    async def refresh(self) -> bool:
        self.refreshed += 1
        self.is_old = False
        return True


async def test_a_process_that_a_replaced_server_does_not_know_is_found() -> None:
    store = Replaced()
    app = Outlive(store)

    @app.process("/naps", version=1)
    async def nap(run: Run) -> None:
        await run.sleep(60)

    async with app:
        handle = await app.start(nap)
        assert store.refreshed == 0
        store.is_old = True
        assert (await handle.view()).id == handle.id and store.refreshed == 1
        with pytest.raises(NoSuchProcess):
            await app.view("nap_" + "0" * 26)
