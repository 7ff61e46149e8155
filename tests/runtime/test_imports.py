"""An import whose node dies before or after its commit is carried out once, by the next node."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.doors.test_transfers import begun, declare, is_there, outside
from tests.service import Dying, Place, check_grammar, crash, until

from outlive import Outlive
from outlive.kinds.processes import Command
from outlive.kinds.processes.pending import told
from outlive.kinds.processes.transfer import as_payload
from outlive.model import Batch
from outlive.stores.memory import MemoryStore


@pytest.mark.parametrize("at", range(1, 5))
@pytest.mark.parametrize("when", ["before", "after"])
async def test_it_is_carried_out_once(tmp_path: Path, at: int, when: str) -> None:
    outside.calls.clear()
    outside.effects.clear()
    source = Outlive(MemoryStore())
    declare(source)
    async with source:
        id = await begun(source)
        text = await source.export_journal(id)
    place = Place(tmp_path)
    try:
        asking = await place.client(declare)
        command = Command("import", id, payload=as_payload(text), key="import")
        store = Dying(place.store(), at, when)
        dying = await place.open(declare, store=store)
        put = told(command, await asking.store.now(), asking.store.shards)
        await asking.store.commit(Batch(put=(put,)))
        await until(lambda: done_or_dead(asking, store, id), "carried out, or dead")
        await crash(dying)
        app = await place.open(declare)
        await until(lambda: is_there(asking, id), "it is taken in")
        entries = await app.journal(id)
        check_grammar(entries)
        assert [entry.kind for entry in entries].count("imported") == 1
        await app.retry(id)
        await app.signal(id, "go", b"5")
        assert await app.result(id, within=10) == 5
        assert len(outside.effects) == 3
    finally:
        await place.close()


async def done_or_dead(asking: Outlive, store: Dying, id: str) -> bool:
    return store.died.is_set() or await is_there(asking, id)
