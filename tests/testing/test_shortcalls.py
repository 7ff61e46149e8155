"""Half a read and half a write, beneath SQLite: it must ask again, and nothing is torn."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import apsw

from outlive.testing.shortcalls import NAMES, ShortCalls
from outlive.testing.witness import PLAN, Verdict, Witness, judge


def rows(path: Path) -> tuple[int, int, str]:
    with closing(apsw.Connection(str(path))) as db:
        db.execute("CREATE TABLE IF NOT EXISTS row (value BLOB)")
        db.execute("INSERT INTO row VALUES (randomblob(20000))")
        count, size = db.execute("SELECT count(*), sum(length(value)) FROM row").get
        return count, size, db.pragma("integrity_check")


async def test_a_store_works_where_every_call_does_half(tmp_path: Path) -> None:
    with ShortCalls(None) as calls:
        witness = Witness(tmp_path / "store.db", lambda: 0)
        await witness.work(PLAN)
        await witness.close()
        assert await judge(witness.path, witness, 0) == Verdict()
    assert set(calls.names) == set(NAMES) and len(calls.names) > 1000
    assert await judge(witness.path, witness, 0, examined=True) == Verdict()


def test_one_call_is_halved_and_asked_for_again(tmp_path: Path) -> None:
    with ShortCalls(0) as plain:
        assert rows(tmp_path / "a.db") == (1, 20_000, "ok")
    first = plain.names.index("pwrite64") + 1
    with ShortCalls(first) as short:
        assert rows(tmp_path / "b.db") == (1, 20_000, "ok")
    assert len(short.names) == len(plain.names) + 1
    seen = len(short.names)
    assert rows(tmp_path / "b.db") == (2, 40_000, "ok")
    assert len(short.names) == seen, "the calls are the real ones again"
