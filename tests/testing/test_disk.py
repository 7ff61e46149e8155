"""A watched disk shows every call before it is made, and lets nothing pass that was refused."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from outlive.errors import StoreFull, StoreUnavailable
from outlive.stores.blobs import FileBlobs
from outlive.testing.disk import Call, Watch, watched


class Notes(Watch):
    """Writes down what was made, and refuses what it is told to."""

    def __init__(self) -> None:
        self.asked: list[Call] = []
        self.made: list[str] = []
        self.error: apsw.Error | None = None

    def before(self, call: Call) -> None:
        self.asked.append(call)
        if self.error is not None:
            raise self.error

    def after(self, call: Call) -> None:
        self.made.append(str(call))


def write_rows(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as db:
        db.execute("PRAGMA journal_mode=wal").fetchall()
        db.execute("PRAGMA synchronous=full").fetchall()
        db.execute("CREATE TABLE row (id INTEGER)")


def test_what_sqlite_does_is_shown_in_its_order(tmp_path: Path) -> None:
    notes = Notes()
    with watched(notes):
        write_rows(tmp_path / "a.db")
    log = [said for said in notes.made if said.endswith("a.db-wal")]
    assert log[:3] == ["create a.db-wal", "write 32 bytes at 0 a.db-wal", "sync a.db-wal"]
    assert log[-2:] == ["sync a.db-wal", "delete a.db-wal"]
    assert f"sync folder {tmp_path.name}" in notes.made
    assert {call.what for call in notes.asked} >= {"access", "lock", "read", "size", "truncate"}
    seen = len(notes.asked)
    with closing(apsw.Connection(str(tmp_path / "a.db"))) as db:
        assert db.execute("SELECT count(*) FROM row").get == 0
    assert len(notes.asked) == seen, "nobody looks any more"


def test_the_folder_is_flushed_where_the_log_says_so(tmp_path: Path) -> None:
    """The recorder believes SQLite's source; the system calls are asked whether it is so."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); "
        "from tests.testing.test_disk import write_rows; write_rows(Path(sys.argv[2]))"
    )
    root = Path(__file__).resolve().parents[2]
    trace = tmp_path / "trace"
    calls = "trace=openat,fsync,fdatasync,unlink,pwrite64"
    command = ["strace", "-f", "-y", "-e", calls, "-o", str(trace), sys.executable, "-c", code]
    try:
        subprocess.run([*command, str(root), str(tmp_path / "a.db")], check=True, timeout=120)
    except FileNotFoundError:
        pytest.fail("strace is not installed, so SQLite's own flushes cannot be seen")
    lines = trace.read_text().splitlines()
    flushes = [line for line in lines if "sync(" in line]
    first = next(at for at, line in enumerate(flushes) if "a.db-wal>" in line)
    assert f"<{tmp_path}>" in flushes[first + 1], "the folder, behind the log's first flush"


async def test_what_was_refused_is_not_made(tmp_path: Path) -> None:
    notes = Notes()
    with watched(notes) as disk:
        blobs = FileBlobs(tmp_path / "blobs", files=disk.files)
        for error, kind in (
            (apsw.FullError("no"), StoreFull),
            (apsw.IOError("no"), StoreUnavailable),
        ):
            notes.error = error
            with pytest.raises(kind):
                await blobs.put(b"x")
            with pytest.raises(apsw.Error):
                write_rows(tmp_path / "a.db")
        assert not list(tmp_path.iterdir()) and notes.made == []
        notes.error = None
        name = await blobs.put(b"x")
    parts = [said.partition(" ")[0] + said[said.rfind(" ") :][:6] for said in notes.made]
    assert parts == [
        "folder blobs", f"sync {tmp_path.name[:5]}", "create .new-", "write .new-", "sync .new-",
        "rename .new-", "sync blobs",
    ]  # fmt: skip
    assert await blobs.get(name) == b"x"
