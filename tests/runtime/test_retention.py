"""The end of what has ended: archived, then a tombstone, then nothing; over every death."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.service import Place, until

from outlive import Outlive, Retry, Run, Webhooks, ids, step
from outlive.clock import MICROS
from outlive.errors import NoSuchProcess, OutliveError, ProcessGone, StoreUnavailable
from outlive.kinds.processes import Command, eras
from outlive.kinds.processes.archived import Archived, read
from outlive.kinds.processes.cells import inbox_of, space_of
from outlive.model import ERASED, Batch, Put
from outlive.runtime import retention
from outlive.stores.chain import verify
from outlive.stores.lines import files_in, lines_in
from outlive.stores.memory import MemoryStore
from outlive.testing import Trial, VirtualClock
from outlive.testing.killing import Killed, _bury
from outlive.testing.mortality import Life, Mortals, Port, When
from outlive.testing.places import Place as TrialPlace

HOUR = 3600.0


@step
async def work(text: str) -> str:
    return text * 3


def declared(archive: Path | None, **options: Any) -> tuple[Outlive, Any, Any]:
    """An application with a type that is kept an hour, and one that is kept as long as others."""
    app = Outlive("memory://", archive=archive, retention_seconds=100 * HOUR, **options)

    @app.process("/short", version=1, retention_seconds=HOUR, tags=("who",))
    async def short(run: Run, text: str) -> str:
        return await run(work, text)

    @app.process("/long", version=1)
    async def long(run: Run, text: str) -> str:
        return await run(work, text)

    return app, short, long


def memory(clock: VirtualClock) -> Any:
    return MemoryStore(clock=clock)


def archived(folder: Path) -> list[Archived]:
    torn: list[Path] = []
    found = list(read(line for path in files_in(folder) for line in lines_in(path, torn)))
    assert torn == []
    return found


async def kept(store: Any) -> tuple[int, int, int]:
    """How many cells of processes, of inboxes and of idempotency keys there are."""
    processes = [len(await store.scan(space_of(shard))) for shard in range(store.shards)]
    inboxes = [len(await store.scan(inbox_of(shard))) for shard in range(store.shards)]
    return sum(processes), sum(inboxes), len(await store.scan("request"))


async def journals(store: Any) -> list[Any]:
    """Every event in the store; the chain of each shard holds."""
    found = []
    for shard in range(store.shards):
        tail = await store.tail(shard, 0, 100_000)
        assert verify(tail) is None
        found += tail
    return found


async def status_of(app: Outlive, id: str) -> str:
    try:
        return (await app.view(id)).status
    except ProcessGone:
        return "gone"
    except NoSuchProcess:
        return "nothing"


async def test_it_is_kept_then_a_tombstone_then_nothing(tmp_path: Path) -> None:
    app, short, long = declared(tmp_path / "archive")
    async with Trial(app, memory) as trial:
        one = (await app.start(short, "secret", key="k", tags={"who": "a"})).id
        two = (await app.start(long, "kept")).id
        await trial.run_until_idle()
        await trial.advance(minutes=59)
        seen = await app.view(one)
        assert seen.status == "done" and not list(tmp_path.rglob("*.gz"))
        await trial.advance(minutes=2)
        assert await status_of(app, one) == "gone" and await status_of(app, two) == "done"
        assert (await app.processes(tags={"who": "a"})).items == []
        events = await journals(app.store)
        assert not [event for event in events if b"secret" in event.data]
        assert sorted(event.kind for event in events if event.kind != ERASED) == [
            "ended", "started", "step",
        ]  # fmt: skip
        (line,) = archived(tmp_path / "archive")
        assert line.view() == seen, "an archive says all that could be seen of it"
        with pytest.raises(ProcessGone):
            await app.start(short, "secret", key="k", tags={"who": "a"})
        with pytest.raises(ProcessGone):  # a command whose sender saw it alive
            await trial.runtime.activations.commands.obey(Command("signal", one, "go"))
        await trial.advance(hours=1, minutes=1)
        assert await status_of(app, one) == "nothing"
        await trial.advance(minutes=1)
        assert await kept(app.store) == (1, 0, 0), "two is kept, and nothing of one"
        await trial.advance(hours=200)
        assert await kept(app.store) == (0, 0, 0)
        assert len(archived(tmp_path / "archive")) == 2


async def test_a_key_of_what_is_no_more_starts_anew_and_sees_nothing_of_it(tmp_path: Path) -> None:
    app, short, _ = declared(None)
    async with Trial(app, memory) as trial:
        first = await app.start(short, "a", key="k", tags={"who": "x"})
        await trial.run_until_idle()
        request = (await app.store.scan("request"))[0]
        await trial.advance(hours=3)
        assert await status_of(app, first.id) == "nothing"
        await app.store.commit(Batch(put=(Put(request.ref, request.value, None),)))
        second = await app.start(short, "a", key="k", tags={"who": "x"})
        assert second.id != first.id
        await trial.run_until_idle()
        assert (await app.view(second.id)).status == "done"
        assert (await app.start(short, "a", key="k", tags={"who": "x"})).id == second.id


async def test_a_key_in_a_transaction_of_the_callers_never_gives_a_process_that_is_gone() -> None:
    app, short, _ = declared(None)

    def carried(tables: Any) -> str:
        id: str = app.blocking().within(tables).start(short, "a", key="k").id
        return id

    async with Trial(app, memory) as trial:
        id = await app.transact(carried)
        assert await app.transact(carried) == id
        await trial.run_until_idle()
        request = (await app.store.scan("request"))[0]
        for hours in (1.1, 1.1):
            await trial.advance(hours=hours)
            await app.store.commit(Batch(put=(Put(request.ref, request.value, None),)))
            with pytest.raises(ProcessGone):
                await app.transact(carried)


@pytest.fixture(params=["memory://", "sqlite://", "postgresql://"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TrialPlace]:
    """A new place, which may be opened again and again."""
    address = request.param
    if address.startswith("postgresql"):
        address = request.getfixturevalue("postgres")
    made = TrialPlace(address, tmp_path)
    yield made
    made.remove()


async def lives(there: TrialPlace, archive: Path, at: int, when: When) -> list[str]:
    """Three processes from their start until nothing is left of them, with one death; gives what
    the last life has committed."""
    clock, began = VirtualClock(), list[str]()
    app, short, _ = declared(archive)

    async def live(trial: Killed) -> None:
        async with trial:
            for number in range(len(began), 3):
                began.append((await app.start(short, f"text {number}")).id)
            await trial.run_until_idle()
            await trial.advance(minutes=61)
            whole = [await status_of(app, id) for id in began]
            assert set(whole) <= {"gone", "nothing"}, whole
            assert not [event for event in await journals(app.store) if event.data]
            await trial.advance(minutes=61)
            assert await kept(app.store) == (0, 0, 0)

    with Mortals() as mortals:
        for death in (at, 0):
            life = mortals.life = Life()
            store = there.store(clock)
            port: Any = Port(store, life, death, when)
            trial = Killed(app, port, clock)
            await life.run(live(trial))
            if not life.ended:
                said: list[str] = port.said
                return said
            await _bury(trial, life, store, clock)
    raise AssertionError("the last life has no death")


async def test_no_death_keeps_anything_or_archives_less(there: TrialPlace, tmp_path: Path) -> None:
    said = await lives(there, tmp_path / "undisturbed", 0, "after")
    texts = [f'"{text}"' for text in ("text 0" * 3, "text 1" * 3, "text 2" * 3)]
    assert sum("erased" in line for line in said) >= 1
    twice = 0
    for at in range(1, len(said) + 1):
        if "erased" not in said[at - 1] and said[at - 1] != "a cell written":
            continue
        for when in ("before", "after"):
            there.remove()
            there._kept, there._name = None, f"trial_{ids.token(60).lower()}"
            folder = tmp_path / f"{at}-{when}"
            await lives(there, folder, at, when)
            found = archived(folder)
            results = sorted(bytes(one.view().result or b"").decode() for one in found)
            assert results == texts, f"killed {when} commit {at}: {said[at - 1]}"
            twice += sum(1 for path in files_in(folder) for _ in lines_in(path)) - len(found)
    assert twice >= 1, "a death between archive and drop writes a line again, and it is read once"


async def test_an_archive_that_cannot_be_written_drops_nothing(tmp_path: Path) -> None:
    app, short, _ = declared(tmp_path / "archive")
    async with Trial(app, memory) as trial:
        files = trial.runtime.activations.ended._archive
        assert files is not None
        append, broken = files.append, True

        def fails(name: str, lines: Any) -> Path:
            if broken:
                raise StoreUnavailable("no space; nothing was written")
            return append(name, lines)

        files.append = fails  # type: ignore[method-assign]
        id = (await app.start(short, "a", tags={"who": "b"})).id
        await trial.run_until_idle()
        await trial.advance(hours=5)
        assert await status_of(app, id) == "done"
        assert [line.id for line in (await app.processes(tags={"who": "b"})).items] == [id]
        broken = False
        await trial.advance(minutes=2)
        assert await status_of(app, id) == "gone" and len(archived(tmp_path / "archive")) == 1


async def test_one_that_cannot_be_read_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app, short, _ = declared(tmp_path / "archive")
    async with Trial(app, memory) as trial:
        ids = [(await app.start(short, text)).id for text in "abc"]
        line = retention.line_of

        def line_of(id: str, *what: Any) -> bytes:
            if id == ids[1]:
                raise KeyError("an event of a newer version")
            return line(id, *what)

        monkeypatch.setattr(retention, "line_of", line_of)
        await trial.run_until_idle()
        await trial.advance(hours=1.5)
        assert [await status_of(app, id) for id in ids] == ["gone", "done", "gone"]
        said = caplog.text.count(f"the retention of {ids[1]} was not ended: KeyError")
        assert 1 <= said <= 31, "once a minute, not at each claim"
        monkeypatch.undo()
        await trial.advance(minutes=2)
        assert await status_of(app, ids[1]) == "gone"
        assert sorted(found.id for found in archived(tmp_path / "archive")) == sorted(ids)


async def test_what_is_claimed_again_meanwhile_is_dropped_all_the_same_and_archived_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, short, _ = declared(tmp_path)
    async with Trial(app, memory) as trial:
        ids_of = [(await app.start(short, str(number))).id for number in range(5)]
        await trial.run_until_idle()
        store = app.store
        erase = store.erase
        late = 3

        async def slow(streams: Any, batch: Batch) -> Any:
            nonlocal late
            late -= 1
            if late > 0:  # the hold of the claim is over before the archive was on disk
                for require in batch.require:
                    cell = (await store.read((require.ref,)))[0]
                    assert cell is not None
                    due = trial.clock.wall() + 2 * MICROS
                    await store.commit(Batch(put=(Put(cell.ref, cell.value, due),)))
            return await erase(streams, batch)

        monkeypatch.setattr(store, "erase", slow)
        await trial.advance(minutes=61)
        assert {await status_of(app, id) for id in ids_of} == {"gone"} and late < 0
        lines = [line for path in files_in(tmp_path) for line in lines_in(path)]
        assert len(lines) == 5


async def test_many_that_end_together_go_in_parts_and_nothing_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PART_CELLS", 7)
    monkeypatch.setattr(retention, "PART_EVENTS", 7)
    app, short, _ = declared(tmp_path)

    @app.process("/naps", version=1)
    async def nap(run: Run) -> str:
        for _ in range(730):
            await run.sleep(86_400)
        return "two years"

    async with Trial(app, memory) as trial:
        napping = await app.start(nap)
        ids_of = [(await app.start(short, str(number))).id for number in range(40)]
        await trial.run_until_idle()
        await trial.advance(minutes=61)
        assert {await status_of(app, id) for id in ids_of} == {"gone"}
        await trial.advance(days=729)
        for number in range(5):
            await app.start(short, f"late {number}")
        assert (await app.view(napping.id)).status == "waiting"
        await trial.advance(days=2)
        assert (await app.view(napping.id)).result is not None
        await trial.advance(days=10)
        assert await kept(app.store) == (0, 0, 0)
        assert len(archived(tmp_path)) == 46
        days = {path.parent.name for path in files_in(tmp_path)}
        assert days == {"short", "nap"}


async def test_each_of_two_nodes_ends_what_it_owns(place: Place, tmp_path: Path) -> None:
    def declare(app: Outlive) -> None:
        @app.process("/short", version=1, retention_seconds=1.5)
        async def short(run: Run, text: str) -> str:
            return await run(work, text)

    one = await place.open(declare, archive=tmp_path / "archive")
    two = await place.open(declare, archive=tmp_path / "archive")

    async def shared() -> bool:
        owners = {shard.owner for shard in await one.shards()}
        return owners == {one.node, two.node}

    await until(shared, "both own shards")
    began = [(await app.begin("short", b'"a"')).id for app in (one, two) * 10]

    async def gone() -> bool:
        return await kept(two.store) == (0, 0, 0)

    await until(gone, "nothing is kept of them", 30)
    assert sorted(found.id for found in archived(tmp_path / "archive")) == sorted(began)
    writers = {path.name.split(".")[1] for path in files_in(tmp_path / "archive")}
    assert writers == {one.node, two.node}
    assert not [event for event in await journals(one.store) if event.data]


async def test_a_folder_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    app, _, _ = declared(tmp_path / "file" / "archive")
    with pytest.raises(OutliveError, match="cannot be written"):
        await app.open()
    with pytest.raises(OutliveError, match="is no folder"):
        Outlive(archive="s3://bucket")


async def test_an_archive_is_lines_that_anybody_reads(tmp_path: Path) -> None:
    app, short, _ = declared(tmp_path)
    async with Trial(app, memory) as trial:
        id = (await app.start(short, "a", tags={"who": "é"})).id
        await trial.run_until_idle()
        await trial.advance(hours=2)
    (path,) = tmp_path.rglob("*.gz")
    assert path.parent.name == "short" and path.name.startswith("2026-01-01.")
    (line,) = gzip.decompress(path.read_bytes()).splitlines()
    said = json.loads(line)
    assert (said["id"], said["status"], said["tags"]) == (id, "done", {"who": "é"})
    assert [event["kind"] for event in said["events"]] == ["started", "step", "ended"]
    assert said["events"][1]["data"]["result"] == "aaa"
    assert said["ended"] - said["started"] < 60 * MICROS


# --- with what else a process is ------------------------------------------------------------------


def endless(archive: Path | None, last: int) -> tuple[Outlive, Any]:
    app = Outlive("memory://", archive=archive)

    @app.process("/rounds", version=1, retention_seconds=HOUR)
    async def rounds(run: Run, number: int) -> str:
        await run(work, f"secret{number} ")
        if number < last:
            await run.again(number + 1)
        return "done"

    return app, rounds


async def test_every_era_is_archived_and_emptied(tmp_path: Path) -> None:
    app, rounds = endless(tmp_path / "archive", 3)
    async with Trial(app, memory) as trial:
        handle = await app.start(rounds, 1)
        await trial.run_until_idle()
        seen = await app.view(handle.id)
        said = [entry.n for entry in await app.journal(handle.id, 0)]
        await trial.advance(hours=1, minutes=1)
        assert await status_of(app, handle.id) == "gone"
        assert not [event for event in await journals(app.store) if b"secret" in event.data]
        (line,) = archived(tmp_path / "archive")
        assert line.view() == seen and line.era == 3
        assert [event.n for event in line.journal()] == [0, *said]
        assert sum(b"secret" in event.data for event in line.journal()) >= 3


async def test_an_era_that_can_be_read_no_more_is_emptied_while_the_process_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eras, "ERAS_KEPT_MAX", 2)
    app, rounds = endless(None, 6)
    async with Trial(app, memory) as trial:
        handle = await app.start(rounds, 1)
        await trial.run_until_idle()
        assert await status_of(app, handle.id) == "done"
        found = await journals(app.store)
        left = {n for event in found for n in range(1, 7) if b"secret%d " % n in event.data}
        assert left == {5, 6}


async def test_an_end_that_is_still_to_be_told_is_told_before_it_is_gone(tmp_path: Path) -> None:
    hourly = Retry(attempts=30, base_seconds=HOUR, cap_seconds=HOUR)
    secret = f"whsec_{'A' * 32}"
    app, short, _ = declared(None, webhooks=Webhooks([secret], allow_loopback=True, retry=hourly))
    async with Trial(app, memory) as trial:
        nobody = "http://127.0.0.1:9/"  # the discard port: nothing listens there
        handle = await app.start(short, "a", notify=nobody)
        await trial.run_until_idle()
        await trial.advance(hours=1, minutes=1)
        assert await status_of(app, handle.id) == "done", "its hour is over, and somebody waits"
        assert (await app.notice(handle.id)).status == "pending"
        await trial.advance(hours=40)
        assert await status_of(app, handle.id) in ("gone", "nothing")
