"""What the SQLite store finds in itself: all is well, and each thing that is not."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from tests.stores.faults import note, opened

from outlive.clock import ManualClock
from outlive.model import Batch, Lease
from outlive.store import Finding
from outlive.stores import place, sqlite_doctor
from outlive.stores.memory import MemoryStore
from outlive.stores.sqlite import SQLiteStore


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SQLiteStore]:
    made = await opened(tmp_path / "store.db", clock=clock)
    await made.announce("n")
    lease = await made.take(0, 0, "n")
    for n in range(5):
        await made.commit(note(lease, "s", n, key=f"{n}"))
    yield made
    await made.close()


async def found(store: SQLiteStore) -> dict[str, Finding]:
    findings = await store.doctor()
    assert len({finding.name for finding in findings}) == len(findings)
    assert all(finding.remedy for finding in findings if finding.level != "ok")
    return {finding.name: finding for finding in findings}


async def bad(store: SQLiteStore) -> dict[str, str]:
    return {name: item.level for name, item in (await found(store)).items() if item.level != "ok"}


async def test_a_healthy_store_is_well_and_says_what_durable_means(store: SQLiteStore) -> None:
    for _ in range(3):  # looking leaves nothing behind
        findings = await found(store)
        assert {name for name, item in findings.items() if item.level == "fail"} == set()
    assert set(findings) == {
        "access",
        "chain",
        "clock",
        "durability",
        "engine",
        "file system",
        "integrity",
        "kept",
        "log",
        "owners",
        "schema",
        "second copy",
        "space",
    }
    assert "flushed" in findings["durability"].text and "power loss" in findings["durability"].text
    assert apsw.sqlite_lib_version() in findings["engine"].text
    assert "5 events" in findings["chain"].text
    assert await store.tail(0, 4)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE outlive_event SET data = x'00' WHERE n = 3",
        "DELETE FROM outlive_event WHERE n = 4",
        "DELETE FROM outlive_event WHERE n = 2",
        "UPDATE outlive_shard SET head = 9 WHERE id = 0",
        "UPDATE outlive_event SET chain = x'00' WHERE n = 0",
    ],
)
async def test_an_edited_journal_is_found_and_located(store: SQLiteStore, change: str) -> None:
    store._file.writer.execute(change)
    finding = (await found(store))["chain"]
    assert finding.level == "fail" and "shard 0 from event" in finding.text


async def test_an_erased_journal_is_sound(store: SQLiteStore) -> None:
    shard = (await store.owners())[0]
    streams = sorted({event.stream for event in await store.tail(0, 0)})
    await store.erase(streams[:1], Batch(Lease(0, shard.owner, shard.epoch)))
    assert "erased" in {event.kind for event in await store.tail(0, 0)}
    assert "0 of them erased" not in (await found(store))["kept"].text
    assert (await found(store))["chain"].level == "ok"


async def test_only_the_end_of_a_long_shard_is_verified(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_doctor, "CHAIN_EVENTS", 2)
    assert "2 events" in (await found(store))["chain"].text
    store._file.writer.execute("UPDATE outlive_event SET data = x'00' WHERE n = 0")
    assert (await found(store))["chain"].level == "ok"


async def test_a_dead_owner_of_a_shard_with_events_is_named(
    store: SQLiteStore, tmp_path: Path
) -> None:
    assert "owners" not in await bad(store)
    store._presence._mine.clear()  # its lock file stays, and the descriptor …
    (tmp_path / "store.db-nodes" / "n").unlink()
    (tmp_path / "store.db-nodes" / "n").touch()  # … is of another file: as if it had died
    finding = (await found(store))["owners"]
    assert finding.level == "warn" and "the owner of 1 is dead" in finding.text


async def test_a_shard_with_events_and_no_owner_is_a_warning(store: SQLiteStore) -> None:
    held = (await store.owners())[0]
    await store.take(0, held.epoch, "")
    assert (await found(store))["owners"].level == "warn"


async def test_a_host_clock_far_behind_the_stores_is_a_warning(
    store: SQLiteStore, clock: ManualClock
) -> None:
    clock.advance(100)
    await store.commit(Batch())
    clock.advance(-30)
    assert "clock" not in await bad(store)
    clock.advance(-60)
    finding = (await found(store))["clock"]
    assert finding.level == "warn" and "90 s ahead" in finding.text


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("INSERT INTO outlive_migration VALUES (99, 'later', 'x', 0)", "schema"),
        ("UPDATE outlive_migration SET checksum = 'x'", "schema"),
    ],
)
async def test_a_schema_that_is_not_ours_fails(store: SQLiteStore, change: str, name: str) -> None:
    store._file.writer.execute(change)
    assert (await bad(store))[name] == "fail"


async def test_a_missing_migration_is_a_warning(store: SQLiteStore) -> None:
    store._file.writer.execute("DELETE FROM outlive_migration")
    assert (await bad(store))["schema"] == "warn"


async def test_damage_in_the_file_is_found_and_the_other_checks_still_speak(
    tmp_path: Path,
) -> None:
    store = await opened(tmp_path / "torn.db")
    lease = await store.take(0, 0, "n")
    for n in range(50):
        await store.commit(note(lease, "s", n, size=3000))
    await store.close()
    with store.path.open("r+b") as file:
        file.seek(store.path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096 * 3)
    store = await opened(store.path)
    levels = await bad(store)
    assert levels["integrity"] == "fail"
    assert len(await found(store)) == 13
    await store.close()


async def test_a_second_copy_that_opened_the_file_later_fails(store: SQLiteStore) -> None:
    with closing(sqlite3.connect(store.path)) as theirs:
        theirs.execute("SELECT count(*) FROM sqlite_master").fetchone()
        assert (await bad(store))["second copy"] == "fail"
    assert "second copy" not in await bad(store)


def too_old() -> str:
    return "3.40.1"


def nfs(folder: Path) -> str:
    return "nfs4"


def memory(folder: Path) -> str:
    return "tmpfs"


def nothing(path: Path) -> int:
    return 1000


def broken(path: Path) -> int:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("where", "what", "by", "name", "level"),
    [
        (apsw, "sqlite_lib_version", too_old, "engine", "fail"),
        (place, "file_system", nfs, "file system", "fail"),
        (place, "file_system", memory, "file system", "warn"),
        (place, "free_bytes", nothing, "space", "fail"),
        (place, "free_bytes", broken, "place", "warn"),
    ],
)
async def test_a_bad_place_is_said(
    store: SQLiteStore,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    what: str,
    by: Callable[..., object],
    name: str,
    level: str,
) -> None:
    monkeypatch.setattr(where, what, by)
    assert (await bad(store))[name] == level


async def test_a_long_log_and_a_check_without_end_are_warnings(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_doctor, "WAL_BYTES_WARN", 10)
    monkeypatch.setattr(sqlite_doctor, "QUICK_CHECK_SECONDS_MAX", -1.0)
    monkeypatch.setattr(sqlite_doctor, "_PROGRESS_OPCODES", 1)
    levels = await bad(store)
    assert (levels["log"], levels["integrity"]) == ("warn", "warn")


async def test_the_memory_store_says_that_it_is_volatile() -> None:
    store = MemoryStore()
    await store.open()
    assert any("volatile" in finding.text for finding in await store.doctor())
