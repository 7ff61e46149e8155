"""What a SQLite store finds when it examines itself, for `outlive doctor`.

Every check reads, on a connection of its own, and none waits for a writer. A check that itself
fails is a finding too: the others still speak. What is not looked at: the meaning of the events,
blobs, and whether the disk tells the truth about a flush.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import apsw

from outlive.clock import MICROS, Clock
from outlive.errors import OutliveError
from outlive.model import Event
from outlive.store import Finding
from outlive.stores import place, sql
from outlive.stores.chain import GENESIS, verify
from outlive.stores.migrate import pending
from outlive.stores.presence import Presence
from outlive.stores.sqlite_group import PLACE_BITS

if TYPE_CHECKING:
    from outlive.stores.sqlite_file import SQLiteFile

CHAIN_EVENTS = 1000
"""Events at the end of each shard whose chain is verified."""
QUICK_CHECK_SECONDS_MAX = 60.0
BUSY_MILLISECONDS = 1000
WAL_BYTES_WARN = 256 * 1024 * 1024
FREE_BYTES_WARN = 256 * 1024 * 1024
CLOCK_AHEAD_SECONDS_WARN = 60.0
_PROGRESS_OPCODES = 100_000
_RESTORE = "keep the file, restore the last backup, check the disk"

_SEQ_MASK = (1 << PLACE_BITS) - 1

Level = Literal["ok", "warn", "fail"]
Findings = Iterator[Finding]
Check = Callable[["Examination"], Findings]


class Examination:
    """One look at a store that is open: `file`, the `presence` of its nodes, the host's `clock`."""

    def __init__(
        self, file: SQLiteFile, db: apsw.Connection, presence: Presence, clock: Clock
    ) -> None:
        self.file = file
        self.db = db
        self.presence = presence
        self.clock = clock

    def rows(self, name: str, *values: apsw.SQLiteValue) -> list[tuple[apsw.SQLiteValue, ...]]:
        return list(self.db.execute(self.file.sql[name], values))


def examine(file: SQLiteFile, presence: Presence, clock: Clock) -> list[Finding]:
    """Everything that can be said about the open store `file`; blocks, so not for an event loop."""
    found: list[Finding] = []
    try:
        db = file.connect(writes=False)
    except (apsw.Error, OSError) as error:
        return [Finding("file", "fail", f"cannot be opened: {error}", _RESTORE)]
    try:
        db.set_busy_timeout(BUSY_MILLISECONDS)
        examination = Examination(file, db, presence, clock)
        for check in CHECKS:
            name = check.__name__.strip("_").replace("_", " ")
            try:
                found += check(examination)
            except (apsw.CorruptError, apsw.NotADBError) as error:
                found.append(Finding(name, "fail", f"the file is damaged: {error}", _RESTORE))
            except (apsw.Error, OSError, OutliveError) as error:
                remedy = "try again; if it lasts, look at the disk and at who holds the file"
                found.append(Finding(name, "warn", f"could not be looked at: {error}", remedy))
    finally:
        file.disconnect(db)
    return found


def _engine(look: Examination) -> Findings:
    version = apsw.sqlite_lib_version()
    try:
        place.check_engine(version)
    except OutliveError as error:
        yield Finding("engine", "fail", error.detail, error.remedy)
    else:
        least = ".".join(map(str, place.ENGINE_MIN))
        yield Finding("engine", "ok", f"SQLite {version} (at least {least} is needed)")


def _durability(look: Examination) -> Findings:
    mode = look.db.pragma("journal_mode")
    if mode != "wal":
        remedy = "end whatever changed it, and restart: opening sets it back to wal"
        yield Finding("durability", "fail", f"the journal mode is {mode}, not wal", remedy)
        return
    text = (
        "durable = flushed to one disk before the answer (WAL, synchronous=FULL); relaxed = power "
        "loss may take the last moments"
    )
    yield Finding("durability", "ok", text)


def _place(look: Examination) -> Findings:
    path = look.file.path
    kind = place.file_system(path.parent)
    if kind in place.NETWORK_TYPES:
        remedy = "move the store to a local disk"
        yield Finding("file system", "fail", f"{kind} is a network file system", remedy)
    elif kind in ("tmpfs", "ramfs"):
        remedy = "move the store to a disk if it must outlive the machine's next boot"
        yield Finding("file system", "warn", f"{kind} lies in memory: a reboot takes all", remedy)
    else:
        yield Finding("file system", "ok", kind or "not named by the kernel")
    free = place.free_bytes(path)
    level: Level = (
        "fail" if free < place.FREE_BYTES_MIN else "warn" if free < FREE_BYTES_WARN else "ok"
    )
    remedy = "" if level == "ok" else "free space on the volume that holds the store"
    yield Finding("space", level, f"{free / 1e9:.2f} GB free beside {path.name}", remedy)
    try:
        place.check_writable(path)
    except OutliveError as error:
        yield Finding("access", "fail", error.detail, error.remedy)
    else:
        yield Finding("access", "ok", "file and folder can be written")


def _schema(look: Examination) -> Findings:
    applied = [
        (number, name, checksum)
        for number, name, checksum in look.db.execute(look.file.sql["migrations"])
    ]
    shipped = sql.migrations("sqlite")
    try:
        missing = pending(shipped, applied)
    except OutliveError as error:
        yield Finding("schema", "fail", error.detail, error.remedy)
        return
    if missing:
        remedy = "restart the service: opening brings the schema up to date"
        yield Finding("schema", "warn", f"{len(missing)} migrations are not applied", remedy)
    else:
        yield Finding("schema", "ok", f"at {applied[-1][0]}, as this release ships it")


def _integrity(look: Examination) -> Findings:
    until = look.clock.boot() + QUICK_CHECK_SECONDS_MAX
    look.db.set_progress_handler(lambda: look.clock.boot() > until, _PROGRESS_OPCODES)
    try:
        said = [str(row[0]) for row in look.db.execute("PRAGMA quick_check(10)")]
    except apsw.InterruptError:
        remedy = "run `PRAGMA quick_check` in the sqlite3 shell on a copy of the file"
        text = f"not finished within {QUICK_CHECK_SECONDS_MAX:.0f} s; no damage seen so far"
        yield Finding("integrity", "warn", text, remedy)
        return
    finally:
        look.db.set_progress_handler(None)
    if said == ["ok"]:
        yield Finding("integrity", "ok", "quick_check found nothing")
    else:
        yield Finding("integrity", "fail", "; ".join(said), _RESTORE)


def _log(look: Examination) -> Findings:
    size = 0
    with suppress(FileNotFoundError):
        size = look.file.path.with_name(look.file.path.name + "-wal").stat().st_size
    level: Level = "ok"
    remedy = ""
    if size > WAL_BYTES_WARN:
        level = "warn"
        remedy = "find the process that keeps a read transaction open (a shell, a backup); end it"
    yield Finding("log", level, f"the WAL has {size / 1e6:.1f} MB", remedy)


def _kept(look: Examination) -> Findings:
    ((events, size, erased),) = look.rows("doctor_kept")
    page, pages, free = (
        look.db.pragma(name) for name in ("page_size", "page_count", "freelist_count")
    )
    text = (
        f"{events} events with {_megabytes(size)} of data, {erased} of them erased; of the file's "
        f"{_megabytes(page * pages)} {_megabytes(page * free)} are free for what comes"
    )
    yield Finding("kept", "ok", text)


def _megabytes(size: object) -> str:
    assert isinstance(size, int)
    return f"{size / 1e6:.1f} MB"


def _chain(look: Examination) -> Findings:
    broken: list[str] = []
    count = 0
    for shard, _owner, _epoch, head in look.rows("shards"):
        assert isinstance(shard, int) and isinstance(head, int)
        base = shard << PLACE_BITS
        first = max(0, head - CHAIN_EVENTS)
        before = look.rows("chain_at", base | first)
        previous = before[0][0] if before else GENESIS
        events = [
            Event(shard, at & _SEQ_MASK, stream, n, kind, data, time, chain)
            for at, stream, n, kind, time, data, chain in look.db.execute(
                look.file.sql["tail"], (base | first, base | head + 1, CHAIN_EVENTS)
            )
        ]
        count += len(events)
        assert isinstance(previous, bytes)
        wrong = verify(events, previous)
        if wrong is not None or len(events) != head - first:
            at = wrong or (events[-1].seq if events else first) + 1
            broken.append(f"shard {shard} from event {at} on")
    if broken:
        text = "events were changed or are missing: " + ", ".join(broken)
        yield Finding("chain", "fail", text, _RESTORE)
    else:
        yield Finding("chain", "ok", f"the last {count} events are as they were committed")


def _owners(look: Examination) -> Findings:
    rows = look.rows("shards")
    worked_on = [(row[0], str(row[1])) for row in rows if row[3]]
    gone = look.presence.departed(sorted({owner for _, owner in worked_on if owner}))
    idle = [shard for shard, owner in worked_on if not owner]
    left = [shard for shard, owner in worked_on if owner in gone]
    owned = sum(bool(row[1]) for row in rows)
    if not idle and not left:
        yield Finding("owners", "ok", f"{owned} of {len(rows)} shards have an owner")
        return
    text = f"{len(idle)} of {len(worked_on)} shards with events have no owner"
    if left:
        text += f", and the owner of {len(left)} is dead"
    yield Finding("owners", "warn", text, "nothing goes on there until a service is started")


def _time(look: Examination) -> Findings:
    high = look.rows("store_read")[0][3]
    assert isinstance(high, int)
    ahead = (high - look.clock.wall()) / MICROS
    if ahead > CLOCK_AHEAD_SECONDS_WARN:
        text = (
            f"the store's clock is {ahead:.0f} s ahead of this host's, and stands still till then"
        )
        remedy = "mend the host's clock (NTP); deadlines wait until it has caught up"
        yield Finding("clock", "warn", text, remedy)
    else:
        yield Finding("clock", "ok", "the host's clock is not behind the store's")


def _second_copy(look: Examination) -> Findings:
    others = place.second_copy_libraries()
    if place.foreign_descriptors(look.file.path):
        text = "another copy of SQLite in this process has the file open; it can be corrupted"
        remedy = "close that connection (sqlite3, SQLAlchemy …); reach tables by `run.transact`"
        yield Finding("second copy", "fail", text, remedy)
    elif others:
        text = f"loaded, and does not have the file open: {', '.join(others)}"
        yield Finding("second copy", "ok", text)
    else:
        yield Finding("second copy", "ok", "no other copy of SQLite is loaded in this process")


CHECKS: tuple[Check, ...] = (
    _engine,
    _durability,
    _place,
    _schema,
    _integrity,
    _log,
    _kept,
    _chain,
    _owners,
    _time,
    _second_copy,
)
