"""What is carried arrives whole, once, and old tokens are worth nothing after a restore."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stores.faults import note
from tests.stores.filling import everything, fill

from outlive import ids
from outlive.errors import (
    ArchiveDamaged,
    Conflict,
    Fenced,
    StoreCorrupt,
    StoreIncomplete,
    StoreMoved,
    StoreNotEmpty,
    StoreRefused,
)
from outlive.model import Batch, Put, Ref, Require
from outlive.stores.address import store_at
from outlive.stores.contents import PAGE_ROWS
from outlive.stores.moving import (
    EPOCH_LEAP,
    VERSION_LEAP,
    backup,
    check,
    give_up,
    move,
    place_at,
    restore,
)

ROOT = Path(__file__).resolve().parents[2]


def silent(*_: object) -> None:
    """Nobody watches the progress."""


async def filled(address: str, seed: int = 7, batches: int = 40) -> Any:
    """The rows of a new store at `address`, filled and closed."""
    store: Any = store_at(address)
    await store.open()
    await fill(store, seed, batches)
    await store.close()
    return await rows_at(address)


async def rows_at(address: str) -> Any:
    async with place_at(address) as place:
        return await everything(place)


async def backed_up(address: str, file: Path) -> Any:
    async with place_at(address) as place:
        return await backup(place, file, silent)


async def restored(file: Path, address: str) -> Any:
    async with place_at(address) as place:
        return await restore(file, place, silent)


async def moved(old: str, new: str) -> Any:
    async with place_at(old) as source, place_at(new) as target:
        return await move(source, target, silent)


async def sound(address: str) -> bool:
    async with place_at(address) as place:
        return not (await check(place, silent)).faults


@pytest.fixture
def files(tmp_path: Path) -> Callable[[str], str]:
    return lambda name: f"sqlite:///{tmp_path}/{name}.db"


@pytest.fixture
def schema(postgres: str) -> str:
    """The address of a schema that is not there."""
    return f"{postgres}?schema=store_{ids.token(40)}"


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32), batches=st.integers(0, 60))
async def test_any_store_comes_back_as_it_was_through_both_databases(
    postgres: str, seed: int, batches: int
) -> None:
    """SQLite → archive → PostgreSQL → archive → SQLite → moved → PostgreSQL → moved → SQLite."""
    with tempfile.TemporaryDirectory() as folder:
        first, second, third = (f"sqlite:///{folder}/{name}.db" for name in "abc")
        one, two = (f"{postgres}?schema=store_{ids.token(40)}" for _ in range(2))
        rows = await filled(first, seed, batches)
        report = await backed_up(first, Path(folder, "one"))
        await restored(Path(folder, "one"), one)
        assert await rows_at(one) == rows
        again = await backed_up(one, Path(folder, "two"))
        assert (again.counts, again.digests) == (report.counts, report.digests)
        await restored(Path(folder, "two"), second)
        assert await rows_at(second) == rows
        await moved(second, two)
        assert await rows_at(two) == rows
        await moved(two, third)
        assert await rows_at(third) == rows
        assert await sound(third)


async def test_a_restored_store_serves_and_gives_out_nothing_twice(
    files: Callable[[str], str], schema: str, tmp_path: Path
) -> None:
    store: Any = store_at(files("old"))
    await store.open()
    lease = await store.take(3, 0, "n")
    ref = Ref("jobs", "1")
    await store.commit(note(lease, "s", 0))
    await store.commit(Batch(put=(Put(ref, b"job", due=1),)))
    (claimed,) = await store.claim(["jobs"], 1, 0.05)
    await backed_up(files("old"), tmp_path / "backup")
    (version,) = (await store.commit(Batch(put=(Put(Ref("a", "after"), b""),)))).versions
    taken = await store.take(3, lease.epoch, "m")
    await store.close()
    for address in (files("new"), schema):
        await restored(tmp_path / "backup", address)
        new: Any = store_at(address)
        await new.open()
        assert new.shards == 16 and new.incarnation != store.incarnation
        shards = await new.owners()
        assert {shard.owner for shard in shards} == {""}
        assert shards[3].epoch > taken.epoch + EPOCH_LEAP // 2
        for stale in (lease, taken):
            with pytest.raises(Fenced):
                await new.commit(note(stale, "s", 1))
        drawn = (await new.commit(Batch(put=(Put(Ref("a", "b"), b""),)))).versions[0]
        assert drawn > version and drawn > VERSION_LEAP
        async with asyncio.timeout(20):  # the claim of before lapses, and is handed out anew
            while not (again := await new.claim(["jobs"], 1, 5)):
                await asyncio.sleep(0.01)
        assert again[0].version > drawn
        with pytest.raises(Conflict):
            await new.commit(Batch(require=(Require(ref, claimed.version),), drop=(ref,)))
        fresh = await new.take(3, shards[3].epoch, "x")
        await new.commit(note(fresh, "s", 1))
        assert await new.now() >= claimed.due - 50_000
        await new.close()
        assert await sound(address)


async def test_a_moved_store_is_the_same_store_and_the_old_one_is_refused(
    files: Callable[[str], str], schema: str
) -> None:
    rows = await filled(files("old"))
    old: Any = store_at(files("old"))
    await old.open()
    counter = (await old.commit(Batch(put=(Put(Ref("a", "b"), b""),)))).versions[0]
    before = await old.owners()
    await old.close()
    report = await moved(files("old"), schema)
    assert report.counts["events"] == len(rows["events"])
    with pytest.raises(StoreMoved, match=r"was moved to postgresql://127\.0\.0\.1") as refused:
        await store_at(files("old")).open()
    assert "@" not in refused.value.detail
    new: Any = store_at(schema)
    await new.open()
    assert (new.incarnation, new.shards) == (old.incarnation, 16)
    after = await new.owners()
    assert [(shard.owner, shard.epoch, shard.head) for shard in after] == [
        ("", shard.epoch + 1, shard.head) for shard in before
    ]
    assert (await new.commit(Batch(put=(Put(Ref("a", "b"), b""),)))).versions[0] > counter
    await new.close()
    assert not (await moved(files("old"), schema)).done
    with pytest.raises(StoreMoved, match="nothing was done"):
        await moved(files("old"), files("elsewhere"))


DYING = """
import asyncio, os, signal, sys
from pathlib import Path
from outlive.stores import moving

old, new, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
made = 0

def dying(verb):
    async def call(self, *given):
        global made
        made += 1
        if made == at:
            os.kill(os.getpid(), signal.SIGKILL)
        await verb(self, *given)
        made += 1
        if made == at:
            os.kill(os.getpid(), signal.SIGKILL)
    return call

def arm(place):
    for name in ("freeze", "prepare", "write", "conclude", "release"):
        setattr(type(place), name, dying(getattr(type(place), name)))

async def work():
    async with moving.place_at(new) as target:
        arm(target)
        if "://" not in old:
            await moving.restore(Path(old), target, lambda *_: None)
            return
        async with moving.place_at(old) as source:
            arm(source)
            await moving.move(source, target, lambda *_: None)

asyncio.run(work())
print(made)
"""


def dies(old: str, new: str, at: int) -> bool:
    """Move `old` to `new` in a process that is killed at its `at`-th act; False if it has fewer."""
    done = run(
        [sys.executable, "-c", DYING, old, new, str(at)], cwd=ROOT, capture_output=True,
        text=True, env=os.environ, timeout=60,
    )  # fmt: skip
    assert done.returncode in (0, -9), done.stderr
    return done.returncode == -9


async def opens(address: str) -> bool:
    store = store_at(address)
    try:
        await store.open()
    except (StoreMoved, StoreIncomplete):
        return False
    await store.close()
    return True


@pytest.mark.crash
@pytest.mark.slow
@pytest.mark.parametrize("way", ["to postgres", "from postgres"])
async def test_a_move_that_is_killed_anywhere_goes_on_and_only_one_end_is_ever_served(
    files: Callable[[str], str], postgres: str, way: str
) -> None:
    deaths = 0
    for at in range(1, 100):
        ends = [files(f"{way[0]}{at}"), f"{postgres}?schema=store_{ids.token(40)}"]
        old, new = ends if way == "to postgres" else reversed(ends)
        rows = await filled(old, batches=6)
        killed = await asyncio.to_thread(dies, old, new, at)
        if killed:
            deaths += 1
            async with place_at(old) as source, place_at(new) as target:
                begun = await target.halt()
                halted = await source.halt()
            assert halted is not None or begun is None
            if halted is not None:  # frozen: then nobody may open both
                assert not await opens(old)
            await moved(old, new)
        assert not await opens(old) and await opens(new)
        assert await rows_at(new) == rows
        if not killed:
            break
    assert deaths > 10


@pytest.mark.crash
async def test_a_move_that_is_killed_between_pages_goes_on_behind_the_last(
    files: Callable[[str], str], schema: str
) -> None:
    rows = await filled(files("old"), batches=400)
    assert len(rows["events"]) > 500
    for at in (8, 3):  # behind the first page of events; before the second
        assert await asyncio.to_thread(dies, files("old"), schema, at)
    told: list[tuple[str, str, int, int]] = []
    async with place_at(files("old")) as source, place_at(schema) as target:
        await move(source, target, lambda *what: told.append(what))
    assert await rows_at(schema) == rows
    carried = [
        done for phase, section, done, _ in told if (phase, section) == ("copying", "events")
    ]
    assert carried == [len(rows["events"]) - PAGE_ROWS, len(rows["events"])]


@pytest.mark.crash
async def test_a_restore_that_is_killed_anywhere_goes_on(
    files: Callable[[str], str], tmp_path: Path
) -> None:
    rows = await filled(files("old"), batches=6)
    await backed_up(files("old"), tmp_path / "backup")
    deaths = 0
    for at in range(2, 100, 2):  # after each act
        new = files(f"new{at}")
        killed = await asyncio.to_thread(dies, str(tmp_path / "backup"), new, at)
        deaths += killed
        assert not killed or at >= 14 or not await opens(new)
        if killed and at < 14:  # the last act was to let it be served
            await restored(tmp_path / "backup", new)
        assert await opens(new) and await rows_at(new) == rows
        if not killed:
            break
    assert deaths == 7  # prepare, four sections, conclude, release


async def test_a_move_can_be_given_up_until_it_is_done(
    files: Callable[[str], str], schema: str
) -> None:
    await filled(files("old"))
    assert await asyncio.to_thread(dies, files("old"), schema, 6)
    assert not await opens(files("old"))
    async with place_at(files("old")) as source, place_at(schema) as target:
        await give_up(source, target)
        with pytest.raises(StoreRefused, match="No move"):
            await give_up(source, target)
    assert await opens(files("old")) and not await opens(schema)
    with pytest.raises(StoreNotEmpty, match="already being filled"):
        await moved(files("old"), schema)
    assert await opens(files("old")), "what was refused before it began leaves no trace"
    await moved(files("old"), files("new"))
    async with place_at(files("old")) as source, place_at(files("new")) as target:
        with pytest.raises(StoreMoved):
            await give_up(source, target)


async def test_a_damaged_store_is_not_moved_and_goes_on(files: Callable[[str], str]) -> None:
    import apsw

    await filled(files("old"))
    with apsw.Connection(files("old").removeprefix("sqlite:///")) as db:
        db.execute("DELETE FROM outlive_mark").fetchall()
    db.close()
    with pytest.raises(StoreCorrupt, match="It was not moved"):
        await moved(files("old"), files("new"))
    assert await opens(files("old"))
    assert not Path(files("new").removeprefix("sqlite:///")).exists()


async def test_a_damaged_archive_makes_no_store(
    files: Callable[[str], str], tmp_path: Path
) -> None:
    await filled(files("old"))
    await backed_up(files("old"), tmp_path / "backup")
    whole = (tmp_path / "backup").read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:500] + b"x" + whole[501:]):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(ArchiveDamaged):
            await restored(tmp_path / "damaged", files("new"))
    assert not Path(files("new").removeprefix("sqlite:///")).exists()


async def test_only_an_empty_place_is_filled_and_a_half_filled_one_is_no_store(
    files: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from outlive.stores.sqlite_contents import SQLitePlace

    rows = await filled(files("old"))
    await backed_up(files("old"), tmp_path / "backup")
    with pytest.raises(StoreNotEmpty):
        await restored(tmp_path / "backup", files("old"))
    write = SQLitePlace.write

    async def failing(self: SQLitePlace, section: Any, given: Any) -> None:
        if section == "cells":
            raise OSError("the disk is gone")
        await write(self, section, given)

    monkeypatch.setattr(SQLitePlace, "write", failing)
    with pytest.raises(OSError, match="gone"):
        await restored(tmp_path / "backup", files("new"))
    monkeypatch.undo()
    assert not await opens(files("new"))
    for verb in (check, lambda place, told: backup(place, tmp_path / "x", told)):
        async with place_at(files("new")) as place:
            with pytest.raises(StoreIncomplete, match="the archive backup"):
                await verb(place, silent)
    await restored(tmp_path / "backup", files("new"))
    assert await opens(files("new")) and await rows_at(files("new")) == rows


async def test_a_store_that_is_moved_to_itself_under_another_name_goes_on(schema: str) -> None:
    from outlive.stores.postgres_contents import PostgresPlace

    await filled(schema, batches=5)
    place, alias = PostgresPlace(schema), PostgresPlace(schema)
    alias.address = "postgresql://another.name/of/the-same"
    try:
        with pytest.raises(StoreNotEmpty, match="is the store that is to be moved"):
            await move(place, alias, silent)
    finally:
        await place.close()
        await alias.close()
    assert await opens(schema)


async def test_what_was_written_otherwise_than_read_is_not_served(
    files: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from outlive.stores.sqlite_contents import SQLitePlace

    await filled(files("old"))
    write = SQLitePlace.write

    async def altering(self: SQLitePlace, section: Any, given: Any) -> None:
        rows = [(*row[:5], row[5] + b"!") for row in given] if section == "cells" else given
        await write(self, section, rows)

    monkeypatch.setattr(SQLitePlace, "write", altering)
    with pytest.raises(StoreCorrupt, match=r"not what was read \(cells differ\)"):
        await moved(files("old"), files("new"))
    assert not await opens(files("new"))


@pytest.mark.parametrize("ends", ["given up", "ended by another run"])
async def test_a_move_that_is_overtaken_takes_nothing_from_who_serves_by_now(
    files: Callable[[str], str], schema: str, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """It stands still before its last act, and the world goes on meanwhile."""
    from outlive.stores.postgres_contents import PostgresPlace

    await filled(files("old"))
    conclude = PostgresPlace.conclude
    served: dict[str, Any] = {}

    async def late(self: PostgresPlace, facts: Any) -> None:
        monkeypatch.setattr(PostgresPlace, "conclude", conclude)
        address = files("old") if ends == "given up" else schema
        if ends == "given up":
            async with place_at(files("old")) as source, place_at(schema) as target:
                await give_up(source, target)
        else:
            await moved(files("old"), schema)
        store: Any = store_at(address)
        await store.open()
        (owner, *_) = await store.owners()
        served["lease"] = await store.take(0, owner.epoch, "n")
        await store.commit(note(served["lease"], "new", 0, key="new"))
        served["store"] = store
        await conclude(self, facts)

    monkeypatch.setattr(PostgresPlace, "conclude", late)
    with pytest.raises((StoreMoved, StoreNotEmpty), match="meanwhile"):
        await moved(files("old"), schema)
    store = served["store"]
    await store.commit(note(served["lease"], "new", 1))
    assert await store.lengths(["new"]) == {"new": 2}
    await store.close()
    assert await sound(files("old") if ends == "given up" else schema)


async def test_of_two_moves_at_once_one_begins(files: Callable[[str], str]) -> None:
    rows = await filled(files("old"))
    ends = await asyncio.gather(
        moved(files("old"), files("one")), moved(files("old"), files("two")), return_exceptions=True
    )
    assert sorted(isinstance(end, StoreMoved) for end in ends) == [False, True]
    assert [await rows_at(files(name)) for name, end in zip(("one", "two"), ends, strict=True)
            if not isinstance(end, StoreMoved)] == [rows]  # fmt: skip
