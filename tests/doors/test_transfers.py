"""A journal that leaves a store and comes into another: whole, once, not running by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.service import Outside, Place, check_grammar, has_status, never, recorded, until

from outlive import Outlive, Run, attempt, ids, step
from outlive.errors import (
    AlreadyThere,
    BadJournal,
    NoSuchProcess,
    NothingToExport,
    TooLarge,
)
from outlive.kinds.processes.transfer import Lines
from outlive.model import Event
from outlive.stores.memory import MemoryStore
from outlive.testing.oracles import (
    facts_of,
    p7_journal_grammar,
    p9_tails_are_dense,
    p10_chain_verifies,
)

outside = Outside()


@step(undo="undo_it")
async def do_it(what: str) -> str:
    return outside.do(attempt().key, what)


async def undo_it(what: str, made: Any) -> None:
    outside.do(attempt().key, f"undo {what}")


def declare(app: Outlive) -> None:
    @app.process("/orders", version=1, signals={"go": int}, name="order")
    async def order(run: Run, what: str) -> Any:
        await run(do_it, what)
        await run(do_it, f"{run.uuid()} at {run.now().isoformat()}")
        number = await run.wait("go")
        await run(do_it, "last")
        if number < 0:
            raise ValueError("no")
        if number > 10:
            await run.again(f"era {run.era + 1}")
        return number


@pytest.fixture(autouse=True)
def anew() -> None:
    outside.calls.clear()
    outside.effects.clear()


@pytest.fixture
async def places(tmp_path: Path) -> AsyncIterator[tuple[Place, Place]]:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    made = Place(one), Place(two)
    yield made
    for place in made:
        await place.close()


Places = tuple[Place, Place]


async def begun(app: Outlive, status: str = "waiting") -> str:
    id = (await app.begin("order", b'"tea"')).id
    await has_status(app, id, status)
    return id


async def test_it_is_paused_where_it_comes_to_and_goes_on_there_when_it_is_told(
    places: Places,
) -> None:
    here = await places[0].open(declare)
    id = await begun(here)
    view = await here.view(id)
    text = await here.export_journal(id)
    await here.close()
    there = await places[1].open(declare)
    assert await there.import_journal(text) == id
    await never(lambda: id in there._runtime.activations.live)  # type: ignore[union-attr]
    imported = await there.view(id)
    assert imported.status == "paused" and imported.failure is not None
    was = "it was waiting where it comes from; retry lets it go on here"
    assert imported.failure.message == was
    assert imported.started == view.started
    assert [step.ended for step in imported.steps] == [step.ended for step in view.steps]
    await there.signal(id, "go", b"5")
    assert (await there.view(id)).status == "paused"
    await there.retry(id)
    assert await there.result(id, within=10) == 5
    assert outside.calls["tea"] == 1 and outside.made("last") == 1
    assert len(outside.effects) == 3, "keys, uuid and time are those it had"
    check_grammar(await there.journal(id))


async def test_a_node_that_does_not_run_it_leaves_it_paused(places: Places) -> None:
    here = await places[0].open(declare)
    id = await begun(here)
    text = await here.export_journal(id)
    there = await places[1].open(lambda app: None)
    await there.import_journal(text)
    await there.signal(id, "go", b"5")
    there = await places[1].again(there, declare)
    await until(lambda: has_signal(there, id), "the signal is kept")
    assert (await there.view(id)).status == "paused" and outside.made("last") == 0
    await there.retry(id)
    assert await there.result(id, within=10) == 5


async def has_signal(app: Outlive, id: str) -> bool:
    return any(entry.kind == "signal" for entry in await app.journal(id))


async def test_what_had_ended_has_ended(places: Places) -> None:
    here = await places[0].open(declare)
    id = await begun(here)
    await here.signal(id, "go", b"-1")
    before = await has_status(here, id, "rolled_back")
    there = await places[1].open(declare)
    await there.import_journal(await here.export_journal(id))
    after = await there.view(id)
    assert after.status == "rolled_back"
    assert (after.ended, after.failure) == (before.ended, before.failure)
    facts = await facts_of(there.store)
    for oracle in (p7_journal_grammar, p9_tails_are_dense, p10_chain_verifies):
        assert not oracle(facts)


async def test_it_may_be_exported_again_where_it_was_imported(places: Places) -> None:
    here = await places[0].open(declare)
    id = await begun(here)
    there = await places[1].open(declare)
    await there.import_journal(await here.export_journal(id))
    await there.retry(id)
    live = there._runtime.activations.live  # type: ignore[union-attr]
    await until(lambda: id in live and live[id].parking, "it waits again")
    third = Outlive(MemoryStore())
    declare(third)
    async with third:
        await third.import_journal(await there.export_journal(id))
        await third.retry(id)
        await third.signal(id, "go", b"5")
        assert await third.result(id, within=10) == 5
        assert len(outside.effects) == 3
        assert (await third.view(id)).started == (await here.view(id)).started


async def test_an_era_comes_with_its_number_and_its_place(places: Places) -> None:
    here = await places[0].open(declare)
    id = await begun(here)
    await here.signal(id, "go", b"11")
    await until(lambda: is_waiting_in(here, id, 2), "era 2")
    there = await places[1].open(declare)
    await there.import_journal(await here.export_journal(id))
    seen = await there.view(id)
    assert (seen.era, seen.seq) == (2, await here.seq(id) + 2)
    entries = await there.journal(id)
    assert entries[0].n == (await here.journal(id))[0].n > 0
    await there.signal(id, "go", b"11")
    await there.retry(id)
    await until(lambda: is_waiting_in(there, id, 3), "era 3")
    behind = await there.journal(id, entries[-1].n)
    assert behind[0].n == entries[-1].n + 1


async def is_waiting_in(app: Outlive, id: str, era: int) -> bool:
    view = await app.view(id)
    return (view.era, view.status) == (era, "waiting")


async def test_an_id_that_is_there_is_refused(places: Places) -> None:
    here = await places[0].open(declare)
    id = await begun(here)
    text = await here.export_journal(id)
    with pytest.raises(AlreadyThere):
        await here.import_journal(text)
    there = await places[1].open(declare)
    results = await asyncio.gather(
        *(there.import_journal(text) for _ in range(3)), return_exceptions=True
    )
    assert results.count(id) == 1 and sum(isinstance(r, AlreadyThere) for r in results) == 2
    assert (await there.view(id)).status == "paused"


async def test_a_client_asks_and_the_owner_takes_it_in(places: Places) -> None:
    here = await places[0].open(declare)
    id = await begun(here)
    text = await here.export_journal(id)
    asking = await places[1].client(declare)
    with pytest.raises(TimeoutError, match="no node has taken"):
        await asking.import_journal(text, within=0.05)
    with pytest.raises(NoSuchProcess):
        await asking.view(id)
    owner = await places[1].open(declare)
    await until(lambda: is_there(asking, id), "it is taken in")
    with pytest.raises(AlreadyThere):
        await asking.import_journal(text)
    await asking.retry(id)
    await asking.signal(id, "go", b"5")
    assert await owner.result(id, within=10) == 5


async def is_there(app: Outlive, id: str) -> bool:
    try:
        return (await app.view(id)).status == "paused"
    except NoSuchProcess:
        return False


async def test_a_file_that_is_not_as_it_was_written_is_refused(places: Places) -> None:
    here = await places[0].open(declare)
    id = await begun(here)
    lines = (await here.export_journal(id)).splitlines()
    there = await places[1].open(declare)

    def head(**changed: Any) -> str:
        return msgspec.json.encode({**msgspec.json.decode(lines[0]), **changed}).decode()

    unknown = lines[1].replace('"kind":"started"', '"kind":"invented"')
    for broken, why in (
        ([], "begin"),
        (["{}"], "cannot be read"),
        (["not JSON"], "cannot be read"),
        ([head(format=2), *lines[1:]], "format 2"),
        ([head(id="ord_other"), *lines[1:]], "Line 2 is not"),
        ([*lines[:2], *lines[3:]], "Line 3 is not"),
        ([lines[0], lines[2], lines[1], *lines[3:]], "Line 2 is not"),
        ([line.replace("tea", "mud") for line in lines], "Line 2 is not"),
        (lines[:-1], "cannot be read"),
        ([*lines[:-2], lines[-1]], "end is not"),
        ([lines[0], unknown, *lines[2:]], "Line 2 is not"),
    ):
        with pytest.raises(BadJournal, match=why):
            await there.import_journal("\n".join(broken))
    with pytest.raises(NoSuchProcess):
        await there.view(id)


async def test_an_import_has_a_limit(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    from outlive.doors import transfers

    here = await places[0].open(declare)
    text = await here.export_journal(await begun(here))
    there = await places[1].open(declare)
    monkeypatch.setattr(transfers, "IMPORT_BYTES_MAX", 100)
    with pytest.raises(TooLarge, match="at most 100"):
        await there.import_journal(text)


async def test_what_is_redacted_is_not_in_the_file_and_cannot_go_on(places: Places) -> None:
    here = await places[0].open(declare)
    id = await begun(here)

    def redact(kind: str, data: Any) -> Any:
        if kind == "started":
            data["input"] = "…"
        for word in ("result", "given"):
            data.pop(word, None)
        return data

    text = await here.export_journal(id, redact=redact)
    assert "tea" in await here.export_journal(id) and '"tea"' not in text.replace('["tea"]', "")
    there = await places[1].open(declare)
    with pytest.raises(BadJournal, match="redacted"):
        await there.import_journal(text)
    await here.signal(id, "go", b"1")
    await here.result(id, within=10)
    await there.import_journal(await here.export_journal(id, redact=redact))
    assert (await there.view(id)).status == "done"


async def test_what_has_not_begun_has_no_journal(places: Places) -> None:
    asking = await places[0].client(declare)
    id = (await asking.begin("order", b'"tea"')).id
    with pytest.raises(NothingToExport, match="queued"):
        await asking.export_journal(id)


async def test_between_a_file_and_postgres(places: Places, postgres: str) -> None:
    here = await places[0].open(declare)
    id = await begun(here)
    text = await here.export_journal(id)
    await here.close()
    there = Outlive(f"{postgres}?schema=store_{ids.token(40)}")
    declare(there)
    async with there:
        await there.import_journal(text)
        assert (await there.diff(await there.export_journal(id))).fits
        await there.retry(id)
        await there.signal(id, "go", b"5")
        assert await there.result(id, within=20) == 5
        assert recorded(await there.journal(id)) == ["do_it", "do_it#2", "do_it#3"]
    assert len(outside.effects) == 3


async def test_a_difference_where_values_are_missing_is_unclear(places: Places) -> None:
    here = await places[0].open(declare)
    id = await begun(here)

    def redact(kind: str, data: Any) -> Any:
        return {**data, "input": "…"} if kind == "started" else data

    assert (await here.diff(await here.export_journal(id))).verdict == "same"
    found = await here.diff(await here.export_journal(id, redact=redact))
    assert found.verdict == "unclear" and not found.fits
    assert "redacted" in found.detail and "recorded with arguments" in found.detail


@pytest.mark.parametrize("kind", ["erased", "hum"])
async def test_a_file_with_an_event_that_none_can_be_is_refused(places: Places, kind: str) -> None:
    here = await places[0].open(declare)
    lines = Lines("order_1", await here._head(await begun(here)), 0)
    event = Event(0, 1, "s", 0, kind, b"{}", 0, b"")
    text = b"".join((lines.first(), lines.of(event), lines.last())).decode()
    with pytest.raises(BadJournal, match=f"the kind '{kind}', unknown"):
        await here.import_journal(text)
