"""The least that is honest: sqlite3, WAL, synchronous=FULL, one transaction for each step.

This is what a careful service writes by hand: a row for the process, a row for each step, a commit
after each. It has no retries, no recovery and no owner, and a commit holds up everything else: a
yardstick, not a rival.
"""

from __future__ import annotations

import asyncio
import sqlite3

from measure import arguments, engine_of, report, run_all, sqlite_file

SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS process (id INTEGER PRIMARY KEY, status TEXT, result INTEGER);
CREATE TABLE IF NOT EXISTS step (
    process INTEGER, n INTEGER, result INTEGER, PRIMARY KEY (process, n)
) WITHOUT ROWID;
"""
given = arguments()
db = sqlite3.connect(str(sqlite_file(given.store)), isolation_level=None)


def commit(sql: str, *values: object) -> int | None:
    return db.execute(sql, values).lastrowid


async def one(value: int) -> int:
    return value + 1


async def through(number: int) -> int:
    made = commit("INSERT INTO process (status) VALUES ('running')")
    value = number
    for n in range(given.steps):
        value = await one(value)
        commit("INSERT INTO step VALUES (?, ?, ?)", made, n, value)
    commit("UPDATE process SET status = 'done', result = ? WHERE id = ?", value, made)
    return value


def main() -> None:
    db.executescript(SCHEMA)
    if given.processes:
        asyncio.run(through(-1 - given.steps))
        meter = asyncio.run(run_all(given, through))
        report("naive sqlite3", engine_of(given.store), given, meter)
    db.close()


main()
