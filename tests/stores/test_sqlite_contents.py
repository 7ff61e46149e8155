"""The contents of a SQLite file: one moment of a live store, and every planted corruption found."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from subprocess import run
from typing import Any

import apsw
import pytest
from tests.stores.faults import note, opened
from tests.stores.filling import everything, fill
from tests.stores.later import release_to_come

from outlive.errors import SchemaBehind, StoreCorrupt, StoreMoved, StoreNotEmpty, StoreRefused
from outlive.model import Batch, Put, Ref
from outlive.stores import sql
from outlive.stores.contents import SECTIONS
from outlive.stores.moving import backup, check, place_at
from outlive.stores.sqlite import SQLiteStore
from outlive.stores.sqlite_contents import SQLitePlace

ROOT = Path(__file__).resolve().parents[2]


def silent(*_: object) -> None:
    """Nobody watches the progress."""


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    """The file of a store that was filled and closed."""
    store = SQLiteStore(tmp_path / "store.db", shards=4)
    await store.open()
    await fill(store, 7)
    await store.close()
    return tmp_path / "store.db"


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = await opened(tmp_path / "store.db", shards=4)
    await fill(store, 7)
    yield store
    await store.close()


def altered(file: Path, statement: str) -> None:
    """Change a closed file behind the store's back."""
    with apsw.Connection(str(file)) as db:
        db.execute(statement).fetchall()
    db.close()


async def faults_of(file: Path) -> tuple[str, ...]:
    async with place_at(f"sqlite:///{file}") as place:
        return (await check(place, silent)).faults


async def test_a_sound_store_has_no_faults_and_looking_leaves_nothing(file: Path) -> None:
    before = sorted(path.name for path in file.parent.iterdir())
    for _ in range(2):
        assert await faults_of(file) == ()
    left = {path.name for path in file.parent.iterdir()} - {"store.db-wal", "store.db-shm"}
    assert left == set(before) - {"store.db-wal", "store.db-shm"}


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "UPDATE outlive_event SET data = CAST('x' || data AS BLOB) WHERE n = 1",
            "is not what was committed (chain broken)",
        ),
        ("UPDATE outlive_event SET n = n + 100 WHERE n = 0", "numbered"),
        ("DELETE FROM outlive_event WHERE n = 1", "is missing"),
        (
            "DELETE FROM outlive_event WHERE place = (SELECT max(place) FROM outlive_event)",
            "its last event is",
        ),
        ("UPDATE outlive_shard SET head = head + 1 WHERE head > 0", "its head is"),
        ("UPDATE outlive_shard SET head = 0", "its head is 0"),
        ("DELETE FROM outlive_shard WHERE id = 3", "shards: 3 rows, and the store counts 4"),
        ("DELETE FROM outlive_mark WHERE value = 'a'", "=a is missing"),
        (
            "INSERT INTO outlive_mark VALUES ('state', 'zz', 'proc', 'k')",
            "mark state=zz of cell proc/k: the cell does not have it",
        ),
        (
            "UPDATE outlive_cell SET marks = '[[' WHERE marks <> '[]'",
            "could not be done",
        ),
        ("UPDATE outlive_cell SET version = version + 1000000", "was never drawn"),
        ("UPDATE outlive_store SET version = 1", "was never drawn"),
        ("UPDATE outlive_hold SET epoch = epoch + 1", "in its ledger is above its own"),
    ],
)
async def test_every_planted_corruption_is_found(file: Path, statement: str, said: str) -> None:
    altered(file, statement)
    found = await faults_of(file)
    assert any(said in fault for fault in found), found


async def test_a_blob_that_was_cut_or_is_gone_is_named(file: Path) -> None:
    first, second, *_ = sorted((file.parent / "store.db-blobs").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    second.unlink()
    found = await faults_of(file)
    assert any(f"blob {first.name} is not what was put" in fault for fault in found)
    assert any(f"blob {second.name} is named by a cell" in fault for fault in found)


async def test_a_damaged_page_is_found(file: Path) -> None:
    altered(file, "PRAGMA wal_checkpoint(TRUNCATE)")
    whole = bytearray(file.read_bytes())
    page = whole.index(b"signal") // 4096 * 4096  # one of the events'
    whole[page : page + 64] = b"\xff" * 64
    file.write_bytes(whole)
    found = await faults_of(file)
    assert any("file: " in fault for fault in found), found


async def test_a_backup_of_a_damaged_store_is_not_made(file: Path, tmp_path: Path) -> None:
    altered(file, "UPDATE outlive_shard SET head = head + 1 WHERE head > 0")
    async with place_at(f"sqlite:///{file}") as place:
        with pytest.raises(StoreCorrupt, match="No backup was made"):
            await backup(place, tmp_path / "x", silent)
    assert not list(tmp_path.glob("*x*"))


async def test_contents_are_of_one_moment_whatever_is_written_meanwhile(live: SQLiteStore) -> None:
    (lease, *_) = [await live.take(shard.id, shard.epoch, "n") for shard in await live.owners()]
    place = SQLitePlace(live.path)
    before = await everything(place)
    source = await place.source()
    pages: dict[str, list[Any]] = {section: [] for section in SECTIONS}
    blobs = Path(f"{live.path}-blobs")
    for section in SECTIONS:
        for n in range(20):
            await live.commit(note(lease, f"later-{section}", n, key=f"{section}{n}"))
        for blob in list(blobs.iterdir()):  # what no cell names any more may go
            await live.blobs.drop(blob.name)
        await live.blobs.put(b"later")
        async for page in source.pages(section):
            pages[section] += [tuple(row) for row in page]
    assert pages == before
    await place.close()
    assert not list(live.path.parent.glob("*held*"))


@pytest.mark.parametrize("name", ["store.db", "shop [old].db"])
def test_second_names_that_a_death_left_are_removed(file: Path, name: str) -> None:
    for found in list(file.parent.iterdir()):
        found.rename(file.parent / found.name.replace("store.db", name))
    file = file.with_name(name)
    code = (
        "import asyncio, os, sys; from pathlib import Path\n"
        "from outlive.stores.sqlite_contents import SQLitePlace\n"
        "asyncio.run(SQLitePlace(Path(sys.argv[1])).source()); os._exit(9)"
    )
    assert run([sys.executable, "-c", code, file], cwd=ROOT).returncode == 9
    assert list(file.parent.glob("*held*"))
    assert asyncio.run(faults_of(file)) == ()
    assert not list(file.parent.glob("*held*"))


async def test_a_frozen_store_takes_no_write_from_who_has_it_open(live: SQLiteStore) -> None:
    shards = await live.owners()
    lease = await live.take(0, shards[0].epoch, "n")
    place = SQLitePlace(live.path)
    await place.freeze("moving", "postgresql://db/app", "token")
    before = await everything(place)
    put = Put(Ref("a", "b"), b"c")
    with pytest.raises(StoreMoved):
        await live.commit(Batch(put=(put,)))
    with pytest.raises(StoreMoved):
        await live.commit(note(lease, "stream", 0))
    with pytest.raises(StoreMoved):
        await live.take(1, shards[1].epoch, "n")
    with pytest.raises(StoreMoved):
        await live.release(lease)
    with pytest.raises(StoreMoved):
        await live.transact(lambda db: Batch(put=(put,)))
    with pytest.raises(StoreMoved):
        await live.claim(["proc"], 10, 5)
    with pytest.raises(StoreMoved, match="being moved to postgresql://db/app"):
        await SQLiteStore(live.path).open()
    assert await everything(place) == before
    await place.thaw("token")
    await live.commit(Batch(put=(put,)))
    await place.close()


async def test_only_a_place_that_was_never_used_is_filled(file: Path, tmp_path: Path) -> None:
    place = SQLitePlace(file)
    facts = (await place.source()).facts
    with pytest.raises(StoreNotEmpty, match="has been used"):
        await place.prepare(facts, "there", "token")
    await place.close()
    unused = SQLiteStore(tmp_path / "unused.db", shards=9)
    await unused.open()
    await unused.close()
    place = SQLitePlace(tmp_path / "unused.db")
    await place.prepare(facts, "there", "token")
    await place.prepare(facts, "there", "token")
    with pytest.raises(StoreNotEmpty, match="already being filled from there"):
        await place.prepare(facts, "there", "another")
    source = await place.source()
    assert [shard.id for shard in source.facts.shards] == [0, 1, 2, 3]
    await place.close()


async def test_what_is_no_store_or_an_older_one_is_refused(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = SQLitePlace(tmp_path / "none.db")
    with pytest.raises(StoreRefused, match="no store"):
        await place.source()
    shipped = sql.migrations("sqlite")
    assert await place.pending() == shipped and not (tmp_path / "none.db").exists()
    monkeypatch.setattr(sql, "FOLDER", release_to_come(tmp_path))
    with pytest.raises(SchemaBehind, match=rf"{len(shipped) + 1} \(later\)"):
        await SQLitePlace(file).source()
    with pytest.raises(StoreRefused, match="is a file"):
        await place.grant("role")


async def test_the_callers_own_tables_are_named_as_left(live: SQLiteStore) -> None:
    await live.transact(lambda db: (db.execute("CREATE TABLE users (id)") and None) or Batch())
    place = SQLitePlace(live.path)
    assert (await place.source()).facts.left == ("users",)
    await place.close()


FILLING = """
import asyncio, sys
from pathlib import Path
from outlive.model import Append, Batch
from outlive.stores.contents import SECTIONS
from outlive.stores.moving import backup, check, place_at, restore
from outlive.stores.sqlite import SQLiteStore

folder = Path(sys.argv[1])
told = lambda *_: None

async def fill():
    store = SQLiteStore(folder / "big.db", shards=2)
    await store.open()
    lease = await store.take(0, 0, "n")
    data = b"x" * 1000
    for at in range(0, 100_000, 10_000):
        appends = tuple(Append("s", n, "k", data) for n in range(at, at + 10_000))
        await store.commit(Batch(lease=lease, append=appends))
    await store.close()

async def work():
    async with place_at(f"sqlite:///{folder}/big.db") as place:
        assert (await check(place, told)).counts["events"] == 100_000
        await backup(place, folder / "big.archive", told)
    async with place_at(f"sqlite:///{folder}/again.db") as place:
        await restore(folder / "big.archive", place, told)

asyncio.run(fill() if sys.argv[2] == "fill" else work())
# Not ru_maxrss: that begins with what the parent had.
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(int(peak) // 1024)
"""


@pytest.mark.slow
def test_a_hundred_thousand_events_are_carried_in_little_memory(tmp_path: Path) -> None:
    """The store has 100 MB of events; check, backup and restore stay below that."""

    def ran(what: str) -> int:
        command = [sys.executable, "-c", FILLING, str(tmp_path), what]
        done = run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ, timeout=300)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    ran("fill")
    assert (tmp_path / "big.db").stat().st_size > 100_000_000
    assert ran("work") < 100
